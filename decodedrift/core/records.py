"""The records that flow through the pipe: frozen, validated where they are made, importable without torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

from decodedrift.core.untrusted import terminal

RECORDED = "recorded"  # in place of a precision: what ran elsewhere and was written down
RECORDINGS = (".jsonl", ".json", ".parquet")


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that names the culprit and the mend.

    It quotes what was given, and whatever that holds: nothing in it acts where it is shown.
    """

    def __init__(self, message: str) -> None:
        super().__init__(terminal(message))


class VariantError(RuntimeError):
    """A variant cannot run here (backend, memory, dtype): it fails alone, the others go on."""


@dataclass(frozen=True)
class Prompt:
    """A text that generation starts from. `id` keys the sampling noise: the same id and text, the same noise.

    answer: what a right text says, for `--check`; None where nothing is expected. messages: the turns of a
    conversation, {role, content}, to be rendered by a chat template; prompt_token_ids: ids to be used as they are.
    `text` is then what was read, once that is known.
    """

    id: str
    text: str
    tags: tuple[str, ...] = ()
    answer: str | None = None
    messages: tuple[Mapping[str, Any], ...] | None = field(default=None, hash=False, kw_only=True)
    prompt_token_ids: tuple[int, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not self.id or not isinstance(self.id, str):
            raise InputError(f"a prompt needs a non-empty id, not {self.id!r}")
        _writable("prompt id", self.id)
        if not isinstance(self.text, str):
            raise InputError(f"prompt {self.id}: the text must be a string, not {type(self.text).__name__}")
        if self.answer is not None and not (isinstance(self.answer, str) and self.answer.strip()):
            raise InputError(f"prompt {self.id}: an answer is a text that is not empty, not {shortened(self.answer)}")
        object.__setattr__(self, "tags", tuple(self.tags))

    @property
    def contents(self) -> tuple[str, ...]:
        """The texts in it that nobody's template wrote."""
        return (self.text,) if self.messages is None else tuple(turn["content"] for turn in self.messages)


@dataclass(frozen=True)
class Text:
    """A real text that perplexity is measured on."""

    name: str
    text: str

    def __post_init__(self) -> None:
        _writable("text name", self.name)


@dataclass(frozen=True)
class Strategy:
    """A way of choosing tokens. `label`: the text as asked, keys sorted; `params`: every parameter, resolved;
    penalties where there are any.

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
    def plain(self) -> bool:
        """Whether it draws from the model's own distribution: temperature 1, no penalty, and no token left out."""
        own = self.params.get("temperature") == 1 and not self.penalised
        return self.samples and own and bool(self.kind.untruncated(self.params))

    @property
    def penalised(self) -> bool:
        """Whether what a row has said already changes what it takes next (`decoding.penalties`)."""
        return bool(self.params.get("repetition_penalty", 1) != 1 or self.params.get("no_repeat_ngram", 0))

    @property
    def coupled(self) -> bool:
        """Whether its draws come from the keyed noise that every variant shares."""
        return self.samples and self.coupling == "gumbel"


Cell = tuple[Strategy, int]  # with a seed


@dataclass(frozen=True)
class Variant:
    """One way of executing the model. A field at None takes the reference's (or the run's) value.

    `precision` names an entry of PRECISIONS and `options` its parameters; `compute` is the floating type that the
    arithmetic runs in (for a quantized precision the reference's, unless its options say otherwise; of what was
    recorded elsewhere what its user says, or None). `knobs`: values of those KNOBS that are no field here.
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

    @property
    def recorded(self) -> bool:
        """Whether another engine wrote its texts: they are read, and no model of it runs here."""
        return self.precision == RECORDED

    @property
    def endpoint(self) -> bool:
        """Whether it is a server that is asked for its texts."""
        return str(self.model or "").startswith(("http://", "https://"))


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
    """A context that is read and the continuation whose tokens are scored.

    owner: the prompt's id: two prompts of one text are read as two, as they are generated; another
    tool's window is its own, and of a sliding window it is empty.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    owner: str = ""


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


def _writable(what: str, name: str) -> None:
    """Names key the tables: one that no file can hold is refused (half a character, bytes that are no UTF-8)."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{what} {name!a}: it holds an unpaired surrogate, which no file takes; rename it") from None


def shortened(value: Any, width: int = 60) -> str:
    """A value as an error message shows it."""
    shown = repr(value)
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def distinct(name: str, items: list[str]) -> None:
    """Refuses an item that is given twice.

    Raises:
        InputError: names it.
    """
    earlier: set[str] = set()
    for item in items:
        if item in earlier:
            raise InputError(f"{name}: {item!r} is given twice")
        earlier.add(item)


def unlike(strategies: Sequence[Strategy]) -> None:
    """Refuses a strategy that is given twice, under one name or two.

    Raises:
        InputError: names both.
    """
    distinct("strategies", [s.label for s in strategies])
    for i, strategy in enumerate(strategies):
        for earlier in strategies[:i]:
            if replace(strategy, label=earlier.label) == earlier:
                raise InputError(f"strategies: {strategy.label!r} is {earlier.label!r} by another name; leave one out")
