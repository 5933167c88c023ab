"""Floating formats: their limits by their bits, and the rounding of a tensor against every value that there is."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from decodedrift.numerics.formats import BEYOND, EXACT, FLUSHED, FORMATS, TABLE, WHOLE, Format, Whole, log_uniform_error

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


# ---- numbers bit by bit


def decoded(bits: str, form: Format | Whole) -> Fraction | float:
    """What a format's bits mean, by its definition alone."""
    if isinstance(form, Whole):
        code = int(bits.replace(" ", ""), 2)
        return Fraction(code - (1 << form.width) if bits[0] == "1" else code)
    sign, exponent, mantissa = bits.split()
    assert (len(exponent), len(mantissa)) == (form.exponent, form.mantissa)
    field, fraction, way = int(exponent, 2), Fraction(int(mantissa, 2), 2**form.mantissa), -1 if sign == "1" else 1
    if "0" not in exponent and form.beyond == "inf":
        return math.nan if fraction else way * math.inf
    if "0" not in exponent + mantissa and form.beyond == "nan":
        return math.nan
    bias = 2 ** (form.exponent - 1) - 1
    return way * (fraction + (field > 0)) * Fraction(2) ** (max(field, 1) - bias)


NUMBERS = ["0", "1", "0.1", "65504", "65519.9", "65520", "1e-8", "448", "464", "464.01", "3e-45", "1e400", "1e-400",
           "0.999", "127.5", "-128.5", "7.5", "2.5", "6.2", "7", "61440", "0.00006103515625", "1.0009765625"]  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_bits_mean_the_value_that_is_nearest(name: str) -> None:
    form = TABLE[name]
    for text in NUMBERS:
        number = Fraction(text)
        spelt = form.spell(abs(number), number < 0)
        meant = decoded(spelt.bits, form)
        assert meant == spelt.value or (math.isnan(meant) and math.isnan(spelt.value)), text
        if isinstance(spelt.value, Fraction) and spelt.how != BEYOND:
            for step in (-1, 1):  # no neighbour is nearer
                code = int(spelt.bits.replace(" ", ""), 2) + step
                width = 1 + form.exponent + form.mantissa
                text_ = f"{code & 2**width - 1:0{width}b}"
                other = decoded(text_ if isinstance(form, Whole) else
                                f"{text_[0]} {text_[1 : 1 + form.exponent]} {text_[1 + form.exponent :]}", form)  # fmt: skip
                if not isinstance(other, float):
                    assert abs(spelt.value - number) <= abs(other - number), (text, text_)
        assert (spelt.how == EXACT) == (spelt.value == number)
        assert (spelt.how == FLUSHED) == (spelt.value == 0 != number)


@pytest.mark.parametrize("name", TORCH)
def test_bits_are_those_of_torch(name: str) -> None:
    form, dtype = FORMATS[name], TORCH[name]
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    for value in (0.0, -0.0, 1.0, 0.1, -3.7, 448.0, 3e-5, 1e-39, 1e-7, math.inf, -math.inf):
        if name == "fp8-e4m3" and math.isinf(value):
            continue  # torch saturates
        theirs = (
            int(torch.tensor([value], dtype=torch.float64).to(dtype).view(whole)[0]) & 2 ** (8 * dtype.itemsize) - 1
        )
        size = abs(value) if math.isinf(value) else Fraction(abs(value))
        ours = form.spell(size, math.copysign(1, value) < 0).bits
        assert int(ours.replace(" ", ""), 2) == theirs, value
    assert math.isnan(
        torch.tensor([int(form.spell(math.nan).bits.replace(" ", ""), 2)]).to(whole).view(dtype).double()[0]
    )


def test_every_code_of_a_small_format_is_its_own_value() -> None:
    for name in (*SMALL, "int8", "int4"):
        form = TABLE[name]
        width = 1 + form.exponent + form.mantissa
        for code in range(2**width):
            text = f"{code:0{width}b}"
            cuts = (1, 1 + form.exponent)
            parts = (
                (text[0], text[1:]) if isinstance(form, Whole) else (text[0], text[cuts[0] : cuts[1]], text[cuts[1] :])
            )
            value = decoded(" ".join(parts), form)
            if isinstance(value, Fraction):
                assert form.spell(abs(value), code >= 2 ** (width - 1)).bits == " ".join(parts)


def test_the_table_is_that_of_torch_and_numpy_and_ml_dtypes() -> None:
    rows = {form.name: form for form in TABLE.values()}
    assert list(rows) == ["fp64", "fp32", "tf32", "bf16", "fp16", "fp8-e4m3", "fp8-e5m2", "int8", "int4", "fp4-e2m1"]
    for name, dtype in TORCH.items():
        info = torch.finfo(dtype)
        assert (rows[name].largest, rows[name].smallest_normal, rows[name].eps) == (info.max, info.tiny, info.eps)
    for name, kind in (("fp64", np.float64), ("fp32", np.float32), ("fp16", np.float16)):
        info = np.finfo(kind)
        assert (rows[name].exponent, rows[name].mantissa) == (info.iexp, info.nmant)
        assert rows[name].smallest_subnormal == float(info.smallest_subnormal)
        assert math.floor(rows[name].mantissa * math.log10(2)) == info.precision
    assert (rows["int8"].largest, rows["int8"].mantissa) == (
        torch.iinfo(torch.int8).max,
        torch.iinfo(torch.int8).bits - 1,
    )
    assert (rows["int4"].largest, rows["int4"].spell(math.inf, True).value) == (7, -8)
    assert (rows["tf32"].exponent, rows["tf32"].mantissa) == (8, 10)
    assert [round(rows[name].digits, 1) for name in ("fp64", "fp32", "bf16", "fp16")] == [16.0, 7.2, 2.4, 3.3]


def test_the_table_is_that_of_ml_dtypes() -> None:
    ml = pytest.importorskip("ml_dtypes")
    kinds = {
        "bf16": ml.bfloat16,
        "fp8-e4m3": ml.float8_e4m3fn,
        "fp8-e5m2": ml.float8_e5m2,
        "fp4-e2m1": ml.float4_e2m1fn,
    }
    for name, kind in kinds.items():
        info, form = ml.finfo(kind), FORMATS[name]
        assert (form.exponent, form.mantissa) == (info.nexp, info.nmant)
        figures = (info.max, info.smallest_normal, info.smallest_subnormal, info.eps)
        assert (form.largest, form.smallest_normal, form.smallest_subnormal, form.eps) == tuple(map(float, figures))
    assert (WHOLE["int4"].largest, ml.iinfo(ml.int4).min) == (ml.iinfo(ml.int4).max, -8)


def test_theory_is_what_log_uniform_numbers_have() -> None:
    for mantissa in (2, 3, 7, 10):
        limit = 0.7355 * 2.0 ** -(mantissa + 1) / math.sqrt(3)
        assert log_uniform_error(mantissa) == pytest.approx(limit, rel=0.01)
    m = np.exp2((np.arange(200_000) + 0.5) / 200_000)
    for mantissa in (1, 2, 3, 5):
        rounded = np.round(m * 2**mantissa) / 2**mantissa
        assert log_uniform_error(mantissa) == pytest.approx(np.sqrt((((rounded - m) / m) ** 2).mean()), rel=1e-4)
