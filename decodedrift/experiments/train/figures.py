"""The figures of a training: what each arm's steps were, a line per arm, one seed at a time."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from bokeh.models import DataRange1d, FixedTicker, NumeralTickFormatter

from decodedrift.experiments.train.arms import BUTTERFLY, CONTROLS, FP32, ORDER
from decodedrift.report.figures.base import Series
from decodedrift.report.figures.curves import Curves, Names
from decodedrift.report.palette import series

LOOKS = {BUTTERFLY: ("ink", "dotted"), ORDER: ("ink", "dashed")}
FEW = 3  # points, which make no line
CAPTIONS = {BUTTERFLY: "butterfly floor", ORDER: "other order of the data"}


class Steps(Curves):
    """A column of `training` by step, on a logarithmic axis; what is 0 at every step is not drawn."""

    table, file, along = "training", "training.csv", "step"
    switch, named, keys = "seed", "arm", ("arm",)
    x, y = "step", "_y"
    controls: Names = tuple(CONTROLS)  # that are drawn
    last = BUTTERFLY

    def __init__(self, study: Any, choice: str | None = None, **options: Any) -> None:
        super().__init__(study, choice, **options)
        names = list(dict.fromkeys((*study.plan["arms"], FP32)))
        self.colours = series(names) | LOOKS

    @property
    def shown(self) -> str:
        """The column that is drawn."""
        return self.columns[-1]

    def _rows(self) -> pd.DataFrame:
        """The table, with what is made of it to be drawn."""
        return self.study.training  # type: ignore[no-any-return]

    def _read(self) -> pd.DataFrame:
        rows = self._rows()
        rows = rows[~rows["arm"].isin(set(CONTROLS) - set(self.controls))]
        rows = rows.assign(seed=[f"seed {seed}" for seed in rows["seed"]])
        values = rows[self.shown].astype("float64")
        drawn = (values > 0) & (values < float("inf"))
        return rows[drawn.groupby([rows["seed"], rows["arm"]]).transform("any")]

    def _choose(self, rows: pd.DataFrame) -> pd.DataFrame:
        labels = list(dict.fromkeys(rows["seed"]))
        if self.choice is not None and self.choice not in labels:
            raise ValueError(f"{self.choice!r} has no such figure; choices: {', '.join(labels)}")
        self.choices = [self.choice] if self.choice is not None else labels[:1] if self.notebook else labels
        return rows[rows["seed"].isin(self.choices)]

    def _caption(self, name: str) -> str:
        return CAPTIONS.get(name, name)

    def _draw(self, source: Any, series: Series, part: pd.DataFrame) -> None:
        """A line; of an arm that soon broke the few points."""
        super()._draw(source, series, part)
        if int((source.data["_y"] > 0).sum()) < FEW:
            self._dots(source, series, self.x, self.y, size=7)


class Loss(Steps):
    """The mean loss of each step's batches."""

    name = "loss"
    labels, controls = ("step", "loss (nats a token)"), (ORDER,)
    columns = ("step", "loss")
    positive = (("y", "loss"),)
    hover = (("", "$name"), ("step", "@step"), ("loss", "@loss{%.5g}"))

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        return {"x_range": DataRange1d(only_visible=True, range_padding=0.0), "y_range": DataRange1d(only_visible=True)}


class LossGap(Steps):
    """How far the loss of each step is from that of what the arm is held against, on the same batches."""

    name = "loss_gap"
    labels, controls = ("step", "difference of the loss (nats)"), (BUTTERFLY,)
    columns = ("step", "loss", "loss_gap")
    positive = (("y", "loss_gap"),)
    hover = (("", "$name"), ("step", "@step"), ("loss", "@loss{%.5g}"), ("difference", "@loss_gap{%.3g}"))

    def _rows(self) -> pd.DataFrame:
        rows, keys = super()._rows(), ["seed", "step", "held_against"]
        base = rows.rename(columns={"arm": "_", "loss": "base"}).assign(held_against=rows["arm"])
        both = rows.merge(base[[*keys, "base"]], on=keys, how="left")
        return both.assign(loss_gap=(both["loss"] - both["base"]).abs())


class Distance(Steps):
    """How far the weights are from what the arm is held against, both axes logarithmic."""

    name = "distance"
    labels, controls = ("step", "distance over the weights' length"), (BUTTERFLY, ORDER)
    columns = ("step", "distance")
    positive = (("y", "distance"),)
    hover = (("", "$name"), ("step", "@step"), ("distance", "@distance{%.4g}"))

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        return super()._frame(rows) | {"x_axis_type": "log"}

    def _furnish(self, rows: pd.DataFrame) -> None:
        """Whole steps along the axis."""
        powers = range(len(str(int(rows["step"].max()))))
        self.plot.xaxis.ticker = FixedTicker(ticks=[n * 10**power for power in powers for n in (1, 2, 5)])
        self.plot.xaxis.formatter = NumeralTickFormatter(format="0,0")


class Cancelled(Steps):
    """The share of updates that move no weight."""

    name = "cancelled"
    labels, controls, share, height = ("step", "updates cancelled"), (), True, 300
    columns = ("step", "cancelled")
    positive = (("y", "cancelled"),)
    hover = (("", "$name"), ("step", "@step"), ("cancelled", "@cancelled{0.00 %}"))

    def _furnish(self, rows: pd.DataFrame) -> None:
        self.plot.yaxis.formatter = NumeralTickFormatter(format="0 %")


class Flushed(Steps):
    """The share of the activations' gradients that are 0 where the reference arm's are not."""

    name = "flushed"
    labels, controls, height = ("step", "activations' gradients flushed"), (), 300
    columns = ("step", "flushed_weights", "flushed_activations")
    positive = (("y", "flushed_activations"),)
    hover = (("", "$name"), ("step", "@step"), ("of activations", "@flushed_activations{0.000 %}"),
             ("of weights", "@flushed_weights{0.000 %}"))  # fmt: skip

    def _furnish(self, rows: pd.DataFrame) -> None:
        self.plot.yaxis.formatter = NumeralTickFormatter(format="0.[0000] %")


class Scale(Steps):
    """The factor on the loss, of arms that have one."""

    name = "scale"
    labels, controls, height, step = ("step", "loss scale"), (), 260, True
    columns = ("step", "skipped", "scale")
    positive = (("y", "scale"),)
    hover = (("", "$name"), ("step", "@step"), ("scale", "@scale"), ("skipped", "@skipped"))

    def _read(self) -> pd.DataFrame:
        rows = super()._read()
        scaled = (rows["scale"].astype("float64") != 1).groupby([rows["seed"], rows["arm"]]).transform("any")
        return rows[scaled]

    def _frame(self, rows: pd.DataFrame) -> dict[str, Any]:
        scales = rows["scale"].astype("float64")
        return super()._frame(rows) | {"y_range": (scales.min() / 2, scales.max() * 2)}

    def _furnish(self, rows: pd.DataFrame) -> None:
        """Powers of two along the axis, four at the most."""
        low, high = (math.floor(math.log2(float(end))) for end in (rows["scale"].min(), rows["scale"].max()))
        apart = 1 + (high - low) // 4
        self.plot.yaxis.ticker = FixedTicker(ticks=[2.0**n for n in range(low, high + 1, apart)])
        self.plot.yaxis.formatter = NumeralTickFormatter(format="0,0")


FIGURES: dict[str, type[Steps]] = {
    figure.name: figure for figure in (Loss, LossGap, Distance, Cancelled, Flushed, Scale)
}
