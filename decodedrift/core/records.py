"""The records that flow through the pipe: frozen, validated where they are made, importable without torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that names the culprit and the mend."""


class VariantError(RuntimeError):
    """A variant cannot run here (backend, memory, dtype): it fails alone, the others go on."""


@dataclass(frozen=True)
class Prompt:
    """A text that generation starts from. `id` keys the sampling noise: the same id and text, the same noise."""

    id: str
    text: str
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.id or not isinstance(self.id, str):
            raise InputError(f"a prompt needs a non-empty id, not {self.id!r}")
        _writable("prompt id", self.id)
        if not isinstance(self.text, str):
            raise InputError(f"prompt {self.id}: the text must be a string, not {type(self.text).__name__}")
        object.__setattr__(self, "tags", tuple(self.tags))


@dataclass(frozen=True)
class Text:
    """A real text that perplexity is measured on."""

    name: str
    text: str

    def __post_init__(self) -> None:
        _writable("text name", self.name)


@dataclass(frozen=True)
class Strategy:
    """A way of choosing tokens. `label`: the text as asked, keys sorted; `params`: every parameter, resolved.

    What it does says its entry in `kinds`, the registry, which `decoding.strategies` puts here.
    """

    name: str
    label: str
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)
    coupling: str = "gumbel"
    kinds: ClassVar[Mapping[str, Any]] = {}

    @property
    def kind(self) -> Any:
        """Its entry in the registry; an InputError where there is none."""
        if self.name not in self.kinds:
            raise InputError(f"unknown strategy {self.name!r}; {nearest(self.name, tuple(self.kinds))}")
        return self.kinds[self.name]

    @property
    def samples(self) -> bool:
        """Whether the strategy draws at random, and therefore runs once per seed."""
        return bool(self.kind.samples)

    @property
    def rows(self) -> int:
        """Rows that one prompt takes in a batch."""
        return int(self.kind.rows(self.params))

    @property
    def searches(self) -> bool:
        """Whether whole hypotheses are compared (beam search); one beam is greedy, as in transformers."""
        return self.rows > 1

    @property
    def injectable(self) -> bool:
        """Whether it chooses a position at a time, from logits and shared noise alone: no search, no draw of its own.

        Then its text can go on from a token that is put in, and reading a text shows what it would have chosen.
        """
        return not self.searches and (self.coupled or not self.samples)

    @property
    def coupled(self) -> bool:
        """Whether its draws come from the keyed noise that every variant shares."""
        return self.samples and self.coupling == "gumbel"


Cell = tuple[Strategy, int]  # with a seed


@dataclass(frozen=True)
class Variant:
    """One way of executing the model. A field at None takes the reference's (or the run's) value.

    `precision` names an entry of PRECISIONS and `options` its parameters; `compute` is the floating type that the
    arithmetic runs in (for a quantized precision the reference's, unless its options say otherwise). `knobs`: values of
    those KNOBS that are no field here.
    """

    name: str
    precision: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    compute: str | None = None
    model: str | None = None
    revision: str | None = None
    device: str | None = None
    attention: str | None = None
    batch_size: int | None = None
    use_cache: bool = True
    threads: int | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _writable("variant", str(self.name))


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a run computes. Resolved: no name is left to look up, no default left open."""

    model: str
    reference: Variant
    candidates: tuple[Variant, ...]
    strategies: tuple[Strategy, ...]
    prompts: tuple[Prompt, ...]
    texts: tuple[Text, ...] = ()
    revision: str | None = None
    max_new_tokens: int = 64
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 8
    prompts_per_job: int = 16
    layout: str = "mixed"
    coupling: str = "gumbel"
    context: int | None = None
    stride: int | None = None
    chat_template: bool = False
    ignore_eos: bool = False
    noise_floor: bool = False
    inject: bool = False
    decompose: bool = False
    mode: str = "exact"
    continued: bool = False
    near_tie_below: float = 0.1
    device: str = "cpu"
    threads: int | None = None
    memory_bytes: int | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    no_text: bool = False
    prompt_source: str = "given"
    left_out: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _whole(self.max_new_tokens, "max-new-tokens", 1)
        _whole(self.batch_size, "batch-size", 1)
        _whole(self.prompts_per_job, "prompts-per-job", 1)
        for seed in self.seeds:
            _whole(seed, "seeds", 0, 2**63 - 1)
        if not self.seeds:
            raise InputError("seeds: give at least one")
        for name, items in (("seeds", self.seeds), ("prompts", [p.id for p in self.prompts])):
            _distinct(name, [str(i) for i in items])
        _distinct("strategies", [s.label for s in self.strategies])
        _distinct("texts", [t.name for t in self.texts])
        names = [v.name for v in self.candidates]
        _distinct("candidates", names)
        if self.reference.name in names:
            raise InputError(
                f"{self.reference.name!r} is the reference and cannot be a candidate too: "
                "leave it out of --candidates (the self control compares the reference with itself in every run)"
            )
        if self.context is not None:
            _whole(self.context, "context", 2)
        if self.stride is not None:
            _whole(self.stride, "stride", 1)
        if self.context is not None and self.stride is not None and self.stride > self.context:
            raise InputError(f"stride {self.stride} is larger than context {self.context}: tokens would be skipped")
        if not (isinstance(self.near_tie_below, (int, float)) and 0 <= self.near_tie_below < math.inf):
            raise InputError(f"near-tie-below must be a number >= 0, not {self.near_tie_below!r}")

    @property
    def cells(self) -> list[tuple[Strategy, int]]:
        """(strategy, seed) pairs in order; deterministic strategies run once, under seed 0."""
        return [(s, seed) for s in self.strategies for seed in (self.seeds if s.samples else (0,))]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for plan.json; `plan.plan_from_dict` reads it back. With `no_text` the texts are None."""
        found = dict(plain(self))
        if self.no_text:
            for entry in (*found["prompts"], *found["texts"]):
                entry["text"] = None
        return found


@dataclass(frozen=True)
class Job:
    """One shard of prompts, or of one text's windows, run through every variant on one machine in one batch layout."""

    key: str
    index: int
    prompts: tuple[Prompt, ...] = ()
    text: str | None = None
    windows: tuple[int, int] = (0, 0)
    first: bool = False


class Key(NamedTuple):
    """What a trace is matched by on both sides; of a text that is read: `text`, 0, a window's id."""

    strategy: str
    seed: int
    prompt_id: str


@dataclass(frozen=True)
class Reading:
    """A context that is read and the continuation whose tokens are scored."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass
class Trace:
    """What one (variant, strategy, seed, prompt) generated.

    token_ids: ids as decoded, EOS kept. logprobs[t]: log-softmax of the raw logits at the chosen token, nats, from the
    generating pass. margins[t]: top-1 minus top-2 of the strategy's score, NaN where a single token was allowed (and
    for beam search, whose `min_margin` is between finished hypotheses). finish: eos | length | nonfinite |
    screened (read up to the predicted first divergence, not generated; logprobs are then empty).
    """

    prompt_id: str
    strategy: str
    seed: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    margins: tuple[float, ...]
    finish: str
    nonfinite: int = 0
    min_margin: float = math.nan
    score: float = math.nan

    @property
    def key(self) -> Key:
        """What a reference and a candidate trace are matched by."""
        return Key(self.strategy, self.seed, self.prompt_id)


def plain(value: Any) -> Any:
    """Records as JSON-ready data: dataclasses to dicts, tuples to lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def nearest(name: str, choices: list[str] | tuple[str, ...]) -> str:
    """`choices: a, b, c` and, where one is close, `did you mean b?`: the end of every lookup error."""
    import difflib

    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"choices: {', '.join(choices)}{hint}"


def _whole(value: Any, name: str, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise InputError(f"{name} must be a whole number >= {low}, not {value!r}")


def _writable(what: str, name: str) -> None:
    """Names key the tables: one that no file can hold is refused (half a character, bytes that are no UTF-8)."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{what} {name!a}: it holds an unpaired surrogate, which no file takes; rename it") from None


def _distinct(name: str, items: list[str]) -> None:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            raise InputError(f"{name}: {item!r} is given twice")
        seen.add(item)
