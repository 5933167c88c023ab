"""Keys and values rounded to a narrower format as they are written into the cache; whoever reads the cache reads that.

What is rounded is what transformers' cache is given: keys behind their rotation, values, of every token, the prompt's
and filler included, also where a model reads the token itself. Rounded values are kept in the cache's own type.

- `int8`, `int4`: symmetric. The values of a token and head, or each GROUP of them along the head's size, share the
  scale absmax/127 (absmax/7), kept in float32 (float64 in a float64 model); round half to even.
- `fp8`: e4m3 (4 bits of exponent, 3 of mantissa), without a scale, saturated at 448: what engines do to a checkpoint
  that brings no scales for its cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from decodedrift.core.records import VariantError
from decodedrift.models.knobs.kv import undivided

LARGEST = {"int8": 127, "int4": 7}
FP8_LARGEST = 448.0


class Rounding:
    """The format that a cache is rounded to.

    Args:
        kv: as `models/knobs/kv.py` has it: `int8:0`, `int4:32`, `fp8`. facts: of a variant, where it says what it did
            to how many values: `kv`, `kv_values` written and, of these, `kv_changed`.
    """

    def __init__(self, kv: str, facts: dict[str, Any]) -> None:
        self.name, _, group = kv.partition(":")
        self.group, self.facts, self.size = int(group or 0), facts, 0

    def __call__(self, states: Tensor) -> Tensor:
        """States [rows, heads, tokens, size], rounded, in their own type.

        Raises:
            VariantError: groups that do not divide a head's size.
        """
        self.size = states.shape[-1]
        if self.name != "fp8" and self.size % self._group():
            raise VariantError(f"kv={self.name}: {undivided(self.name, self.group, self.size)}")
        rounded = (_fp8(states) if self.name == "fp8" else self._integers(states)).to(states.dtype)
        counts = {"kv_values": states.numel(), "kv_changed": int((rounded != states).sum())}
        self.facts |= {"kv": self._scheme()} | {name: self.facts.get(name, 0) + n for name, n in counts.items()}
        return rounded

    def _group(self) -> int:
        """Values that share a scale: a head that is smaller than a group is one."""
        return min(self.group or self.size, self.size)

    def _integers(self, states: Tensor) -> Tensor:
        wide = states if states.dtype == torch.float64 else states.float()
        groups = wide.reshape(*wide.shape[:-1], -1, self._group())
        largest = groups.new_full((), LARGEST[self.name])  # a Python number: CUDA would multiply by its reciprocal
        scale = groups.abs().amax(-1, keepdim=True) / largest
        steps = (groups / scale.masked_fill(scale == 0, 1.0)).round().clamp(-largest, largest)
        return (steps * scale).reshape(wide.shape)

    def _scheme(self) -> str:
        """What is done, in words."""
        how = f"symmetric, a scale for each {self._group()} values of a token and head"
        if self.name == "fp8":
            how = "e4m3 without a scale, saturated at 448"
        return f"{self.name}: keys and values, {how}"


def _fp8(states: Tensor) -> Tensor:
    return states.float().clamp(-FP8_LARGEST, FP8_LARGEST).to(torch.float8_e4m3fn).float()


def rounded_by(cache: Any, rounding: Rounding) -> None:
    """From here on all that is written into a cache is rounded, whatever its layers are."""
    update = cache.update

    def write(key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return update(rounding(key_states), rounding(value_states), *args, **kwargs)

    cache.update, cache.rounding = write, rounding
