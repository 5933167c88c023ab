"""The story, in one page: settings -> a prepared world -> jobs, one after another -> a Study in its run folder."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from decodedrift.core.progress import Progress, Silent
from decodedrift.core.records import InputError
from decodedrift.experiments.study import Study, open_study
from decodedrift.measure.tables import JobResult, gathered, joined
from decodedrift.runs.executors import ENGINES
from decodedrift.runs.prepare import Prepared, prepare
from decodedrift.runs.resume import asked_again, begun, refuse_another, settled, unfinished
from decodedrift.runs.runfolder import RunFolder, Stored
from decodedrift.runs.settings import make_settings


def compare(
    model: Any = "demo",
    *,
    tokenizer: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Study:
    """Runs the same prompts through a reference and its candidates, and measures where and how far they part.

    Args:
        model: `demo`, a folder, a hub id, or a model in memory (with `tokenizer`); a model in memory is copied before
            any conversion and left as it was, as is torch's global state.
        out: a new folder for the run; None keeps everything in memory (`study.save(folder)` writes it later).
        resume: go on with the run in `out` if one was begun there: its finished jobs are not run again.
        progress: told how far the run is.
        settings: as the command line's options: reference, candidates, strategies, prompts, texts, max_new_tokens,
            seeds, limit, batch_size, coupling, noise_floor and the other fields of `settings.Settings`.

    Raises:
        InputError: the run cannot be made as asked; the message is one line with the culprit and the mend.

    Example:
        >>> import decodedrift as dd
        >>> study = dd.compare("demo", candidates=["bf16"], strategies=["greedy"], limit=2, max_new_tokens=4)
        >>> list(study.summary["candidate"])[-1]
        'bf16'
    """
    asked = make_settings({"model": model, **settings})
    if out is None:
        return carry_out(prepare(asked, tokenizer), None, progress)
    folder = RunFolder.reopen(out) if resume else RunFolder.create(out)
    with folder:
        stored = folder.stored()
        return carry_out(prepare(asked, tokenizer, settled(stored, asked)), folder, progress)


def resume(folder: str | Path, progress: Progress | None = None) -> Study:
    """Goes on with the run in a folder, which is all that is needed; a finished one is only read, without torch.

    Raises:
        InputError: no run was begun there, or this is no longer the place where its rows would come out the same.
    """
    stored = begun(folder)
    if stored.finished:
        return open_study(folder)
    ready = prepared_again(stored)
    with RunFolder.reopen(folder) as held:
        return carry_out(ready, held, progress)


def prepared_again(stored: Stored) -> Prepared:
    """A stored run, ready to go on: in the sizes it was settled at."""
    asked = asked_again(stored)
    return prepare(asked, settled=settled(stored, asked))


def carry_out(ready: Prepared, folder: RunFolder | None = None, progress: Progress | None = None) -> Study:
    """Runs the jobs of a prepared run that have not finished; a finished job is on disk before the next begins.

    Args:
        folder: entered, that is locked; None keeps everything in memory.

    Raises:
        InputError: the reference cannot run, the folder cannot be written, or holds another run.
    """
    from decodedrift.models.probe import Route
    from decodedrift.runs.retry import Worker

    progress = progress or Silent()
    if folder is not None and _finished(ready, folder):
        return open_study(folder.path)
    done, environment = ([], ready.environment) if folder is None else _begun(ready, folder)
    last = folder.job_facts(done[-1]) if folder is not None and done else {}
    if path := last.get("path"):
        ready.world.route = Route(path["path"], fixed=True, reasons=dict(path["path_reasons"]))
    spill = str(folder.path) if folder is not None else None
    work = Worker(ready.world, progress, spill, last.get("batch_size") or ready.plan.batch_size)
    results: list[JobResult] = []
    with closing(ready.world):
        for result in ENGINES["local"](work, [job for job in ready.jobs if job.key not in done]):
            if folder is None:
                results.append(result)
            else:
                folder.write_job(result)
    progress.batch()  # a signal that came in the last batch: the tables are made by the resume
    found = gathered(results) if folder is None else folder.read_jobs([job.key for job in ready.jobs])
    found.frames["failures"] = _with_refused(found.frames["failures"], ready)
    worked = (
        {"spilled_bytes": found.spilled_bytes}
        | found.path
        | ({"lowered": found.batch_sizes} if found.batch_sizes else {})
    )
    environment = environment | {"variants": found.variants(), "generation": environment["generation"] | worked}
    scored = {name: text.scored_bytes for name, text in ready.world.texts.items()}
    study = Study.of(found.frames, ready.plan, environment, scored)
    if folder is not None:
        study.write(folder)
    return study


def _finished(ready: Prepared, folder: RunFolder) -> bool:
    """Whether the folder holds this very run, complete.

    Raises:
        InputError: the folder holds another run.
    """
    stored = folder.stored()
    if stored is None:
        return False
    refuse_another(stored, ready.plan, ready.environment, str(folder.path))
    known = {job.key for job in ready.jobs}
    if other := [key for key in folder.written_jobs() if key not in known]:
        raise InputError(
            f"{folder.path}: its finished job {other[0]} is not of this run (other prompts or texts); name a new folder"
        )
    return stored.finished


def _begun(ready: Prepared, folder: RunFolder) -> tuple[list[str], dict[str, Any]]:
    """The keys of the finished jobs and the environment on file, of a run that is begun here or goes on."""
    stored = folder.stored()
    if stored is None or not stored.environment:
        folder.begin(ready.plan.as_dict(), ready.environment, unfinished(ready.plan))
        return [], ready.environment
    return folder.finished_jobs(), stored.environment


def _with_refused(failures: pd.DataFrame, ready: Prepared) -> pd.DataFrame:
    refused = JobResult("")
    for prompt_id, reason in ready.refused.items():
        refused.fail(ready.plan.model, "", "prompt", "refused", reason, prompt_id=prompt_id)
    return joined([refused.frame("failures"), failures.drop_duplicates(ignore_index=True)], "failures")
