"""Several runs as one: their tables below one another, with the run that a row is of in front."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from decodedrift.core.records import InputError, distinct
from decodedrift.core.untrusted import terminal, visible
from decodedrift.experiments.study import Study
from decodedrift.measure.tables import CONTROLS, TEXTS
from decodedrift.report.brief import short

RUN = "run"
COMPARED = ("divergences", "injection", "repeats")  # what holds a row per text, of one experiment or another
SAME = ["model", "reference", "candidate", "variant", "vary", "strategy", "seed", "prompt_id", "position"]


class Stack:
    """Runs of one experiment. Every table of a Study is an attribute, with the column `run` before its own.

    `table()` is the result for a paper, as of a Study.

    studies: by the name of their run. Folds are each run's own: nothing is pooled over runs.
    """

    def __init__(self, studies: Mapping[str, Study]) -> None:
        self.studies = dict(studies)

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name.startswith("_") or "studies" not in self.__dict__:
            raise AttributeError(name)
        if name not in self.tables:
            raise AttributeError(f"there is no table {name!r} in these runs; there is {', '.join(self.tables)}")
        parts = [_named(run, getattr(study, name)) for run, study in self.studies.items()]
        filled = [part for part in parts if len(part)]
        table = pd.concat(filled, ignore_index=True) if filled else parts[0]
        setattr(self, name, table)
        return table

    def table(self) -> pd.DataFrame:
        """`Study.table` of every run, as text, with the run in front."""
        parts = [study.table().assign(Run=run) for run, study in self.studies.items()]
        table = pd.concat(parts, ignore_index=True)
        return table[["Run", *table.columns.drop("Run")]]

    def __repr__(self) -> str:
        """A line per run: its name and its answer."""
        return "\n".join(f"{terminal(run, 40)}: {short(study)}" for run, study in self.studies.items())

    def _repr_html_(self) -> str:
        """`table` for a notebook: escaped, no script."""
        html: str = self.table().map(visible).to_html(index=False, border=0)
        return html

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.tables})

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the tables."""
        return next(iter(self.studies.values())).tables

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """Every table by its name."""
        return {name: getattr(self, name) for name in self.tables}

    @property
    def failed(self) -> bool:
        """Whether anything failed in any run."""
        return any(study.failed for study in self.studies.values())


def concat(studies: Iterable[Study], names: Sequence[str] | None = None) -> Stack:
    """Several studies as one, of other models or other candidates.

    Args:
        names: what to call the runs; without it each is called after its folder, or else its model.

    Raises:
        InputError: none is given; two are of one name, of another experiment or version of the metrics, or hold the
            same comparison.
    """
    several = list(studies)
    if not several or not all(isinstance(study, Study) for study in several):
        raise InputError("concat: give a list of studies, such as [dd.open_study(a), dd.open_study(b)]")
    runs = list(names) if names is not None else [_name(study) for study in several]
    if len(runs) != len(several):
        raise InputError(f"concat: {len(runs)} names for {len(several)} studies; give one each")
    if len(set(runs)) < len(runs) and names is None:
        raise InputError(f"concat: two runs are called {_twice(runs)!r}; tell them apart with names=[...]")
    distinct("names", runs)
    first, *others = zip(runs, several, strict=True)
    for run, study in others:
        _check(first, (run, study))
    _refuse_equal(dict(zip(runs, several, strict=True)))
    return Stack(dict(zip(runs, several, strict=True)))


def _name(study: Study) -> str:
    return study.path.resolve().name if study.path is not None else str(study.plan["model"])


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _check(first: tuple[str, Study], other: tuple[str, Study]) -> None:
    """Two runs can be stacked: the same question, under the same definitions."""
    (a, one), (b, two) = first, other
    if one.experiment.name != two.experiment.name:
        kinds = one.experiment.name, two.experiment.name
        raise InputError(f"concat: {a} is a run of {kinds[0]}, {b} of {kinds[1]}; stack runs of one kind")
    versions = [study.environment.get("metrics_version") for study in (one, two)]
    if versions[0] != versions[1]:
        raise InputError(
            f"concat: {a} was measured by version {versions[0]} of the metrics, {b} by {versions[1]}: their numbers "
            "are not comparable; run one of them again"
        )


def _refuse_equal(studies: Mapping[str, Study]) -> None:
    """No comparison is in it twice; the reference's own texts and controls may be."""
    seen: dict[tuple[Any, ...], str] = {}
    for run, study in studies.items():
        rows = getattr(study, next(name for name in COMPARED if name in study.tables))
        rows = rows[~rows["role"].isin(CONTROLS)] if "role" in rows else rows
        keys = rows[[name for name in SAME if name in rows]].drop_duplicates()
        for key in keys.itertuples(index=False, name=None):
            if (other := seen.setdefault(key, run)) != run:
                of = dict(zip(keys.columns, key, strict=True))
                side = of.get("candidate", of.get("variant"))
                raise InputError(
                    f"concat: {other} and {run} both hold {side} of {of['model']}, {of['strategy']}, "
                    f"prompt {of['prompt_id']}; leave one out"
                )


def _named(run: str, table: pd.DataFrame) -> pd.DataFrame:
    """A table with its run in front."""
    named = table.copy()
    named.insert(0, RUN, pd.Series([run] * len(table), index=table.index, dtype=TEXTS))
    return named
