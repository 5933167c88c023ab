"""What engines answer, as lines of our own format: a file an engine, and the registry that says which one it is.

To add one: a file with its `Adapter`, a line in ADAPTERS, and a test of a real response.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt
from decodedrift.models.recorded.adapters.base import Adapter
from decodedrift.models.recorded.adapters.envelope import opened
from decodedrift.models.recorded.adapters.llamacpp import LLAMACPP
from decodedrift.models.recorded.adapters.openai import OPENAI
from decodedrift.models.recorded.adapters.sglang import SGLANG
from decodedrift.models.recorded.adapters.vllm import VLLM
from decodedrift.models.recorded.completion import Completion
from decodedrift.models.recorded.lines import Line, completion_of

GENERATED = ("token_ids", "tokens", "text", "error")  # one of them is in every line of our own
OWN = Adapter(
    "decodedrift",
    "our own line (docs/recorded.md)",
    lambda raw: any(k in raw for k in GENERATED),
    lambda raw: [dict(raw)],
)
ADAPTERS = {a.name: a for a in (VLLM, SGLANG, OPENAI, LLAMACPP, OWN)}  # the first that knows a response reads it


def adapted(response: Mapping[str, Any], place: str) -> tuple[Completion, ...]:
    """The completions of one response, which may have several choices: each is a `run`.

    Raises:
        InputError: no adapter knows it, or it holds what cannot be.
    """
    raw = opened(response)
    adapter = next((a for a in ADAPTERS.values() if a.knows(raw)), None)
    if adapter is None:
        if raw.keys() <= Line.model_fields.keys():
            raise InputError(f"{place}: there is no `token_ids`, `tokens`, `text` or `error` in it; give one of them")
        choices = "; ".join(f"{a.name}: {a.what}" for a in ADAPTERS.values())
        keys = ", ".join(map(repr, list(raw)[:6])) or "no keys"
        raise InputError(f"{place}: this is the response of no engine that is known here (it has {keys}); {choices}")
    try:
        lines = adapter.lines(raw)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = excerpt(f"{type(error).__name__}: {error}".removesuffix(": "), 120)
        raise InputError(f"{place}: looks like {adapter.what}, and cannot be read ({reason})") from None
    return tuple(completion_of(line, place) for line in lines)
