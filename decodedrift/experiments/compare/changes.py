"""What changed between two runs, in words: settings, versions, machine, files, answers, rates, and where texts part."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.core.options import MACHINE, OUTPUT, Option
from decodedrift.core.records import plain
from decodedrift.core.settings import Settings, no_rows
from decodedrift.core.untrusted import visible
from decodedrift.report.numbers import absent
from decodedrift.report.phrases import listed, percent
from decodedrift.report.texts import brief

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

TRACE = ["role", "variant", "strategy", "seed", "prompt_id"]
CELL = ["role", "reference", "candidate", "strategy"]
CONTENTS = ("model.files.", "model.config", "tokenizer", "checkpoints.")
MACHINES = ("numerical.", "python", "system", "cpu", "cores")
APART = ("variants", "started", "finished", "memory_bytes", "workers")  # not of the place
MOST = 12  # changes named in a sentence
CUT = ("length", "screened")  # how texts end that would have gone on


def sentences(first: Study, second: Study) -> list[str]:
    """The changes that there are, and that there are none of a kind."""
    places = differences(first.environment, second.environment)
    lines = [_told("Settings", settings(first.experiment.settings, first.plan, second.plan))]
    for kind, prefixes in (("Versions", ("versions.", "metrics_version")), ("Machine", MACHINES)):
        moved = {
            name.rpartition(".")[2].removesuffix("_version"): ends
            for name, ends in places.items() if name.startswith(prefixes)
        }  # fmt: skip
        lines.append(_told(kind, [f"{name} {_arrow(*ends)}" for name, ends in moved.items()]))
    contents = [_content(name, *ends) for name, ends in places.items() if name.startswith(CONTENTS)]
    lines.append(_told("Model and tokenizer", contents))
    lines += [_answers(first.answer, second.answer), _rates(first.summary, second.summary)]
    return [line for line in lines if line]


def definitions(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Which definitions of the metrics two environments are of, where they are not the same; else nothing."""
    one, two = (environment.get("metrics_version", 1) for environment in (first, second))
    if one == two:
        return ""
    return (
        f"These runs were made by other definitions of the metrics (versions {one} and {two}): figures of changed "
        "columns cannot be compared. docs/metrics.md says what each version changed; run the older one again to "
        "compare them."
    )


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """What two environments disagree on: dotted name -> both values as text, hashes cut."""
    one, two = _flat(first), _flat(second)
    names = dict.fromkeys([*one, *two])
    return {n: (one.get(n, ""), two.get(n, "")) for n in names if one.get(n) != two.get(n)}


def settings(kind: type[Settings], first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What decides the rows of a run and is not the same in both plans, as `label one → two`."""
    changes = []
    for name, option in deciding(kind).items():
        one, two = (plain(plan.get(name)) for plan in (first, second))
        if one != two:
            label = option.label or name.replace("_", " ")
            changes.append(f"{label[0].lower()}{label[1:]} {_arrow(_value(one, option), _value(two, option))}")
    return changes


def deciding(kind: type[Settings]) -> dict[str, Option]:
    """The options that decide the rows of a run; those of the machine may differ."""
    free = no_rows(kind)
    return {n: o for n, o in kind.options().items() if n not in free and o.group not in (MACHINE, OUTPUT)}


def _value(value: Any, option: Option) -> str:
    """A setting in words: variants, strategies and texts by their names, prompts by their number."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        names = [item.get("label") or item.get("name") for item in value]
        return listed(map(str, names)) if all(names) else str(len(value))
    if isinstance(value, dict):
        return str(value.get("name"))
    words = option.words.get(value, value) if isinstance(value, str) else value
    return listed(map(str, words)) if isinstance(words, list) else "none" if words in (None, "") else str(words)


def _content(name: str, one: str, two: str) -> str:
    """A file or a field of a model, of a candidate's checkpoint or of the tokenizer that is not the same, in words."""
    own = re.fullmatch(r"checkpoints\.(.*?)\.(files\..+|stored_dtypes\..+|[^.]+)", name, re.S)
    thing = (own[2] if own else name.removeprefix("model.")).replace("files.", "file ", 1)
    thing += f" of the checkpoint of {brief(own[1], 60)}" if own else ""
    return f"{visible(thing)} is {'another' if one and two else 'in one of them alone'}"


def _arrow(one: Any, two: Any) -> str:
    """`one → two`; what is told alike is given otherwise."""
    one, two = (visible(brief(str("none" if v in (None, "") else v), 60)) for v in (one, two))
    return f"({one}) given otherwise" if one == two else f"{one} → {two}"


def _told(kind: str, changes: Sequence[str], none: str = "the same") -> str:
    """A sentence on the changes of a kind, or that there are none."""
    more = f" and {len(changes) - MOST} more" if len(changes) > MOST else ""
    return f"{kind}: {'; '.join(changes[:MOST])}{more}." if changes else f"{kind}: {none}."


def _answers(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """The words that a candidate is told in and was not, of those in both runs."""
    both = first.merge(second, on="candidate", suffixes=("_a", "_b"))
    kinds = {"wording": "", "quality": "", "answers": "", "rounding": ", rounding:"}
    words = [word for word in kinds if word in first and word in second]
    changes = [
        f"{visible(str(row['candidate']))}{kinds[word]} {row[f'{word}_a']} → {row[f'{word}_b']}"
        for row in both.to_dict("records") for word in words if row[f"{word}_a"] != row[f"{word}_b"]
    ]  # fmt: skip
    return _told("Answer", changes) if len(both) else ""


def _rates(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """The divergence rates whose intervals do not overlap."""
    both = first.merge(second, on=CELL, suffixes=("_a", "_b"))
    both = both[both["role"] == "candidate"]
    apart = both[(both["divergence_rate_low_a"] > both["divergence_rate_high_b"])
                 | (both["divergence_rate_low_b"] > both["divergence_rate_high_a"])]  # fmt: skip
    changes = [
        f"{visible(row.candidate)} under {visible(row.strategy)} {_arrow(*map(percent, ends))}"
        for row in apart.itertuples() if (ends := (row.divergence_rate_a, row.divergence_rate_b))
    ]  # fmt: skip
    return _told("Divergence rates whose intervals do not overlap", changes, "none") if len(both) else ""


def partings(first: Study, second: Study) -> pd.DataFrame:
    """A row per text of the same variant, strategy, seed and prompt in both runs, as far as both go.

    Columns: those of TRACE, `at` (the first token that differs, empty where none does), `tokens` (`one → two` there).
    """
    ids = [*TRACE, "token_ids", "finish"]
    pairs = first.traces[ids].merge(second.traces[ids], on=TRACE, suffixes=("_a", "_b"))
    pairs = pairs.dropna(subset=["token_ids_a", "token_ids_b"])
    prompts = [{str(p["id"]): p.get("text") for p in study.plan.get("prompts", ())} for study in (first, second)]
    same = [prompts[0].get(prompt) == prompts[1].get(prompt) for prompt in pairs["prompt_id"]]
    pairs = pairs[pd.Series(same, index=pairs.index, dtype=bool)]
    names = [dict(zip(study.tokens["token_id"].astype(int), study.tokens["token"])) for study in (first, second)]
    rows = [_first_difference(row, names) for row in pairs.itertuples()]
    return pairs[TRACE].assign(
        at=pd.array([at for at, _ in rows], dtype="Int64"), tokens=[tokens for _, tokens in rows]
    )


def _first_difference(row: Any, names: Sequence[Mapping[int, Any]]) -> tuple[int | None, str]:
    """The first token that differs, and both there; one that was cut or only read goes no further."""
    one, two = ([int(i) for i in text.split()] for text in (row.token_ids_a, row.token_ids_b))
    for at, (a, b) in enumerate(itertools.zip_longest(one, two)):
        if a != b:
            cut = (a is None and row.finish_a in CUT) or (b is None and row.finish_b in CUT)
            told = ["the end" if i is None else str(text.get(i, i)) for i, text in zip((a, b), names)]
            return (None, "") if cut else (at, " → ".join(told))
    return None, ""


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested data as dotted names with values as text, hashes cut; what was read back of the variants is left out."""
    if isinstance(value, Mapping):
        parts: Iterator[dict[str, str]] = (
            _flat(item, f"{name}.{key}" if name else str(key)) for key, item in value.items() if key not in APART
        )
        return dict(itertools.chain.from_iterable(part.items() for part in parts))
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if absent(value) else str(value)
    return {name: text[:12] if re.fullmatch("[0-9a-f]{40,}", text) else text}
