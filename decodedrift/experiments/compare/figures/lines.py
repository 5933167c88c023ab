"""Lines over a position or a lag: the growth of the error, its parts, and agreement after a first divergence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from decodedrift.measure.trajectory import LEAST_PAIRS
from decodedrift.report.figures import base
from decodedrift.report.figures.base import Series
from decodedrift.report.figures.curves import Curves, Names, Pairs

FLOOR = "noise floor"
MIDDLE, LOW, HIGH = (f"logit_gap_rms_{name}" for name in ("median", "p10", "p90"))
INJECTED = ", one token replaced"  # the reference with itself after such a replacement: no numerical error


class Kl(Curves):
    """Mean KL in nats by position, log scale, the noise floor dotted."""

    name, table, file, along = "kl", "growth", "growth.csv", "position"
    roles = ("candidate", "floor")
    labels = ("position (reference's tokens)", "mean KL (nats)")
    columns: Names = ("position", "n", "kl_mean")
    positive: Pairs = (("y", "kl_mean"),)
    y = "_y"
    hover: Pairs = (("", "$name"), ("position", "@position"), (labels[1], "@kl_mean{%.4g}"), ("traces", "@n"))
    last, other = FLOOR, ("soft", "dotted")

    def _read(self) -> pd.DataFrame:
        rows = super()._read()
        above = rows[self.positive[0][1]] > 0
        return rows[above.groupby([rows[c] for c in ("role", "strategy", "candidate")]).transform("any")]

    def _series(self, row: Any) -> Series:
        series = super()._series(row)
        if row["role"] != "floor":
            return series
        colour, _ = self._look(str(row["reference"]))  # the floor of a type, in the type's colour
        label = f"{series.label} ({FLOOR})"
        return replace(series, name=FLOOR, label=label, colour=colour, dash="dotted", width=1.3, band=False)


class Gap(Kl):
    """Median rms logit gap by position with its 10 % to 90 % band, log scale, the noise floor dotted."""

    name = "gap"
    labels = ("position (reference's tokens)", "rms logit gap (nats)")
    columns = ("position", "n", MIDDLE, LOW, HIGH)
    positive = (("y", MIDDLE), ("low", LOW), ("high", HIGH))
    band = ("_low", "_high")
    hover = (("", "$name"), ("position", "@position"), (labels[1], f"@{MIDDLE}{{%.4g}}"),
             ("p10 – p90", f"@{LOW}{{%.4g}} – @{HIGH}{{%.4g}}"), ("traces", "@n"))  # fmt: skip


class After(Curves):
    """Agreement by lag after the first divergence."""

    name = table = "after"
    file, along = "after.csv", "lag"
    roles = ("candidate", "injected")
    labels, height, share = ("tokens after the first divergence", "share of equal tokens"), 300, True
    columns = ("lag", "n", "agreement")
    x, y = "lag", "agreement"
    hover = (("", "$name"), ("lag", "@lag"), ("equal", "@agreement{%.3f}"), ("pairs", "@n"))

    def _read(self) -> pd.DataFrame:
        rows = super()._read()
        names = rows["candidate"].where(rows["role"] != "injected", rows["candidate"] + INJECTED)
        return self._enough(rows.assign(candidate=names), rows["agreement"].notna(), f"{LEAST_PAIRS} pairs at any lag")

    def _look(self, name: str) -> tuple[str, str]:
        colour, dash = super()._look(name.removesuffix(INJECTED))
        return (colour, "dashed") if name.endswith(INJECTED) else (colour, dash)


class State(Curves):
    """How the error compounds by position, as a ratio to none: logit error on its own KV cache over that on the
    reference's, with 95 % intervals."""

    name, table, what = "state", "decomposition", "decomposition"
    file, along = "decomposition.csv", "position"
    labels, height = ("position", "own state / reference's state"), 300
    y, band = "state_compounding", ("_low", "_high")

    def _read(self) -> pd.DataFrame:
        low, high = f"{self.y}_low", f"{self.y}_high"
        self.columns, self.positive = ("position", self.y, low, high), (("low", low), ("high", high))
        self.hover = (("", "$name"), ("position", "@position"), ("ratio", f"@{self.y}{{%.4g}}"),
                      ("95 %", f"@{low}{{%.4g}} – @{high}{{%.4g}}"))  # fmt: skip
        rows = super()._read()
        return rows[rows[self.y] > 0]

    def _furnish(self, rows: pd.DataFrame) -> None:
        base.rule(self.plot, 1, "width", line_dash="dashed")


class Path(State):
    """How the error compounds by position, as a ratio to none: KL on the candidate's text over that on the reference's,
    after t*, with 95 % intervals."""

    name, y = "path", "path_compounding_after"
    labels = ("position", "own text / reference's text")
