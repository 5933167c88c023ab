"""The story, in one page: settings -> a prepared world -> jobs, one after another -> a Study in its run folder."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from decodedrift.engines import ENGINES
from decodedrift.prepare import Prepared, prepare
from decodedrift.progress import Progress
from decodedrift.rows import TABLES, JobResult
from decodedrift.settings import make_settings
from decodedrift.store import MARK, RunFolder
from decodedrift.study import Study


def compare(
    model: Any = "demo",
    *,
    tokenizer: Any = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Study:
    """Runs the same prompts through a reference and its candidates, and measures where and how far they part.

    Args:
        model: `demo`, a folder, a hub id, or a model in memory (with `tokenizer`); a model in memory is copied before
            any conversion and left as it was, as is torch's global state.
        out: a new folder for the run; None keeps everything in memory (`study.save(folder)` writes it later).
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
    ready = prepare(make_settings({"model": model, **settings}), tokenizer)
    return carry_out(ready, RunFolder.create(out) if out is not None else None, progress)


def carry_out(ready: Prepared, folder: RunFolder | None = None, progress: Progress | None = None) -> Study:
    """Runs every job of a prepared run; a finished job is on disk before the next begins."""
    from decodedrift.execute import execute

    if folder is not None:
        folder.write_json(MARK, ready.plan.as_dict())
    spill = str(folder.path) if folder is not None else None
    results: list[JobResult] = []
    with closing(ready.world):
        for result in ENGINES["local"](lambda job: execute(job, ready.world, progress, spill), ready.jobs):
            results.append(result)
            if folder is not None:
                folder.write_job(result)
                results = []
    frames, facts = folder.read_jobs() if folder is not None else _gathered(results)
    frames["failures"] = _with_refused(frames["failures"], ready)
    environment = ready.environment | {"variants": facts}
    scored = {name: text.scored_bytes for name, text in ready.world.texts.items()}
    study = Study.of(frames, ready.plan, environment, scored)
    if folder is not None:
        study.write(folder)
    return study


def _gathered(results: list[JobResult]) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    facts: dict[str, Any] = {}
    for result in results:
        facts |= result.facts
    frames = {t: _joined([r.frame(t) for r in results]) for t in TABLES}
    return frames, facts


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [p for p in parts if len(p)]
    return pd.concat(filled, ignore_index=True) if filled else parts[0]  # an empty part would spoil the types


def _with_refused(failures: pd.DataFrame, ready: Prepared) -> pd.DataFrame:
    refused = JobResult("")
    for prompt_id, reason in ready.refused.items():
        refused.fail(ready.plan.model, "", "prompt", "refused", reason, prompt_id=prompt_id)
    return _joined([refused.frame("failures"), failures.drop_duplicates(ignore_index=True)])
