"""`study.plot`: the report's figures for a notebook, as Bokeh models that compose (`row`, `column`) and save."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

from decodedrift.experiments.compare.figures import FIGURES, Curves
from decodedrift.experiments.compare.figures.tokens import tokens
from decodedrift.experiments.compare.reader import as_read
from decodedrift.experiments.compare.sections.pictures import CAPTIONS
from decodedrift.report.figures import base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from decodedrift.experiments.study import Study

PARTS = ("state", "path")  # of the error, which `decomposition` chooses between


class Plots(base.Plots):
    """One method a figure. Show one with `bokeh.io.show(study.plot.margins())`, after `output_notebook(INLINE)`.

    Every method raises ValueError where the study holds nothing to draw, naming what is missing, or where a strategy or
    candidate is not in it, listing those that are.
    """

    def decomposition(self, which: str = "state", strategy: str | None = None) -> Any:
        """How the error compounds by position: `state` (its own cache) or `path` (its own text), as a ratio to none."""
        if which not in PARTS:
            raise ValueError(f"no decomposition {which!r}; choices: {', '.join(PARTS)}")
        return _model(FIGURES[which], self._study, strategy)

    def tokens(self, prompt_id: str, candidate: str, strategy: str, seed: int = 0) -> Any:
        """Both texts of one case, token by token, coloured by the margin, with the top alternatives on hover."""
        return tokens(self._study, prompt_id, candidate, strategy, seed)

    def __iter__(self) -> Iterator[tuple[str, str, Any]]:
        """(name, strategy, model) of every figure that has something to draw; no strategy where it has no switch."""
        labels = [str(s["label"]) for s in self._study.plan.get("strategies", ())]
        for name, figure in FIGURES.items():
            for label in labels if figure.switch == "strategy" else [None]:
                try:
                    model = _drawn(figure(self._study, label, notebook=True))
                except ValueError:  # the strategy has none
                    continue
                if model is not None:
                    yield name, label or "", model


def _model(figure: type[Curves], study: Study, choice: str | None = None) -> Any:
    curves = figure(study, choice, notebook=True)
    model = _drawn(curves)
    if model is None:
        raise ValueError(f"this study holds no {figure.what or figure.name} to draw. {curves.scarce}".strip())
    return model


def _drawn(curves: Curves) -> Any:
    """The model, named with what it shows; None where there is nothing to draw."""
    if (drawing := curves.figure()) is None:
        return None
    shown = [base.label(choice) for choice in curves.choices[:1] if choice]
    drawing.model.name = ", ".join([as_read(CAPTIONS[curves.name], curves.study.plan), *shown])
    return drawing.model


def _method(name: str, figure: type[Curves]) -> Callable[..., Any]:
    """A method of Plots that takes what the figure's switch chooses."""
    kind = Parameter.POSITIONAL_OR_KEYWORD
    switch = [Parameter(figure.switch, kind, default=None)] if figure.switch else []
    signature = Signature([Parameter("self", kind), *switch])

    def draw(*args: Any, **named: Any) -> Any:
        plots, *choice = signature.bind(*args, **named).args
        return _model(figure, plots._study, *choice)

    draw.__name__, draw.__doc__, draw.__signature__ = name, figure.__doc__, signature  # type: ignore[attr-defined]
    return draw


for _name in FIGURES.keys() - set(PARTS):
    setattr(Plots, _name, _method(_name, FIGURES[_name]))
