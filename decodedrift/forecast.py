"""`--dry-run`: what a run would do, in what memory, and about how long, without loading a weight."""

from __future__ import annotations

import time

import torch

from decodedrift import budget
from decodedrift.prepare import Prepared

GIB = 2**30


def forecast(ready: Prepared) -> str:
    """A few lines: jobs, rows, memory, estimated time."""
    plan, world = ready.plan, ready.world
    traces = len(plan.prompts) * len(plan.cells)
    scored = sum(t.tokens for t in world.texts.values())
    rows = (traces * plan.max_new_tokens) * (len(plan.candidates) + len(budget.floors(world))) + scored * len(
        plan.candidates
    )
    low, high = _seconds(ready)
    loads = budget.loading(world, ready.jobs)
    extra = _extra(ready)
    return "\n".join([
        ready.announcement(),
        f"jobs      {len(ready.jobs)} ({plan.prompts_per_job} prompts each; texts in jobs of their own)",
        f"variants  {', '.join(v.name for v in plan.variants)}",
        f"cells     {len(plan.cells)} strategy x seed: {', '.join(f'{s.label} (seed {n})' for s, n in plan.cells)}",
        f"rows      up to {traces * len(plan.variants)} traces, {rows} positions, {scored} text tokens per variant",
        *([f"extra     {'; '.join(extra)}"] if extra else []),
        f"memory    about {budget.pair_bytes(world) / GIB:.2f} GiB of {world.memory / GIB:.1f} GiB"
        f" ({budget.resident(world)} resident, batch size {plan.batch_size})",
        f"logits    {_waiting(ready)}",
        f"loading   weights {loads.loads} times ({_kept(ready, loads.share)}),"
        f" about {_percent(loads.share)} of the time",
        f"time      roughly {_span(low)} to {_span(high)} on {plan.device}, after loading",
    ])  # fmt: skip


def _kept(ready: Prepared, share: float) -> str:
    """Why weights are loaded as often as they are."""
    if ready.world.keeps or len(ready.jobs) == 1:
        return (
            "each variant once" if budget.both_fit(ready.world) else "each variant once, the reference again to judge"
        )
    more = "; fewer with more --prompts-per-job or --memory" if share > budget.SHARE else ""
    return f"in each job anew: together they do not fit the memory{more}"


def _waiting(ready: Prepared) -> str:
    """How much of the reference's logits waits in a job, and where."""
    size, room = budget.waiting_bytes(ready.world), budget.spool_bytes(ready.world)
    where = "in memory" if size <= room else f"{_size(room)} in memory, the rest in files"
    return f"up to {_size(size)} of the reference's wait for the candidates in a job, {where}"


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def _percent(share: float) -> str:
    return "less than 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")


def _extra(ready: Prepared) -> list[str]:
    """The passes that --inject and --decompose ask for, beside the run's own."""
    plan, said = ready.plan, []
    if plan.inject:
        said.append(f"{len(plan.candidates)} passes of the reference with tokens put in")
    if plan.decompose:
        said.append(f"{1 + 2 * len(plan.candidates)} readings token by token, {len(plan.candidates)} of own texts")
    return said


def _seconds(ready: Prepared) -> tuple[float, float]:
    """From a measured matrix product: decoding reaches between a tenth and a half of its speed."""
    size = 1024
    a = torch.ones(size, size, device=ready.plan.device)
    a @ a
    begin = time.perf_counter()
    for _ in range(4):
        b = a @ a
    float(b[0, 0])
    speed = 4 * 2 * size**3 / (time.perf_counter() - begin)
    work = budget.flops(ready.world, len(ready.plan.prompts))
    return work / speed * 2, work / speed * 10


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
