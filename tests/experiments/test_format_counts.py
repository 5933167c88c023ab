"""What becomes of a tensor's numbers in a format, counted by hand; and the error that theory says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from decodedrift.experiments.formats.counting import PART, Counts, parts
from decodedrift.experiments.formats.kinds import parse_kinds
from decodedrift.models.precisions import fp8, int4, int8
from decodedrift.numerics.formats import FORMATS


def counted(values: torch.Tensor, label: str) -> dict[str, float]:
    (kind,) = parse_kinds(label)
    counts = Counts([kind])
    counts.add(values)
    r = counts.roundings[0]
    return {
        "numbers": r.numbers, "overflow": r.overflow, "flushed": r.flushed, "subnormal": r.subnormal,
        "unchanged": r.unchanged, "error": r.error_square, "normal": r.normal, "normal_error": r.normal_square,
    }  # fmt: skip


def test_counts_are_those_by_hand() -> None:
    values = torch.tensor([[0.0, 1.0, -65519.0, 65520.0, 1e-8, 6e-8, 1e-5, math.inf, math.nan, 2049.0]])
    found = counted(values, "fp16")
    rounded = values.half().double()
    assert (found["numbers"], found["overflow"], found["flushed"], found["subnormal"]) == (7, 1, 1, 2)
    assert found["unchanged"] == 1
    held = [1, 2, 4, 5, 6, 9]
    errors = [((rounded[0, i] - values[0, i].double()) / values[0, i].double()).item() ** 2 for i in held]
    assert found["error"] == pytest.approx(sum(errors), rel=1e-5)
    assert found["normal"] == 3
    assert found["normal_error"] == pytest.approx(errors[0] + errors[1] + errors[5], rel=1e-5)
    kept = counted(values, "fp8-e4m3:scale=none,overflow=saturate")
    assert kept["overflow"] == 3
    assert kept["error"] > counted(values, "fp8-e4m3:scale=none")["error"] + 2 * 0.9


def test_ranges_are_those_by_hand() -> None:
    values = torch.tensor([[0.0, -3.0, 2.0**-140, 0.75, math.inf, math.nan]])
    counts = Counts([])
    counts.add(values)
    counts.add(values.double() * 2.0**-900)
    row = counts.range.row()
    assert (row["n"], row["zeros"], row["nonfinite"]) == (12, 2, 4)
    assert (row["largest"], row["smallest"]) == (3.0, 2.0**-1040)
    assert row["square"] == pytest.approx(9.5625)
    filled = {int(n) - 1074: int(c) for n, c in enumerate(counts.range.binades) if c}
    assert filled == {1: 1, -140: 1, -1: 1, -899: 1, -1040: 1, -901: 1}


def test_a_tensor_is_looked_at_in_parts_of_bounded_size() -> None:
    for shape in ((7, 300_000), (5000, 100), (1, 4)):
        rows = torch.zeros(shape)
        seen = list(parts(rows))
        assert sum(map(len, seen)) == len(rows)
        assert max(part.numel() for part in seen) <= max(PART, shape[1])


@pytest.mark.parametrize("label", ["tf32", "bf16", "fp16", "fp8-e4m3", "fp8-e4m3:scale=none", "fp8-e5m2", "fp4-e2m1"])
def test_errors_are_those_of_theory(label: str) -> None:
    generator = torch.Generator().manual_seed(0)
    even = torch.exp2(
        torch.rand(1, 400_000, generator=generator, dtype=torch.float64) * 2 + (0 if "none" in label else 1)
    )
    found, theory = counted(even, label), parse_kinds(label)[0].theory
    assert found["normal"] == found["numbers"]
    assert math.sqrt(found["error"] / found["numbers"]) == pytest.approx(theory, rel=0.01)
    mantissa = parse_kinds(label)[0].form.mantissa
    if mantissa > 1:  # where a significand hardly changes within a spacing
        assert theory == pytest.approx(0.7355 * 2.0 ** -(mantissa + 1) / math.sqrt(3), rel=0.01)
    assert math.sqrt(found["error"] / found["numbers"]) != pytest.approx(2 * theory, rel=0.1)


@pytest.mark.parametrize(
    ("label", "rounding"),
    [
        ("fp8-e4m3", lambda rows: fp8.scaled(rows, FORMATS["fp8-e4m3"], (-1,))),
        ("fp8-e5m2:scale=tensor", lambda rows: fp8.scaled(rows, FORMATS["fp8-e5m2"], (-2, -1))),
        ("int8", int8.absmax_int8),
        ("int4:group=16", lambda rows: int4.grouped_int4(rows, 16)),
        ("int4:group=16,zero=true", lambda rows: int4.grouped_int4(rows, 16, zero=True)),
    ],
)  # fmt: skip
def test_scaled_formats_are_those_of_the_precisions(label: str, rounding: Any) -> None:
    rows = torch.randn(300, 64, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 300)[:, None]
    rows[:, 0] *= 1e-6
    found, held = counted(rows, label), rounding(rows)
    assert found["overflow"] == 0
    assert found["flushed"] == int(((held == 0) & (rows != 0)).sum()) > 0
    exact = float(((held.double() - rows.double()) / rows.double()).square().sum())
    assert found["error"] == pytest.approx(exact, rel=1e-4)


def test_a_row_that_the_groups_do_not_divide_has_a_short_last_one() -> None:
    rows = torch.randn(8, 40, generator=torch.Generator().manual_seed(1))
    (kind,) = parse_kinds("int4:group=16")
    held = kind.hold(rows)
    assert torch.equal(held.near[:, :32], int4.grouped_int4(rows[:, :32], 16))
    assert torch.equal(held.near[:, 32:], int4.grouped_int4(rows[:, 32:], 8))
