"""threads: CPU threads of torch, while the variant runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from decodedrift.core.notation import Param, thread_count
from decodedrift.models.knobs.base import Knob

if TYPE_CHECKING:
    import torch


@contextmanager
def _running(model: torch.nn.Module, threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read_back(model: torch.nn.Module) -> int:
    import torch

    return torch.get_num_threads()


THREADS = Knob(Param(thread_count, None, "CPU threads"), fact="threads", read_back=_read_back, running=_running)
