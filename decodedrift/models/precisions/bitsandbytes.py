"""int8-bnb: LLM.int8() (Dettmers et al. 2022) through bitsandbytes, what users of `load_in_8bit` deploy."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from decodedrift.core.records import InputError
from decodedrift.models.precisions.base import COMPUTE, Precision, Rounded

if TYPE_CHECKING:
    import torch


def unavailable(device: str) -> str | None:
    """A reason where bitsandbytes (or accelerate, which its loader needs) is not installed."""
    for package in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(package) is None:
            return f"int8-bnb needs {package}: pip install 'decodedrift[bnb]'"
    return None


def load_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments that make `from_pretrained` convert while it loads."""
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}


def read_back(model: torch.nn.Module) -> Rounded:
    """Counts what bitsandbytes really converted.

    Raises:
        InputError: nothing was converted (the library says nothing about it).
    """
    import bitsandbytes

    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear8bitLt)]
    if not layers:
        raise InputError("int8-bnb: bitsandbytes converted no module of this model; use int8")
    count = sum(m.weight.numel() for m in layers)
    return Rounded(
        count, len(layers), {"scheme": "LLM.int8(), weights and activations", "version": bitsandbytes.__version__}
    )


INT8_BNB = Precision(
    "LLM.int8() through bitsandbytes, what load_in_8bit deploys (weights and activations)",
    None,
    unavailable,
    params={"compute": COMPUTE},
    load=load_arguments,
    read_back=read_back,
    optional=True,
)
