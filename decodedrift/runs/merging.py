"""`decodedrift merge`: the jobs of all shards in one new folder, once they are found to be those of one run."""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decodedrift.core.files import linked, sync, writing
from decodedrift.core.formats import path_of
from decodedrift.core.notation import shard_numbers
from decodedrift.core.records import InputError
from decodedrift.core.settings import Settings
from decodedrift.measure.tables import Gathered
from decodedrift.runs.differences import MOST, shortly
from decodedrift.runs.jobfiles import read_jobs
from decodedrift.runs.places import DATA, KEPT, MARK, where
from decodedrift.runs.resume import differing
from decodedrift.runs.runfolder import RunFolder, Stored
from decodedrift.runs.sharding import Shard, shard_in

SIZES = {"batch_size": "--batch-size", "prompts_per_job": "--prompts-per-job"}  # what is fitted to a machine's memory
OWN = (DATA, "tables")  # folders of which a merged run makes its own


@dataclass(frozen=True)
class Merger:
    """The shards of one run, in their order, and what the run is: plan, environment and what a resume needs."""

    shards: tuple[Shard, ...]
    stored: Stored

    def read(self) -> Gathered:
        """The rows of all jobs, in their order.

        Raises:
            InputError: a job cannot be read; names its file, in the shard.
        """
        folders = {key: where(shard.path, "jobs") / key for shard in self.shards for key in shard.own}
        return read_jobs({key: folders[key] for key in self.shards[0].every})

    def fill(self, folder: RunFolder) -> None:
        """Begins the run in its folder and takes every job into it; from then on the folder could also be resumed.

        Raises:
            InputError: the folder cannot be written.
        """
        folder.begin(self.stored.plan, self.stored.environment, self.stored.unfinished)
        jobs = folder.file("jobs")
        with writing(jobs):
            jobs.mkdir()
        for shard in self.shards:
            for key in shard.own:
                _take(where(shard.path, "jobs") / key, jobs / key)
            if (kept := where(shard.path, KEPT)).is_dir():
                _take(kept, folder.file(KEPT))
            for further in sorted(p for p in shard.path.iterdir() if p.is_dir() and p.name not in OWN):
                _take(further, folder.path / further.name)
        sync(jobs)


def merger(folders: Sequence[str | Path], kind: type[Settings]) -> Merger:
    """The shards in some folders, checked to be all of one run, and complete.

    kind: the settings of the run's experiment.

    Raises:
        InputError: a folder is no shard, is of another run, or is there twice; a shard or a job is missing.
    """
    found = [_shard(path_of(folder)) for folder in folders]
    first, stored = found[0]
    for shard, other in found[1:]:
        _refuse_another(first, stored, shard, other, kind)
    _refuse_doubled([shard for shard, _ in found])
    shards = sorted((shard for shard, _ in found), key=lambda shard: shard_numbers(shard.name))
    for shard in shards:
        if missing := shard.missing:
            raise InputError(
                f"{shard.path}: shard {shard.name} lacks {_some(missing)} of its {len(shard.own)} jobs; "
                f"go on with: decodedrift resume {shlex.quote(str(shard.path))}"
            )
    _refuse_absent(shards, stored)
    _refuse_paths(shards)
    home = next(other for shard, other in found if shard is shards[0])
    unfinished = {name: value for name, value in home.unfinished.items() if name != "jobs"}
    return Merger(tuple(shards), Stored(home.plan | {"shard": None}, home.environment, unfinished))


def refuse_inside(folders: Sequence[str | Path], out: str | Path) -> None:
    """The shards stay as they are.

    Raises:
        InputError: the new folder would lie in one of them.
    """
    place = path_of(out).resolve()
    for folder in map(path_of, folders):
        if folder.resolve() in place.parents:
            raise InputError(f"--out {out}: lies in the shard {folder}, which stays as it is; name a folder elsewhere")


def _shard(folder: Path) -> tuple[Shard, Stored]:
    """What is in one folder.

    Raises:
        InputError: no shard.
    """
    stored = RunFolder(folder).stored()
    if stored is None:
        raise InputError(f"{folder}: not a run folder (no {MARK} in it); name the folders of shards")
    shard = shard_in(folder, stored.plan, stored.unfinished)
    if shard is None:
        raise InputError(f"{folder}: a whole run, not a shard of one; leave it out")
    if not (shard.every and stored.environment):
        raise InputError(f"{folder}: shard {shard.name} has only begun; go on with: decodedrift resume {folder}")
    return shard, stored


def _refuse_another(first: Shard, stored: Stored, shard: Shard, other: Stored, kind: type[Settings]) -> None:
    """Jobs of two runs never mix."""
    for name, flag in SIZES.items():
        sizes = stored.plan.get(name), other.plan.get(name)
        if sizes[0] != sizes[1]:
            raise InputError(
                f"{shard.path}: {flag} {sizes[1]}, asked or fitted to memory, and {first.path} has {sizes[0]}; "
                f"make all shards with {flag} {min(size for size in sizes if size)}"
            )
    if found := differing(stored, other, kind):
        raise InputError(
            f"{shard.path} (here) is of another run than {first.path} (there): {shortly(found)}; "
            f"make it anew with: {_again(first, stored, shard.name)}"
        )
    counts = [shard_numbers(each.name)[1] for each in (first, shard)]
    if counts[0] != counts[1]:
        raise InputError(
            f"{shard.path}: shard {shard.name}, and {first.path} is shard {first.name}: all must be of one number; "
            "leave it out, and merge says what makes those that are then missing"
        )
    if first.every != shard.every:
        raise InputError(
            f"{shard.path} is of another run than {first.path}: of other prompts or texts; "
            f"make it anew with: {_again(first, stored, shard.name)}"
        )


def _refuse_doubled(shards: Sequence[Shard]) -> None:
    for name, times in Counter(shard.name for shard in shards).items():
        if times > 1:
            one, two = [str(shard.path) for shard in shards if shard.name == name][:2]
            raise InputError(f"{two}: shard {name}, as is {one}; its jobs count once, leave one of them out")


def _refuse_absent(shards: Sequence[Shard], stored: Stored) -> None:
    """Raises where a shard is not among them, with the command that makes it."""
    count = shard_numbers(shards[0].name)[1]
    there = {shard.name for shard in shards}
    absent = [name for n in range(1, count + 1) if (name := f"{n}/{count}") not in there]
    if not absent:
        return
    again = _again(shards[0], stored, absent[0])
    raise InputError(f"shard{'s' * (len(absent) != 1)} {_some(absent)} missing; make it with: {again}")


def _again(shard: Shard, stored: Stored, name: str) -> str:
    """The command that makes another shard of the run that one is of."""
    models = stored.environment.get("model", {}), *stored.environment.get("checkpoints", {}).values()
    live = "memory" in [facts.get("kind") for facts in models]
    if live or stored.plan.get("no_text"):  # its plan cannot be asked again
        return f"the command of {shard.path} again, with --shard {name} and another folder"
    command, plan = stored.plan.get("experiment", "compare"), shlex.quote(str(where(shard.path, MARK)))
    return f"decodedrift {command} --config {plan} --shard {name} --out NEW"


def _refuse_paths(shards: Sequence[Shard]) -> None:
    """All jobs of a run read their sequences on one path; a shard settles it in its first job."""
    ways: dict[str, Shard] = {}
    for shard in shards:
        for key in shard.own:
            way = RunFolder(shard.path).job_facts(key).get("path", {}).get("path")
            ways.setdefault(str(way), shard)
    if len(ways) > 1:
        told = " and ".join(f"{shard.path} on {way!r}" for way, shard in ways.items())
        raise InputError(f"these shards read their sequences on different paths: {told}; run the plan without --shard")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def _take(source: Path, target: Path) -> None:
    """A folder with the same files in it; the bytes need no second place where the file system knows links."""

    def take(file: str, name: str) -> Any:
        linked(Path(file), Path(name))
        return name

    with writing(target):
        shutil.copytree(source, target, copy_function=take, dirs_exist_ok=True)
