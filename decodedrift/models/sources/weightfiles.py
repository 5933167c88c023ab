"""The files that hold a checkpoint's weights: which they are, and what is in them. safetensors; pickles on request.

A pickle is read with torch's `weights_only`, which builds tensors and calls nothing else: no code of it is ever run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt
from decodedrift.models.sources import gguf

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
POINTER = b"version https://git-lfs"
NAMES = {
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "float64": "F64",
}  # as safetensors names them


def local_files(name: str, folder: Path, allow_pickle: bool) -> tuple[str, ...]:
    """The weight files of a folder: safetensors, or with `allow_pickle` .bin where there are none.

    Raises:
        InputError: there are none, some of them are missing, or git-LFS has not fetched them.
    """
    for single in (SAFE, PICKLED) if allow_pickle else (SAFE,):
        index = folder / f"{single}.index.json"
        if index.is_file():
            check_no_pointer(index)
            names = shards(index)
            missing = [s for s in names if not (folder / s).is_file()]
            if missing:
                raise InputError(f"{name}: the weight file {missing[0]} is missing ({len(missing)} of {len(names)})")
            for shard in names:
                check_no_pointer(folder / shard)
            return tuple(str(folder / s) for s in names)
        if (folder / single).is_file():
            check_no_pointer(folder / single)
            return (str(folder / single),)
    if any(folder.glob("*.bin")):
        mend = "save them as safetensors (model.save_pretrained(folder)), or add --allow-pickle"
        raise InputError(f"{name}: only pickled weights (.bin), a format that can run code; {mend}")
    raise InputError(f"{name}: no {SAFE} in this folder")


def check_no_pointer(path: Path) -> None:
    """Refuses the few lines that git keeps in place of a large file, where the file itself was not fetched.

    Raises:
        InputError: it is one, or cannot be read.
    """
    try:
        with open(path, "rb") as handle:
            begin = handle.read(len(POINTER))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if begin == POINTER:
        raise InputError(f"{path} is a git-LFS pointer and not the file itself: run `git lfs pull` in its folder")


def shards(index: Path) -> list[str]:
    """The weight files that an index names, all of them in its own folder.

    Raises:
        InputError: no such index; a name that leads elsewhere.
    """
    try:
        content = json.loads(index.read_text("utf-8"))
        names = sorted(set(content["weight_map"].values()))
        valid = bool(names) and "metadata" in content and all(os.path.basename(s) == s for s in names)
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
        valid = False
    if not valid:
        raise InputError(f"{index} is not a valid index of weight files; copy or download it again")
    return names


def pickled(files: Sequence[str]) -> bool:
    """Whether weights come from pickles."""
    return any(not path.endswith((".safetensors", gguf.SUFFIX)) for path in files)


def headers(files: Sequence[str]) -> Iterator[tuple[str, str, list[int]]]:
    """(name, dtype, shape) of every stored tensor; a file that cannot be read is named.

    Raises:
        InputError: a broken or truncated file.
    """
    from safetensors import SafetensorError, safe_open

    for path in files:
        if path.endswith(gguf.SUFFIX):
            yield from gguf.headers(path)
            continue
        if pickled([path]):
            for name, tensor in unpickled(path, device="meta").items():
                dtype = str(tensor.dtype).removeprefix("torch.")
                yield name, NAMES.get(dtype, dtype), list(tensor.shape)
            continue
        try:
            with safe_open(path, framework="np") as handle:
                for name in handle.keys():  # noqa: SIM118 (not a mapping)
                    part = handle.get_slice(name)
                    yield name, part.get_dtype(), part.get_shape()
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} is not a readable safetensors file ({excerpt(error, 80)}): copy or download it again"
            ) from None


def tensors(files: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Every stored tensor with its name, one at a time."""
    from safetensors import safe_open

    for path in files:
        if path.endswith(gguf.SUFFIX):
            yield from gguf.tensors(path)
            continue
        if pickled([path]):
            yield from unpickled(path).items()
            continue
        with safe_open(path, framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118 (not a mapping)
                yield name, handle.get_tensor(name)


def unpickled(path: str, device: str = "cpu") -> dict[str, Any]:
    """The tensors of a .bin file, read without running anything of it.

    Raises:
        InputError: it holds more than tensors, or cannot be read.
    """
    import torch

    try:
        state = torch.load(path, map_location=device, weights_only=True)
        return {str(name): tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    except Exception as error:  # UnpicklingError, EOFError, RuntimeError and more, by what the file holds
        raise InputError(
            f"{path} cannot be read as plain tensors ({excerpt(error, 80)}); nothing of it was run: "
            "save it as safetensors where you trust it"
        ) from None
