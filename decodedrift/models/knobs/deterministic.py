"""deterministic: torch.use_deterministic_algorithms while the variant runs; an operation that has none fails it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from decodedrift.core.notation import Param, boolean
from decodedrift.core.records import Variant
from decodedrift.models.knobs.base import Knob

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def _running(model: Any, value: bool) -> Iterator[None]:
    import torch

    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(value)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


def _read_back(model: Any) -> bool:
    import torch

    return torch.are_deterministic_algorithms_enabled()


def _refused(variant: Variant, checkpoint: Any, value: bool) -> str | None:
    if value and str(variant.device).startswith("cuda") and not os.environ.get(WORKSPACE):
        return f"cuBLAS needs {WORKSPACE}=:4096:8 in the environment before the start; set it"
    return None


DETERMINISTIC = Knob(
    Param(boolean, None, "torch's deterministic algorithms alone"),
    fact="deterministic",
    read_back=_read_back,
    refused=_refused,
    running=_running,
)
