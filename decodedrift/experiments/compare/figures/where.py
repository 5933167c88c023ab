"""How far the hidden states are apart, layer by layer."""

from __future__ import annotations

import pandas as pd

from decodedrift.report.figures.curves import Curves


class Where(Curves):
    """Error of the hidden states over their size after every layer, log scale, with 95 % intervals over prompts."""

    name = table = "where"
    file, along, switch = "where.csv", "depth", ""
    keys = ("candidate",)
    labels, height = ("layer (-1: embedding; the last two: before the head, logits)", "error / hidden states"), 300
    x, y, band = "depth", "rms_ratio", ("_low", "_high")
    columns = ("depth", "module", "rms_ratio", "rms_ratio_low", "rms_ratio_high", "error_max")
    positive = (("low", "rms_ratio_low"), ("high", "rms_ratio_high"))
    hover = (("", "$name"), ("after", "@module"), ("error", "@rms_ratio{%.4g}"),
             ("95 %", "@rms_ratio_low{%.4g} – @rms_ratio_high{%.4g}"), ("largest", "@error_max{%.4g}"))  # fmt: skip

    def _read(self) -> pd.DataFrame:
        rows = super()._read()
        return rows[rows["rms_ratio"] > 0]
