"""The token view's data: for each chosen case both traces, what was measured along them, and the top alternatives.

Compact and bounded: tokens are indices into one vocabulary, alternatives are kept around every divergence and for the
rest while they fit. A line of the island is a part, compressed by itself, so that a page opens one case without
unpacking the others: first what all share, then a line for every trace of the reference and the cases held against it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
from rapidfuzz.distance import LCSseq

from decodedrift.report.html import StudyLike
from decodedrift.report.inline import compressed
from decodedrift.report.numbers import absent
from decodedrift.report.spacing import spaceless
from decodedrift.report.texts import brief, shown

AROUND = 8
ENTRIES = 100_000  # positions with alternatives, of either side, to begin with
LIMIT = 2_900_000  # characters of the compressed island
LEAST = 2_000  # of them a page always has room for
TRIES, FULL = 6, 0.9  # to fill it with alternatives, and when it is full
SAME = -2  # in place of a position's tokens: those of the reference there
RUN = 3  # equal tokens in a row that count as a piece of the texts meeting again
LONGEST = 4000  # tokens of a trace that are carried
COUNT = 5
PROMPT = 1500  # characters of a prompt

MEASURED = {"kl": "kl", "margin": "logit_margin_reference", "margin_candidate": "logit_margin_candidate"}

Tops = dict[int, list[tuple[int, int]]]  # position -> (token, -ln p in 1e-4 nats) by rank


def token_view(study: StudyLike, cases: pd.DataFrame, room: int | None = None) -> str:
    """The island of these cases in `room` characters at most: alternatives give way first, then the last cases."""
    limit = LIMIT if room is None else max(LEAST, min(LIMIT, room))
    frames = _Frames.of(study, cases)

    def attempt(entries: int, count: int) -> tuple[str, int]:
        """The island, and how many entries away from t* it holds."""
        island = _Island(study, frames, entries)
        return "\n".join(map(compressed, island.of(cases.head(count)))), entries - island.entries

    count = len(cases)
    full, entries = attempt(ENTRIES, count)
    if len(full) <= limit:
        return full
    text, _ = attempt(0, count)
    low, high, over = 0, entries, len(full)
    for _ in range(TRIES):
        if len(text) >= FULL * limit:
            break
        entries = low + int(0.8 * (high - low) * (limit - len(text)) / (over - len(text)))
        more, _ = attempt(entries, count)
        low, text, high, over = (entries, more, high, over) if len(more) <= limit else (low, text, entries, len(more))
    while len(text) > limit and count:
        count = int(0.95 * count * limit / len(text))
        text, _ = attempt(0, count)
    return text


@dataclass
class _Frames:
    """The rows of the chosen cases, looked up by key."""

    traces: dict[tuple[Any, ...], Any]
    measured: dict[tuple[Any, ...], dict[str, list[float | None]]]
    alternatives: dict[tuple[Any, ...], Tops]
    spaceless: set[int]

    @classmethod
    def of(cls, study: StudyLike, cases: pd.DataFrame) -> _Frames:
        """What the cases need of a study's tables, by key."""
        prompts = set(cases["prompt_id"])
        part = study.traces[study.traces["role"].isin(["reference", "candidate"])]
        part = part[part["prompt_id"].isin(prompts)]
        traces = {(t.role, t.variant, t.strategy, int(t.seed), t.prompt_id): t for t in part.itertuples()}
        keys = ["candidate", "strategy", "seed", "prompt_id"]
        places = cases[keys].drop_duplicates()
        rows = study.columns_of("positions", ["role", *keys, "position", *MEASURED.values()], prompts)
        measured: dict[tuple[Any, ...], dict[str, list[float | None]]] = {}
        for key, columns in _grouped(rows, places, keys, ["position"], list(MEASURED.values())):
            measured[key] = {name: [_short(v) for v in c[:LONGEST].tolist()] for name, c in zip(MEASURED, columns)}
        alternatives: dict[tuple[Any, ...], Tops] = {}
        columns_of = [*keys, "variant", "pass"], ["position", "rank"], ["position", "token_id", "logprob"]
        for key, (positions, token_ids, logprobs) in _grouped(study.alternatives_of(prompts), places, *columns_of):
            tops = alternatives[key] = {}
            bits = np.where(np.isfinite(logprobs), np.rint(-1e4 * logprobs), -1)
            entries = list(zip(token_ids.astype(int).tolist(), bits.astype(int).tolist(), strict=True))
            starts = np.flatnonzero(np.diff(positions, prepend=-1)).tolist()
            for start, end in itertools.pairwise([*starts, len(entries)]):
                tops[int(positions[start])] = entries[start:end]
        return cls(traces, measured, alternatives, spaceless(study.tokens, part))


def _grouped(
    frame: pd.DataFrame, places: pd.DataFrame, keys: list[str], order: list[str], columns: list[str]
) -> Iterator[tuple[tuple[Any, ...], list[np.ndarray]]]:
    """(key, float64 columns in that order) of the candidates' rows at these places."""
    frame = frame.loc[frame["role"] == "candidate", [*dict.fromkeys([*keys, *order, *columns])]]
    frame = frame.merge(places, on=list(places.columns)).sort_values(order)
    values = frame[columns].to_numpy(float, na_value=math.nan)
    for key, rows in frame.groupby(keys, sort=False).indices.items():
        yield key, list(values[rows].T)


@dataclass
class _Island:
    """One attempt at the island; `entries`: how many positions with alternatives it may hold away from t*."""

    study: StudyLike
    frames: _Frames
    entries: int
    vocabulary: dict[int, int] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)
    references: dict[tuple[Any, ...], int] = field(default_factory=dict)
    parts: list[dict[str, Any]] = field(default_factory=list)
    tops: list[Tops] = field(default_factory=list)  # of each part's reference

    def of(self, cases: pd.DataFrame) -> list[dict[str, Any]]:
        """What all cases share with where each of them is, then the parts; JSON-ready."""
        where = [self.case(row) for row in cases.itertuples()]
        texts, raw = _vocabulary(self.study, self.frames.spaceless, self.vocabulary)
        head = {
            "reference": brief(str(self.study.plan["reference"]["name"]), 60), "width": COUNT, "texts": texts,
            "ids": list(self.vocabulary), "bytes": raw, "prompts": self.prompt_texts(), "cases": where,
        }  # fmt: skip
        for part, tops in zip(self.parts, self.tops, strict=True):
            part["trace"]["tops"] = flat(tops)
        return [head, *self.parts]

    def index(self, token_id: int) -> int:
        """A token id's place in the island's vocabulary."""
        return self.vocabulary.setdefault(int(token_id), len(self.vocabulary))

    def case(self, row: Any) -> dict[str, Any]:
        """Adds one compared trace to its reference's part: tokens, what was measured, where they meet; says where."""
        key = key_of(row)
        at = None if absent(row.first_divergence) else int(row.first_divergence)
        theirs = self.trace(("candidate", *key))
        place = self.reference(row, at)
        part = self.parts[place]
        case = {"at": at, "cause": "" if absent(row.cause) else str(row.cause), **theirs}
        case["meet"] = [] if at is None else meetings(part["trace"]["ids"], theirs["ids"], at)
        case |= self.frames.measured.get(key, {})
        generated, forced = (self.alternatives(row, key[0], name, at) for name in ("generated", "forced"))
        # up to t* both wrote in the same context: what was seen when it was written comes before what was read again
        shared = forced | ({p: e for p, e in generated.items() if at is None or p <= at})
        case["beside"] = flat(shared, self.tops[place])
        case["own"] = flat({p: e for p, e in generated.items() if at is not None and p > at})
        part["cases"].append(case)
        return {"candidate": key[0], "strategy": key[1], "seed": key[2], "prompt": key[3], "part": place,
                "case": len(part["cases"]) - 1}  # fmt: skip

    def reference(self, row: Any, at: int | None) -> int:
        """The place of the part with the reference's trace, which the cases of several candidates share."""
        _, strategy, seed, prompt = key_of(row)
        key = ("reference", row.reference, strategy, seed, prompt)
        if key not in self.references:
            self.references[key] = len(self.parts)
            self.parts.append({"trace": self.trace(key), "cases": []})
            self.tops.append({})
        tops = self.tops[self.references[key]]
        for name in ("generated", "forced"):  # a beam's are forced alone
            tops |= self.alternatives(row, row.reference, name, at, others=tops)
        return self.references[key]

    def trace(self, key: tuple[Any, ...]) -> dict[str, Any]:
        """A trace's tokens; its prompt is noted."""
        row = self.frames.traces.get(key)
        ids = [] if row is None or absent(row.token_ids) else [int(i) for i in str(row.token_ids).split()]
        if row is not None and row.prompt_id not in self.prompts:
            self.prompts[row.prompt_id] = len(self.prompts)
        finish = "" if row is None or absent(row.finish) else str(row.finish)
        return {"ids": [self.index(i) for i in ids[:LONGEST]], "more": max(0, len(ids) - LONGEST), "finish": finish}

    def alternatives(self, row: Any, variant: str, name: str, at: int | None, others: Container[int] = ()) -> Tops:
        """The top tokens around t* and elsewhere while there is room."""
        tops: Tops = {}
        for position, entries in self.frames.alternatives.get((*key_of(row), variant, name), {}).items():
            if position in others:
                continue
            if at is None or abs(position - at) > AROUND:
                if self.entries <= 0:
                    continue
                self.entries -= 1
            tops[position] = [(self.index(token_id), bits) for token_id, bits in entries]
        return tops

    def prompt_texts(self) -> list[dict[str, Any]]:
        """id and text (its end, where it is long) of every prompt met."""
        texts = {str(p["id"]): p for p in self.study.plan.get("prompts", ())}
        prompts = []
        for name in self.prompts:
            prompt = texts.get(name, {})
            text = shown(str(prompt.get("text") or ""))
            cut = max(0, len(text) - PROMPT)
            prompts.append({"id": name, "text": text[cut:], "cut": cut})
        return prompts


def key_of(row: Any) -> tuple[str, str, int, str]:
    """(candidate, strategy, seed, prompt id) of a row of divergences or positions."""
    return (row.candidate, row.strategy, 0 if absent(row.seed) else int(row.seed), row.prompt_id)


def case_link(row: Any) -> str:
    """The fragment that opens a case in the page."""
    names = ("candidate", "strategy", "seed", "prompt")
    return urlencode(dict(zip(names, key_of(row), strict=True)), errors="replace")


def meetings(ours: list[int], theirs: list[int], at: int) -> list[list[int]]:
    """[start in ours, start in theirs, length] of the common runs after t*, in order: a longest common subsequence."""
    left, right = ours[at + 1 :], theirs[at + 1 :]
    if not left or not right:
        return []
    blocks = [o for o in LCSseq.opcodes(left, right) if o.tag == "equal" and o.src_end - o.src_start >= RUN]
    return [[o.src_start + at + 1, o.dest_start + at + 1, o.src_end - o.src_start] for o in blocks]


def flat(tops: Mapping[int, Iterable[tuple[int, int]]], reference: Tops | None = None) -> dict[str, list[int]]:
    """Columns: positions; COUNT tokens each, -1 where there are fewer, or SAME alone; COUNT values each.

    Values are differences, which compress well: from the rank before, or under SAME from the reference's of that rank.
    """
    columns: dict[str, list[int]] = {"at": [], "token": [], "bits": []}
    for position in sorted(tops):
        tokens, bits = _padded(tops[position])
        theirs, base = _padded(reference[position]) if reference and position in reference else ([], [])
        same = tokens == theirs
        columns["at"].append(position)
        columns["token"] += [SAME] if same else tokens
        columns["bits"] += [b - a for a, b in zip(base if same else [0, *bits], bits, strict=False)]
    return columns


def _padded(entries: Iterable[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """COUNT tokens and COUNT values."""
    row = [*entries, *[(-1, -1)] * COUNT][:COUNT]
    return [token for token, _ in row], [bits for _, bits in row]


def _vocabulary(study: StudyLike, lost: set[int], ids: Mapping[int, int]) -> tuple[list[str], dict[str, str]]:
    """Each token's text, visible and with its space; and by index the bytes of those that are no text or not seen."""
    names: dict[int, tuple[str, str]] = {}
    for row in study.tokens[study.tokens["token_id"].isin(list(ids))].itertuples():
        names[int(row.token_id)] = (str(row.token), "" if absent(row.bytes) else str(row.bytes))
    if missing := ids.keys() - names.keys():  # in a run of an earlier version
        for table, number, text in (
            ("positions", "token_id", "token"),
            ("divergences", "reference_token_id", "reference_token"),
            ("divergences", "candidate_token_id", "candidate_token"),
        ):
            part = study.columns_of(table, [number, text]).dropna().drop_duplicates(number)
            names |= {int(i): (str(t), "") for i, t in zip(part[number], part[text], strict=True) if int(i) in missing}
    texts, raw = [], {}
    for token_id, index in ids.items():
        text, octets = names.get(token_id, (f"\u27e8{token_id}\u27e9", ""))
        visible = shown(text)
        texts.append((" " if token_id in lost else "") + brief(visible, 400))
        if octets and (visible != text or "\ufffd" in visible or not visible.strip()):
            raw[str(index)] = brief(octets, 200)
    return texts, raw


def _short(value: float) -> float | None:
    """Three significant digits, as the page shows them; None where empty, -1 for infinity."""
    if math.isfinite(value):
        return float(f"{value:.3g}")
    return None if math.isnan(value) else -1
