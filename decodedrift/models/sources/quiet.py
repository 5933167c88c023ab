"""What other libraries say while they load a model is held back: what matters of it becomes an error of ours."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NOISY = ("accelerate", "huggingface_hub", "bitsandbytes", "torchao", "torch.utils._pytree")


@contextmanager
def quiet() -> Iterator[None]:
    """Bars and warnings of transformers, the hub and the libraries of quantized formats, held back."""
    from tqdm import tqdm
    from transformers.utils import logging as hf_logging

    loggers = [logging.getLogger(name) for name in NOISY]
    level, levels, bars = (
        hf_logging.get_verbosity(),
        [log.level for log in loggers],
        hf_logging.is_progress_bar_enabled(),
    )
    drawing: Any = tqdm.__init__

    def undrawn(self: Any, *args: Any, **named: Any) -> None:
        drawing(self, *args, **named | {"disable": True})

    hf_logging.set_verbosity(logging.CRITICAL)
    for log in loggers:
        log.setLevel(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    tqdm.__init__ = undrawn  # type: ignore[method-assign]
    try:
        yield
    finally:
        tqdm.__init__ = drawing  # type: ignore[method-assign]
        hf_logging.set_verbosity(level)
        for log, before in zip(loggers, levels, strict=True):
            log.setLevel(before)
        if bars:
            hf_logging.enable_progress_bar()


def silenced(format: str) -> None:
    """Holds back what a quantized format's library says in every forward pass, or by a logger of its own kind."""
    if format == "bitsandbytes":
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if format == "compressed-tensors" and importlib.util.find_spec("loguru"):
        from loguru import logger

        logger.disable("compressed_tensors")
