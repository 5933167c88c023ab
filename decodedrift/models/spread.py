"""A model whose layers accelerate has put on several devices, or on disk: computed with the bits of one in memory.

Weights of a module that is on none of the devices are fetched as it is called and dropped behind it. What a model in
memory is done to once (`rewrites`) is done here to what is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from decodedrift.models.rewrites import ALIGNMENT


class Fetched(Mapping[str, Tensor]):
    """Weights of a module as they are fetched, on aligned addresses, its matrices turned where `turned`.

    A file's tensor lies where its header ends, and a matrix-vector product there has other last bits.
    """

    def __init__(self, weights: Mapping[str, Tensor], turned: bool) -> None:
        self.weights, self.turned = weights, turned

    def __getitem__(self, name: str) -> Tensor:
        """The weight of a name that the module has for it."""
        weight = self.weights[name]
        if self.turned and weight.dim() == 2:
            return weight.t().contiguous()
        return weight.clone() if weight.data_ptr() % ALIGNMENT else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def is_spread(model: Module) -> bool:
    """Whether accelerate moves inputs or weights of a model as it runs."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


def as_in_memory(model: Any) -> None:
    """Rewrites GPT-2's Conv1D as Linear, as `rewrites` does, beneath accelerate's hooks, and aligns what is fetched."""
    if not is_spread(model):
        return
    from accelerate.hooks import add_hook_to_module
    from transformers.pytorch_utils import Conv1D

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            hooks = _hooks(child)
            turned = isinstance(child, Conv1D)
            for hook in hooks:
                if getattr(hook, "offload", False):
                    hook.weights_map = Fetched(hook.weights_map, turned)
            if turned and hooks:
                linear = torch.nn.Linear(child.nx, child.nf, device="meta")
                linear.weight = torch.nn.Parameter(child.weight.data.t().contiguous(), requires_grad=False)
                linear.bias = torch.nn.Parameter(child.bias.data, requires_grad=False)
                for hook in hooks:
                    add_hook_to_module(linear, hook, append=True)
                setattr(module, name, linear)


def _hooks(module: Module) -> list[Any]:
    """accelerate's hooks of a module, one by one."""
    hook = getattr(module, "_hf_hook", None)
    return list(getattr(hook, "hooks", (hook,))) if hook is not None else []
