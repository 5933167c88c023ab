"""How many different texts a prompt has by their length, as a curve: for the page and for a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from bokeh.models import DataRange1d

from decodedrift.experiments.repeat.varying import CONTROL, SEEDS
from decodedrift.measure.tables import REPEATED
from decodedrift.report.figures import base
from decodedrift.report.figures.curves import Curves, Names
from decodedrift.report.palette import DASHES, SERIES

CAPTION = "Different texts of a prompt, by length"


class Lengths(Curves):
    """The mean number of different texts by the length that all are cut to: a colour for each source of variation.

    A variant has its own dash, the reference a whole line. Dotted: other seeds at temperature 1, the control.
    """

    name = table = "by_length"
    file, along, what = "by_length.csv", "length", "texts by length"
    named, keys = "series", ("variant", "vary")
    labels = ("tokens", "different texts of a prompt, mean")
    columns: Names = ("length", "prompts", "unique", "tar")
    x, y = "length", "unique"
    hover = (("", "$name"), ("tokens", "@length"), ("different texts", "@unique{%.3g}"),
             ("prompts with one text", "@tar{0 %}"))  # fmt: skip
    last = SEEDS

    def _read(self) -> pd.DataFrame:
        rows: pd.DataFrame = self.study.by_length
        last = rows.groupby(list(REPEATED), sort=False).tail(1)
        short = last[last["length"] < rows["length"].max()].assign(length=rows["length"].max())
        rows = pd.concat([rows, short], ignore_index=True)  # texts that have ended stay what they are
        control = rows["vary"] == CONTROL
        return rows.assign(series=(rows["variant"] + ", " + rows["vary"]).where(~control, SEEDS))

    def _choose(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The control, which is of no strategy of the plan, stands beside each of them."""
        control = rows["vary"] == CONTROL
        chosen = super()._choose(rows[~control])
        beside = [rows[control].assign(strategy=label) for label in self.choices]
        return pd.concat([chosen, *beside], ignore_index=True)

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        across = DataRange1d(only_visible=True, range_padding=0.0)
        return {"x_range": across, "y_range": (0, 1.05 * max(2.0, float(rows["unique"].max())))}

    def _look(self, name: str) -> tuple[str, str]:
        if name == SEEDS:
            return "soft", "dotted"
        plan = self.study.plan
        variants = [str(v["name"]) for v in (plan["reference"], *plan["candidates"])]
        variant, vary = next((v, name.removeprefix(f"{v}, ")) for v in variants if name.startswith(f"{v}, "))
        return f"s{plan['vary'].index(vary) % SERIES}", DASHES[variants.index(variant) % len(DASHES)]


class Plots(base.Plots):
    """The page's figure as a Bokeh model; raises ValueError where the study holds nothing to draw."""

    def by_length(self, strategy: str | None = None) -> Any:
        """Different texts by length."""
        curves = Lengths(self._study, strategy, notebook=True)
        if (drawing := curves.figure()) is None:
            raise ValueError(f"this study holds no {curves.what} to draw")
        drawing.model.name = ", ".join([CAPTION, *map(base.label, curves.choices[:1])])
        return drawing.model

    def __iter__(self) -> Iterator[tuple[str, str, Any]]:
        """(name, strategy, model) of every figure that has something to draw."""
        rows = self._study.by_length
        for strategy in dict.fromkeys(rows.loc[rows["vary"] != CONTROL, "strategy"]):
            yield Lengths.name, strategy, self.by_length(strategy)
