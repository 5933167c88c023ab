"""formats.csv, ranges.csv, and what they come to by kind of module and in all (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from decodedrift.experiments.formats.kinds import Kind, parse_kinds
from decodedrift.experiments.formats.places import SQUARES, WEIGHTS
from decodedrift.measure.formattables import PLACE
from decodedrift.measure.tables import fold

SHARES = ["overflow", "flushed", "subnormal", "unchanged"]
FIGURES = ["numbers", *SHARES, "rms_error", "rms_error_normal", "theory", "headroom"]
AT = ["overflow_at", "flushed_at", "headroom_at"]
FORMATS = ["model", *PLACE, "format", *FIGURES]
WHOLE = ["model", "format", "what", *FIGURES, *AT, "places", "overflowing"]
KINDS = ["model", "format", "what", "kind", *FIGURES, *AT, "places", "overflowing"]
RANGES = ["model", *PLACE, "n", "zeros", "nonfinite", "largest", "smallest", "range", "rms", "added_in"]
SUMS = ["numbers", *SHARES, "held", "normal", "error_square", "normal_square"]


def folds() -> dict[str, Callable[[Any], pd.DataFrame]]:
    """summary: per format, of weights and of activations; kinds: per kind of module; formats, ranges: per tensor."""
    return {
        "summary": lambda study: together(study, ["format", "what"], WHOLE),
        "kinds": lambda study: together(study, ["format", "what", "kind"], KINDS),
        "formats": lambda study: formats(study),
        "ranges": lambda study: ranges(study.tensors),
    }


def ranges(tensors: pd.DataFrame) -> pd.DataFrame:
    """A row per tensor, over all jobs.

    range: binades between the smallest non-zero and the largest number. rms: of the finite ones.
    """
    rows = []
    for key, part in tensors.groupby(["model", *PLACE], sort=False):
        finite = part["n"].sum() - part["nonfinite"].sum()
        row = {
            "n": part["n"].sum(), "zeros": part["zeros"].sum(), "nonfinite": part["nonfinite"].sum(),
            "largest": part["largest"].max(), "smallest": part["smallest"].min(),
            "rms": np.sqrt(part["square"].sum() / finite) if finite else np.nan, "added_in": part["added_in"].iloc[0],
        }  # fmt: skip
        row["range"] = np.log2(row["largest"]) - np.log2(row["smallest"])
        rows.append(dict(zip(["model", *PLACE], key, strict=True)) | row)
    return fold(rows, RANGES)


def formats(study: Any) -> pd.DataFrame:
    """A row per tensor and format."""
    largest = study.ranges.set_index(PLACE)["largest"].to_dict()
    kinds = {kind.label: kind for kind in parse_kinds(study.plan["formats"])}
    rows = []
    for key, part in study.roundings.groupby(["model", *PLACE, "format"], sort=False):
        row = dict(zip(["model", *PLACE, "format"], key, strict=True))
        rows.append(row | figures(part, kinds[row["format"]], largest[tuple(row[c] for c in PLACE)]))
    return fold(rows, FORMATS)


def figures(part: pd.DataFrame, kind: Kind, largest: float) -> dict[str, Any]:
    """Shares of the non-zero finite numbers, errors and headroom.

    Args:
        part: rows of one format. largest: of the numbers that they are of.
    """
    sums = {name: float(part[name].astype("float64").sum(min_count=1)) for name in SUMS}
    numbers = sums["numbers"]
    row = {name: sums[name] / numbers if numbers > 0 else np.nan for name in SHARES}
    for name, error, count in (("rms_error", "error_square", "held"), ("rms_error_normal", "normal_square", "normal")):
        row[name] = np.sqrt(sums[error] / sums[count]) if sums[count] > 0 else np.nan
    room = not kind.scaled and largest > 0
    headroom = np.log2(kind.form.largest) - np.log2(largest) if room else np.nan
    return row | {"numbers": numbers, "theory": kind.theory, "headroom": headroom}


def together(study: Any, keys: Sequence[str], columns: list[str]) -> pd.DataFrame:
    """The same of several tensors, with the places where most is lost and where the headroom is least.

    places: tensors; overflowing: how many of them lose a number beyond the largest.
    """
    kinds = {kind.label: kind for kind in parse_kinds(study.plan["formats"])}
    counts, every = study.roundings, study.formats
    order = {label: n for n, label in enumerate(kinds)}
    rows = []
    for key, part in every.groupby(list(keys), sort=False):
        row = dict(zip(keys, key, strict=True)) | {"model": part["model"].iloc[0]}
        of_it = counts[np.logical_and.reduce([counts[name] == value for name, value in zip(keys, key, strict=True)])]
        whole = figures(of_it, kinds[row["format"]], np.nan) | {"headroom": part["headroom"].min()}
        at = {"headroom_at": _place(part, part["headroom"], least=True)}
        at |= {f"{name}_at": _place(part, part[name]) for name in ("overflow", "flushed")}
        rows.append(row | whole | at | {"places": len(part), "overflowing": int((part["overflow"] > 0).sum())})
    rows.sort(key=lambda row: order[row["format"]])
    return fold(rows, columns)


def _place(part: pd.DataFrame, values: pd.Series, least: bool = False) -> str | None:
    """Where a value is largest, or least; None where it is nowhere above 0, or nowhere known."""
    known = values.dropna()
    known = known if least else known[known > 0]
    if not len(known):
        return None
    return place_name(part.loc[known.idxmin() if least else known.idxmax()])


def place_name(row: Any) -> str:
    """`layers.3.mlp.down_proj.weight`, `layers.3.mlp.down_proj (output)`."""
    if row["what"] == WEIGHTS:
        return f"{row['module']}.{row['tensor']}"
    return f"{row['module']} ({'sum of squares' if row['what'] == SQUARES else row['tensor']})"
