"""A Worker for another process: the world without its weights, the batch size and the path, as bytes and back.

The first job settles path and batch size, so a Worker is packed after it; every process that unpacks it then runs its
jobs as the one that packed it would.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt

if TYPE_CHECKING:
    from decodedrift.runs.retry import Worker


def packed(work: Worker) -> bytes:
    """A Worker as bytes, without weights and without its progress.

    Raises:
        InputError: something in it lives in this process alone.
    """
    try:
        return pickle.dumps(work, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever the caller's own tokenizer or code raises
        said = f"{type(error).__name__}: {excerpt(error, 120)}"
        raise InputError(f"--workers: this run cannot be given to another process ({said}); use --workers 1") from error


def unpacked(data: bytes, progress: Progress) -> Worker:
    """The Worker of `packed`, in another process. progress: told of its jobs; raises in `batch` to stop them."""
    from decodedrift.models.world import restored

    work: Worker = restored(data)
    work.progress = progress
    return work
