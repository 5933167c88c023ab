"""`decodedrift inject`: one token of the reference's own text replaced by its runner-up, and where the text goes then.

No candidate and no numerical error takes part: what follows is the drift that a single wrong token causes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from decodedrift import budget, failures, passes, trajectory
from decodedrift.execute import JobRun
from decodedrift.injection import injected, keys, ranked
from decodedrift.models import Loaded
from decodedrift.passes import Pass
from decodedrift.prepare import Prepared, not_injectable, prepare
from decodedrift.progress import Progress, Silent
from decodedrift.records import InputError
from decodedrift.rows import JobResult, typed
from decodedrift.settings import make_settings
from decodedrift.spool import Spool
from decodedrift.store import MARK, RunFolder

TABLES = ("injection", "traces", "failures")
STRATEGIES = ("greedy", "top-p")


@dataclass
class Injections:
    """What an injection run found.

    injection: a row per text and position. traces: the texts as they were. after: agreement by lag. table: the fold by
    strategy and position. verdict: the same in sentences.
    """

    injection: pd.DataFrame
    traces: pd.DataFrame
    failures: pd.DataFrame
    plan: dict[str, Any]
    environment: dict[str, Any]
    path: Path | None = None

    @property
    def after(self) -> pd.DataFrame:
        """Agreement with the text as it was, by lag."""
        return trajectory.by_lag(self.injection, self.traces)

    @property
    def table(self) -> pd.DataFrame:
        """A row per strategy and position."""
        return trajectory.by_position(self.injection, self.traces)

    @property
    def verdict(self) -> list[str]:
        """Plain sentences with numbers."""
        return [*trajectory.said_of_run(self.table, self.plan), *failures.said(self.failures)]


def inject(
    model: Any = "demo",
    *,
    at: Sequence[int] = (20,),
    rank: int = 2,
    tokenizer: Any = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Injections:
    """Replaces the token at each position of `at` by the one that the strategy ranks `rank`, and goes on from it.

    Args:
        at: positions, 0-based; each is a pass of its own.
        rank: 2 is the runner-up; 1 the reference's own token, which must change nothing.
        settings: as of `compare`: strategies (greedy and coupled sampling), prompts, reference, max_new_tokens, ...

    Raises:
        InputError: it cannot be done as asked.
    """
    settings = {"strategies": STRATEGIES} | settings
    ready = ready_to_inject({"model": model, **settings}, at, rank, tokenizer)
    return carry_out(ready, at, rank, RunFolder.create(out) if out is not None else None, progress)


def ready_to_inject(settings: dict[str, Any], at: Sequence[int], rank: int, tokenizer: Any = None) -> Prepared:
    """A prepared run without candidates; what is wrong is refused before a weight is loaded."""
    asked = make_settings(settings)
    for position in at:
        if position >= asked.max_new_tokens:
            raise InputError(
                f"--at {position}: positions count from 0 and {asked.max_new_tokens} tokens are generated; "
                "raise --max-new-tokens"
            )
    ready = prepare(asked, tokenizer, alone=True)
    if not any(s.injectable for s in ready.plan.strategies):
        raise InputError(not_injectable("inject"))
    if rank > ready.world.width:
        raise InputError(f"--rank {rank}: the vocabulary has {ready.world.width} tokens")
    return ready


def carry_out(
    ready: Prepared, at: Sequence[int], rank: int, folder: RunFolder | None = None, progress: Progress | None = None
) -> Injections:
    """Runs a prepared injection; writes its folder where one is given."""
    spill = str(folder.path) if folder is not None else None
    results = [JobResult("")]
    for prompt_id, reason in ready.refused.items():
        results[0].fail(ready.plan.model, "", "prompt", "refused", reason, prompt_id=prompt_id)
    with closing(ready.world), ExitStack() as resident:
        runs = [JobRun(job, ready.world, progress or Silent()) for job in ready.jobs if job.prompts]
        model = runs[0].open_reference(resident)
        for run in runs:
            with Spool(budget.spool_bytes(ready.world), spill) as run.spool:
                _one_job(run, model, at, rank)
            results.append(run.result)
    frames = {t: pd.concat([r.frame(t) for r in results], ignore_index=True) for t in TABLES}
    plan = ready.plan.as_dict() | {"at": list(at), "rank": rank}
    facts = {ready.plan.reference.name: model.facts}
    generation = ready.environment["generation"] | ready.world.route.said()
    done = Injections(
        **{t: typed(frame, t) for t, frame in frames.items()}, plan=plan,
        environment=ready.environment | {"variants": facts, "generation": generation},
    )  # fmt: skip
    if folder is not None:
        write(done, folder)
    return done


def _one_job(run: JobRun, model: Loaded, at: Sequence[int], rank: int) -> None:
    reference = run.reference = Pass(run.plan.reference.name, run.plan.reference, "reference")
    run.free_run(model, reference, batch_size=run.size(run.plan.reference), keep_scores=True)
    passes.note_nonfinite(reference, run.plan.model, reference.name, run.result)
    passes.write(reference, reference, run.plan, run.job.prompts, run.world.vocab, run.result)
    able = {s.label for s, _ in run.plan.cells if s.injectable}
    name = f"rank={rank}"
    for position in at:
        wanted = {}
        for key, trace in reference.traces.items():
            if key[0] in able and position < len(trace.token_ids):
                token = ranked(reference.generated.logs[key], position, rank)
                if token is not None:
                    wanted[key] = (position, token)
        if not wanted:
            continue
        with run.guarded(reference.name, "inject"):
            for key, trace in injected(run, model, name, wanted).items():
                ours = reference.traces[key]
                broken = "nonfinite" in (ours.finish, trace.finish)
                row = trajectory.injection_row(ours.token_ids, trace.token_ids, position, broken=broken)
                run.result.injection.append(keys(run, name, trajectory.ROLE, key) | row)


def write(done: Injections, folder: RunFolder) -> None:
    """The folder of an injection run: its tables, plan, environment and verdict."""
    folder.write_json(MARK, done.plan)
    folder.write_json("environment.json", done.environment)
    for name in TABLES:
        folder.write_csv(name, getattr(done, name))
    folder.write_csv("after", done.after)
    folder.write_csv("summary", done.table)
    folder.write_text("verdict.txt", "\n".join(done.verdict) + "\n")
    done.path = folder.path
