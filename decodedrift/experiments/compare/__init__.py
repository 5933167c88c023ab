"""`compare`: the same prompts through a reference and its candidates, and where and how far they part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError, Job
from decodedrift.experiments.base import Experiment
from decodedrift.experiments.compare.settings import CompareSettings

if TYPE_CHECKING:
    import pandas as pd

    from decodedrift.experiments.study import Study
    from decodedrift.measure.tables import JobResult
    from decodedrift.runs.gates import Gating


class Compare(Experiment):
    """The main experiment."""

    name = "compare"
    about = "Run the same prompts through a reference and its candidates; measure where and how far they part."
    settings = CompareSettings
    tables = (
        "traces", "divergences", "positions", "alternatives", "injection", "steps", "tokens", "timings", "failures",
    )  # fmt: skip
    folds = (
        "perplexity", "distribution", "summary", "survival", "growth", "after", "risk", "comparisons", "flip_law",
        "flip_calibration", "decomposition",
    )  # fmt: skip
    stored = ("perplexity",)
    examples = (
        "decodedrift compare --model gpt2 --candidates bf16,int8 --max-new-tokens 128",
        "decodedrift compare --model ./base --candidates tuned=./tuned --text wiki.txt",
    )

    def check(self, world: Any) -> None:
        """Screening rests on one reading of each text being what generates it."""
        from decodedrift.models.longrope import switch

        plan, at = world.plan, switch(world.checkpoint.config)
        if plan.mode == "screen" and at is not None:
            past = [p for p, ids in world.prompts.items() if len(ids) + plan.max_new_tokens > at.length]
            if past:
                raise InputError(
                    f"--mode screen: prompt {past[0]} and its new tokens pass {at.length} tokens, where the model's "
                    "rotary factors change, and one reading is another function; lower --max-new-tokens or leave "
                    "--mode screen out"
                )

    def execute(self, job: Job, world: Any, progress: Progress, spill: str | None) -> JobResult:
        """One job (`job.py`)."""
        from decodedrift.experiments.compare.job import execute

        return execute(job, world, progress, spill)

    def fold(self, name: str, study: Study) -> pd.DataFrame:
        """A fold (`folds/`)."""
        from decodedrift.experiments.compare.folds import FOLDS

        return FOLDS[name](study)

    def verdict(self, study: Study) -> list[str]:
        """Three to eight sentences (`verdict/`)."""
        from decodedrift.experiments.compare.verdict.sentences import verdict

        return verdict(study)

    def folded(self, study: Study) -> tuple[list[str], list[str]]:
        """All alarms and the first sentences, then the rest."""
        from decodedrift.experiments.compare.verdict.sentences import folded

        return folded(study)

    def sections(self) -> Mapping[str, Any]:
        """The page (`sections/`); the charting library loads with it."""
        from decodedrift.experiments.compare.sections import SECTIONS

        return SECTIONS

    def shown(self, study: Study, width: int) -> str:
        """The summary, and the perplexities."""
        from decodedrift.report.terminal import summary_table

        return summary_table(study, width)

    def gating(self, plan: Mapping[str, Any]) -> Gating:
        """Columns of the summary, by candidate and strategy."""
        from decodedrift.experiments.compare.gating import gating

        return gating(plan)

    def heat(self, study: Study) -> Sequence[Any]:
        """Divergence rates and mean KL."""
        from decodedrift.experiments.compare.heat import heat_maps

        return [m for m in heat_maps(study) if m.name in ("divergence_rate", "kl_mean")]

    def broken(self, study: Study) -> bool:
        """On a CPU a self control that differs; on a GPU that is a finding."""
        from decodedrift.experiments.compare.verdict.sentences import self_control_broken

        device = str(study.environment.get("numerical", {}).get("device", "cpu"))
        return device.startswith("cpu") and self_control_broken(study)

    def title(self, plan: Mapping[str, Any]) -> str:
        """What was held against what: `bf16 and int8 against fp32`."""
        from decodedrift.report.texts import brief

        names = [brief(str(v["name"]), 40) for v in plan.get("candidates", ())]
        if not names:
            return "decodedrift report"
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        sides = f"{len(names)} variants" if len(names) > 4 else listed
        return f"{sides} against {brief(str(plan['reference']['name']), 40)}"

    def plots(self, study: Study) -> Any:
        """`study.plot.margins()` and the others."""
        from decodedrift.experiments.compare.plots import Plots

        return Plots(study)


EXPERIMENT = Compare()
