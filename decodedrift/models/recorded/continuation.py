"""What of a recorded file belongs to a run, in the ids of the run's reference; everything that was not is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any

from decodedrift.core.records import Key, Trace

SHOWN = 4  # ids of a prompt that a message shows


@dataclass(frozen=True)
class Continuation:
    """One completion as the reference reads it.

    place: `file:line`. token_ids: ids of the reference's tokenizer, cut at its first stop id and at the run's
    --max-new-tokens. logprobs[t] (ln p, nats, None where the
    engine gave none) and top_logprobs[t] (token id -> ln p, empty where it gave none) are as long as token_ids, or
    None. finish: eos (the last id is a stop id) | stop (by a stop string, or where the run has no stop id) | length |
    abort | unknown (not said). appended: the last id is the stop token that the engine left out; it has no
    log-probability. assumed: several stop ids were possible, and the tokenizer's own was taken. reencoded: token_ids
    were made of the text. same_prompt: whether the engine read the ids that the reference reads; None where it does not
    say. meta: whatever else the line has.
    """

    key: Key
    run: int
    place: str
    token_ids: tuple[int, ...]
    finish: str
    logprobs: tuple[float | None, ...] | None = None
    top_logprobs: tuple[Mapping[int, float], ...] | None = field(default=None, hash=False)
    appended: bool = False
    assumed: bool = False
    reencoded: bool = False
    prompt_token_ids: tuple[int, ...] | None = None
    same_prompt: bool | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def trace(self) -> Trace:
        """As what a variant generated: NaN for a log-probability that is not known, `length` for an end by no stop."""
        known = tuple(nan if p is None else p for p in self.logprobs or ())
        finish = "eos" if self.finish == "eos" else "length"
        return Trace(self.key.prompt_id, self.key.strategy, self.key.seed, self.token_ids, known, (), finish)


@dataclass(frozen=True)
class OtherIds:
    """A prompt that the engine read as other ids. position: the first that differs; ours, theirs: ids from there on."""

    prompt_id: str
    place: str
    position: int
    ours: tuple[int, ...]
    theirs: tuple[int, ...]

    def __str__(self) -> str:
        ends = (list(ids[:SHOWN]) if ids else "the end" for ids in (self.ours, self.theirs))
        ours, theirs = ends
        return f"{self.place}: from position {self.position} the engine read {theirs}, and the reference reads {ours}"


@dataclass(frozen=True)
class Matched:
    """A recorded file, matched with the prompts of a run.

    continuations: (strategy label, seed, prompt id) -> its runs in order, at least one. errors: what the engine failed
    at, and what cannot be read, with the reason; no continuation is of such a key. missing: asked by this run, and
    nowhere in the file. unmatched: reason -> places of lines that belong to nothing here. other_ids: prompts whose
    tokenization differs, to be said first. notes: the rest that a reader must know, each with its count (texts that
    were encoded again, stop tokens appended, alternatives left out, texts cut).
    """

    path: str
    sha256: str
    header: Mapping[str, Any]
    continuations: Mapping[Key, tuple[Continuation, ...]]
    errors: Mapping[Key, str] = field(default_factory=dict)
    missing: tuple[Key, ...] = ()
    unmatched: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    other_ids: tuple[OtherIds, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def traces(self) -> dict[Key, Trace]:
        """The first run of each key, as what a variant generated."""
        return {key: runs[0].trace for key, runs in self.continuations.items()}

    @property
    def tops(self) -> dict[Key, tuple[Mapping[int, float], ...]]:
        """Token id -> ln p at each position of the first run, where the engine told any."""
        return {key: runs[0].top_logprobs for key, runs in self.continuations.items() if runs[0].top_logprobs}

    @property
    def reencoded(self) -> frozenset[Key]:
        """Keys whose ids were made of a text."""
        return frozenset(key for key, runs in self.continuations.items() if runs[0].reencoded)

    @property
    def facts(self) -> dict[str, Any]:
        """For environment.json."""
        return {
            "file": self.path,
            "sha256": self.sha256,
            "header": dict(self.header),
            "texts": len(self.continuations),
            "reencoded": len(self.reencoded),
            "failed": len(self.errors),
            "missing": len(self.missing),
            "unmatched": {reason: len(places) for reason, places in self.unmatched.items()},
            "other_prompt_ids": {other.prompt_id: str(other) for other in self.other_ids},
            "notes": list(self.notes),
        }
