"""A completion as the reference reads it: its ids, its end, and what the engine told of each of its tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, fsum
from typing import TYPE_CHECKING, NamedTuple

from decodedrift.core.records import InputError, Key
from decodedrift.models.recorded.completion import Completion
from decodedrift.models.recorded.continuation import Continuation
from decodedrift.models.recorded.ends import End, ended
from decodedrift.models.recorded.names import LOST, SPACED, Names

if TYPE_CHECKING:
    from decodedrift.models.text.vocabulary import Vocabulary

MOST = 1.01  # that probabilities written with few digits sum to

NOTES = {  # what is counted -> how it is said
    "retold": "texts that are not what their ids decode to with the reference's tokenizer (was this model recorded?)",
    "unnamed": "texts that name no strategy, which are taken for the run's only one, or for greedy",
    "unread": "texts without the ids of their prompt (a BOS that the engine added or left out is not seen)",
    "reencoded": "texts without token ids, or with tokens whose texts stand for several ids, which were encoded again "
    "(the engine's own tokens may have been others, so rounding is not judged; record with return_token_ids)",
    "unaligned": "texts whose log-probabilities are left out, because it is not known which tokens they are of",
    "ambiguous": "alternatives that are left out, because their text stands for several tokens or for none",
    "excess": "positions whose shown probabilities sum to more than 1, so that they are of no softmax",
    "lost": "texts with bytes that are no text, which are read up to there",
    "appended": "texts whose stop token the file leaves out, which is appended",
    "assumed": "of these, such as do not tell which stop token it was (the tokenizer's own is taken)",
    "past": "texts that go on after a stop token, which are read up to it",
    "long": "texts longer than --max-new-tokens {most}, which are read up to there",
    "short": "texts that ended at a limit of the engine's own, before --max-new-tokens {most}",
    "stop": "texts that ended by a stop string, or by a token at which the reference does not stop",
    "abort": "texts that were broken off, for a reason that is no stop",
    "unknown": "texts that do not say why they end",
    "failed": "repetitions that failed, of texts that have others",
}


class Ids(NamedTuple):
    """A completion's ids. aligned: whether the i-th is what the engine tells of at i; encoded: made of the text."""

    ids: tuple[int, ...]
    aligned: bool = True
    encoded: bool = False


@dataclass
class Reader:
    """What reads the completions of a file in the ids of a run. strings: whether its requests had stop strings.

    tally: how many of each of NOTES there were.
    """

    vocab: Vocabulary
    prompts: Mapping[str, Sequence[int]]
    most: int
    strings: bool
    tally: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.names = Names(self.vocab)

    def continuation(self, key: Key, run: int, completion: Completion, compared: bool = True) -> Continuation | str:
        """A completion as the reference reads it, or the reason why it cannot.

        Args:
            compared: else only its ids are wanted, and it is not counted.

        Raises:
            InputError: an id that the model has not.
        """
        if completion.error is not None:
            return f"{completion.place}: {completion.error}"
        prompt = tuple(self.prompts[key.prompt_id])
        whole, completion = completion, self._shortened(completion)
        ids = self._ids(completion, prompt)
        if ids is None:
            return f"{completion.place}: encoded again, the text says something else"
        self._check(completion, ids)
        end = ended(completion, ids.ids, self.vocab, self.most, self.strings)
        if not end.token_ids:
            return f"{completion.place}: the text is empty, and no stop token is said to have ended it"
        if compared:
            self.tally["lost"] += completion is not whole
            self._count(completion, ids, end)
        read = completion.prompt_token_ids
        return Continuation(
            key=key,
            run=run,
            place=completion.place,
            token_ids=end.token_ids,
            finish=end.finish,
            logprobs=self._logprobs(completion, ids, end) if compared else None,
            top_logprobs=self._tops(completion, ids, end) if compared else None,
            appended=end.appended,
            assumed=end.assumed,
            reencoded=ids.encoded,
            prompt_token_ids=read,
            same_prompt=None if read is None else read == prompt,
            meta=completion.meta,
        )

    def notes(self) -> tuple[str, ...]:
        """What was counted, and how often."""
        counts = ((said, self.tally[kind]) for kind, said in NOTES.items())
        return tuple(f"{said.format(most=self.most)}: {n}" for said, n in counts if n)

    def _shortened(self, completion: Completion) -> Completion:
        """Without what follows a loss of bytes, where there is nothing but a text; how it ended is then not known."""
        if completion.token_ids is not None or LOST not in (completion.text or "") or self._named(completion):
            return completion
        return replace(completion, text=(completion.text or "").partition(LOST)[0], finish_reason="lost")

    def _named(self, completion: Completion) -> tuple[int, ...] | None:
        """The ids that a completion's tokens can alone be."""
        if not completion.tokens:
            return None
        return self.names.ids(completion.tokens, completion.text, (completion.top_logprobs or ((),))[0])

    def _ids(self, completion: Completion, prompt: tuple[int, ...]) -> Ids | None:
        """As they were given; of tokens by their names where these can be of no others; else of the text."""
        if completion.token_ids is not None:
            return Ids(completion.token_ids)
        tokens = completion.tokens or ()
        if (named := self._named(completion)) is not None:
            return Ids(named)
        text = completion.text
        if text is None:
            raw = b"".join(t if isinstance(t, bytes) else str(t).encode("utf-8", "surrogatepass") for t in tokens)
            text = raw.decode("utf-8", "replace").partition(LOST)[0]
        ids = self.names.encoded(prompt, text, self.most + 1)
        if ids is None:
            return None
        same = len(ids) <= len(tokens) and all(i in self.names.of(t) for i, t in zip(ids, tokens, strict=False))
        return Ids(ids, bool(tokens) and same, True)

    def _check(self, completion: Completion, ids: Ids) -> None:
        given = [(f"token_ids[{n}]", token) for n, token in enumerate(ids.ids)]
        tops = enumerate(completion.top_logprobs or ())
        given += [(f"top_logprobs[{n}]", token) for n, top in tops for token in top if isinstance(token, int)]
        if beyond := next(((where, token) for where, token in given if token >= self.vocab.size), None):
            raise InputError(
                f"{completion.place}: {beyond[0]} is {beyond[1]}, beyond {self.vocab.smallest}'s vocabulary of "
                f"{self.vocab.size}; was it recorded from this model?"
            )

    def _logprobs(self, completion: Completion, ids: Ids, end: End) -> tuple[float | None, ...] | None:
        if completion.logprobs is None or not ids.aligned:
            return None
        kept = completion.logprobs[: len(end.token_ids) - end.appended]
        return (*kept, None) if end.appended else kept

    def _tops(self, completion: Completion, ids: Ids, end: End) -> tuple[Mapping[int, float], ...] | None:
        if completion.top_logprobs is None or not ids.aligned:
            return None
        tables: list[Mapping[int, float]] = []
        shown = self.names.shown(completion.tokens or ())
        for n, token in enumerate(end.token_ids[: len(end.token_ids) - end.appended]):
            chosen = completion.tokens[n] if completion.tokens is not None else None
            top = completion.top_logprobs[n]
            self.tally["excess"] += fsum(map(exp, top.values())) > MOST
            told = n > 0 or shown != SPACED or self.names.spaced_at_first(top)
            table, left_out = self.names.top(top, chosen, token, shown if told else "")
            self.tally["ambiguous"] += left_out
            tables.append(table)
        return (*tables, {}) if end.appended else tuple(tables)

    def _count(self, completion: Completion, ids: Ids, end: End) -> None:
        told = completion.logprobs is not None or completion.top_logprobs is not None
        self.tally += Counter(
            {
                "unnamed": completion.strategy is None,
                "unread": completion.prompt_token_ids is None,
                "reencoded": ids.encoded,
                "unaligned": told and not ids.aligned,
                "appended": end.appended,
                "assumed": end.assumed,
                "past": end.finish == "eos" and end.cut > 0,
                "long": end.finish == "length" and end.cut > 0,
                "short": end.finish == "length" and len(end.token_ids) < self.most,
                "retold": self._retold(completion),
            }
        )
        if end.finish in ("stop", "abort", "unknown") and completion.finish_reason != "lost":
            self.tally[end.finish] += 1

    def _retold(self, completion: Completion) -> bool:
        """Whether text and ids, both given, say different things; white space at the ends and stops aside."""
        ids, text = completion.token_ids, completion.text
        if ids is None or text is None or completion.stop_reason is not None or max(ids, default=0) >= self.vocab.size:
            return False
        return LOST not in text and LOST not in self.vocab.decode(ids) and not self.names.says(ids, text)
