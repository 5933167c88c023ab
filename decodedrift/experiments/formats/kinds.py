"""The formats that a model is held against: a name and how it is scaled, `fp8-e4m3:scale=none`. Without torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from decodedrift.core.notation import Param, boolean, one_of, read_params, split_items, whole
from decodedrift.core.records import InputError, nearest
from decodedrift.models.precisions.int4 import grouped_int4
from decodedrift.models.precisions.int8 import absmax_int8, filled
from decodedrift.numerics.formats import TABLE, Format, Whole, log_uniform_error

DEFAULT = (
    "tf32", "bf16", "fp16", "fp8-e4m3", "fp8-e4m3:scale=none", "fp8-e5m2", "fp8-e5m2:scale=none", "int8", "int4",
    "fp4-e2m1",
)  # fmt: skip
SCALES = ("none", "tensor", "channel")
SCALED = ("fp8-e4m3", "fp8-e5m2", "fp4-e2m1")  # used with a scale, by channel unless it is said


class Held(NamedTuple):
    """Numbers in a format, tensors of the shape of the numbers, all in units of the scale.

    given: the numbers. near: what they are rounded to, were there no largest value. largest, normal: ends of the range
    in which a number is held with full precision; of whole numbers `normal` is 0.
    """

    given: Any
    near: Any
    largest: float
    normal: float


@dataclass(frozen=True)
class Kind:
    """A format with its scale. label: as asked. params: as of `declared`."""

    label: str
    form: Format | Whole
    params: Mapping[str, Any]

    @property
    def scaled(self) -> bool:
        """Whether a scale makes the largest number of a block the format's largest; then nothing overflows."""
        return isinstance(self.form, Whole) or self.params["scale"] != "none"

    @property
    def theory(self) -> float:
        """The rms relative error of numbers whose logarithm is uniform; NaN of whole numbers, whose spacing is one."""
        return math.nan if isinstance(self.form, Whole) else log_uniform_error(self.form.mantissa)

    def scale(self, values: Any) -> Any:
        """The scale of a whole tensor, where it has one for all; else None."""
        if isinstance(self.form, Whole) or self.params["scale"] != "tensor":
            return None
        return values.abs().amax() / values.new_full((), self.form.largest)

    def hold(self, rows: Any, scale: Any = None) -> Held:
        """Finite rows [n, width] of float32 or float64 in this format.

        Args:
            scale: as of `scale`, of the tensor that the rows are of.
        """
        if isinstance(self.form, Whole):
            return Held(rows, absmax_int8(rows) if self.form.width == 8 else self._grouped(rows), math.inf, 0.0)
        if self.scaled:
            block = rows.abs().amax(-1, keepdim=True) / rows.new_full((), self.form.largest) if scale is None else scale
            rows = rows / filled(block)
        return Held(rows, self.form.nearest(rows), self.form.largest, self.form.smallest_normal)

    @property
    def saturates(self) -> bool:
        """Whether what lies beyond the largest value becomes that."""
        return isinstance(self.form, Whole) or self.params["overflow"] == "saturate"

    def _grouped(self, rows: Any) -> Any:
        """Rows in groups; the last one of a row may be shorter."""
        width, group = rows.shape[-1], self.params["group"]
        filler = rows.new_zeros(*rows.shape[:-1], -width % group)
        return grouped_int4(_joined(rows, filler), group, self.params["zero"])[..., :width]


def _joined(rows: Any, filler: Any) -> Any:
    """Rows with something behind them."""
    wide = rows.new_empty(*rows.shape[:-1], rows.shape[-1] + filler.shape[-1])
    wide[..., : rows.shape[-1]] = rows
    wide[..., rows.shape[-1] :] = filler
    return wide


def declared(name: str) -> dict[str, Param]:
    """What a format may be told."""
    form = TABLE[name]
    if isinstance(form, Whole):
        group = Param(whole(2), 128, "numbers of a row that share a scale")
        zero = Param(boolean, False, "a zero point for each group")
        return {"group": group, "zero": zero} if form.width == 4 else {}
    default = "channel" if name in SCALED else "none"
    beyond = "saturate" if form.beyond == "largest" else form.beyond
    return {
        "scale": Param(one_of(*SCALES), default, "absmax of what becomes the largest value"),
        "overflow": Param(one_of(*dict.fromkeys((beyond, "saturate"))), beyond, "what lies beyond the largest value"),
    }


def parse_kinds(given: Any) -> list[Kind]:
    """`bf16,fp8-e4m3:scale=none` as Kinds.

    Raises:
        InputError: no such format, or it is not told so.
    """
    pieces = [given] if isinstance(given, str) else list(given)
    return [_kind(item) for piece in pieces for item in split_items(str(piece), _params_of)]


def _kind(item: Any) -> Kind:
    if item.head not in TABLE:
        raise InputError(f"unknown format {item.head!r}; {nearest(item.head, tuple(TABLE))}")
    params = read_params(item.head, item.params, declared(item.head))
    return Kind(item.label, TABLE[item.head], params)


def _params_of(name: str) -> Collection[str]:
    return tuple(declared(name)) if name in TABLE else ()
