"""What is done to a loaded model that changes none of its numbers, and how long they take."""

from __future__ import annotations

from typing import Any

import torch

ALIGNMENT = 64  # bytes: a cache line, and what torch gives its own tensors
PLAIN = (torch.Tensor, torch.nn.Parameter)  # what a backend packed lies where it put it


def conv1d_to_linear(model: torch.nn.Module) -> None:
    """GPT-2's Conv1D as Linear: the same matrices, and in fp16 on CPU not 10-50 times slower.

    A product may have other last bits as a matrix lies otherwise: bf16 gives Conv1D's on AVX512, not on AVX2 alone.

    One with a `forward` or hooks of its own stays, since they belong to the module.
    """
    from transformers.pytorch_utils import Conv1D

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            custom = "forward" in vars(child) or child._forward_hooks or child._forward_pre_hooks
            if isinstance(child, Conv1D) and not custom:
                linear = torch.nn.Linear(child.nx, child.nf, device="meta")
                linear.weight = torch.nn.Parameter(child.weight.data.t().contiguous(), requires_grad=False)
                linear.bias = torch.nn.Parameter(child.bias.data, requires_grad=False)
                setattr(module, name, linear)


def align(model: torch.nn.Module) -> None:
    """Weights on addresses that any CPU kernel likes. A tensor read from a file lies where its header ends.

    A matrix-vector product of weights off that grid has other last bits: the same weights in two files would differ.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if type(tensor) in PLAIN and tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def forget_generation_settings(model: Any) -> None:
    """The checkpoint's generation_config.json must reach nothing: transformers fills from it what a call leaves open.

    Its stop ids were read before (`models/text/stops.py`).
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()
