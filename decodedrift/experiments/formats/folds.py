"""formats.csv, ranges.csv, and what they come to by kind of module and in all (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from decodedrift.experiments.formats.kinds import parse_kinds
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
    """A row per tensor and format, over all jobs."""
    table = figures(study.roundings, ["model", *PLACE, "format"], study.plan)
    largest = study.ranges[[*PLACE, "largest"]]
    table = table.merge(largest, on=PLACE, how="left")
    table["headroom"] = table.pop("room") - np.log2(table.pop("largest"))
    return fold(table.to_dict("records"), FORMATS)


def figures(rows: pd.DataFrame, keys: Sequence[str], plan: Mapping[str, Any]) -> pd.DataFrame:
    """Shares of the non-zero finite numbers and errors, a row for each of the keys; room: log2 of the largest value.

    room is empty of a format with a scale, which has no headroom.
    """
    counts = rows[SUMS].astype("float64")
    sums = counts.groupby([rows[key] for key in keys], sort=False).sum(min_count=1).reset_index()
    kinds = {kind.label: kind for kind in parse_kinds(plan["formats"])}
    table = sums[[*keys, "numbers"]].copy()
    for name in SHARES:
        table[name] = sums[name] / sums["numbers"].where(sums["numbers"] > 0)
    for name, error, count in (("rms_error", "error_square", "held"), ("rms_error_normal", "normal_square", "normal")):
        table[name] = np.sqrt(sums[error] / sums[count].where(sums[count] > 0))
    table["theory"] = table["format"].map({label: kind.theory for label, kind in kinds.items()})
    room = {label: np.nan if kind.scaled else np.log2(kind.form.largest) for label, kind in kinds.items()}
    table["room"] = table["format"].map(room)
    return table


def together(study: Any, keys: Sequence[str], columns: list[str]) -> pd.DataFrame:
    """The same of several tensors, with the places where most is lost and where the headroom is least.

    places: tensors; overflowing: how many of them lose a number beyond the largest.
    """
    every, rows = study.formats, []
    whole = {
        tuple(row[key] for key in keys): row for row in figures(study.roundings, keys, study.plan).to_dict("records")
    }
    for key, part in every.groupby(list(keys), sort=False):
        at = {"headroom_at": _place(part, "headroom", least=True)}
        at |= {f"{name}_at": _place(part, name) for name in ("overflow", "flushed")}
        more = {"places": len(part), "overflowing": int((part["overflow"] > 0).sum()), "model": part["model"].iloc[0]}
        rows.append(whole[key] | {"headroom": part["headroom"].min()} | at | more)
    order = [kind.label for kind in parse_kinds(study.plan["formats"])]
    rows.sort(key=lambda row: order.index(row["format"]))
    return fold(rows, columns)


def _place(part: pd.DataFrame, name: str, least: bool = False) -> str | None:
    """Where a figure is largest, or least; None where it is nowhere above 0, or nowhere known."""
    known = part[name].dropna()
    known = known if least else known[known > 0]
    if not len(known):
        return None
    return place_name(part.loc[known.idxmin() if least else known.idxmax()])


def place_name(row: Any) -> str:
    """`layers.3.mlp.down_proj.weight`, `layers.3.mlp.down_proj (output)`."""
    if row["what"] == WEIGHTS:
        return f"{row['module']}.{row['tensor']}"
    return f"{row['module']} ({'sum of squares' if row['what'] == SQUARES else row['tensor']})"
