"""GGUF files: llama.cpp's one-file checkpoints, whose weights transformers dequantizes as it loads them."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt
from decodedrift.models.sources.quantized import Quantization, check_installed

SUFFIX = ".gguf"
PLAIN = ("F64", "F32", "BF16", "F16")  # types that are no quantization


def is_gguf(path: str) -> bool:
    """Whether a path names a GGUF file."""
    return path.endswith(SUFFIX) and os.path.isfile(os.path.expanduser(path))


def check_readable(name: str) -> None:
    """Refuses a GGUF file that is cut off or none, and any where the packages that read one are not here.

    Raises:
        InputError: with the command that installs them.
    """
    check_installed(name, Quantization("gguf"))
    for _ in headers(os.path.expanduser(name)):
        pass


def headers(path: str) -> Iterator[tuple[str, str, list[int]]]:
    """(name, GGUF's name of the type, shape) of every tensor in a file.

    Raises:
        InputError: a broken or truncated file.
    """
    with _reader(path) as reader:
        for tensor in reader.tensors:
            yield tensor.name, tensor.tensor_type.name, [int(n) for n in reversed(tensor.shape)]


def tensors(path: str) -> Iterator[tuple[str, Any]]:
    """Every tensor of a file with its name, as float32, dequantized by the format's own definition."""
    import torch
    from gguf.quants import dequantize

    with _reader(path) as reader:
        for tensor in reader.tensors:
            yield tensor.name, torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())


def load_arguments() -> dict[str, Any]:
    """Keyword arguments by which `from_pretrained` dequantizes, whatever kernels for packed weights are there."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": config(dequantize=True)} if config is not None else {}


def facts(path: str) -> dict[str, Any]:
    """What is told of a file: how many of its tensors have which type, and how many of its weights are quantized."""
    types: Counter[str] = Counter()
    quantized = total = 0
    for _, kind, shape in headers(path):
        types[kind] += 1
        total += math.prod(shape)
        quantized += math.prod(shape) * (kind not in PLAIN)
    return {
        "format": "gguf", "scheme": ", ".join(f"{n} {kind}" for kind, n in types.most_common()),
        "tensor_types": dict(types), "unpacked": True,
        "file_quantized_parameters": quantized, "file_quantized_share": quantized / total if total else 0.0,
    }  # fmt: skip


def tokenizer_settings(path: str) -> dict[str, Any]:
    """What a file says of reading prompts: `add_bos`, `add_eos` and `template`; what it does not say is left out."""
    names = {
        "add_bos": "tokenizer.ggml.add_bos_token",
        "add_eos": "tokenizer.ggml.add_eos_token",
        "template": "tokenizer.chat_template",
    }
    with _reader(path) as reader:
        fields = {key: reader.get_field(name) for key, name in names.items()}
        return {key: field.contents() for key, field in fields.items() if field is not None}


def vocabulary(path: str) -> dict[str, int]:
    """Token to id, as a file has it; nothing where it brings no tokenizer."""
    with _reader(path) as reader:
        field = reader.get_field("tokenizer.ggml.tokens")
        return {token: i for i, token in enumerate(field.contents())} if field is not None else {}


@contextmanager
def _reader(path: str) -> Iterator[Any]:
    from gguf import GGUFReader

    try:
        yield GGUFReader(path)
    except (ValueError, OSError, IndexError, KeyError) as error:
        raise InputError(
            f"{path} is not a readable GGUF file ({excerpt(error, 80)}): copy or download it again"
        ) from None
