"""int8 weights: symmetric, per output channel, absmax; arithmetic in the compute type.

scale = absmax/127 in float32, round half to even, clamp to 127: the error of optimum-quanto's `qint8` weights, at the
speed of the unquantized model. Weights are stored dequantized, since what is measured is the rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, boolean
from decodedrift.core.records import InputError
from decodedrift.models.precisions.base import COMPUTE, Precision, Rounded

if TYPE_CHECKING:
    import torch

INPUTS = {
    "AriaGroupedExpertsGemm": 1,
    "InklingSharedExperts": 2,
    "JetMoeParallelExperts": 2,
    "Llama4TextExperts": 1,
    "LongcatFlashExperts": 2,
}
"""The input dimension of fused expert weights, [experts, ., .], whose modules do not declare it."""


def absmax_int8(weight: torch.Tensor, dim: int) -> torch.Tensor:
    """The int8 rounding of a weight, dequantized to float32.

    Args:
        weight: any shape; read as float32.
        dim: the input dimension, over which one output channel's scale is taken.
    """
    weight = weight.float()
    scale = weight.abs().amax(dim=dim, keepdim=True)
    scale = scale / scale.new_full((), 127)  # a Python number: CUDA would multiply by its rounded reciprocal
    safe = scale.masked_fill(~(scale > 0), 1.0)
    return (weight / safe).round().clamp(-127, 127) * scale


def quantize(model: Any, head: bool = False) -> Rounded:
    """Rounds every Linear (GPT-2's Conv1D was turned into one on load) and fused expert tensor, in place.

    The output head stays, tied or not, as `load_in_8bit` leaves it; `head=True` takes an untied head too.

    Raises:
        InputError: `head=True` on a tied head, or nothing found to quantize.
    """
    import torch

    output, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    tied = output is not None and inputs is not None and output.weight is inputs.weight
    if head and tied:
        raise InputError("int8:head=true: this model's head is its embedding (tied); leave head=true out")
    parameters = modules = 0
    for name, module in model.named_modules():
        if module is output and not head:
            continue
        if isinstance(module, torch.nn.Linear) and "weight" not in module._parameters:
            raise InputError(f"int8: the weight of {name} is computed as it runs; remove the parametrization")
        for weight, shape, dim in _weights(module):
            weight.data = absmax_int8(weight.data.reshape(shape), dim).reshape(weight.shape).to(weight.dtype)
            parameters += weight.numel()
            modules += 1
    if not parameters:
        raise InputError("int8: this model has no linear or expert weights to quantize; nothing would be rounded")
    return Rounded(parameters, modules, {"scheme": "absmax per output channel, weights only", "head": head})


def _weights(module: Any) -> list[tuple[torch.Tensor, torch.Size, int]]:
    """The module's own weights, the shape to read them in and its input dimension.

    Of biases, norms, embeddings, convolutions and routers: none.

    Raises:
        InputError: fused experts whose layout transformers does not declare.
    """
    import torch

    if isinstance(module, torch.nn.Linear):
        return [(module.weight, module.weight.shape, 1)]
    kind = type(module).__name__
    if kind == "Conv1D":  # one that hooks keep as it is
        return [(module.weight, module.weight.shape, 0)]
    if kind == "DbrxExpertGLU":  # holds its experts one below the other: [experts * ffn, hidden]
        shape = torch.Size((module.moe_num_experts, module.ffn_hidden_size, module.hidden_size))
        return [(module.w1, shape, 2), (module.v1, shape, 2), (module.w2, shape, 1)]
    fused = [p for p in module.parameters(recurse=False) if p.dim() == 3]
    if not fused or "Experts" not in kind:
        return []
    if kind not in INPUTS and not hasattr(module, "is_transposed"):
        raise InputError(f"int8: the layout of {kind}'s fused weights is not declared; leave int8 out")
    # transformers' expert modules hold [experts, out, in], or [experts, in, out] where they say so
    dim = INPUTS.get(kind) or (1 if module.is_transposed else 2)
    return [(p, p.shape, dim) for p in fused]


INT8 = Precision(
    "weights only: per-output-channel absmax int8 over every linear and expert tensor but the head",
    None,
    lambda device: None,
    read_as="fp32",
    params={"head": Param(boolean, False, "an untied output head too"), "compute": COMPUTE},
    apply=lambda model, options: quantize(model, head=options["head"]),
    beware="weights rounded, arithmetic {compute}; not what a serving engine's int8 kernels do",
)
