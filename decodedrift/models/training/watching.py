"""What passes through a model in one training step: types, gradients that are flushed or overflow, and where first."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from decodedrift.models.training.weights import Share


class Overflow(NamedTuple):
    """Where a step's first value is that is infinite or not a number. passed: forward or backward."""

    module: str
    passed: str


class Gradients(NamedTuple):
    """flushed: 0 here and not in the reference arm, of those not 0 there. overflowed: not finite, of all."""

    flushed: Share
    overflowed: Share


class Watch:
    """Hooks on a model's innermost modules and on the gradients of what they give out. Values are read, never changed.

    types: the type of what each module gave out, as last seen. overflow: the first of this step. The reference arm's
    Watch keeps where its gradients are 0, a byte each, until its next step: others compare with it in between.
    """

    def __init__(self, model: nn.Module) -> None:
        self.types: dict[str, torch.dtype] = {}
        self.overflow: Overflow | None = None
        self._reference: Watch | None = None
        self._zeros: dict[tuple[str, int], Tensor] = {}
        self._calls: dict[str, int] = {}
        self._activations: list[Gradients] = []
        self._handles = [
            module.register_forward_hook(partial(self._forward, name))
            for name, module in model.named_modules()
            if not any(module.children())
        ]

    def begin(self, reference: Watch | None = None) -> None:
        """Forgets the last step. reference: the Watch of the reference arm, which has done this step; None is it."""
        self.overflow, self._reference = None, reference
        self._zeros, self._calls, self._activations = {}, {}, []

    @property
    def activations(self) -> Gradients:
        """The gradients of what the modules gave out, all together, since `begin`."""
        return _sum(self._activations)

    def weights(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> Gradients:
        """The same of the weights' gradients. parameters: the model's, with names; after the backward pass."""
        found = [(name, p.grad) for name, p in parameters if p.grad is not None]
        counted = {name: self._count((f"{name} (weight)", 0), gradient) for name, gradient in found}
        for name in reversed(counted):  # as the backward pass comes to them
            if self.overflow is None and counted[name].overflowed.n:
                self.overflow = Overflow(name.rpartition(".")[0] or name, "backward")
        return _sum(list(counted.values()))

    def close(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _forward(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                continue
            self.types[name] = tensor.dtype
            if self.overflow is None and not _finite(tensor.detach()):
                self.overflow = Overflow(name, "forward")
            if tensor.requires_grad:
                self._calls[name] = self._calls.get(name, 0) + 1
                tensor.register_hook(partial(self._backward, (name, self._calls[name])))  # type: ignore[no-untyped-call]

    def _backward(self, key: tuple[str, int], gradient: Tensor) -> None:
        gradients = self._count(key, gradient.detach())
        self._activations.append(gradients)
        if self.overflow is None and gradients.overflowed.n:
            self.overflow = Overflow(key[0], "backward")

    def _count(self, key: tuple[str, int], gradient: Tensor) -> Gradients:
        zero = gradient == 0
        if self._reference is None:
            self._zeros[key] = zero
            flushed = Share(0, zero.numel() - int(zero.sum()))
        elif (other := self._reference._zeros.get(key)) is None or other.shape != zero.shape:
            flushed = Share(0, 0)
        else:
            flushed = Share(int((zero & ~other).sum()), zero.numel() - int(other.sum()))
        infinite = 0 if _finite(gradient) else gradient.numel() - int(gradient.isfinite().sum())
        return Gradients(flushed, Share(infinite, gradient.numel()))


def _finite(tensor: Tensor) -> bool:
    """Whether all of it is: the largest magnitude is infinite or undefined where one value is."""
    return not tensor.numel() or bool(tensor.abs().amax().isfinite())


def _sum(several: list[Gradients]) -> Gradients:
    flushed, overflowed = ([g[n] for g in several] for n in (0, 1))
    total = [Share(sum(s.n for s in shares), sum(s.of for s in shares)) for shares in (flushed, overflowed)]
    return Gradients(*total)
