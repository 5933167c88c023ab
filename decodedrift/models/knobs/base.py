"""What a registered knob of execution says of itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param
from decodedrift.core.records import Variant

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Knob:
    """A registered knob. It has an effect where its value is not None.

    param: how its value is read. fact: the name under which what it came to is told among the facts of a variant.
    read_back: that, of a loaded model in the state that it runs in, JSON-ready; None where it is told as the model
    runs. refused: (variant, checkpoint, value) -> why it cannot be turned there, and what to write; asked before
    weights load. load: keyword arguments of `from_pretrained`. adapt: the same done to a model that is there. running:
    (device, value) -> a context around all that the model computes. forced: whether reading a given text at once uses
    it too; where it does not, a text is read token by token. stepped: whether that does; where not even that, a text is
    not read, since an error of 0 would say nothing.
    """

    param: Param
    fact: str
    read_back: Callable[[torch.nn.Module], Any] | None = None
    refused: Callable[[Variant, Any, Any], str | None] | None = None
    load: Callable[[Any], dict[str, Any]] | None = None
    adapt: Callable[[Any, Any], None] | None = None
    running: Callable[[torch.device, Any], AbstractContextManager[Any]] | None = None
    forced: bool = True
    stepped: bool = True


def setting(variant: Variant, name: str) -> Any:
    """The value of a variant's knob; None where it is the reference's or the run's."""
    return variant.knobs.get(name, getattr(variant, name, None))
