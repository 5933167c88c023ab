"""What a terminal shows of a training, and two texts of its comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from decodedrift.core.records import InputError
from decodedrift.experiments.train.verdict import by_role, row_of
from decodedrift.report.case import Case
from decodedrift.report.numbers import percentage, significant
from decodedrift.report.terminal import text_table, wrapped

HEAD = ("arm", "floors", "digits", "perplexity", "cancelled", "flushed", "parted")


def table(study: Any, width: int) -> str:
    """A row per arm, controls last."""
    body = []
    for name in by_role(study):
        row: Any = row_of(study, name)
        parted = "" if pd.isna(row["texts"]) else f"{row['diverged']:.0f}/{row['texts']:.0f}"
        numbers = [_cell(row[c]) for c in ("distance_floors", "digits_median", "perplexity")]
        shares = ["" if pd.isna(row[c]) else percentage(row[c]) for c in ("cancelled", "flushed_activations")]
        body.append([name + " (broke)" * bool(row["broken"]), *numbers, *shares, parted])
    return text_table(list(HEAD), body, width, names=1)


def _cell(value: float) -> str:
    return "" if pd.isna(value) else "all" if value == float("inf") else significant(value)


def overview(study: Any, width: int, verbose: bool = False) -> str:
    """The table and the verdict."""
    return "\n\n".join([table(study, width), "\n".join(wrapped(sentence, width) for sentence in study.verdict)])


def case(study: Any, wanted: Mapping[str, Any]) -> Case:
    """Two texts: they lie in the comparison's own run.

    Raises:
        InputError: says where.
    """
    folder = f"{study.path or 'the run folder'}/compare-seed-{study.plan['seeds'][0]}"
    raise InputError(f"a training writes no texts itself; open_study({folder!r}).case() shows those of its arms")
