"""What a torch optimizer wants to change, before the type of the weights rounds it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


def updates(optimizer: Optimizer) -> Iterator[Tensor]:
    """For each parameter the update of the step to come, in float64, from its gradient and moments as they are.

    The optimizer's own code makes it: it steps a float64 parameter of value 0, which so becomes the update alone. Decay
    of weights, which nothing is left of at 0, is added. To be asked before `step`, after clipping.
    """
    for group in optimizer.param_groups:
        options = {name: value for name, value in group.items() if name != "params"}
        decay, decoupled = options.get("weight_decay", 0.0), options.get("decoupled_weight_decay", False)
        for parameter in group["params"]:
            if parameter.grad is None:
                yield torch.zeros_like(parameter, dtype=torch.float64)
                continue
            weight, zero = parameter.detach().double(), Parameter(torch.zeros_like(parameter, dtype=torch.float64))
            zero.grad = parameter.grad.double() + (0.0 if decoupled else decay * weight)
            wide = type(optimizer)([zero], lr=options["lr"])  # type: ignore[call-arg]
            wide.param_groups[0].update(options | {"weight_decay": 0.0})
            wide.state[zero] = {name: _wide(value, parameter) for name, value in optimizer.state[parameter].items()}
            wide.step()
            yield zero.detach() - (options["lr"] * decay * weight if decoupled else 0.0)


def _wide(value: object, like: Tensor) -> object:
    """A copy of a moment in float64; of a count of steps as it is."""
    if not isinstance(value, Tensor):
        return value
    return value.to(torch.float64, copy=True) if value.shape == like.shape else value.clone()
