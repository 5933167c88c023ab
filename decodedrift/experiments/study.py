"""A Study: all tables of one run with its plan and environment, and what one asks of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.core.formats import path_of
from decodedrift.core.memory import give_back
from decodedrift.core.records import InputError
from decodedrift.core.settings import Settings
from decodedrift.experiments import experiment
from decodedrift.experiments.base import Experiment
from decodedrift.measure.tables import PARTS, UNFOLDED, typed
from decodedrift.runs import partfiles, runfolder, tablefiles
from decodedrift.runs.jobfiles import content
from decodedrift.runs.places import MARK, README, VERDICT, contents, where
from decodedrift.runs.runfolder import RunFolder

if TYPE_CHECKING:
    from decodedrift.report.case import Case

HELD = 100_000  # rows of a table up to which it is kept once it was read; of a longer one columns are read by who asks


class Study:
    """What a run left. Every table is an attribute, a DataFrame with the columns of docs/metrics.md.

    Rows of a `compare`: traces, divergences, positions, alternatives, judged, injection, steps, tokens, timings,
    failures. Folds: answer, summary, certificate, distribution, perplexity, survival, growth, after, risk, comparisons,
    flip_law, flip_calibration, decomposition. Of an `inject`: traces, injection, tokens, timings, failures; summary and
    after. Of a `repeat`: repeats, spread, routing, tokens, timings, failures; summary, unique, by_length. Of `formats`:
    tensors, roundings, binades, timings, failures; summary, kinds, formats, ranges. `dir` lists them.

    plan and environment: what was asked and what it ran on, JSON-ready. path: its folder, None while it has none.
    """

    def __init__(
        self,
        rows: Mapping[str, pd.DataFrame],
        plan: Mapping[str, Any],
        environment: Mapping[str, Any] | None = None,
        path: Path | None = None,
    ) -> None:
        """rows: tables by name; folds among them are taken as they are, tables that are missing are empty."""
        self.plan, self.environment, self.path = plan, environment or {}, path
        self.experiment: Experiment = experiment(experiment_of(plan))
        for name, frame in rows.items():
            if name in self.experiment.tables or name in self.experiment.folds():
                setattr(self, name, frame)
            elif len(frame):
                raise ValueError(
                    f"{self.experiment.name} lists no table {name!r}, and there are {len(frame)} rows of it"
                )

    def __getattr__(self, name: str) -> Any:
        """A table that has not been asked for yet: folded, or read where it is too long to be read at once."""
        if name.startswith("_") or "experiment" not in self.__dict__:
            raise AttributeError(name)
        if name in (folds := self.experiment.folds()):
            table = folds[name](self)
        elif name not in self.experiment.tables:
            raise AttributeError(
                f"a study of {self.experiment.name!r} has no {name!r}; it has {', '.join(self.tables)}"
            )
        elif name in PARTS and self.path is not None:
            table = partfiles.read_parts(self.path, name)
        else:
            table = typed(pd.DataFrame(), name)
        setattr(self, name, table)
        return table

    def __getstate__(self) -> dict[str, Any]:
        """Without the experiment, whose functions cannot be pickled and whose name is in the plan."""
        return {name: value for name, value in self.__dict__.items() if name != "experiment"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.experiment = experiment(experiment_of(self.plan))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.tables})

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of its tables, rows first."""
        return tuple(dict.fromkeys((*self.experiment.tables, *self.experiment.folds())))

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """Every table by the name of its file."""
        return {name: getattr(self, name) for name in self.tables}

    def columns_of(self, table: str, columns: Sequence[str], prompt_ids: Collection[str] | None = None) -> pd.DataFrame:
        """Some columns of a table, of all prompts or a few. What is long and on disk is read for this alone."""
        if self._on_disk(table) and self.path and self.length_of(table) > HELD:
            give_back()
            return partfiles.read_parts(self.path, table, prompt_ids, columns)
        frame: pd.DataFrame = getattr(self, table)
        if prompt_ids is not None:
            frame = frame[frame["prompt_id"].isin(list(prompt_ids))]
        return frame[list(columns)]

    def length_of(self, table: str) -> int:
        """How many rows a table has, without reading what is long."""
        if not self._on_disk(table) or self.path is None:
            return len(getattr(self, table))
        lengths: dict[str, int] = self.__dict__.setdefault("_lengths", {})
        if table not in lengths:
            lengths[table] = partfiles.length_of_parts(self.path, table)
        return lengths[table]

    def _on_disk(self, table: str) -> bool:
        return table in PARTS and table not in self.__dict__ and self.path is not None

    def alternatives_of(self, prompt_ids: Collection[str]) -> pd.DataFrame:
        """The alternatives of a few prompts, without reading the others'."""
        if "alternatives" not in self.__dict__ and self.path is not None:
            return partfiles.read_parts(self.path, "alternatives", prompt_ids)
        frame: pd.DataFrame = self.alternatives
        return frame[frame["prompt_id"].isin(list(prompt_ids))]

    @property
    def verdict(self) -> list[str]:
        """Plain sentences with numbers."""
        if "_verdict" not in self.__dict__:
            self._verdict = self.experiment.verdict(self)
        return self._verdict

    @property
    def failed(self) -> bool:
        """Whether anything failed: a variant, a prompt, or a control."""
        return len(self.failures) > 0 or self.experiment.broken(self)

    @property
    def words(self) -> bool:
        """Whether its files hold prompts, texts and tokens (`--no-text`: they do not)."""
        return not self.plan.get("no_text")

    def save(self, folder: str | Path) -> Path:
        """Writes the run folder (a new one): tables, plan, environment, verdict and report; returns its path."""
        tablefiles.refuse_foreign(self.__dict__)
        with RunFolder.create(folder) as run:
            run.write_json(MARK, self.plan)
            self.write(run)
        return run.path

    def write(self, folder: RunFolder) -> None:
        """Writes everything but plan.json into a run folder; environment.json last, with which the run is finished."""
        elsewhere = PARTS if folder.finished_jobs() else ()  # these are taken as they are, and read where they lie
        self.path = folder.path if elsewhere else self.path
        folder.write_tables({n: None if n in elsewhere else getattr(self, n) for n in self.tables}, self.words)
        self.path = folder.path
        folder.write_text("verdict.txt", "\n".join(self.verdict) + "\n")
        folder.write_json(VERDICT, {**self.experiment.answers(self), "verdict": self.verdict})
        folder.write_text("report.html", (self if self.words else self._without_words(elsewhere)).to_html())
        if not self.words:
            folder.drop_jobs()
        self.write_readme(folder)
        folder.finish(self.environment)

    def _without_words(self, elsewhere: Collection[str]) -> Study:
        """As it is read back where it keeps no texts: its page then is what `decodedrift report` makes of it again."""
        rows = {n: tablefiles.without_words(getattr(self, n), n) for n in self.tables if n not in elsewhere}
        study = Study(rows, self.plan, self.environment, self.path)
        study._verdict = self.verdict
        return study

    def write_readme(self, folder: RunFolder) -> None:
        """README.txt, of the files that are there now."""
        tables = (*self.experiment.folds(), *self.experiment.tables)
        folder.write_text(README, contents(folder.path, self.experiment.name, tables, self.words))

    def to_html(self, title: str | None = None, *, top: int | None = None, texts: bool = True) -> str:
        """The report as one self-contained page.

        Args:
            title: what stands at the top; None says what was run.
            top: how many cases the page carries; None takes as many as fit.
            texts: False leaves out every prompt, continuation and token.
        """
        from decodedrift.report.html import Options, render

        sections = self.experiment.sections()
        return render(self, sections, title or self.experiment.title(self.plan), Options(top, texts and self.words))

    @property
    def plot(self) -> Any:
        """The report's figures as Bokeh models: `study.plot.margins()`.

        Raises:
            InputError: the experiment draws none.
        """
        if (plots := self.experiment.plots(self)) is None:
            raise InputError(f"a run of {self.experiment.name} has no figures; its tables are {', '.join(self.tables)}")
        return plots

    def table(self) -> pd.DataFrame:
        """The result for a paper: seven columns of text with intervals and units, a row per line of the summary."""
        return self.experiment.table(self)

    def to_markdown(self) -> str:
        """`table` as a GitHub-flavoured Markdown table; nothing in it is markup."""
        from decodedrift.report.markup import markdown_table

        return markdown_table(self.table())

    def to_latex(self) -> str:
        r"""`table` as a LaTeX `tabular`, escaped; it needs `\\usepackage{booktabs}`."""
        from decodedrift.report.markup import latex_table

        return latex_table(self.table())

    def case(
        self,
        prompt_id: str | None = None,
        candidate: str | None = None,
        strategy: str | None = None,
        *,
        seed: int | None = None,
        position: int | None = None,
    ) -> Case:
        """Two texts and where they part, for a notebook's cell or to `print`; what is left open is chosen for reading.

        Args:
            position: of an `inject`, which token was replaced.

        Raises:
            InputError: there is no such case (the message lists the choices), or no texts were kept.
        """
        named = {"prompt_id": prompt_id, "candidate": candidate, "strategy": strategy, "seed": seed}
        named["position"] = position
        return self.experiment.case(self, {name: value for name, value in named.items() if value is not None})

    def figure(self, name: str, *choice: str) -> Any:
        """A figure of the page, with the same values, as a matplotlib Figure: `study.figure("survival").savefig(...)`.

        Args:
            name: as in `study.plot`.
            choice: what that method takes, such as a strategy.

        Raises:
            InputError: no such figure, nothing to draw, or matplotlib is not installed.
        """
        from decodedrift.report.still import still

        return still(self.plot, name, *choice)

    def save_figures(self, folder: str | Path, format: str = "svg") -> list[Path]:
        """Every figure that has something to show as `NAME.svg` (or png, pdf) in a folder; the files.

        Raises:
            InputError: no such format, the folder cannot be written, or matplotlib is not installed.
        """
        from decodedrift.report.still import save

        return save(self.plot, path_of(folder), format)

    def __repr__(self) -> str:
        """What was run, and what it came to."""
        from decodedrift.report.brief import heading, short

        return f"{heading(self)}\n{short(self)}"

    def _repr_html_(self) -> str:
        """Verdict and the most telling table for a notebook: escaped, no script."""
        from decodedrift.report.notebook import snippet

        return snippet(self, self.experiment.heat(self))


def experiment_of(plan: Mapping[str, Any]) -> str:
    """The name of the experiment that a plan is of; plans of version 0.1.0 do not say it."""
    return str(plan.get("experiment") or ("inject" if "at" in plan else "compare"))


def open_study(folder: str | Path) -> Study:
    """Reads a finished run's folder back, of any experiment; needs no torch.

    Raises:
        InputError: not a run folder, or the run did not finish.
    """
    path = path_of(folder)
    stored = runfolder.open_stored(path)
    kind = experiment(experiment_of(stored.plan))
    own = kind.settings.model_fields.keys() - Settings.model_fields.keys()
    if "experiment" in stored.plan and own and not own & stored.plan.keys():
        raise InputError(
            f"{where(path, MARK)}: its experiment is {kind.name}, and it has none of {kind.name}'s own settings; "
            "put back what the run wrote"
        )
    folds = tuple(kind.folds()) if stored.plan.get("no_text") else kind.stored  # without tokens none is made again
    frames = tablefiles.read_tables(path, [t for t in (*kind.tables, *folds) if t not in UNFOLDED])
    study = Study(frames, stored.plan, stored.environment, path)
    if not study.words and (file := where(path, VERDICT)).is_file():
        study._verdict = content(file)["verdict"]
    return study
