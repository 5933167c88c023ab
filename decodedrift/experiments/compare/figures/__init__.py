"""The figures, by the name that the page's sections and `study.plot` call them."""

from __future__ import annotations

from decodedrift.experiments.compare.figures.calibration import Calibration
from decodedrift.experiments.compare.figures.comparisons import Comparisons
from decodedrift.experiments.compare.figures.gaps import Gaps
from decodedrift.experiments.compare.figures.lines import After, Gap, Kl, Path, State
from decodedrift.experiments.compare.figures.margins import Margins
from decodedrift.experiments.compare.figures.perplexity import Perplexity
from decodedrift.experiments.compare.figures.survival import Survival
from decodedrift.experiments.compare.figures.where import Where
from decodedrift.report.figures.base import Figure
from decodedrift.report.figures.curves import Curves

FIGURES: dict[str, type[Curves]] = {
    figure.name: figure
    for figure in (Survival, Comparisons, Kl, Gap, Margins, Gaps, Calibration, Perplexity, After, State, Path, Where)
}

__all__ = ["FIGURES", "Curves", "Figure"]
