"""`--dry-run`: what a run would do, in what memory, and about how long, without loading a weight."""

from __future__ import annotations

from collections import Counter
from typing import Any

from decodedrift.core.progress import span
from decodedrift.models import budget, workload
from decodedrift.models.machine import flops_per_second
from decodedrift.models.recorded.api.bodies import askable, questions
from decodedrift.runs.prepare import Prepared
from decodedrift.runs.workers import memory

GIB = 2**30


def forecast(ready: Prepared) -> str:
    """A few lines: jobs, rows, memory, estimated time."""
    plan, world = ready.plan, ready.world
    variants, effort = plan.variants, plan.effort
    traces = len(plan.prompts) * len(plan.cells)
    scored = sum(t.tokens for t in world.texts.values())
    floored = len(effort.floors) * min(len(plan.prompts), effort.floor_prompts)
    positions = len(plan.cells) * plan.max_new_tokens * (len(plan.prompts) * len(plan.candidates) + floored)
    positions += scored * len(plan.candidates)
    rows = [f"{positions} positions"] if positions and effort.reading else []
    rows += [f"{scored} text tokens per variant"] if scored else []
    cells = ", ".join(f"{s.label} (seed {n})" for s, n in plan.cells)
    further = "".join(f", {rest}" for rest in rows)
    extra = _extra(ready)
    texts = len(plan.running) * effort.texts + (len(variants) - len(plan.running)) * effort.elsewhere
    return "\n".join([
        ready.announcement(),
        f"jobs      {len(ready.jobs)} ({plan.prompts_per_job} prompts each; texts in jobs of their own)",
        *([f"shard     {plan.shard}: these of {len(ready.every)} jobs; rows are those of all"] if plan.shard else []),
        f"variants  {', '.join(dict.fromkeys(v.name for v in (*variants, plan.reader)))}",
        *([f"cells     {len(plan.cells)} strategy x seed: {cells}"] if cells else []),
        *([f"rows      up to {traces * texts} traces{further}"] if cells else []),
        *([f"extra     {'; '.join(extra)}"] if extra else []),
        *(_running(ready) if effort.loading else ["loading   no weights: nothing runs here"]),
    ])  # fmt: skip


def _running(ready: Prepared) -> list[str]:
    """What models that run here take: memory, loading, time."""
    plan, world = ready.plan, ready.world
    low, high = _seconds(ready)
    loads = workload.loading(world, ready.jobs)
    one = f"about {budget.pair_bytes(world) / GIB:.2f} GiB of {world.memory / GIB:.{1 + (world.memory < GIB)}f} GiB"
    return [
        f"memory    {memory(world) if world.workers > 1 else one}"
        f" ({budget.resident(world)} resident, batch size {plan.batch_size})",
        *([f"logits    {_waiting(ready)}"] if plan.effort.reading and plan.reader in plan.variants else []),
        f"loading   weights {loads.loads} times ({_why_loaded(ready, loads.share)}),"
        f" {_percent(loads.share)} of the time",
        f"time      roughly {span(low)} to {span(high)} on {plan.device}, after loading",
    ]


def _why_loaded(ready: Prepared, share: float) -> str:
    """Why weights are loaded as often as they are."""
    if ready.world.keeps or len(ready.jobs) == 1:
        return (
            "each variant once" if budget.both_fit(ready.world) else "each variant once, the reference again to judge"
        )
    more = "; fewer with more --prompts-per-job or --memory" if share > workload.SHARE else ""
    return f"in each job anew: together they do not fit the memory{more}"


def _waiting(ready: Prepared) -> str:
    """How much of the reference's logits waits in a job, and where."""
    world = ready.world
    size, room = budget.waiting_bytes(world), budget.spool_bytes(world)
    where = "in memory" if size <= room else f"{_size(room)} in memory, the rest in files"
    return f"up to {_size(size)} of the reference's wait for the candidates in a job, {where}"


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def _percent(share: float) -> str:
    return "less than 1 %" if share < 0.01 else f"about {share:.0%}".replace("%", " %")


def _extra(ready: Prepared) -> list[str]:
    """The passes beside the run's own."""
    effort = ready.plan.effort
    lines = []
    requests: Counter[int] = Counter()
    asking: Any = ready.plan
    for variant in (v for v in asking.candidates if v.endpoint):
        for asked in asking.asked_of(variant).values():
            requests[asked.concurrency] += len(questions(askable(asked)))
    lines += [f"up to {count} requests, {n} at a time, whose time is not in this" for n, count in requests.items()]
    if effort.floors:
        run = sorted({workload.floored(ready.world, floor, len(ready.plan.prompts)) for floor in effort.floors})
        over = f"{run[0]} to {run[-1]}" if run[1:] else str(run[0])
        lines.append(f"noise floor: {len(effort.floors)} passes over {over} prompts in another layout")
    if effort.injecting:
        lines.append(f"{effort.injecting} passes of the reference with tokens put in")
    if effort.stepwise:
        lines.append(f"{effort.stepwise} readings token by token")
    return lines


def _seconds(ready: Prepared) -> tuple[float, float]:
    """From a measured matrix product: decoding reaches between a tenth and a half of its speed.

    A GPU is told of each layer of each step by its host, and choosing tokens takes as long again or four times that.
    """
    speed = flops_per_second(ready.plan.device)
    work = workload.flops(ready.world, len(ready.plan.prompts))
    waiting = workload.waiting_seconds(ready.world, len(ready.plan.prompts))
    share = len(ready.jobs) / len(ready.every) if ready.plan.shard else 1.0
    return share * (work / speed * 2 + waiting), share * (work / speed * 10 + 5 * waiting)
