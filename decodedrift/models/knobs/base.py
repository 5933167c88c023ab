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
    runs, or cannot be told. refused: (variant, checkpoint, value) -> why it cannot be turned there, and what to write;
    asked before weights load. load: keyword arguments of `from_pretrained`. adapt: the same done to a model that is
    there. install: done in place to a model that has its precision and device. running: (model, value) -> a context
    around all that the model computes. stored: the type that its weights are kept in, where that is not the
    arithmetic's. copies: the type of a second copy of them that is there while it runs. rounds: the type that it rounds
    what is computed to. forced: whether reading a given text at once uses it too; where it does not, a text is read
    token by token. stepped: whether that does; where not even that, a text is not read, since an error of 0 would say
    nothing.
    """

    param: Param
    fact: str
    read_back: Callable[[torch.nn.Module], Any] | None = None
    refused: Callable[[Variant, Any, Any], str | None] | None = None
    load: Callable[[Any], dict[str, Any]] | None = None
    adapt: Callable[[Any, Any], None] | None = None
    install: Callable[[Any, Any], None] | None = None
    running: Callable[[Any, Any], AbstractContextManager[Any]] | None = None
    stored: Callable[[Any], str] | None = None
    copies: Callable[[Any], str] | None = None
    rounds: Callable[[Any], str | None] | None = None
    forced: bool = True
    stepped: bool = True

    @property
    def reshapes(self) -> bool:
        """Whether it is part of the loaded model, so that a copy of that has it too."""
        return any(part is not None for part in (self.load, self.adapt, self.install))


def setting(variant: Variant, name: str) -> Any:
    """The value of a variant's knob; None where it is the reference's or the run's."""
    return variant.knobs.get(name, getattr(variant, name, None))


def model_class(checkpoint: Any) -> Any | None:
    """The class that a checkpoint's model has; None where the model's own code decides."""
    if checkpoint.module is not None:
        return type(checkpoint.module)
    from transformers import AutoModelForCausalLM

    kind = AutoModelForCausalLM._model_mapping.get(type(checkpoint.config), None)
    return kind if isinstance(kind, type) else None


def device_of(model: Any) -> str:
    """The type of device that a model computes on."""
    return computing_on(model).partition(":")[0]


def computing_on(model: Any) -> str:
    """The device of a model's first weight, or the one that it is fetched to (`device_map`)."""
    weight, hook = next(model.parameters()), getattr(model, "_hf_hook", None)
    if weight.device.type != "meta" or hook is None:
        return str(weight.device)
    to = [one.execution_device for one in getattr(hook, "hooks", (hook,)) if one.execution_device is not None][-1]
    return f"cuda:{to}" if isinstance(to, int) else str(to)
