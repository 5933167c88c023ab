"""Floating formats: their limits by their bits, and the rounding of a tensor against every value that there is."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from decodedrift.numerics.formats import FORMATS, Format

TORCH = {
    "fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
    "fp8-e5m2": torch.float8_e5m2, "fp8-e4m3": torch.float8_e4m3fn,
}  # fmt: skip
SMALL = ("fp8-e5m2", "fp8-e4m3", "fp4-e2m1")


def codes(form: Format) -> list[float]:
    """The finite values from 0 on that the bits of a format spell, by code."""
    values = []
    for code in range(2 ** (form.exponent + form.mantissa)):
        exponent, fraction = divmod(code, 2**form.mantissa)
        top = exponent == 2**form.exponent - 1
        if top and (form.beyond == "inf" or (form.beyond == "nan" and fraction == 2**form.mantissa - 1)):
            continue
        bias = 2 ** (form.exponent - 1) - 1
        hidden = 1 if exponent else 0
        values.append((hidden + fraction / 2**form.mantissa) * 2.0 ** (max(exponent, 1) - bias))
    return values


def nearest(value: float, values: list[float]) -> float:
    """The nearest value, of two the one with an even code; the sign is put back."""
    below, size = max(i for i, v in enumerate(values) if v <= abs(value)), abs(value)
    if below + 1 < len(values):
        left, right = size - values[below], values[below + 1] - size
        below += right < left or (right == left and below % 2 == 1)
    return math.copysign(values[below], value)


def test_limits_are_those_of_torch_and_of_the_papers() -> None:
    for name, dtype in TORCH.items():
        info, form = torch.finfo(dtype), FORMATS[name]
        assert (form.largest, form.smallest_normal, form.eps) == (info.max, info.smallest_normal, info.eps), name
        assert 1 + form.exponent + form.mantissa == info.bits
    assert FORMATS["tf32"].eps == 2**-10
    assert FORMATS["tf32"].smallest_normal == FORMATS["fp32"].smallest_normal
    assert codes(FORMATS["fp4-e2m1"]) == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    for name in SMALL:
        values, form = codes(FORMATS[name]), FORMATS[name]
        assert (values[1], values[-1]) == (form.smallest_subnormal, form.largest)
        assert form.smallest_normal in values


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_is_rounded_to_the_nearest_value_that_the_bits_spell(name: str, dtype: torch.dtype) -> None:
    values, form = codes(FORMATS[name]), FORMATS[name]
    middles = [(a + b) / 2 for a, b in pairwise(values)]
    near = [m * (1 + s * 2.0**-20) for m in middles for s in (-1, 0, 1)]
    spread = (10 ** np.random.default_rng(0).uniform(-8, math.log10(form.largest), 300)).tolist()
    given = [x for size in (*values, *near, *spread) for x in (size, -size)]
    found = form.round(torch.tensor(given, dtype=dtype))
    expected = torch.tensor([nearest(x, values) for x in torch.tensor(given, dtype=dtype).tolist()], dtype=dtype)
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    assert torch.equal(found.signbit(), torch.tensor(given).signbit()), "a negative zero stays one"
    up = form.round(torch.tensor(middles, dtype=dtype)) > torch.tensor(middles, dtype=dtype)
    assert 0 < int(up.sum()) < len(middles), "ties go up and down: to the even code"


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp32"])
def test_wide_formats_are_torchs_casts(name: str) -> None:
    bits = torch.arange(0, 2**31, 65521 * 3, dtype=torch.int64).to(torch.int32)
    edges = torch.arange(2**31 - 2**23 - 2**17, 2**31, 257, dtype=torch.int64).to(torch.int32)
    given = torch.cat([bits, edges]).view(torch.float32)
    given = torch.cat([given, -given, torch.tensor([0.0, math.inf, math.nan])])
    found = FORMATS[name].round(given)
    assert torch.equal(found.nan_to_num(7.0), given.to(TORCH[name]).float().nan_to_num(7.0))
    assert torch.equal(found.isnan(), given.isnan())


def test_a_float64_is_rounded_once_and_not_by_way_of_float32() -> None:
    value = torch.tensor([1 + 2.0**-4 + 2.0**-40], dtype=torch.float64)
    assert FORMATS["fp8-e4m3"].round(value) == 1.125
    assert FORMATS["fp8-e4m3"].round(value.float()) == 1.0


@pytest.mark.parametrize(
    ("name", "edge", "beyond"), [("fp8-e4m3", 464.0, math.nan), ("fp8-e5m2", 61439.0, math.inf), ("fp4-e2m1", 1e9, 6.0)]
)
def test_what_lies_beyond_the_largest_value(name: str, edge: float, beyond: float) -> None:
    form = FORMATS[name]
    given = torch.tensor([edge, math.nextafter(edge, math.inf) * 1.01, -1e30, math.inf, math.nan])
    found = form.round(given)
    assert found[0] == form.largest
    for value, expected in zip(found[1:4].tolist(), (beyond, -beyond, beyond)):
        assert value == expected or (math.isnan(value) and math.isnan(expected))
    kept = form.round(given, saturate=True)
    assert kept[:4].tolist() == [form.largest, form.largest, -form.largest, form.largest]
    assert bool(found[4].isnan() & kept[4].isnan())


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp8-e5m2", "fp8-e4m3", "fp4-e2m1"])
def test_rounding_is_that_of_ml_dtypes_to_the_bit(name: str) -> None:
    ml = pytest.importorskip("ml_dtypes")
    kinds = {"bf16": ml.bfloat16, "fp16": np.float16, "fp8-e5m2": ml.float8_e5m2, "fp8-e4m3": ml.float8_e4m3fn,
             "fp4-e2m1": ml.float4_e2m1fn}  # fmt: skip
    given = torch.arange(0, 2**31 - 2**23, 16411, dtype=torch.int64).to(torch.int32).view(torch.float32)
    given = torch.cat([given, -given])
    with np.errstate(over="ignore"):
        theirs = given.numpy().astype(kinds[name]).astype(np.float32)
    ours = FORMATS[name].round(given).numpy()
    np.testing.assert_array_equal(ours, theirs)
    assert (np.signbit(ours) == np.signbit(theirs))[~np.isnan(theirs)].all()
    info = ml.finfo(kinds[name])
    assert FORMATS[name].largest == float(info.max)
    assert FORMATS[name].smallest_subnormal == float(info.smallest_subnormal)
