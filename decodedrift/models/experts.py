"""Which tokens go to which experts: seen, limited and replayed from outside, whatever the family calls its modules.

transformers writes almost every family alike: a router gives (scores, weights, indices) of every token of the batch,
and a module that holds all experts of a layer takes (states, indices, weights). What does otherwise is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from decodedrift.core.records import VariantError
from decodedrift.models.compilation import compiled
from decodedrift.models.knobs.base import model_class
from decodedrift.models.knobs.experts import fused
from decodedrift.models.load import Loaded

See = Callable[[str, Tensor, Tensor], Tensor | None]
Chosen = Callable[[str, Tensor, Tensor], None]


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


@contextmanager
def routing(loaded: Loaded, see: Chosen, wanted: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """While it is open, `see` is told what each router chose; with `wanted`, that is what it is told to choose.

    A router then picks the wanted experts wherever it would pick its highest scores, and weighs them from its own
    scores by its own code. Where its own set is the wanted one, it is left as it is.

    Args:
        see: (path of the module of experts, scores [tokens, E], indices int64 [tokens, k]).
        wanted: by path, int64 [tokens, k] for the next forward pass; a row of -1 is left to the router. May be changed.

    Raises:
        VariantError: of `routers`, and where a router cannot be told what to choose.
    """
    restored = []
    for router in routers(loaded):
        given = router.module.forward

        def forward(*args: Any, router: Router = router, given: Any = given, **kwargs: Any) -> Any:
            asked = (wanted or {}).get(router.path)
            with nullcontext() if asked is None else _Picking(asked, router.count):
                output = given(*args, **kwargs)
            if asked is not None and asked.shape != output[2].shape:
                breach(loaded, "does not choose as many experts as what is to be replayed")
            if asked is not None and not _same_sets(output[2], _filled(asked, output[2])).all():
                breach(loaded, "has a router that does not pick its highest scores; what it chooses cannot be replayed")
            if asked is not None and not output[1][(asked >= 0).all(-1)].abs().gt(0).all():
                breach(loaded, "weighs experts outside the groups that it chose as nothing; they cannot be replayed")
            see(router.path, output[0], output[2])
            return output

        restored.append((router.module, vars(router.module).get("forward")))
        router.module.forward = forward
    try:
        yield
    finally:
        for module, before in restored:
            if before is None:
                del module.forward
            else:
                module.forward = before


class _Picking(TorchFunctionMode):
    """Inside it the highest k of E scores are the wanted ones, highest first."""

    def __init__(self, wanted: Tensor, count: int) -> None:
        super().__init__()
        self.wanted, self.scores = wanted, len(wanted) * count

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in (torch.topk, Tensor.topk) or result[1].numel() != self.wanted.numel():
            return result
        if len(self.wanted) * args[0].shape[-1] != self.scores:  # of a group of experts, or of groups
            return result
        scores = args[0].reshape(len(self.wanted), -1)
        own = result[1].reshape(self.wanted.shape)
        wanted = _filled(self.wanted, own)
        ranked = wanted.gather(-1, scores.gather(-1, wanted).argsort(stable=True, dim=-1, descending=True))
        picked = own.where(_same_sets(own, wanted)[:, None], ranked)
        return type(result)((scores.gather(-1, picked).reshape(result[0].shape), picked.reshape(result[1].shape)))


def _filled(wanted: Tensor, own: Tensor) -> Tensor:
    """Wanted experts, a router's own where none are."""
    return own.where(wanted < 0, wanted)


def _same_sets(one: Tensor, other: Tensor) -> Tensor:
    """Of which tokens both hold the same experts, bool [tokens]."""
    return (one.sort(-1).values == other.sort(-1).values).all(-1)


def breach(loaded: Loaded, why: str) -> NoReturn:
    """Raises what a model's experts cannot do as its variant's failure."""
    raise VariantError(f"{loaded.variant.name}: {type(loaded.model).__name__} {why}")
