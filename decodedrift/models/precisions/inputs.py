"""Rounding what goes into a matrix product: a hook on the module that holds its weight, on copies alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class RoundedInputs:
    """A forward pre-hook. It holds a function of tensors and nothing of a model, so that it can be copied with one."""

    def __init__(self, rounding: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.rounding = rounding

    def __call__(self, module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The first argument rounded, at least in float32, and given back in its own type."""
        values = args[0]
        return (self.rounding(values.float()).to(values.dtype), *args[1:])


def hooked(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The modules whose inputs are rounded, by path."""
    return {
        path: module
        for path, module in model.named_modules()
        if any(isinstance(hook, RoundedInputs) for hook in module._forward_pre_hooks.values())
    }


@contextmanager
def unrounded(model: torch.nn.Module) -> Iterator[None]:
    """Inside, inputs are not rounded: of how a model reads its cache, rounding says nothing and hides much."""
    before = {module: module._forward_pre_hooks.copy() for module in hooked(model).values()}
    for module, hooks in before.items():
        for key in (key for key, hook in hooks.items() if isinstance(hook, RoundedInputs)):
            del module._forward_pre_hooks[key]
    try:
        yield
    finally:
        for module, hooks in before.items():
            module._forward_pre_hooks.clear()
            module._forward_pre_hooks.update(hooks)


def called(model: torch.nn.Module, run: Callable[[], Any]) -> int:
    """How many of the modules whose inputs are rounded are called as modules in a run; a hook sees nothing else."""
    paths: set[str] = set()

    def noting(path: str) -> Callable[[Any, Any], None]:
        return lambda module, args: paths.add(path)

    handles = [module.register_forward_pre_hook(noting(path)) for path, module in hooked(model).items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return len(paths)
