"""`inject`: one token of a text replaced, and where the text goes from there; drift without any numerical error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError, Job
from decodedrift.experiments.base import Experiment
from decodedrift.experiments.inject.settings import InjectSettings

if TYPE_CHECKING:
    import pandas as pd

    from decodedrift.experiments.study import Study
    from decodedrift.measure.tables import JobResult
    from decodedrift.runs.gates import Gating


class Inject(Experiment):
    """One wrong token, and nothing else."""

    name = "inject"
    about = "Replace one token of the model's own text and see where it goes: drift without any numerical error."
    settings = InjectSettings
    tables = ("traces", "injection", "tokens", "timings", "failures")
    folds = ("summary", "after")
    examples = (
        "decodedrift inject --at 5,20 --max-new-tokens 100",
        'decodedrift inject --model gpt2 --prompt "The ship" --rank 3',
    )

    def check(self, world: Any) -> None:
        """The vocabulary has as many tokens as the rank asks for."""
        if world.plan.rank > world.width:
            raise InputError(f"--rank {world.plan.rank}: the vocabulary has {world.width} tokens")

    def execute(self, job: Job, world: Any, progress: Progress, spill: str | None) -> JobResult:
        """One job (`job.py`)."""
        from decodedrift.experiments.inject.job import execute

        return execute(job, world, progress, spill)

    def fold(self, name: str, study: Study) -> pd.DataFrame:
        """summary: a row per strategy and position. after: agreement with the text as it was, by lag."""
        from decodedrift.measure.trajectory import by_lag, by_position

        return {"summary": by_position, "after": by_lag}[name](study.injection, study.traces)

    def verdict(self, study: Study) -> list[str]:
        """A sentence per strategy and position, and what failed."""
        from decodedrift.experiments.inject.verdict import said_of_run
        from decodedrift.report import failures

        return [*said_of_run(study.summary, study.plan), *failures.said(study.failures)]

    def sections(self) -> Mapping[str, Any]:
        """The page (`sections.py`)."""
        from decodedrift.experiments.inject.sections import SECTIONS

        return SECTIONS

    def shown(self, study: Study, width: int) -> str:
        """The table by strategy and position, and one text beside what became of it."""
        from decodedrift.experiments.inject.texts import one, table

        return "\n\n".join(part for part in (table(study.summary, width), one(study, width)) if part)

    def gating(self, plan: Mapping[str, Any]) -> Gating:
        """Columns of the summary, by strategy and position."""
        from decodedrift.measure.trajectory import BY_POSITION
        from decodedrift.runs.gates import Gating

        keys = ("strategy", "position")
        cells = [(s["label"], str(at)) for s in plan["strategies"] for at in plan["at"]]
        columns = tuple(c for c in BY_POSITION if c not in keys)
        return Gating(keys, cells, columns, lambda row, column: row.get("long_enough") == 0)

    def title(self, plan: Mapping[str, Any]) -> str:
        """What was replaced."""
        at = ", ".join(map(str, plan["at"]))
        return f"One token replaced at position{'s' if len(plan['at']) > 1 else ''} {at}"


EXPERIMENT = Inject()
