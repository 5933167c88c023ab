"""What an experiment is: a folder, an Experiment that names its parts, a line in EXPERIMENTS; `runs` does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import Job
from decodedrift.core.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from decodedrift.measure.tables import JobResult
    from decodedrift.report.case import Case
    from decodedrift.runs.gates import Gating


@dataclass(frozen=True)
class _Later:
    """A function that is imported when it is first called: an experiment is named without torch or pandas."""

    where: str

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        import importlib

        module, _, name = self.where.partition(":")
        return getattr(importlib.import_module(f"decodedrift.{module}"), name)(*arguments, **named)


def later(where: str) -> Callable[..., Any]:
    """The function at MODULE:NAME, as one that can be sent to another process."""
    return _Later(where)


FORECAST = later("runs.forecast:forecast")  # of what decodes prompts


@dataclass(frozen=True)
class Experiment:
    """One thing that can be asked of a model. A study is a `study.Study`, a plan what plan.json holds.

    name: its command, and its function in Python. about: in a sentence. settings: every option, once. tables: the rows
    that its jobs leave, by their names in `measure.tables`; folds: () -> the tables made of them, name -> function of a
    study, of which `summary` is shown and gated. stored: folds that are read back from a run folder and not made again.
    examples: for its help.

    execute: (job, world, progress, folder for waiting logits) -> rows; raises InputError where the reference cannot
    run, and whatever else fails is a row. verdict: study -> plain sentences with numbers, the most important first.
    sections: () -> the page's, name -> function. shown: (study, width, all of it?) -> the result on a terminal, with
    what matters of the verdict. gating: plan -> what can be gated.

    check: refuses what a World shows before weights are loaded. title: plan -> what stands at the top of the page.
    folded: study -> the verdict in two, what a reader sees at once with every alarm in it, and the rest. heat: study ->
    the tables of a notebook's cell. broken: study -> whether a control failed. plots: study -> figures as Bokeh models.
    answers: study -> what verdict.json and `--json` say beside the sentences, by key. beside: (study, study, names=,
    title=, texts=) -> a page on two runs; None where two cannot be held side by side. forecast: what a Prepared would
    do, in what memory and about how long.

    plain: words -> what its command shows where no option asks for a run, as text and as data for `--json`; such a
    command takes words.

    table: study -> the result in seven columns of text, for a paper. brief: study -> what must be read first, the
    answer in a line a candidate, and a few sentences besides. case: (study, {column: value}) -> a `report.case.Case`;
    of several that one which is easiest to read.
    """

    name: str
    about: str
    settings: type[Settings]
    tables: tuple[str, ...]
    folds: Callable[[], Mapping[str, Callable[[Any], pd.DataFrame]]]
    execute: Callable[[Job, Any, Progress, str | None], JobResult]
    verdict: Callable[[Any], list[str]]
    sections: Callable[[], Mapping[str, Any]]
    shown: Callable[[Any, int, bool], str]
    gating: Callable[[Mapping[str, Any]], Gating]
    title: Callable[[Mapping[str, Any]], str]
    table: Callable[[Any], pd.DataFrame]
    brief: Callable[[Any], tuple[list[str], list[str], list[str]]]
    case: Callable[[Any, Mapping[str, Any]], Case]
    stored: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    check: Callable[[Any], None] = lambda world: None
    folded: Callable[[Any], tuple[list[str], list[str]]] = lambda study: (study.verdict, [])
    heat: Callable[[Any], Sequence[Any]] = lambda study: ()
    broken: Callable[[Any], bool] = lambda study: False
    plots: Callable[[Any], Any] = lambda study: None
    answers: Callable[[Any], Mapping[str, Any]] = lambda study: {}
    beside: Callable[..., str] | None = None
    forecast: Callable[[Any], str] = FORECAST
    plain: Callable[[Sequence[str]], tuple[str, Any]] | None = None
