"""Precisions: what is rounded, said and read back. One file a family, one line each in PRECISIONS.

The registry imports without torch; a precision's work is done by the functions that its entry names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, boolean, one_of
from decodedrift.models.precisions.base import Precision, Rounded

if TYPE_CHECKING:
    import torch

FLOATING = ("fp64", "fp32", "bf16", "fp16")


def _floating(device: str, name: str) -> str | None:
    from decodedrift.models.precisions.floating import unavailable

    return unavailable(name, device)


def _int8(model: torch.nn.Module, options: Mapping[str, Any]) -> Rounded:
    from decodedrift.models.precisions.int8 import quantize

    return quantize(model, head=options["head"])


def _bnb_load(options: Mapping[str, Any]) -> dict[str, Any]:
    from decodedrift.models.precisions.bitsandbytes import load_arguments

    return load_arguments()


def _bnb_read_back(model: torch.nn.Module) -> Rounded:
    from decodedrift.models.precisions.bitsandbytes import read_back

    return read_back(model)


def _bnb_unavailable(device: str) -> str | None:
    from decodedrift.models.precisions.bitsandbytes import unavailable

    return unavailable()


_COMPUTE = Param(one_of(*FLOATING), None, "floating type of the arithmetic (default: the reference's)")

PRECISIONS: dict[str, Precision] = {
    "fp64": Precision("weights and compute in float64: the truth", "fp64", lambda device: _floating(device, "fp64")),
    "fp32": Precision("weights and compute in float32", "fp32", lambda device: _floating(device, "fp32")),
    "bf16": Precision("weights and compute in bfloat16", "bf16", lambda device: _floating(device, "bf16")),
    "fp16": Precision("weights and compute in float16", "fp16", lambda device: _floating(device, "fp16")),
    "int8": Precision(
        "weights only: per-output-channel absmax int8 over every linear and expert tensor but the head",
        None,
        lambda device: None,
        read_as="fp32",
        params={"head": Param(boolean, False, "an untied output head too"), "compute": _COMPUTE},
        apply=_int8,
    ),
    "int8-bnb": Precision(
        "LLM.int8() through bitsandbytes, what load_in_8bit deploys (weights and activations)",
        None,
        _bnb_unavailable,
        params={"compute": _COMPUTE},
        load=_bnb_load,
        read_back=_bnb_read_back,
        optional=True,
    ),
}
