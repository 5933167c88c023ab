"""One completion of another engine, as it was recorded; everything that an engine need not say is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Token = int | str | bytes


@dataclass(frozen=True)
class Completion:
    """What one request gave.

    place: `file:line`, for messages. prompt_id, prompt, prompt_token_ids: whatever of them the line has. token_ids:
    as generated, or None where only `text` is known. tokens[t]: the token at t by its text or its bytes, where its id
    is not known. logprobs[t]: ln of the engine's own probability of the token at t (None where it gave none), nats.
    top_logprobs[t]: token -> ln p; an int is a token's id, a str its text, bytes its bytes. finish_reason: as the
    engine said it; stop_reason: the stop token's id or the stop string that ended it. run: which repetition. error: why
    there is no text.
    """

    place: str
    prompt_id: str | None = None
    prompt: str | None = None
    messages: tuple[Mapping[str, Any], ...] | None = field(default=None, hash=False)
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    text: str | None = None
    tokens: tuple[Token, ...] | None = None
    logprobs: tuple[float | None, ...] | None = None
    top_logprobs: tuple[Mapping[Token, float], ...] | None = field(default=None, hash=False)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    strategy: str | None = None
    seed: int | None = None
    run: int = 0
    error: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Recorded:
    """A file of completions in its order. header: what the file says of itself (engine, versions, capabilities).

    sha256: of the file's bytes.
    """

    path: str
    completions: tuple[Completion, ...]
    header: Mapping[str, Any] = field(default_factory=dict, hash=False)
    sha256: str = ""
