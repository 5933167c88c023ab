"""What a registered precision says of itself, and what comes back of its work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, boolean, one_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rounded:
    """What a precision did to a model, read back from the model itself.

    quantized_parameters: elements now on a quantized grid; quantized_modules: how many modules or tensors hold them.
    total: weights of the whole model, where its tensors do not show them one by one; else 0.
    """

    quantized_parameters: int = 0
    quantized_modules: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)
    total: int = 0


@dataclass(frozen=True)
class Precision:
    """A registered precision.

    compute: its own floating type, None for one that computes in the reference's. apply: converts a model that was
    read in `reads`, in place. check: refuses by a model's shapes alone what `apply` would. load: extra keyword
    arguments of `from_pretrained` for a backend that converts while it loads. unavailable: why it cannot run on a
    device type, or None. optional: its package may be missing; then a candidate fails alone. own: its floating type is
    the checkpoint's, known when that is found. beware: what its name could be taken for and is not, told at the head of
    a run; {compute} in it is the type of the arithmetic, {rounded} what its options round.
    """

    about: str
    compute: str | None
    unavailable: Callable[[str], str | None]
    read_as: str | None = None
    params: Mapping[str, Param] = field(default_factory=dict)
    apply: Callable[[torch.nn.Module, Mapping[str, Any]], Rounded] | None = None
    check: Callable[[torch.nn.Module, Mapping[str, Any]], Any] | None = None
    load: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    read_back: Callable[[torch.nn.Module], Rounded] | None = None
    optional: bool = False
    own: bool = False
    beware: str = ""

    def computes(self, options: Mapping[str, Any]) -> str | None:
        """Its own floating type; None where its options ask for rounding alone: then it is the reference's."""
        return None if options.get("round") else self.compute

    def reads(self, options: Mapping[str, Any]) -> str | None:
        """The floating type to read weights in; None where that of the arithmetic is."""
        return self.compute if self.compute and options.get("round") in ("weights", "all") else self.read_as


COMPUTE = Param(
    one_of("fp64", "fp32", "bf16", "fp16"), None, "floating type of the arithmetic (default: the reference's)"
)
HEAD = Param(boolean, False, "an untied output head too")
ROUNDED = {
    "weights": "weights rounded",
    "inputs": "inputs of products rounded",
    "all": "weights and inputs of products rounded",
}
ROUND = Param(one_of(*ROUNDED), "weights", "weights, inputs (of their matrix products), or all: both")
