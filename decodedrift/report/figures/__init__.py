"""The figures, by the name that the page's sections and `study.plot` call them; each a function of a Study."""

from __future__ import annotations

from decodedrift.report.figures.base import Figure
from decodedrift.report.figures.calibration import calibration
from decodedrift.report.figures.comparisons import comparisons
from decodedrift.report.figures.decomposition import decomposition
from decodedrift.report.figures.gaps import gaps
from decodedrift.report.figures.growth import gap, kl
from decodedrift.report.figures.lags import after
from decodedrift.report.figures.margins import margins
from decodedrift.report.figures.perplexity import perplexity
from decodedrift.report.figures.survival import survival

__all__ = [
    "Figure", "after", "calibration", "comparisons", "decomposition", "gap", "gaps", "kl", "margins", "perplexity",
    "survival",
]  # fmt: skip
