"""The figures, by the name that the page's sections and `study.plot` call them."""

from __future__ import annotations

from decodedrift.report.figures.base import Figure
from decodedrift.report.figures.calibration import Calibration
from decodedrift.report.figures.comparisons import Comparisons
from decodedrift.report.figures.curves import Curves
from decodedrift.report.figures.gaps import Gaps
from decodedrift.report.figures.lines import After, Gap, Kl, Path, State
from decodedrift.report.figures.margins import Margins
from decodedrift.report.figures.perplexity import Perplexity
from decodedrift.report.figures.survival import Survival

FIGURES: dict[str, type[Curves]] = {
    figure.name: figure
    for figure in (Survival, Comparisons, Kl, Gap, Margins, Gaps, Calibration, Perplexity, After, State, Path)
}

__all__ = ["FIGURES", "Curves", "Figure"]
