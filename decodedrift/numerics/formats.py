"""Number formats by their bits, and the rounding of a tensor, or of one exact number, to any of them.

IEEE 754 for fp64, fp32 and fp16; bf16 and tf32 have fp32's exponent. fp8: Micikevicius et al. 2022
(https://arxiv.org/abs/2209.05433), whose e4m3 has no infinity and one NaN (`float8_e4m3fn`). fp4-e2m1: OCP Microscaling
Formats 1.0, neither infinity nor NaN. int8 and int4 are whole numbers in two's complement. Tensors are rounded by their
own methods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

EXACT, ROUNDED, SUBNORMAL, FLUSHED, BEYOND, NONE = (
    "exact", "rounded", "subnormal", "flushed to 0", "overflows", "has none"
)  # fmt: skip


class Spelt(NamedTuple):
    """A number as a format holds it. bits: sign, exponent and mantissa, `0 01111 0000000000`; empty where it has none.

    value: exact, or infinite or NaN. how: EXACT, ROUNDED, SUBNORMAL (rounded with less than full precision), FLUSHED,
    BEYOND, or NONE of what the format has no sign for.
    """

    bits: str
    value: Fraction | float
    how: str


@dataclass(frozen=True)
class Format:
    """A sign bit, `exponent` bits, `mantissa` stored bits; subnormals, and rounding to nearest, ties to even.

    beyond: what a value that rounds to more than the largest becomes: `inf`, `nan`, or `largest` where the format has
    neither.
    """

    name: str
    exponent: int
    mantissa: int
    beyond: str = "inf"

    @property
    def lowest_exponent(self) -> int:
        """That of the smallest normal number: its value is 2 to this power."""
        return 2 - (1 << self.exponent - 1)

    @property
    def largest(self) -> float:
        """The largest finite value: an infinity takes the highest exponent, a lone NaN one mantissa of it."""
        highest = (1 << self.exponent - 1) - (1 if self.beyond == "inf" else 0)
        taken = 2 if self.beyond == "nan" else 1
        return math.ldexp(2 - taken * self.eps, highest)

    @property
    def smallest_normal(self) -> float:
        """The smallest positive value of full precision."""
        return math.ldexp(1.0, self.lowest_exponent)

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive value."""
        return math.ldexp(1.0, self.lowest_exponent - self.mantissa)

    @property
    def eps(self) -> float:
        """The spacing at 1."""
        return math.ldexp(1.0, -self.mantissa)

    @property
    def digits(self) -> float:
        """Decimal digits that its significand is worth, the hidden bit with it."""
        return (self.mantissa + 1) * math.log10(2)

    def nearest(self, values: Any) -> Any:
        """The nearest value if the exponent had no upper end, in the tensor's type; what is not finite stays.

        Args:
            values: a float32 or float64 tensor of any shape, no narrower than the format for a rounding that is exact.
        """
        size = values.abs().clamp(min=self.smallest_normal)  # subnormals share the spacing of the lowest binade
        fraction, _ = size.frexp()
        step = size / (2 * fraction) * self.eps  # exactly a power of two; NaN of what is not finite
        rounded = (values / step).round() * step
        return rounded if bool(rounded.isfinite().all()) else rounded.where(values.isfinite(), values)

    def round(self, values: Any, saturate: bool = False) -> Any:
        """The nearest value of the format, in the type of the given tensor.

        Args:
            values: as of `nearest`.
            saturate: what lies beyond the largest value, infinity too, becomes the largest; NaN stays.
        """
        rounded = self.nearest(values)
        if saturate or self.beyond == "largest":
            return rounded.clamp(-self.largest, self.largest)
        over = rounded.abs() > self.largest
        return rounded.masked_fill(over, math.nan) if self.beyond == "nan" else rounded.where(~over, values * math.inf)

    def spell(self, size: Fraction | float, negative: bool = False) -> Spelt:
        """A number's bits: size, exact (or infinity, NaN), and its sign."""
        every = (1 << self.exponent) - 1
        if isinstance(size, float):
            return self._spell_special(size, negative)
        exponent = max(_binade(size), self.lowest_exponent) if size else self.lowest_exponent
        step = Fraction(2) ** (exponent - self.mantissa)
        count = round(size / step)  # to even
        value = count * step
        if value > self.largest:
            over = self._code(every, 0) if self.beyond == "inf" else self._special(self.beyond)
            return Spelt(_split(negative, over, self), self._beyond(negative), BEYOND)
        if count < 1 << self.mantissa:  # no hidden bit
            code = self._code(0, count)
        else:
            carried = count >> self.mantissa + 1
            field = exponent + carried - self.lowest_exponent + 1
            code = self._code(field, 0 if carried else count - (1 << self.mantissa))
        how = EXACT if value == size else FLUSHED if not count else ROUNDED
        if how == ROUNDED and value < self.smallest_normal:
            how = SUBNORMAL
        return Spelt(_split(negative, code, self), -value if negative else value, how)

    def _spell_special(self, value: float, negative: bool) -> Spelt:
        if math.isnan(value):
            if self.beyond == "largest":
                return Spelt("", math.nan, NONE)
            return Spelt(_split(False, self._special("nan"), self), math.nan, EXACT)
        how = EXACT if self.beyond == "inf" else BEYOND
        return Spelt(_split(negative, self._special(self.beyond), self), self._beyond(negative), how)

    def _beyond(self, negative: bool) -> Fraction | float:
        """What a number beyond the largest becomes."""
        sign = -1 if negative else 1
        return sign * Fraction(self.largest) if self.beyond == "largest" else sign * float(self.beyond)

    def _special(self, what: str) -> int:
        """The code of infinity, of a quiet NaN (the only one where there is one), or of the largest value."""
        every, ones = (1 << self.exponent) - 1, (1 << self.mantissa) - 1
        if what == "nan" and self.beyond == "inf":
            return self._code(every, 1 << self.mantissa - 1)
        return self._code(every, 0 if what == "inf" else ones)

    def _code(self, exponent: int, mantissa: int) -> int:
        return exponent << self.mantissa | mantissa


@dataclass(frozen=True)
class Whole:
    """Whole numbers of `width` bits in two's complement; beyond its ends it saturates."""

    name: str
    width: int
    exponent = 0
    beyond = "largest"
    eps = smallest_normal = smallest_subnormal = 1.0

    @property
    def mantissa(self) -> int:
        """Bits beside the sign."""
        return self.width - 1

    @property
    def largest(self) -> float:
        """The largest value; the lowest is one further from 0."""
        return float((1 << self.width - 1) - 1)

    @property
    def digits(self) -> float:
        """Decimal digits of its largest value."""
        return (self.width - 1) * math.log10(2)

    def spell(self, size: Fraction | float, negative: bool = False) -> Spelt:
        """A number's bits, as of a Format."""
        if isinstance(size, float) and math.isnan(size):
            return Spelt("", math.nan, NONE)
        lowest, highest = -(1 << self.width - 1), (1 << self.width - 1) - 1
        count = (lowest if negative else highest) if isinstance(size, float) else round(-size if negative else size)
        held = min(max(count, lowest), highest)
        text = f"{held & (1 << self.width) - 1:0{self.width}b}"
        if isinstance(size, float) or held != count:
            return Spelt(f"{text[0]} {text[1:]}", Fraction(held), BEYOND)
        how = EXACT if abs(held) == size else ROUNDED if held else FLUSHED
        return Spelt(f"{text[0]} {text[1:]}", Fraction(held), how)


def log_uniform_error(mantissa: int) -> float:
    """The rms relative error of rounding to so many stored bits, of numbers whose logarithm is uniform over binades.

    With an error that is uniform in half a spacing, 2^-(mantissa + 1) / sqrt 3 at 1, and a significand m of density
    1 / (m ln 2), it is sqrt(E[1/m^2]) = sqrt(3 / (8 ln 2)) = 0.7355 times that. Of few bits m changes within a spacing:
    there the integral of (q - m)^2 / m^2 is taken over the cell of each value q.
    """
    half = 2.0 ** -(mantissa + 1)
    if mantissa >= 7:  # where the two agree to 1e-5
        return math.sqrt(3 / (8 * math.log(2))) * half / math.sqrt(3)

    def upto(q: float, m: float) -> float:
        return -q * q / (2 * m * m) + 2 * q / m + math.log(m)

    values = [1 + 2 * half * k for k in range((1 << mantissa) + 1)]
    total = sum(upto(q, min(2.0, q + half)) - upto(q, max(1.0, q - half)) for q in values)
    return math.sqrt(total / math.log(2))


def _binade(size: Fraction) -> int:
    """floor(log2) of a positive number."""
    guess = size.numerator.bit_length() - size.denominator.bit_length()
    return guess if size >= Fraction(2) ** guess else guess - 1


def _split(negative: bool, code: int, form: Format) -> str:
    """A code in its three parts."""
    exponent, mantissa = code >> form.mantissa, code & (1 << form.mantissa) - 1
    return f"{int(negative)} {exponent:0{form.exponent}b} {mantissa:0{form.mantissa}b}"


FORMATS = {
    kind.name: kind
    for kind in (
        Format("fp64", 11, 52),
        Format("fp32", 8, 23),
        Format("tf32", 8, 10),
        Format("bf16", 8, 7),
        Format("fp16", 5, 10),
        Format("fp8-e5m2", 5, 2),
        Format("fp8-e4m3", 4, 3, "nan"),
        Format("fp4-e2m1", 2, 1, "largest"),
    )
}
WHOLE = {kind.name: kind for kind in (Whole("int8", 8), Whole("int4", 4))}
TABLE: dict[str, Format | Whole] = {
    name: (FORMATS | WHOLE)[name]
    for name in ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8-e4m3", "fp8-e5m2", "int8", "int4", "fp4-e2m1")
}
"""Every format, from wide to narrow."""
