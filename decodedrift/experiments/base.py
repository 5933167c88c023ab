"""What an experiment is. One is a class here, a folder, and a line in EXPERIMENTS; the frame of `runs` does the rest.

Its methods import what they need when they are called: naming an experiment costs neither torch nor pandas. The study
that they take is `study.Study`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from decodedrift.core.progress import Progress
from decodedrift.core.records import Job
from decodedrift.core.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from decodedrift.measure.tables import JobResult
    from decodedrift.runs.gates import Gating


class Experiment(ABC):
    """One thing that can be asked of a model.

    name: its command, and its function in Python. settings: every option, once. tables: the rows that its jobs leave,
    by the names in `measure.tables`. folds: the tables made of them; `summary` is the one that is shown and gated.
    stored: folds that are read back from a run folder and not made again. examples: command lines for its help.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    settings: ClassVar[type[Settings]]
    tables: ClassVar[tuple[str, ...]]
    folds: ClassVar[tuple[str, ...]]
    stored: ClassVar[tuple[str, ...]] = ()
    examples: ClassVar[tuple[str, ...]] = ()

    def check(self, world: Any) -> None:  # noqa: B027 - most have nothing to refuse
        """Refuses what can be known of a World before weights are loaded.

        Raises:
            InputError: it cannot run.
        """

    @abstractmethod
    def execute(self, job: Job, world: Any, progress: Progress, spill: str | None) -> JobResult:
        """Runs one job to its rows; `spill`: the folder in which logits may wait.

        Raises:
            InputError: the reference cannot run; whatever else fails is a row of `failures`.
        """

    @abstractmethod
    def fold(self, name: str, study: Any) -> pd.DataFrame:
        """One of `folds`, from a study's tables alone."""

    @abstractmethod
    def verdict(self, study: Any) -> list[str]:
        """What the run says, in plain sentences with numbers, most important first."""

    @abstractmethod
    def sections(self) -> Mapping[str, Any]:
        """The page's sections, name -> function of (study, options) to what its template needs, in order."""

    @abstractmethod
    def shown(self, study: Any, width: int) -> str:
        """The result as a terminal shows it, at most `width` cells wide."""

    @abstractmethod
    def gating(self, plan: Mapping[str, Any]) -> Gating:
        """What of a run of this plan can be gated."""

    def folded(self, study: Any) -> tuple[list[str], list[str]]:
        """The verdict in two: what a reader sees at once, in which every alarm is, and what a disclosure may hold."""
        return study.verdict, []

    def heat(self, study: Any) -> Sequence[Any]:
        """The tables of a notebook's cell (`report.heat.HeatMap`)."""
        return ()

    def broken(self, study: Any) -> bool:
        """Whether a control failed, so that the run counts as failed."""
        return False

    def title(self, plan: Mapping[str, Any]) -> str:
        """What stands at the top of the page."""
        return f"decodedrift {self.name}"

    def plots(self, study: Any) -> Any:
        """The figures as Bokeh models.

        Raises:
            AttributeError: it draws none.
        """
        raise AttributeError(f"{self.name} has no figures")
