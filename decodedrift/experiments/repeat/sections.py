"""The page of a `repeat`: what it says, the table, the count by length, the texts, and what others have published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.experiments.repeat import published
from decodedrift.experiments.repeat.figures import CAPTION, Lengths
from decodedrift.experiments.repeat.folds import TEXT
from decodedrift.experiments.repeat.routing import routing
from decodedrift.experiments.repeat.texts import case_of, parting
from decodedrift.experiments.repeat.varying import CONTROL, SEEDS
from decodedrift.experiments.repeat.verdict import side
from decodedrift.report.case import pair
from decodedrift.report.html import Options, Section, StudyLike
from decodedrift.report.numbers import Number, exactly, number, percent, position, with_interval
from decodedrift.report.sections.failures import failures
from decodedrift.report.sections.provenance import provenance
from decodedrift.report.sections.verdict import verdict
from decodedrift.report.tables import Cell, Column, Table, num, text

MOST = 40  # prompts whose texts the page carries
SHOWN_LENGTHS = (8, 16, 32, 64, 128, 256)
NAMES = (
    Column("Variant", numeric=False), Column("Varied", "The one thing that differs between the runs.", numeric=False),
    Column("Strategy", numeric=False),
)  # fmt: skip
COLUMNS = (
    *NAMES, Column("Runs", "Completions of each prompt."),
    Column("Unique", "Different texts of a prompt, by token ids: the mean over prompts."),
    Column("Most", "Different texts of the prompt that has most."),
    Column("One text", "Share of prompts whose completions are all the same, with its 95 % interval."),
    Column("Bit-equal", "Share of the runs that have the most frequent logits, equal to the last bit at every token."),
    Column("Modal", "Share of the runs that write the most frequent text."),
    Column("Entropy", "Of the runs over the texts, in nats: 0 where all write one."),
    Column("First parts at", "Tokens that all completions share, the mean of the prompts that differ."),
    Column("Loops", "Completions that end in a short period, again and again: they look deterministic."),
)  # fmt: skip


def summary(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """A row per variant, what varied and strategy."""
    rows = [
        [
            *_names(row), num(number(row.runs, "runs")), num(number(row.unique, "unique")),
            num(number(row.unique_most, "unique_most")), num(with_interval(row, "tar")),
            num(percent(row.bit_equal, "bit_equal")), num(percent(row.modal_share, "modal_share")),
            num(number(row.entropy, "entropy")),
            num(Number("never") if row.unique_most == 1 else position(row.div_index, "div_index")),
            num(percent(row.loop, "loop")),
        ]
        for row in study.summary.itertuples()
    ]  # fmt: skip
    if not rows:
        return None
    return {"heading": "Different answers to the same prompt", "table": Table(COLUMNS, rows, source="summary.csv")}


def by_length(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """Different texts when all are cut to a length."""
    table = study.by_length
    if not len(table):
        return None
    last = table["length"].max()
    lengths = [n for n in (*SHOWN_LENGTHS, int(last)) if n in set(table["length"]) and n <= last]
    lengths = sorted(set(lengths))
    columns = (*NAMES, *(Column(f"{n} tokens") for n in lengths))
    rows = []
    for _, cell in table.groupby(["variant", "vary", "strategy"], sort=False):
        at = cell.set_index("length")["unique"]
        whole = {n: at.get(n, at.iloc[-1]) for n in lengths}  # a text that ended goes on being what it is
        rows.append([*_names(cell.iloc[0]), *(num(number(value, "unique")) for value in whole.values())])
    figure = Lengths(study).figure()  # None where nothing ran but the control
    context: dict[str, Any] = {"heading": "Different texts by length", "figures": {}}
    if figure is not None:
        context["figures"] = {Lengths.name: (CAPTION, figure)}
        context |= {"choices": figure.choices, "entries": figure.entries}
    return context | {"table": Table(columns, rows, source="by_length.csv")}


def _names(row: Any) -> list[Cell]:
    varied = SEEDS if row.vary == CONTROL else row.vary
    return [text(row.variant, 60, head=True), text(varied, 40), text(row.strategy, 60)]


def texts(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """Of each prompt that has more than one text the first one, and the one that parts from it first."""
    rows = study.repeats
    groups = rows[rows["vary"] != CONTROL].groupby(TEXT, sort=False) if options.texts else ()
    parted = [part for _, part in groups if part["unique_id"].any()]
    if not parted:
        return None
    carried = parted[: MOST if options.top is None else options.top]
    cases = [case_of(study, part, parting(part)) for part in carried]
    pairs = [pair(case, case.where) for case in cases]
    return {"heading": "Two texts of one prompt", "pairs": pairs, "left_out": len(parted) - len(carried)}


def others(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """The published counts, marked as such, beside the most varied of ours."""
    columns = (
        Column("Model", numeric=False), Column("Tokens"), Column("Runs"),
        Column("Unique", "Different texts in these runs."), Column("By trial", numeric=False),
        Column("From", numeric=False),
    )  # fmt: skip
    rows = [
        [
            text(entry.model, 60, head=True), num(Number(str(entry.tokens))), num(Number(str(published.RUNS))),
            num(Number(f"{entry.unique:g}")), text(", ".join(map(str, entry.counts)) or "not given"),
            text("published"),
        ]
        for entry in published.CHANN
    ]  # fmt: skip
    tokens = Number(str(study.plan["max_new_tokens"]))
    for row in study.summary.itertuples():
        if row.vary != CONTROL:
            unique = Number(f"{row.unique:.4g}", exactly({"unique": row.unique}))
            ran = side(study, row.variant)
            model = str(ran["model"]).partition("#")[2] or study.plan["model"]
            name = f"{model}, {row.variant}, {row.strategy}: {row.vary}"
            ours = [num(tokens), num(number(row.runs, "runs")), num(unique), text(f"most {int(row.unique_most)}")]
            rows.append([text(name, 90, head=True), *ours, text("this run")])
    return {
        "heading": "What others have counted", "table": Table(columns, rows), "source": published.SOURCE,
        "differs": published.WHAT_DIFFERS, "longer": ", ".join(map(str, published.AT_256)),
    }  # fmt: skip


SECTIONS: dict[str, Section] = {
    "verdict": verdict,
    "repeat_summary": summary,
    "repeat_lengths": by_length,
    "repeat_routing": routing,
    "repeat_texts": texts,
    "repeat_published": others,
    "failures": failures,
    "provenance": provenance,
}


def sections() -> Mapping[str, Section]:
    """SECTIONS."""
    return SECTIONS


def title(plan: Mapping[str, Any]) -> str:
    """What was repeated, and how often."""
    return f"The same prompt {plan['runs']} times, while one thing varies: {', '.join(plan['vary'])}"
