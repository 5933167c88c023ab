"""The token view's data: for each chosen case both traces, what was measured along them, and the top alternatives.

Compact and bounded: tokens are indices into one vocabulary, alternatives are kept around every divergence and for the
rest while they fit, the whole is compressed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rapidfuzz.distance import LCSseq

from decodedrift.report.chosen import key_of
from decodedrift.report.inline import compressed
from decodedrift.report.numbers import absent
from decodedrift.report.texts import brief, shown

if TYPE_CHECKING:
    from decodedrift.study import Study

AROUND = 8
ENTRIES = 100_000  # positions with alternatives, of either side, to begin with
LIMIT = 2_200_000  # characters of the compressed island
RUN = 3  # equal tokens in a row that count as a piece of the texts meeting again
LONGEST = 4000  # tokens of a trace that are carried
COUNT = 5
PROMPT = 1500  # characters of a prompt


def token_view(study: Study, cases: pd.DataFrame) -> str:
    """The island of these cases, within LIMIT whatever they hold: alternatives give way first, then the last cases."""
    held = _Frames.of(study, cases)

    def attempt(entries: int, count: int) -> str:
        return compressed(_Island(study, held, entries).of(cases.head(count)))

    count = len(cases)
    text = full = attempt(ENTRIES, count)
    while len(text) > LIMIT:
        text = attempt(0, count)
        if len(text) > LIMIT:
            count = int(0.95 * count * LIMIT / len(text))
        else:
            room = (LIMIT - len(text)) / (len(full) - len(text))
            more = attempt(int(0.9 * ENTRIES * room), count) if count == len(cases) else text
            text = more if len(more) <= LIMIT else text
    return text


@dataclass
class _Frames:
    """The rows of the chosen cases, looked up by key."""

    traces: dict[tuple[Any, ...], Any]
    positions: dict[tuple[Any, ...], pd.DataFrame]
    alternatives: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, study: Study, cases: pd.DataFrame) -> _Frames:
        prompts = set(cases["prompt_id"])
        part = study.traces[study.traces["role"].isin(["reference", "candidate"])]
        part = part[part["prompt_id"].isin(prompts)]
        traces = {(t.role, t.variant, t.strategy, int(t.seed), t.prompt_id): t for t in part.itertuples()}
        keys = ["candidate", "strategy", "seed", "prompt_id"]
        wanted = cases[keys].drop_duplicates()
        ranked = study.alternatives_of(prompts).sort_values(["position", "rank"])
        tops = _grouped(ranked, wanted, [*keys, "variant", "pass"])
        columns = {
            key: (f["position"].to_numpy(int), f["token_id"].to_numpy(int), f["logprob"].to_numpy(float))
            for key, f in tops.items()
        }
        return cls(traces, _grouped(study.positions, wanted, keys), columns)


def _grouped(frame: pd.DataFrame, wanted: pd.DataFrame, keys: list[str]) -> dict[tuple[Any, ...], pd.DataFrame]:
    part = frame[(frame["role"] == "candidate") & frame["prompt_id"].isin(set(wanted["prompt_id"]))]
    part = part.merge(wanted, on=list(wanted.columns))
    return {tuple(key): found for key, found in part.groupby(keys, sort=False)}


@dataclass
class _Island:
    """One attempt at the island; `entries`: how many positions with alternatives it may hold away from t*."""

    study: Study
    held: _Frames
    entries: int
    vocabulary: dict[int, int] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)
    references: dict[tuple[Any, ...], int] = field(default_factory=dict)
    traces: list[dict[str, Any]] = field(default_factory=list)

    def of(self, cases: pd.DataFrame) -> dict[str, Any]:
        """Everything the script needs, JSON-ready."""
        found = [self.case(row) for row in cases.itertuples()]
        texts, raw = _vocabulary(self.study, self.vocabulary)
        return {
            "reference": brief(str(self.study.plan["reference"]["name"]), 60), "width": COUNT, "texts": texts,
            "ids": list(self.vocabulary), "bytes": raw, "prompts": self.prompt_texts(), "traces": self.traces,
            "cases": found,
        }  # fmt: skip

    def index(self, token_id: int) -> int:
        """A token id's place in the island's vocabulary."""
        return self.vocabulary.setdefault(int(token_id), len(self.vocabulary))

    def case(self, row: Any) -> dict[str, Any]:
        """One compared trace: where both sides are, what was measured, where the remainders meet again."""
        key = key_of(row)
        at = None if absent(row.first_divergence) else int(row.first_divergence)
        theirs = self.trace(("candidate", *key))
        ours_at = self.reference(row, at)
        ours = self.traces[ours_at]
        made = {"candidate": key[0], "strategy": key[1], "seed": key[2], "prompt": key[3], "reference": ours_at,
                "at": at, "cause": "" if absent(row.cause) else str(row.cause), "ids": theirs["ids"],
                "more": theirs["more"], "finish": theirs["finish"]}  # fmt: skip
        made["meet"] = [] if at is None else meetings(ours["ids"], theirs["ids"], at)
        forced = self.held.positions.get(key)
        if forced is not None:
            forced = forced.sort_values("position").head(LONGEST)
            made["kl"] = [_short(v) for v in forced["kl"]]
            made["margin"] = [_short(v) for v in forced["logit_margin_reference"]]
            made["margin_candidate"] = [_short(v) for v in forced["logit_margin_candidate"]]
        own, read = (self.alternatives(row, key[0], name, at) for name in ("generated", "forced"))
        # up to t* both wrote in the same context: what was seen when it was written comes before what was read again
        shared = read | ({p: e for p, e in own.items() if at is None or p <= at})
        made["beside"] = _flat(shared)
        made["own"] = _flat({p: e for p, e in own.items() if at is not None and p > at})
        return made

    def reference(self, row: Any, at: int | None) -> int:
        """The place of the reference's trace, which the cases of several candidates share."""
        _, strategy, seed, prompt = key_of(row)
        key = ("reference", row.reference, strategy, seed, prompt)
        if key not in self.references:
            self.references[key] = len(self.traces)
            self.traces.append(self.trace(key))
        trace = self.traces[self.references[key]]
        tops = _unflat(trace.get("tops"))
        for name in ("generated", "forced"):  # a beam's are forced alone
            tops |= self.alternatives(row, row.reference, name, at, known=tops)
        trace["tops"] = _flat(tops)
        return self.references[key]

    def trace(self, key: tuple[Any, ...]) -> dict[str, Any]:
        """A trace's tokens; its prompt is noted."""
        found = self.held.traces.get(key)
        ids = [] if found is None or absent(found.token_ids) else [int(i) for i in str(found.token_ids).split()]
        if found is not None and found.prompt_id not in self.prompts:
            self.prompts[found.prompt_id] = len(self.prompts)
        finish = "" if found is None or absent(found.finish) else str(found.finish)
        return {"ids": [self.index(i) for i in ids[:LONGEST]], "more": max(0, len(ids) - LONGEST), "finish": finish}

    def alternatives(
        self, row: Any, variant: str, name: str, at: int | None, known: Iterable[int] = ()
    ) -> dict[int, list[tuple[int, int]]]:
        """Position -> (token, -ln p in 1e-4 nats) by rank, around t* and elsewhere while there is room."""
        part = self.held.alternatives.get((*key_of(row), variant, name))
        if part is None:
            return {}
        positions, token_ids, logprobs = part
        there = np.setdiff1d(positions, np.fromiter(known, int))
        near = there[np.abs(there - at) <= AROUND] if at is not None else there[:0]
        rest = np.setdiff1d(there, near)[: max(0, self.entries)]
        self.entries -= len(rest)
        kept = np.isin(positions, np.union1d(near, rest))
        found: dict[int, list[tuple[int, int]]] = {}
        for position, token_id, logprob in zip(positions[kept], token_ids[kept], logprobs[kept], strict=True):
            bits = round(-logprob * 1e4) if math.isfinite(logprob) else -1
            found.setdefault(int(position), []).append((self.index(token_id), bits))
        return found

    def prompt_texts(self) -> list[dict[str, Any]]:
        """id and text (its end, where it is long) of every prompt met."""
        texts = {str(p["id"]): p for p in self.study.plan.get("prompts", ())}
        found = []
        for name in self.prompts:
            said = texts.get(name, {})
            text = shown(str(said.get("text") or ""))
            cut = max(0, len(text) - PROMPT)
            found.append({"id": name, "text": text[cut:], "cut": cut})
        return found


def meetings(ours: list[int], theirs: list[int], at: int) -> list[list[int]]:
    """[start in ours, start in theirs, length] of the common runs after t*, in order: a longest common subsequence."""
    left, right = ours[at + 1 :], theirs[at + 1 :]
    if not left or not right:
        return []
    blocks = [o for o in LCSseq.opcodes(left, right) if o.tag == "equal" and o.src_end - o.src_start >= RUN]
    return [[o.src_start + at + 1, o.dest_start + at + 1, o.src_end - o.src_start] for o in blocks]


def _flat(tops: Mapping[int, Iterable[tuple[int, int]]]) -> dict[str, list[int]]:
    """Columns: positions, then COUNT tokens and COUNT values each, -1 where there are fewer."""
    made: dict[str, list[int]] = {"at": [], "token": [], "bits": []}
    for position in sorted(tops):
        entries = [*tops[position], *[(-1, -1)] * COUNT][:COUNT]
        made["at"].append(position)
        made["token"] += [token for token, _ in entries]
        made["bits"] += [bits for _, bits in entries]
    return made


def _unflat(tops: Mapping[str, list[int]] | None) -> dict[int, list[tuple[int, int]]]:
    if not tops:
        return {}
    pairs = list(zip(tops["token"], tops["bits"], strict=True))
    return {p: pairs[i * COUNT : (i + 1) * COUNT] for i, p in enumerate(tops["at"])}


def _vocabulary(study: Study, ids: Mapping[int, int]) -> tuple[list[str], dict[str, str]]:
    """Each token's text, made visible; and by index the bytes of those that are no text or cannot be seen."""
    known: dict[int, tuple[str, str]] = {}
    for frame, number, text in (
        (study.positions, "token_id", "token"),
        (study.divergences, "reference_token_id", "reference_token"),
        (study.divergences, "candidate_token_id", "candidate_token"),
    ):
        part = frame[[number, text]].dropna().drop_duplicates(number)
        known |= {int(i): (str(t), "") for i, t in zip(part[number], part[text], strict=True) if int(i) in ids}
    for row in study.tokens[study.tokens["token_id"].isin(list(ids))].itertuples():
        known[int(row.token_id)] = (str(row.token), "" if absent(row.bytes) else str(row.bytes))
    texts, raw = [], {}
    for token_id, index in ids.items():
        text, octets = known.get(token_id, (f"\u27e8{token_id}\u27e9", ""))
        seen = shown(text)
        texts.append(brief(seen, 400))
        if octets and (seen != text or "\ufffd" in seen or not seen.strip()):
            raw[str(index)] = brief(octets, 200)
    return texts, raw


def _short(value: Any) -> float | int | None:
    """Three significant digits, as the page shows them; None where empty, -1 for infinity."""
    if absent(value):
        return None
    return float(f"{value:.3g}") if math.isfinite(value) else -1
