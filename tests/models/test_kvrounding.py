"""Rounded keys and values against independent computations, and what they say that they did."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from decodedrift.core.records import InputError, VariantError
from decodedrift.models.knobs.kv import read
from decodedrift.models.kvrounding import Rounding
from decodedrift.models.variants import parse_variants


def states(size: int = 16, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(1)
    made = torch.randn(2, 3, 5, size) * torch.logspace(-6, 6, 5)[:, None]
    made[0, 0, 0] = 0.0
    return made.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("kv", "largest", "group"), [("int8", 127, 16), ("int8:8", 127, 8), ("int4", 7, 16), ("int4:4", 7, 4)]
)
def test_integers_are_symmetric_absmax_of_each_group(kv: str, largest: int, group: int, dtype: torch.dtype) -> None:
    given, facts = states(dtype=dtype), {}
    ours = Rounding(read(kv), facts)(given)
    kind = np.float64 if dtype == torch.float64 else np.float32
    expected = np.zeros(given.shape, kind)
    for place in np.ndindex(2, 3, 5, 16 // group):
        at = (*place[:3], slice(place[3] * group, (place[3] + 1) * group))
        values = given[at].to(torch.float64 if dtype == torch.float64 else torch.float32).numpy()
        scale = np.abs(values).max() / kind(largest)
        expected[at] = np.rint(values / scale) * scale if scale > 0 else 0
    assert ours.dtype == dtype
    assert torch.equal(ours, torch.from_numpy(expected).to(dtype))
    assert facts == {
        "kv": f"{kv[:4]}: keys and values, symmetric, a scale for each {group} values of a token and head",
        "kv_values": given.numel(), "kv_changed": int((ours != given).sum()),
    }  # fmt: skip
    assert torch.equal(Rounding(read(kv), {})(ours), ours) or dtype == torch.bfloat16, "on its grid nothing moves"


def test_fp8_is_ml_dtypes_up_to_its_largest_number_and_saturates_there() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    given = torch.cat([states().flatten(), torch.tensor([448.0, 449.0, -1e9, 2.0**-10, 3 * 2.0**-10, 0.0])])[None]
    expected = np.clip(given.numpy(), -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    ours = Rounding(read("fp8"), {})(given)
    assert np.array_equal(ours.numpy(), expected)
    assert ours[0, -6:].tolist() == [448, 448, -448, 0.0, 2.0**-8, 0.0], "half of the smallest goes to even"


def test_counts_add_up_and_a_broken_value_stays_broken() -> None:
    facts: dict[str, Any] = {}
    rounding = Rounding(read("int8"), facts)
    rounding(torch.tensor([[1.0, 127.0]]))
    assert (facts["kv_values"], facts["kv_changed"]) == (2, 0)
    rounding(torch.tensor([[1.1, 127.0, 3.0]]))
    assert (facts["kv_values"], facts["kv_changed"]) == (5, 1)
    assert rounding(torch.tensor([[1.0, float("nan")]])).isnan().all()


def test_groups_that_do_not_divide_a_head_are_refused() -> None:
    with pytest.raises(
        VariantError, match="kv=int4: groups of 32 do not divide the 80 values of a head; write kv=int4:G"
    ):
        Rounding(read("int4"), {})(states(80))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("fp32:kv=int2", r"kv must be int8\[:GROUP\], int4\[:GROUP\] or fp8, not 'int2'"),
        ("fp32:kv=fp8:8", "kv must be int8"),
        ("fp32:kv=int4:-1", "kv must be a whole number >= 0, not '-1'"),
        ("fp32:cache=sliding", r"cache must be dynamic, static, offloaded or quantized\[:BACKEND.*not 'sliding'"),
        ("fp32:cache=static:9", "cache must be dynamic"),
        ("fp32:cache=quantized:gguf", "cache must be one of quanto, hqq, fp8, not 'gguf'"),
        ("fp32:cache=quantized:quanto:8", "cache quantized:quanto has 2, 4 bits"),
        ("fp32:cache=quantized:hqq:4:0", "cache must be a whole number >= 1"),
        ("fp32:cache=quantized:fp8:8", "cache quantized:fp8 takes no bits"),
    ],
)
def test_what_there_is_not_is_refused_with_the_choices(given: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_variants(given)


def test_a_quantized_cache_is_named_with_all_its_settings() -> None:
    made = {v.knobs["cache"] for v in parse_variants("fp32:cache=quantized,fp32:cache=quantized:quanto:4")}
    assert made == {"quantized:quanto:4:64:128"}
    (hqq, fp8) = parse_variants("fp32:cache=quantized:hqq:8:16,fp32:cache=quantized:fp8")
    assert (hqq.knobs["cache"], fp8.knobs["cache"]) == ("quantized:hqq:8:16:128", "quantized:fp8")
