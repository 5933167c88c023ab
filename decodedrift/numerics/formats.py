"""Binary floating types by their bits, and the rounding of a tensor to any of them.

IEEE 754 for fp64, fp32 and fp16; bf16 and tf32 have fp32's exponent. fp8: Micikevicius et al. 2022
(https://arxiv.org/abs/2209.05433), whose e4m3 has no infinity and one NaN (`float8_e4m3fn`). fp4-e2m1: OCP Microscaling
Formats 1.0, neither infinity nor NaN. Tensors are rounded by their own methods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


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

    def round(self, values: Any, saturate: bool = False) -> Any:
        """The nearest value of the format, in the type of the given tensor.

        Args:
            values: a float32 or float64 tensor of any shape, no narrower than the format for a rounding that is exact.
            saturate: what lies beyond the largest value, infinity too, becomes the largest; NaN stays.
        """
        fraction, _ = values.frexp()
        binade = values / (2 * fraction)  # exactly a power of two; NaN for 0 and what is not finite
        step = (binade * self.eps).clamp(min=self.smallest_subnormal)
        rounded = ((values / step).round() * step).where(step.isfinite(), values)
        if saturate or self.beyond == "largest":
            return rounded.clamp(-self.largest, self.largest)
        over = rounded.abs() > self.largest
        return rounded.masked_fill(over, math.nan) if self.beyond == "nan" else rounded.where(~over, values * math.inf)


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
