"""What is asked of transformers wherever a model is called: checked at each use, and a breach names the version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from decodedrift.core.records import VariantError
from decodedrift.core.secrecy import excerpt
from decodedrift.core.versions import versions
from decodedrift.models.compilation import compiler_failed
from decodedrift.models.load import Loaded, out_of_memory


def cache_of(loaded: Loaded, arguments: Mapping[str, Any]) -> Any | None:
    """The KV cache among a model's arguments, by what it can do.

    Raises:
        VariantError: more than one object could be it.
    """
    able = [v for v in arguments.values() if hasattr(v, "update") and hasattr(v, "get_seq_length")]
    check(loaded, len({id(v) for v in able}) < 2, "carries several KV caches; which is its own cannot be told")
    return able[0] if able else None


def check(loaded: Loaded, holds: bool, breach: str) -> None:
    """What a release of transformers must go on doing.

    Raises:
        VariantError: it does not.
    """
    if not holds:
        kind, version = type(loaded.model).__name__, versions()["transformers"]
        raise VariantError(f"{loaded.variant.name}: {kind} {breach} (transformers {version})")


@contextmanager
def calls(loaded: Loaded, what: str) -> Iterator[None]:
    """Foreign code at work: whatever it raises is this variant's failure, with the version in it; memory aside."""
    try:
        yield
    except VariantError:
        raise
    except Exception as error:
        if out_of_memory(error) or compiler_failed(error):
            raise
        kind, version = type(loaded.model).__name__, versions()["transformers"]
        cause = f"{type(error).__name__}: {excerpt(error, 160)}"
        raise VariantError(f"{loaded.variant.name}: {kind}, {what} with transformers {version}: {cause}") from error
