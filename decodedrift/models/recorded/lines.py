"""A completion as a line of a recorded file."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from decodedrift.core.records import plain
from decodedrift.models.recorded.completion import Completion


def as_line(completion: Completion) -> dict[str, Any]:
    """The fields that a completion has, JSON-ready; top tokens as pairs [token, ln p]."""
    line = {f.name: plain(getattr(completion, f.name)) for f in fields(completion) if f.name != "place"}
    if completion.top_logprobs is not None:
        line["top_logprobs"] = [
            [[list(t) if isinstance(t, bytes) else t, p] for t, p in top.items()] for top in completion.top_logprobs
        ]
    return {name: value for name, value in line.items() if value not in (None, {})}
