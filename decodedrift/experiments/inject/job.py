"""One Job -> its rows: the reference's texts, and each of them again with one token replaced.

No candidate and no numerical error takes part: what follows is the drift that a single wrong token causes by itself.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError, Job
from decodedrift.decoding.spool import Spool
from decodedrift.measure import passes, trajectory
from decodedrift.measure.bench import Bench
from decodedrift.measure.injection import Put, keys, put_in, ranked
from decodedrift.measure.passes import Pass
from decodedrift.measure.tables import JobResult, token_rows
from decodedrift.models import budget
from decodedrift.models.load import Loaded
from decodedrift.models.world import World


def execute(job: Job, world: World, progress: Progress | None = None, spill: str | None = None) -> JobResult:
    """Runs one job.

    Raises:
        InputError: the model cannot run.
    """
    plan: Any = world.plan
    with Spool(budget.spool_bytes(world), spill) as spool, ExitStack() as resident:
        bench = Bench(job, world, progress or Progress(), spool)
        model = bench.open_reference(resident)
        reference = Pass(plan.reference.name, plan.reference, "reference")
        bench.free_run(model, reference, batch_size=bench.size(plan.reference), keep_scores=True)
        passes.note_nonfinite(reference, plan.model, reference.name, bench.result)
        passes.write(reference, reference, plan, job.prompts, world.vocab, bench.result)
        for position in plan.at:
            with bench.guarded(reference.name, "inject"):
                _replaced(bench, model, reference, position, plan.rank)
        bench.result.rows["tokens"] = token_rows(bench.result, world.vocab, injected=True)
        bench.result.spilled_bytes = spool.spilled_bytes
    return bench.result


def check(world: World) -> None:
    """The vocabulary has as many tokens as the rank asks for.

    Raises:
        InputError: it has not.
    """
    rank = world.plan.rank  # type: ignore[attr-defined]
    if rank > world.width:
        raise InputError(f"--rank {rank}: the vocabulary has {world.width} tokens")


def _replaced(bench: Bench, model: Loaded, reference: Pass, position: int, rank: int) -> None:
    """Rows of the texts whose token at a position is replaced by the one that their strategy ranks `rank`."""
    able = {s.label for s, _ in bench.plan.cells if s.injectable}
    puts: dict[Any, Put] = {}
    for key, trace in reference.traces.items():
        if key.strategy in able and position < len(trace.token_ids):
            token = ranked(reference.generated.logs[key], position, rank)
            if token is not None:
                puts[key] = (position, token)
    name = f"rank={rank}"
    for key, trace in put_in(bench, model, name, puts, reference).items() if puts else ():
        ours = reference.traces[key]
        broken = "nonfinite" in (ours.finish, trace.finish)
        row = trajectory.injection_row(ours.token_ids, trace.token_ids, position, broken=broken)
        bench.result.rows["injection"].append(keys(bench.plan.model, reference, name, trajectory.ROLE, key) | row)
