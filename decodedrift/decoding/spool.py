"""Tensors that wait: the reference's logits and scores, exact, in memory up to a budget and in files beyond it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

Key = tuple[Any, ...]


class Spool:
    """A store of CPU tensors in their own dtype. Beyond `budget` bytes they are written to `folder` and mapped.

    What comes back has the bits that went in. A key begins with what sort of tensor it is. Leaving the context removes
    the files.
    """

    def __init__(self, budget: int, folder: str | None = None) -> None:
        self.budget = budget
        self.spilled_bytes = 0
        self._held: dict[Key, Tensor] = {}
        self._used = 0
        self._written = 0
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._folder = folder
        self._files: dict[Key, tuple[str, torch.dtype, torch.Size]] = {}
        self._lent: dict[Key, Callable[[], Tensor]] = {}

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.clear()
        if self._directory is not None:
            self._directory.cleanup()

    def put(self, key: Key, tensor: Tensor) -> None:
        """Keeps a copy of a tensor; its storage holds nothing else."""
        tensor = tensor.detach().to("cpu", copy=True).contiguous()
        size = tensor.numel() * tensor.element_size()
        if self._used + size <= self.budget or size == 0:
            self._held[key] = tensor
            self._used += size
            return
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="decodedrift-", dir=self._folder)
        path = os.path.join(self._directory.name, str(self._written))
        self._written += 1
        with open(path, "wb") as handle:
            handle.write(tensor.view(-1).view(torch.uint8).numpy().data)
        self.spilled_bytes += size
        self._files[key] = (path, tensor.dtype, tensor.shape)

    def lend(self, key: Key, tensor: Callable[[], Tensor]) -> None:
        """A tensor that another store holds, asked for each time that it is wanted."""
        self._lent[key] = tensor

    def keys(self, sort: str) -> list[Key]:
        """The keys of a sort, without the sort."""
        return [key[1:] for key in (*self._held, *self._files, *self._lent) if key[0] == sort]

    def drop(self, sort: str) -> None:
        """Lets go of every tensor of a sort."""
        for key in [key for key in self._held if key[0] == sort]:
            tensor = self._held.pop(key)
            self._used -= tensor.numel() * tensor.element_size()
        for key in [key for key in self._files if key[0] == sort]:
            with suppress(OSError):  # where a file that is mapped cannot be removed it goes with the folder
                os.remove(self._files.pop(key)[0])

    def get(self, key: Key) -> Tensor:
        """The tensor, bit for bit."""
        if key in self._held:
            return self._held[key]
        if key in self._lent:
            return self._lent[key]()
        path, dtype, shape = self._files[key]
        return torch.from_file(path, shared=False, size=shape.numel(), dtype=dtype).view(shape)
