"""The page of a `formats`: what it says, the table, the histograms under the windows, by kind, and tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from decodedrift.experiments.formats.figures import CAPTION, Windows, kinds
from decodedrift.experiments.formats.folds import place_name
from decodedrift.experiments.formats.places import SQUARES
from decodedrift.experiments.formats.verdict import power
from decodedrift.report.html import Options, Section, StudyLike
from decodedrift.report.numbers import Number, absent, exactly, number, percent
from decodedrift.report.sections.failures import failures
from decodedrift.report.sections.provenance import provenance
from decodedrift.report.sections.verdict import verdict
from decodedrift.report.tables import Cell, Column, Table, num, text

MOST = 60  # tensors that the page carries
TEMPLATE = "formats_table.html.j2"
COLUMNS = (
    Column("Numbers", "Not zero and finite; the shares are of these."),
    Column("Overflow", "Beyond the largest value of the format."), Column("Flushed", "Become 0."),
    Column("Subnormal", "Below the smallest number of full precision."),
    Column("Unchanged", "The format has this very value."),
    Column("rms error", "Relative, of what is held with full precision."),
    Column("Theory", "The same of numbers that are spread evenly over binades."),
    Column("Headroom", "The format's largest value over the largest number, where it has no scale."),
)  # fmt: skip


def summary(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """A row per format, of weights, of activations, and of squares where a norm adds them in it."""
    rows = [[text(row.format, 40, head=True), text(row.what), *_cells(row)] for row in study.summary.itertuples()]
    if not rows:
        return None
    names = (Column("Format", numeric=False), Column("Of", numeric=False))
    lead = (
        "What a format cannot hold. Weights are those of the checkpoint; activations are what modules take and give "
        "while the model reads the prompts in full precision. What no module takes or gives, such as scores within an "
        "attention kernel, is not seen."
    )
    return _section("What each format loses", lead, Table((*names, *COLUMNS), rows, source="summary.csv"))


def windows(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """A histogram for each kind of module."""
    drawn = {f"windows-{kind}": (kind, Windows(study, kind).figure()) for kind in kinds(study)}
    figures = {
        name: (CAPTION.format(kind=kind), figure) for name, (kind, figure) in drawn.items() if figure is not None
    }
    if not figures:
        return None
    entries = {entry[3]: entry for _, figure in figures.values() for entry in figure.entries}
    lead = (
        "Each bar is a binade, the numbers from one power of two to the next. Above, the window of each format: full "
        "where its precision is, pale where numbers are subnormal. What lies right of a window overflows, what lies "
        "left of it is flushed; a scale moves the window, and a whole-number format has its at the largest number."
    )
    return {"heading": "Where the numbers lie", "lead": lead, "template": "figures.html.j2", "figures": figures,
            "choices": [], "entries": list(entries.values()), "scarce": ""}  # fmt: skip


def by_kind(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """A row per format and kind of module, those that lose something."""
    table = study.kinds[(study.kinds["what"] != SQUARES)]
    table = table[(table["overflow"] > 0) | (table["flushed"] > 0)]
    if not len(table):
        return None
    rows = [
        [text(row.format, 40, head=True), text(row.what), text(row.kind), *_cells(row)] for row in table.itertuples()
    ]
    names = (Column("Format", numeric=False), Column("Of", numeric=False), Column("Kind", numeric=False))
    lead = "Kinds of module of which a format loses a number, beyond its largest value or to 0."
    return _section("By kind of module", lead, Table((*names, *COLUMNS), rows, source="kinds.csv"), folded=True)


def places(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """The tensors of which most is lost, overflow first."""
    table = study.formats.sort_values(["overflow", "flushed"], ascending=False, kind="stable")
    table = table[(table["overflow"] > 0) | (table["flushed"] > 0)]
    if not len(table):
        return None
    rows = [
        [text(place_name(row), 70, head=True), text(row["kind"]), text(row["format"], 40), *_cells(row)]
        for _, row in table.head(MOST).iterrows()
    ]
    names = (Column("Tensor", numeric=False), Column("Kind", numeric=False), Column("Format", numeric=False))
    shown = Table((*names, *COLUMNS), rows, max(0, len(table) - MOST), "formats.csv", tall=True)
    return _section("Where most is lost", "Tensors, those that overflow first.", shown, folded=True)


def ranges(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """The tensors with the largest numbers."""
    table = study.ranges.sort_values("largest", ascending=False, kind="stable")
    rows = [
        [
            text(place_name(row), 70, head=True), text(row["kind"]), num(number(row["n"], "n")),
            num(number(row["largest"], "largest")), num(number(row["smallest"], "smallest")),
            num(number(row["range"], "range")), num(number(row["rms"], "rms")), text(row["added_in"] or ""),
        ]
        for _, row in table.head(MOST).astype(object).where(table.head(MOST).notna(), None).iterrows()
    ]  # fmt: skip
    if not rows:
        return None
    columns = (
        Column("Tensor", numeric=False), Column("Kind", numeric=False), Column("Numbers"), Column("Largest"),
        Column("Smallest", "Not zero."), Column("Range", "Binades from the smallest to the largest."), Column("rms"),
        Column("Added in", "Of squared sums: the type in which the norm adds them, run in fp16.", numeric=False),
    )  # fmt: skip
    shown = Table(columns, rows, max(0, len(table) - MOST), "ranges.csv", tall=True)
    return _section("How large the numbers are", "Tensors, those with the largest numbers first.", shown, folded=True)


def _section(heading: str, lead: str, table: Table, folded: bool = False) -> dict[str, Any]:
    return {"heading": heading, "lead": lead, "table": table, "template": TEMPLATE, "folded": folded}


def _cells(row: Any) -> list[Cell]:
    """The cells of COLUMNS, of a row of any of the folds."""
    of = row.to_dict() if isinstance(row, pd.Series) else row._asdict()
    room = of["headroom"]
    return [
        num(number(of["numbers"], "numbers")),
        *(num(percent(of[name], name)) for name in ("overflow", "flushed", "subnormal", "unchanged")),
        num(number(of["rms_error_normal"], "rms_error_normal")), num(number(of["theory"], "theory")),
        num(Number("" if absent(room) else power(room), exactly({"headroom": room}))),
    ]  # fmt: skip


SECTIONS: dict[str, Section] = {
    "verdict": verdict,
    "formats_summary": summary,
    "formats_windows": windows,
    "formats_kinds": by_kind,
    "formats_places": places,
    "formats_ranges": ranges,
    "failures": failures,
    "provenance": provenance,
}


def sections() -> Mapping[str, Section]:
    """SECTIONS."""
    return SECTIONS


def title(plan: Mapping[str, Any]) -> str:
    """What was held against what."""
    return f"What number formats can hold of this model: {', '.join(plan['formats'])}"
