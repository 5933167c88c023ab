"""What is done to a loaded model that changes none of its numbers, and how long they take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: a cache line, and what torch gives its own tensors
BLOCK = 1536  # columns; at 768 wide 5 MB of weights
PROBE_ROWS = (1, 5, 24)


def conv1d_to_linear(model: torch.nn.Module) -> None:
    """GPT-2's Conv1D as Linear: the same numbers in fp32, and in fp16 on CPU not 10-50 times slower.

    One with a `forward` or hooks of its own stays, since they belong to the module.
    """
    from transformers.pytorch_utils import Conv1D

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            own = "forward" in vars(child) or child._forward_hooks or child._forward_pre_hooks
            if isinstance(child, Conv1D) and not own:
                linear = torch.nn.Linear(child.nx, child.nf, device="meta")
                linear.weight = torch.nn.Parameter(child.weight.data.t().contiguous(), requires_grad=False)
                linear.bias = torch.nn.Parameter(child.bias.data, requires_grad=False)
                setattr(module, name, linear)


def align(model: torch.nn.Module) -> None:
    """Weights on addresses that any CPU kernel likes. A tensor read from a file lies where its header ends.

    A matrix-vector product of weights off that grid has other last bits: the same weights in two files would differ.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def forget_generation_settings(model: Any) -> None:
    """The checkpoint's generation_config.json must reach nothing: transformers fills from it what a call leaves open.

    Its stop ids were read before (`tokens.py`).
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()


class BlockedHead(torch.nn.Linear):
    """A Linear whose product is taken block by block: the same bits in three quarters of the time.

    A vocabulary is rarely a multiple of a vector register (GPT-2's has 50,257 tokens), and the matrix product pays for
    it in every row.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Logits [..., vocab] of hidden states [..., width]."""
        return _in_blocks(self, input)


def _in_blocks(head: torch.nn.Linear, states: Tensor) -> Tensor:
    parts = []
    for begin in range(0, head.out_features, BLOCK):
        columns = slice(begin, begin + BLOCK)
        bias = None if head.bias is None else head.bias[columns]
        parts.append(torch.nn.functional.linear(states, head.weight[columns], bias))
    return torch.cat(parts, dim=-1)


def block_head(model: Any) -> None:
    """A wide float32 output head on a CPU as a blocked one, if a trial on this machine finds the same bits."""
    head = model.get_output_embeddings()
    if type(head) is BlockedHead:  # of a model that was copied
        head.__class__ = torch.nn.Linear  # type: ignore[assignment]
    if type(head) is not torch.nn.Linear or head.out_features < 2 * BLOCK:
        return
    if head.weight.dtype != torch.float32 or head.weight.device.type != "cpu":
        return
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for rows in PROBE_ROWS:
            probe = torch.randn(rows, head.in_features, generator=generator)
            if not torch.equal(head(probe), _in_blocks(head, probe)):
                return
    head.__class__ = BlockedHead
