"""The table for a terminal and a paper, the answer in lines, what can be gated, and the heat table of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from decodedrift.core.records import InputError
from decodedrift.experiments.formats.folds import FIGURES
from decodedrift.experiments.formats.kinds import parse_kinds
from decodedrift.experiments.formats.places import ACTIVATIONS, KINDS, SQUARES, WEIGHTS
from decodedrift.experiments.formats.verdict import alarms, power, sentences, sums
from decodedrift.report import failures
from decodedrift.report.heat import HeatMap, Spot, level
from decodedrift.report.numbers import absent, exactly, percentage, significant
from decodedrift.report.terminal import text_table, wrapped
from decodedrift.runs.gates import Fault, Gating

COLUMNS = ("Format", "Of", "Beyond the largest", "Flushed to 0", "Subnormal", "rms error (theory)", "Headroom")


def gating(plan: Mapping[str, Any]) -> Gating:
    """Columns of the summary, by format and of what."""
    names = [kind.label for kind in parse_kinds(plan["formats"])]
    cells = [(name, what) for name in names for what in (WEIGHTS, ACTIVATIONS)]
    return Gating(("format", "what"), cells, (*FIGURES, "places", "overflowing"), faults=_faults)


def _faults(study: Any) -> dict[tuple[str, ...], Fault]:
    """Squares that a norm loses are an overflow of activations too."""
    rows = study.summary[(study.summary["what"] == SQUARES) & (study.summary["overflow"] > 0)]
    lost = Fault("norms that add up squares in it lose tokens", ("overflow",))
    return {(str(name), ACTIVATIONS): lost for name in rows["format"]}


def table(study: Any) -> pd.DataFrame:
    """The seven columns, as text: a row per format, of weights and of activations.

    rms error: relative, of the numbers that are held with full precision, beside that of numbers spread evenly over
    binades. Headroom: of the largest number to the format's.
    """
    return pd.DataFrame([_cells(row) for row in study.summary.itertuples()], columns=list(COLUMNS))


def _cells(row: Any) -> list[str]:
    theory = "" if absent(row.theory) or absent(row.rms_error_normal) else f" ({significant(row.theory)})"
    return [
        str(row.format), str(row.what), percentage(row.overflow), percentage(row.flushed), percentage(row.subnormal),
        significant(row.rms_error_normal) + theory, "" if absent(row.headroom) else power(row.headroom),
    ]  # fmt: skip


def overview(study: Any, width: int, verbose: bool = False) -> str:
    """The table and the verdict."""
    head = ["format", "of", "overflow", "flushed", "subnorm", "rms err", "headroom"]
    body = []
    for row in study.summary[study.summary["what"] != SQUARES].itertuples():
        cells = _cells(row)
        error = "" if absent(row.rms_error_normal) else f"{row.rms_error_normal:.1e}"
        body.append([*cells[:5], error, cells[6]])
    shown = "\n".join(wrapped(sentence, width) for sentence in study.verdict)
    return "\n\n".join(part for part in (text_table(head, body, width, names=2), shown) if part)


def brief(study: Any) -> tuple[list[str], list[str], list[str]]:
    """Alarms and what failed; a sentence per format; the squared sums."""
    return [*alarms(study), *failures.sentences(study.failures)], sentences(study), sums(study)


def case(study: Any, wanted: Mapping[str, Any]) -> Any:
    """None: no two texts are compared.

    Raises:
        InputError: always.
    """
    raise InputError("a run of formats compares no texts: there is no case to show; its tables are formats and ranges")


def heat(study: Any) -> list[HeatMap]:
    """What a notebook shows: format x kind of module, the share of the activations that overflows or is flushed."""
    rows = study.kinds[study.kinds["what"] == ACTIVATIONS]
    columns = [kind for kind in KINDS if kind in set(rows["kind"])]
    about = "Share of the activations that lie beyond the largest value of a format or become 0 in it."
    map_ = HeatMap("lost", "Lost activations", about, columns)
    for name, part in rows.groupby("format", sort=False):
        spots = {row.kind: _spot(row) for row in part.itertuples()}
        map_.rows.append((str(name), "", [spots.get(kind) for kind in columns]))
    return [map_] if map_.rows else []


def _spot(row: Any) -> Spot:
    lost = row.overflow + row.flushed
    exact = exactly({"overflow": row.overflow, "flushed": row.flushed, "headroom": row.headroom})
    return Spot(percentage(lost), f"{percentage(row.overflow)} overflow", exact, level(lost))
