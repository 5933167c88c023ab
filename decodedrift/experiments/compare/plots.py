"""`study.plot`: the report's figures for a notebook, as Bokeh models that compose (`row`, `column`) and save."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decodedrift.experiments.compare.figures import Figure
    from decodedrift.experiments.study import Study


class Plots:
    """One method a figure. Show one with `bokeh.io.show(study.plot.margins())`, after `output_notebook(INLINE)`.

    Every method raises ValueError where the study holds nothing to draw, naming what is missing, or where a strategy or
    candidate is not in it, listing those that are.
    """

    def __init__(self, study: Study) -> None:
        self._study = study

    def survival(self, strategy: str | None = None) -> Any:
        """Kaplan-Meier curves of the first divergence, with bands and numbers at risk; default: the first strategy."""
        return self._one("survival", strategy)

    def comparisons(self, strategy: str | None = None) -> Any:
        """Which of two candidates leaves the reference first, pair by pair, with p-values."""
        return self._one("comparisons", strategy)

    def kl(self, strategy: str | None = None) -> Any:
        """Mean KL in nats by position, log scale, the noise floor dotted."""
        return self._one("kl", strategy)

    def gap(self, strategy: str | None = None) -> Any:
        """Median rms logit gap by position with its 10 % to 90 % band, log scale."""
        return self._one("gap", strategy)

    def margins(self, strategy: str | None = None) -> Any:
        """Distribution of the reference's margin at all forced positions and at first divergences."""
        return self._one("margins", strategy)

    def calibration(self, strategy: str | None = None) -> Any:
        """Observed share of flips against the chance that the flip law gave, log-log, with 95 % intervals."""
        return self._one("calibration", strategy)

    def after(self, strategy: str | None = None) -> Any:
        """Agreement by lag after the first divergence."""
        return self._one("after", strategy)

    def decomposition(self, which: str = "state", strategy: str | None = None) -> Any:
        """How the error compounds by position: `state` (its own cache) or `path` (its own text), as a ratio to none."""
        from decodedrift.experiments.compare import figures
        from decodedrift.experiments.compare.figures.decomposition import FIGURES

        if which not in FIGURES:
            raise ValueError(f"no decomposition {which!r}; choices: {', '.join(FIGURES)}")
        found = figures.decomposition(self._study, which, strategy)
        chosen = strategy or (found.choices[0] if found else None)
        return _drawn(figures.decomposition(self._study, which, chosen, notebook=True), "decomposition")

    def gaps(self, candidate: str | None = None) -> Any:
        """Reference gap against swing at each first divergence, by cause; one candidate or all."""
        names = [str(v["name"]) for v in self._study.plan.get("candidates", ())]
        if candidate is not None and candidate not in names:
            raise ValueError(f"no candidate {candidate!r}; choices: {', '.join(names)}")
        from decodedrift.experiments.compare import figures

        return _drawn(figures.gaps(self._study, candidate, notebook=True), "first divergences with a gap")

    def perplexity(self) -> Any:
        """ln of the perplexity ratio with paired 95 % intervals, by text and by strategy."""
        from decodedrift.experiments.compare import figures

        return _drawn(figures.perplexity(self._study, notebook=True), "perplexities")

    def tokens(self, prompt_id: str, candidate: str, strategy: str, seed: int = 0) -> Any:
        """Both texts of one case, token by token, coloured by the margin, with the top alternatives on hover."""
        from decodedrift.experiments.compare.figures.tokens import tokens

        return tokens(self._study, prompt_id, candidate, strategy, seed)

    def _one(self, name: str, strategy: str | None) -> Any:
        from decodedrift.experiments.compare import figures

        draw: Callable[..., Figure | None] = getattr(figures, name)
        if strategy is None:  # a notebook's figure shows one, and has no switch
            found = draw(self._study)
            strategy = found.choices[0] if found else None
        return _drawn(draw(self._study, strategy, notebook=True), name)


def _drawn(figure: Figure | None, what: str) -> Any:
    if figure is None:
        raise ValueError(f"this study holds no {what} to draw")
    return figure.model
