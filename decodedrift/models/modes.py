"""Modes of torch's functions, in which a model computes otherwise than it is written; no module is touched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

LATE = (functional.embedding, Tensor.__getitem__)  # rows are picked before they are widened: the same bits, less work
GROUPED = tuple(getattr(place, name, None) for place, name in ((functional, "grouped_mm"), (torch, "_grouped_mm")))


def converted(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in another type. Torch folds a batch into one product, or does not, by whether it requires a gradient.

    Inside inference mode a conversion would lose that, and products their last bits.
    """
    if weight.is_inference():  # part of one, or an activation
        return weight.to(dtype)
    with torch.inference_mode(False), torch.no_grad():
        return weight.to(dtype).requires_grad_(weight.requires_grad)


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the type that the first product of matrices inside it takes, whatever mode converts what it is given."""

    NAMES = ("linear", "addmm", "mm", "matmul", "mv", "addmv", "bmm")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype: torch.dtype | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.dtype is None and func.overloadpacket.__name__ in self.NAMES:
            self.dtype = next((t.dtype for t in args if isinstance(t, Tensor) and t.dim() >= 2), None)
        return func(*args, **(kwargs or {}))


class Widening(TorchFunctionMode):
    """Inside it bfloat16 is a way to store: each tensor of it is widened to float32 as it enters a computation."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func == Tensor.dtype.__get__:  # type: ignore[attr-defined]
            return torch.float32 if args[0].dtype is torch.bfloat16 else args[0].dtype
        if func in LATE:
            return _wide(func(*args, **(kwargs or {})))
        if getattr(func, "__name__", "") == "__get__":  # an attribute: nothing is computed
            return func(*args, **(kwargs or {}))
        return func(*map(_wide, args), **{name: _wide(value) for name, value in (kwargs or {}).items()})


class NarrowProducts(TorchFunctionMode):
    """Inside it products with weights run in a 16-bit type and come out in float32; nothing else does.

    A weight is rounded once for as long as the mode is on.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.rounded = dtype, dict[int, tuple[Tensor, Tensor]]()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is functional.linear:
            given |= dict(zip(("input", "weight", "bias"), args, strict=False))
            states, *weights = given["input"], given["weight"], given.get("bias")
            return functional.linear(states.to(self.dtype), *map(self._narrow, weights)).to(states.dtype)
        if func in GROUPED and func is not None:
            states, weight, *more = args
            return func(states.to(self.dtype), self._narrow(weight), *more, **given).to(states.dtype)
        return func(*args, **given)

    def _narrow(self, weight: Any) -> Any:
        if not isinstance(weight, torch.nn.Parameter):  # an expert's part of one, and what a model computes
            return weight if weight is None else weight.to(self.dtype)
        if id(weight) not in self.rounded:
            self.rounded[id(weight)] = weight, converted(weight, self.dtype)  # holding it, or another had its id
        return self.rounded[id(weight)][1]


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        return converted(value, torch.float32) if value.dtype is torch.bfloat16 else value
    if isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) for part in value):
        return type(value)(map(_wide, value))
    return value
