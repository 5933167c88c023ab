"""torch.compile under measurement: what it wraps stays compiled, or fails as its variant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def compiled(model: Any) -> bool:
    """Whether torch.compile has wrapped a model or a part of it, or compiled it in place."""
    return any(
        type(module).__name__ == "OptimizedModule" or vars(module).get("_compiled_call_impl") is not None
        for module in model.modules()
    )


@contextmanager
def compiling() -> Iterator[None]:
    """What is compiled stays so: variants share one code, and after 8 shapes or types dynamo would silently give up."""
    import torch._dynamo.config as dynamo

    limits = {"recompile_limit": 1024, "accumulated_recompile_limit": 1024, "fail_on_recompile_limit_hit": True}
    with dynamo.patch({name: value for name, value in limits.items() if hasattr(dynamo, name)}):
        yield


def compiler_failed(error: BaseException) -> bool:
    """Whether an error is torch.compile's own."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
