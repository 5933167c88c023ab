"""What changes numbers behind one's back in torch's global state: pinned while a variant runs, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def pinned() -> Iterator[None]:
    """Float32 is computed in float32, and attention by a kernel that every length of a text can use.

    cuDNN's convolutions are TF32, of 10 bits, where nobody says otherwise. Its attention, which torch prefers on Hopper
    in 16 bits, is planned anew for every length: a step of a model of five layers took 50 ms there, and 2 ms without.
    """
    places, (precision, tf32) = _switches(), _said()
    before, fused = [place.fp32_precision for place in places], torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    _say("highest", False)
    for place in places:
        place.fp32_precision = "ieee"
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(fused)
        _say(precision, tf32)
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


@contextmanager
def threaded(count: int | None) -> Iterator[None]:
    """So many CPU threads, where a number is asked."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _switches() -> list[Any]:
    """The places of torch 2.9's `fp32_precision`; none before."""
    cuda, cudnn, cpu = (torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn)
    if not hasattr(cuda, "fp32_precision"):
        return []
    return [cuda, *(getattr(place, name) for place, name in ((cudnn, "conv"), (cudnn, "rnn"), (cpu, "matmul")))]


def _said() -> tuple[str, bool]:
    """Products and convolutions in torch's older words, which it will not say where the newer ones contradict them."""
    try:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return "highest", True


def _say(precision: str, tf32: bool) -> None:
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = tf32
