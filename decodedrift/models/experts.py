"""Which tokens go to which experts: seen, limited and replayed from outside, whatever the family calls its modules.

transformers writes almost every family alike: a router gives (scores, weights, indices) of every token of the batch,
and a module that holds all experts of a layer takes (states, indices, weights). What does otherwise is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from torch import Tensor

from decodedrift.core.records import VariantError
from decodedrift.models.compilation import compiled
from decodedrift.models.knobs.base import model_class
from decodedrift.models.knobs.experts import fused
from decodedrift.models.load import Loaded

See = Callable[[str, Tensor, Tensor], Tensor | None]


@dataclass(frozen=True)
class Router:
    """What chooses the experts of a layer. path: of the module that holds them; count: how many it chooses among."""

    path: str
    module: Any
    count: int


def refused(checkpoint: Any) -> str | None:
    """Why the experts of a checkpoint's model cannot be reached, None where they can or that is not known yet."""
    kind = model_class(checkpoint)
    can = getattr(kind, "_can_set_experts_implementation", None)
    if can is None or can():
        return None
    return f"{kind.__name__} has no experts that take what a router chose"  # type: ignore[union-attr]


def routed(loaded: Loaded) -> dict[str, Any]:
    """The modules that hold a layer's experts, by path.

    Raises:
        VariantError: there are none that can be reached, or the model is compiled and calls no hooks.
    """
    modules = fused(loaded.model)
    if not modules:
        breach(loaded, "has no experts that take what a router chose")
    if compiled(loaded.model):
        breach(loaded, "is compiled, and does not show what its experts are given; leave compile out")
    return modules


@contextmanager
def watched(loaded: Loaded, see: See) -> Iterator[None]:
    """While it is open, `see` is told what each module of experts is given.

    Args:
        see: (path of the module, indices int64 [tokens, k], weights alike) -> the weights to use instead, or None.

    Raises:
        VariantError: of `routed`, and where a module is given something else.
    """

    def hook(path: str, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        indices, weights = choices(loaded, (*arguments, *named.values()))
        others = see(path, indices, weights)
        if others is None:
            return None
        taken = [others if value is weights else value for value in arguments]
        return tuple(taken), {name: others if value is weights else value for name, value in named.items()}

    handles = [
        module.register_forward_pre_hook(partial(hook, path), with_kwargs=True)
        for path, module in routed(loaded).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def choices(loaded: Loaded, arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """(indices, weights) among what a module of experts is given, by their types and shapes."""
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    indices = [tensor for tensor in tensors if not tensor.is_floating_point() and tensor.dim() == 2]
    weights = [t for t in tensors if indices and t.is_floating_point() and t.shape == indices[0].shape]
    if len(indices) != 1 or len(weights) != 1:
        breach(loaded, "gives its experts something else than states, indices and weights")
    return indices[0], weights[0]


def routers(loaded: Loaded) -> list[Router]:
    """The router of each layer of experts: the module that gave the indices that the experts take, in four tokens.

    Raises:
        VariantError: of `routed`, and where a router is not found, or chooses among other things than experts.
    """
    modules, given, found = routed(loaded), dict[int, tuple[Any, Any]](), dict[str, Router]()

    def gave(module: Any, arguments: Any, output: Any) -> None:
        if isinstance(output, tuple):
            given.update((id(value), (module, output)) for value in output if isinstance(value, Tensor))

    def see(path: str, indices: Tensor, weights: Tensor) -> None:
        module, output = given.get(id(indices), (None, (None,)))
        scores, count = output[0], int(modules[path].num_experts)
        if not isinstance(scores, Tensor) or scores.shape != (len(indices), count) or output[2] is not indices:
            breach(loaded, "has a router that does not give (scores, weights, indices) of its experts alone")
        found[path] = Router(path, module, count)
        given.clear()

    handles = [module.register_forward_hook(gave) for module in loaded.model.modules()]
    try:
        with watched(loaded, see):
            loaded.probe()
    finally:
        for handle in handles:
            handle.remove()
    if found.keys() != modules.keys():
        breach(loaded, f"does not use its experts at {min(modules.keys() - found.keys())}")
    return list(found.values())


def breach(loaded: Loaded, why: str) -> NoReturn:
    """Raises what a model's experts cannot do as its variant's failure."""
    raise VariantError(f"{loaded.variant.name}: {type(loaded.model).__name__} {why}")
