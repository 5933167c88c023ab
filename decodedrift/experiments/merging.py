"""A run in shards: what one shard leaves, and all of them put together as one run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from decodedrift.core.records import InputError
from decodedrift.experiments import experiment
from decodedrift.experiments.study import Study, experiment_of
from decodedrift.runs.carry_out import put_together
from decodedrift.runs.merging import merger, refuse_inside
from decodedrift.runs.partfiles import read_several
from decodedrift.runs.resume import stored_run
from decodedrift.runs.runfolder import RunFolder
from decodedrift.runs.sharding import Shard, shard_in


class ShardStudy(Study):
    """What a shard leaves: finished jobs in its folder, and no tables until all shards are merged."""

    def __init__(self, plan: Mapping[str, Any], environment: Mapping[str, Any], shard: Shard) -> None:
        super().__init__({}, plan, environment, shard.path)
        self.shard = shard

    def __getattr__(self, name: str) -> Any:
        """Tables are there once the shards are merged."""
        if name.startswith("_") or "shard" not in self.__dict__:
            raise AttributeError(name)
        if name in self.tables:
            raise InputError(str(self.shard))
        raise AttributeError(f"a shard has no {name!r}")

    @property
    def failed(self) -> bool:
        """Whether anything failed in its jobs."""
        jobs = RunFolder(self.shard.path).file("jobs")
        files = (jobs / key / "failures.parquet" for key in self.shard.finished)
        return len(read_several(files, "failures")) > 0

    def facts(self) -> dict[str, Any]:
        """What `--json` says of it."""
        shard = self.shard
        done = len(shard.own) - len(shard.missing)
        jobs = {"jobs_finished": done, "jobs": len(shard.own), "jobs_of_all_shards": len(shard.every)}
        return {"shard": shard.name, **jobs, "run": str(shard.path)}

    def __repr__(self) -> str:
        return str(self.shard)

    def _repr_html_(self) -> str:
        import html

        return f"<p>{html.escape(str(self.shard))}</p>"


def shard_study(folder: RunFolder) -> ShardStudy | None:
    """The shard in a folder; None where it holds none."""
    stored = folder.stored()
    shard = shard_in(folder.path, stored.plan, stored.unfinished) if stored is not None else None
    return None if stored is None or shard is None else ShardStudy(stored.plan, stored.environment, shard)


def merge(folders: Sequence[str | Path], *, out: str | Path) -> Study:
    """Puts the shards of one run together in a new folder: tables, verdict and page as one run makes them.

    Needs neither the model nor torch, and leaves the shards as they are. `merge(["a", "b"], out="whole").verdict`.

    Args:
        folders: of all shards, in any order.
        out: a new folder, in none of theirs.

    Raises:
        InputError: they are not all the shards of one run, or a job is missing or damaged; the message names it
            and the command that makes it.
    """
    if isinstance(folders, (str, Path)) or not folders:
        raise InputError("merge: give the folders of all shards, as a list")
    kind = experiment(experiment_of(stored_run(folders[0]).plan))
    parts = merger(folders, kind.settings)
    refuse_inside(folders, out)
    rows = parts.read()
    folder = RunFolder.create(out, resuming=False)
    empty = not any(folder.path.iterdir())  # it may hold what an endpoint has answered, of a run without a plan
    with folder:
        try:
            parts.fill(folder)
            return put_together(Study, rows, parts.stored.plan, parts.stored.environment, folder)
        except BaseException:  # half a run would only be in the way of the next merge, and the shards have it all
            if empty:
                shutil.rmtree(folder.path, ignore_errors=True)
            raise
