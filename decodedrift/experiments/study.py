"""A Study: all frames of one run with its plan and environment, and what one asks of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from decodedrift.core.formats import path_of
from decodedrift.core.records import Plan
from decodedrift.experiments.compare.folds import decomposition, summary
from decodedrift.experiments.compare.verdict.sentences import self_control_broken, verdict
from decodedrift.measure import trajectory
from decodedrift.measure.tables import TABLES, typed
from decodedrift.runs import runfolder

UNREAD = typed(pd.DataFrame(), "alternatives")


@dataclass
class Study:
    """What a run found. Every attribute is a DataFrame whose columns are METRICS.md's.

    traces, divergences, positions, alternatives, injection, steps, tokens, timings, failures: tidy rows, keys first.
    summary, distribution, perplexity, survival, growth, after, risk, comparisons, flip_law, flip_calibration,
    decomposition: folds of them. plan and environment: what was asked and what it ran on, JSON-ready.
    """

    traces: pd.DataFrame
    divergences: pd.DataFrame
    positions: pd.DataFrame
    timings: pd.DataFrame
    failures: pd.DataFrame
    perplexity: pd.DataFrame
    plan: Mapping[str, Any]
    environment: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    alternatives: pd.DataFrame = field(default_factory=lambda: UNREAD, repr=False)
    injection: pd.DataFrame = field(default_factory=lambda: typed(pd.DataFrame(), "injection"))
    steps: pd.DataFrame = field(default_factory=lambda: typed(pd.DataFrame(), "steps"))
    tokens: pd.DataFrame = field(default_factory=lambda: typed(pd.DataFrame(), "tokens"))

    def __post_init__(self) -> None:
        if self.alternatives is UNREAD:
            del self.alternatives

    def __getattr__(self, name: str) -> Any:
        """Reads the alternatives of a run in a folder when they are first asked for: they are many."""
        if name != "alternatives":
            raise AttributeError(f"a Study has no {name!r}")
        nowhere = self.path is None
        self.alternatives = UNREAD.copy() if nowhere else runfolder.read_parts(Path(str(self.path)), name)
        return self.alternatives

    def alternatives_of(self, prompt_ids: Collection[str]) -> pd.DataFrame:
        """The alternatives of a few prompts, without reading the others'."""
        if "alternatives" not in self.__dict__ and self.path is not None:
            return runfolder.read_parts(self.path, "alternatives", prompt_ids)
        return self.alternatives[self.alternatives["prompt_id"].isin(list(prompt_ids))]

    @classmethod
    def of(
        cls,
        frames: Mapping[str, pd.DataFrame],
        plan: Plan,
        environment: Mapping[str, Any],
        scored_bytes: Mapping[str, int | None],
    ) -> Study:
        """A Study from the concatenated rows of all jobs."""
        held = {t: frames[t] if t in frames else typed(pd.DataFrame(), t) for t in TABLES if t != "alternatives"}
        held |= {t: frames[t] for t in ("alternatives",) if t in frames}
        met = held["tokens"].drop_duplicates("token_id")  # several jobs meet the same ones
        held["tokens"] = met.sort_values("token_id", ignore_index=True)
        perplexity = summary.perplexity(held["positions"], scored_bytes)
        return cls(**held, perplexity=perplexity, plan=plan.as_dict(), environment=environment)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """A row per compared variant x strategy."""
        table = summary.summarize(self.divergences, self.positions, self.traces)
        table = folds().in_summary(table, self.risk)
        extra = ((trajectory, self.injection), (decomposition, self.steps))
        return summary.widened(table, [(module.SUMMARY, module.pooled, rows) for module, rows in extra])

    @cached_property
    def distribution(self) -> pd.DataFrame:
        """llama.cpp's figures per compared variant x strategy, whole and by the reference's confidence."""
        return summary.distribution(self.positions)

    @cached_property
    def survival(self) -> pd.DataFrame:
        """Kaplan-Meier: the share of traces still with the reference, a row per position of each cell."""
        return folds().survival(self.divergences, prediction().survival(self._judged))

    @cached_property
    def growth(self) -> pd.DataFrame:
        """The forced logit error against position."""
        return folds().growth(self.positions)

    @cached_property
    def after(self) -> pd.DataFrame:
        """Agreement by lag after the first divergence, and after a replaced token (role `injected`)."""
        parts = [folds().after(self.divergences, self.traces), trajectory.by_lag(self.injection, self.traces)]
        filled = [part for part in parts if len(part)]
        return pd.concat(filled, ignore_index=True) if filled else parts[0]

    @cached_property
    def decomposition(self) -> pd.DataFrame:
        """Local, state and path error per compared candidate, strategy and position (`--decompose`)."""
        return decomposition.fold_positions(self.steps)

    @cached_property
    def risk(self) -> pd.DataFrame:
        """A row per cell: hazard, half-life, compounding index, growth slope, agreement, with their intervals."""
        return folds().risk(self.divergences, self.positions, self.traces)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """Which of two candidates leaves the reference first, paired by prompt."""
        return folds().comparisons(self.divergences)

    @cached_property
    def _judged(self) -> list[Any]:
        """The flip law's view of each candidate and strategy."""
        cells: list[Any] = prediction().judged(self.divergences, self.positions)
        return cells

    @cached_property
    def flip_law(self) -> pd.DataFrame:
        """How well laws of the flip, learnt on forced positions of other prompts, foretell what generation did."""
        return prediction().flip_law(self._judged)

    @cached_property
    def flip_calibration(self) -> pd.DataFrame:
        """Predicted chances against the share that flipped."""
        return prediction().calibration(self._judged)

    @cached_property
    def verdict(self) -> list[str]:
        """Three to six plain sentences with numbers."""
        return verdict(self)

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """Every table by the name of its file."""
        names = dict.fromkeys((*TABLES, *runfolder.CSV_TABLES))
        return {name: getattr(self, name) for name in names}

    @property
    def failed(self) -> bool:
        """Whether anything failed: a variant, a prompt, or on a CPU the self control (on a GPU that is a finding)."""
        device = str(self.environment.get("numerical", {}).get("device", "cpu"))
        return len(self.failures) > 0 or (device.startswith("cpu") and self_control_broken(self))

    @property
    def words(self) -> bool:
        """Whether its files hold prompts, texts and tokens (`--no-text`: they do not)."""
        return not self.plan.get("no_text")

    def save(self, folder: str | Path) -> Path:
        """Writes the run folder (a new one): tables, plan, environment, verdict and report; returns its path."""
        with runfolder.RunFolder.create(folder) as made:
            made.write_json(runfolder.MARK, self.plan)
            self.write(made)
        return made.path

    def write(self, folder: runfolder.RunFolder) -> None:
        """Writes everything but plan.json into a run folder; environment.json last, with which the run is finished."""
        from decodedrift.report import render

        elsewhere = runfolder.UNFOLDED if folder.finished_jobs() else ()  # the jobs' own files are taken as they are
        names = [n for n in dict.fromkeys((*TABLES, *runfolder.CSV_TABLES)) if n not in elsewhere]
        folder.write_tables({n: getattr(self, n) for n in names}, self.words)
        self.path = folder.path
        folder.write_text("verdict.txt", "\n".join(self.verdict) + "\n")
        folder.write_text("report.html", render(self, texts=self.words))
        if not self.words:
            folder.drop_jobs()
        folder.finish(self.environment)

    def to_html(self, title: str | None = None) -> str:
        """The report as one self-contained page."""
        from decodedrift.report import render

        return render(self, title=title, texts=self.words)

    @property
    def plot(self) -> Any:
        """The report's figures as Bokeh models: `study.plot.margins()`; see `report.plot.Plots`."""
        from decodedrift.experiments.compare.plot import Plots

        return Plots(self)

    def _repr_html_(self) -> str:
        """Verdict and heat table for a notebook: escaped, no script."""
        from decodedrift.experiments.compare.notebook import snippet

        return snippet(self)


def folds() -> ModuleType:
    """`compounding`, not before a figure is asked for: its statistics take most of a second to import."""
    from decodedrift.experiments.compare.folds import compounding

    return compounding


def prediction() -> ModuleType:
    """`prediction`, as late."""
    from decodedrift.experiments.compare.folds import prediction as module

    return module


def open_study(folder: str | Path) -> Study:
    """Reads a finished run's folder back; needs no torch.

    Raises:
        InputError: not a run folder, or the run did not finish.
    """
    frames, plan, environment = runfolder.open_folder(folder)
    held = {t: frames[t] for t in TABLES if t not in runfolder.UNFOLDED}  # these are read when they are asked for
    study = Study(**held, perplexity=frames["perplexity"], plan=plan, environment=environment)
    study.path = path_of(folder)
    study.__dict__.update({name: frames[name] for name in runfolder.FOLDS if name in frames})
    return study
