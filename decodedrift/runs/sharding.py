"""One of several runs that share a plan's jobs: which are its own, and what its folder says of itself.

A job's key and size are the plan's alone, so that every shard cuts the plan into the same jobs, wherever it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decodedrift.core.notation import shard_numbers
from decodedrift.core.records import InputError, Job
from decodedrift.core.settings import Settings

MERGE = "decodedrift merge SHARD... --out NEW"


@dataclass(frozen=True)
class Shard:
    """What the folder of a shard holds. name: as asked, `2/3`. every: keys of the whole plan's jobs, in their order.

    finished: those of the shard's own that are on disk. words: whether the merged run will hold texts.
    """

    path: Path
    name: str
    every: tuple[str, ...]
    finished: frozenset[str]
    words: bool = True

    @property
    def own(self) -> tuple[str, ...]:
        """The keys of its jobs."""
        return self.every[slice_of(self.name)]

    @property
    def missing(self) -> list[str]:
        """Those of its jobs that have not finished."""
        return [key for key in self.own if key not in self.finished]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to run here."""
        return bool(self.every) and not self.missing

    def __str__(self) -> str:
        """One line: how many of how many jobs are done, and what comes next."""
        done = f"{len(self.own) - len(self.missing)} of its {len(self.own)} jobs are done, of {len(self.every)} in all"
        after = f"once every shard is done: {MERGE}" if self.complete else f"go on with: decodedrift resume {self.path}"
        kept = "" if self.words else "; it holds texts, which the merged run will not: delete it then"
        return f"{self.path}: shard {self.name} of a run, {done}; {after}{kept}"


def slice_of(shard: str) -> slice:
    """Of all jobs those of one shard: every n-th from the i-th on."""
    index, count = shard_numbers(shard)
    return slice(index - 1, None, count)


def own_jobs(plan: Settings, jobs: Sequence[Job]) -> list[Job]:
    """The jobs that this run carries out: all, or those of its shard.

    Raises:
        InputError: there are more shards than jobs.
    """
    if plan.shard is None:
        return list(jobs)
    if (count := shard_numbers(plan.shard)[1]) > len(jobs):
        raise InputError(
            f"--shard {plan.shard}: the run has {len(jobs)} job{'s' * (len(jobs) != 1)}, fewer than {count} shards; "
            f"ask for fewer shards, or {plan.finer}"
        )
    return list(jobs[slice_of(plan.shard)])


def check_shard(plan: Settings) -> None:
    """Refuses a shard of what every shard would ask anew.

    Raises:
        InputError: an endpoint among the variants.
    """
    if plan.shard is not None and (asked := [v.name for v in plan.variants if v.endpoint]):
        raise InputError(
            f"--shard: {asked[0]} is an endpoint, which every shard would ask for all its texts; record it once "
            f"(decodedrift record --endpoint URL) and give the file: {asked[0]}=FILE"
        )


def refuse_shard(folder: Path, plan: Mapping[str, Any], unfinished: Mapping[str, Any]) -> None:
    """Says of a shard what it is, where a whole run is wanted.

    Raises:
        InputError: the folder holds a shard.
    """
    if (shard := shard_in(folder, plan, unfinished)) is not None:
        raise InputError(str(shard))


def shard_in(folder: Path, plan: Mapping[str, Any], unfinished: Mapping[str, Any]) -> Shard | None:
    """What a folder says of itself, by its plan.json and unfinished.json; None where it holds no shard.

    Raises:
        InputError: the plan's shard is none, or a file is gone that was there before its jobs.
    """
    from decodedrift.runs.places import MARK, RAN_ON, UNFINISHED, where  # which knows the tables, and with them pandas

    name = plan.get("shard")
    if name is None:
        return None
    try:
        shard_numbers(name)
    except ValueError as error:
        raise InputError(f"{where(folder, MARK)}: shard {error}") from None
    every = unfinished.get("jobs")
    keys = tuple(map(str, every)) if isinstance(every, list) else ()
    finished = frozenset(p.name for p in where(folder, "jobs").glob("*") if p.suffix != ".part")
    if finished and (lost := [p for n in (RAN_ON, UNFINISHED) if not (p := where(folder, n)).is_file()]):
        raise InputError(f"{lost[0]}: missing, without which the jobs beside it tell nothing; "
                         f"put it back, or run shard {name} again in a new folder")  # fmt: skip
    return Shard(folder, str(name), keys, finished, not plan.get("no_text"))
