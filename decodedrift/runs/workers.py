"""How many processes run the jobs, and with how many threads each: as many as were asked for, or as fit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from decodedrift.core.records import InputError
from decodedrift.runs.sharding import slice_of

if TYPE_CHECKING:
    from decodedrift.models.world import World

AUTO = "auto"
PROCESS = 0.6 * 2**30  # bytes of an interpreter with torch and transformers in it
GIB = 2**30


def settle(world: World, begun: bool = False, threads: int | None = None) -> None:
    """Sets the processes of a world, the threads of its plan where none are asked, and the memory of each process.

    Batches and jobs are settled before, as for one process: how many there are moves no row. A run that goes on keeps
    its threads, which do. Shards have the threads of a whole run, as all must be the same.

    Args:
        begun: whether it goes on; threads: then as its plan has them, None where they are torch's.

    Raises:
        InputError: so many do not fit, or the run cannot leave this process.
    """
    plan, asked = world.plan, world.plan.workers
    if asked == 1:
        return
    if reason := _bound(world):
        if asked != AUTO:
            raise InputError(f"--workers {asked}: {reason}")
        return
    if plan.threads is None and begun:
        plan = plan.having(threads=threads)
    settled = plan.threads is not None or begun
    each = (plan.threads or _torch_threads()) if settled else 1
    need = needed(world)
    fit, jobs = int(world.memory // need), _jobs(world)
    own = len(range(jobs)[slice_of(plan.shard)]) if plan.shard else jobs
    if asked == AUTO:
        most = cores() // each if plan.device == "cpu" else 1
        count = max(1, min(most, fit, jobs))
    else:
        count = min(asked, jobs)
        if (at_once := min(count, own)) > max(1, fit):
            raise InputError(
                f"--workers {asked}: {at_once} processes need about {at_once * need / GIB:.1f} GiB, and "
                f"{world.memory / GIB:.1f} GiB may be used; use --workers {max(1, fit)}, or raise --memory"
            )
    if count > 1 and not settled:
        plan = plan.having(threads=max(1, cores() // count))
    count = max(1, min(count, own))
    world.plan, world.workers, world.memory = plan, count, world.memory // count


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _torch_threads() -> int:
    from decodedrift.models.machine import numerical

    return int(numerical("cpu")["threads"])


def _jobs(world: World) -> int:
    """How many the run has."""
    from decodedrift.models import budget

    each = budget.windows_per_job(world)
    return len(world.plan.shards()) + sum(-(-len(text.windows) // each) for text in world.texts.values())


def _bound(world: World) -> str:
    """Why a run cannot leave this process; empty where it can."""
    every: dict[str, Any] = {world.plan.model: world.checkpoint, **world.others}
    for name, checkpoint in every.items():
        if checkpoint.module is not None:
            return (
                f"{name} is a model in memory, which other processes do not have; save it with save_pretrained() and "
                "name the folder, or use --workers 1"
            )
    return ""


def needed(world: World) -> float:
    """Bytes that each process needs at least."""
    from decodedrift.models import budget

    weights = max((budget.loading_bytes(world, v) for v in world.plan.running), default=0)
    least = weights + budget.further_bytes(world) + budget.batch_bytes(world)
    need = max(least / (1 - budget.SPOOL_SHARE), world.least)
    if world.plan.device == "cpu":
        need += PROCESS
    return need


def memory(world: World) -> str:
    """What several processes need of the memory, in words, by the figure that refuses too many."""
    count, each = world.workers, needed(world)
    return (
        f"at least {count * each / GIB:.1f} GiB of {count * world.memory / GIB:.1f} GiB, in all {count} processes"
        f" (each {each / GIB:.2f} GiB)"
    )
