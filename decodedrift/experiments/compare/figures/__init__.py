"""The figures, by the name that the page's sections and `study.plot` call them; each a function of a Study."""

from __future__ import annotations

from decodedrift.experiments.compare.figures.calibration import calibration
from decodedrift.experiments.compare.figures.comparisons import comparisons
from decodedrift.experiments.compare.figures.decomposition import decomposition
from decodedrift.experiments.compare.figures.gaps import gaps
from decodedrift.experiments.compare.figures.growth import gap, kl
from decodedrift.experiments.compare.figures.lags import after
from decodedrift.experiments.compare.figures.margins import margins
from decodedrift.experiments.compare.figures.perplexity import perplexity
from decodedrift.experiments.compare.figures.survival import survival
from decodedrift.report.figures.base import Figure

__all__ = [
    "Figure", "after", "calibration", "comparisons", "decomposition", "gap", "gaps", "kl", "margins", "perplexity",
    "survival",
]  # fmt: skip
