"""The story of every experiment: a prepared world -> jobs, one after another -> a Study in its run folder."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import pandas as pd

from decodedrift.core.estimate import Work
from decodedrift.core.memory import give_back
from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError, Job
from decodedrift.measure.tables import Gathered, JobResult, gathered, joined
from decodedrift.runs.executors import EXECUTORS
from decodedrift.runs.prepare import Prepared
from decodedrift.runs.resume import refuse_another, unfinished
from decodedrift.runs.runfolder import RunFolder

Left = TypeVar("Left", bound="Leaves")


class Leaves(Protocol):
    """What an experiment makes of its rows."""

    def write(self, folder: RunFolder) -> None:
        """Writes tables, verdict and page; from then on the run counts as finished."""


def carry_out(
    execute: Callable[[Job, Any, Progress, str | None], JobResult],
    study: Callable[[Mapping[str, pd.DataFrame], dict[str, Any], Mapping[str, Any]], Left],
    ready: Prepared,
    folder: RunFolder | None = None,
    progress: Progress | None = None,
) -> Left:
    """Runs the jobs of a prepared run that have not finished; a finished job is on disk before the next begins.

    Args:
        execute: (job, world, progress, folder for waiting logits) -> the job's rows.
        study: (tables, plan, environment) -> what the experiment makes of them.
        folder: entered, that is locked, and without a finished run; None keeps everything in memory.

    Raises:
        InputError: the reference cannot run, the folder cannot be written, or holds another run.
    """
    from decodedrift.models.probe import Route
    from decodedrift.runs.retry import Worker

    progress = progress or Progress()
    keys, environment = ([], ready.environment) if folder is None else _start(ready, folder)
    last = folder.job_facts(keys[-1]) if folder is not None and keys else {}
    if path := last.get("path"):
        ready.world.route = Route(path["path"], fixed=True, reasons=dict(path["path_reasons"]))
    spill = str(folder.internals) if folder is not None else None
    ready.world.folder = folder.path if folder is not None else None
    work = Worker(execute, ready.world, progress, spill, last.get("batch_size") or ready.plan.batch_size)
    results: list[JobResult] = []
    progress.begin(*work_left(ready, keys))
    todo = [job for job in ready.jobs if job.key not in keys]
    with closing(ready.world), ended(EXECUTORS[ready.plan.executor](work, todo)) as ran:
        for result in ran:
            if folder is None:
                results.append(result)
            else:
                folder.write_job(result)
    progress.batch()  # a signal that came in the last batch: the tables are made by the resume
    if folder is not None:
        progress.report()
    if ready.plan.shard is not None:
        return study({}, ready.plan.as_dict(), environment)
    gc.collect()
    give_back()
    results.sort(key=lambda result: result.key)
    rows = gathered(results) if folder is None else folder.read_jobs([job.key for job in ready.jobs])
    return put_together(study, rows, ready.plan.as_dict(), environment, folder)


def put_together(
    study: Callable[[Mapping[str, pd.DataFrame], dict[str, Any], Mapping[str, Any]], Left],
    rows: Gathered,
    plan: dict[str, Any],
    environment: Mapping[str, Any],
    folder: RunFolder | None,
) -> Left:
    """What the experiment makes of all jobs; written, where there is a folder."""
    rows.frames["failures"] = _with_refused(rows.frames["failures"], plan)
    rows.frames["tokens"] = rows.frames["tokens"].drop_duplicates(ignore_index=True)  # every job lists its own
    way: dict[str, Any] = {"spilled_bytes": rows.spilled_bytes} | rows.path
    way |= {"lowered": rows.batch_sizes} if rows.batch_sizes else {}
    environment = {**environment, "variants": rows.variants(), "generation": environment["generation"] | way}
    environment["finished"] = datetime.now(UTC).isoformat(timespec="minutes")
    result_of_all = study(rows.frames, plan, environment)
    if folder is not None:
        result_of_all.write(folder)
    return result_of_all


def finished(ready: Prepared, folder: RunFolder) -> bool:
    """Whether the folder holds this very run, complete.

    Raises:
        InputError: the folder holds another run.
    """
    stored = folder.stored()
    if stored is None:
        return False
    refuse_another(stored, ready.plan, ready.environment, str(folder.path))
    if (shard := stored.plan.get("shard")) != ready.plan.shard:
        here, asked = (f"shard {name}" if name else "the whole run" for name in (shard, ready.plan.shard))
        raise InputError(f"{folder.path}: holds {here}, and {asked} is asked for; name a folder for each")
    keys = {job.key for job in ready.jobs}
    if other := [key for key in folder.written_jobs() if key not in keys]:
        raise InputError(
            f"{folder.path}: its finished job {other[0]} is not of this run (other prompts or texts); name a new folder"
        )
    return stored.finished


def work_left(ready: Prepared, finished: Collection[str]) -> tuple[dict[str, Work], Work]:
    """What each job comes to that is still to run, and all those together that are not."""
    from decodedrift.models.workload import work

    every = {job.key: work(ready.world, job) for job in ready.jobs}
    done = [every[key] for key in every if key in finished]
    todo = {key: each for key, each in every.items() if key not in finished}
    return todo, Work(sum(each.written for each in done), sum(each.read for each in done))


@contextmanager
def ended(results: Iterator[JobResult]) -> Iterator[Iterator[JobResult]]:
    """Results of an executor, which is told when nobody waits for more: then no process of its own is left."""
    try:
        yield results
    finally:
        if isinstance(results, Generator):
            results.close()


def _start(ready: Prepared, folder: RunFolder) -> tuple[list[str], dict[str, Any]]:
    """The keys of the finished jobs and the environment on file, of a run that is begun here or goes on."""
    stored = folder.stored()
    if stored is None or not stored.environment:
        folder.begin(ready.plan.as_dict(), ready.environment, unfinished(ready.plan, ready.every, ready.base))
        return [], ready.environment
    return folder.finished_jobs(), stored.environment


def _with_refused(failures: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """The failures with the prompts that were refused before anything ran."""
    refused = JobResult("")
    for prompt_id, reason in plan["refused"].items():
        refused.fail(plan["model"], "", "prompt", "refused", reason, prompt_id=prompt_id)
    return joined([refused.frame("failures"), failures.drop_duplicates(ignore_index=True)], "failures")
