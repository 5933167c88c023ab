"""How often a run loads weights, about which part of its time that takes, and jobs large enough to keep it small.

Nothing is timed here: jobs that depended on how busy the machine was could not be asked for again. The speeds are
those of two cores with AVX512, and of a GPU a guess; where weights are copied, not read, loading is overestimated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from decodedrift.core.records import Job, Variant
from decodedrift.models.precisions.floating import DTYPES
from decodedrift.models.world import World

PARAMETERS = 60e6  # loaded in a second: 124M take 1.3 to 2.5 s, read from files or copied
SPEED = {"cpu": 50e9, "cuda": 10e12, "mps": 1e12}  # FLOP/s that decoding reaches; on a CPU per thread
SHARE = 0.1  # of the time, what loading should stay under
DISK = 8 * 2**30  # of waiting logits that an enlarged job may leave on the disk


@dataclass(frozen=True)
class Loading:
    """loads: how many times a run loads weights, at most (a screening may leave the reference nothing to judge).

    share: of the run's estimated time.
    """

    loads: int
    share: float


def loading(world: World, jobs: Sequence[Job]) -> Loading:
    """What the loading of a run comes to."""
    times = 1 if world.keeps else len(jobs)
    seconds = times * _seconds(world)
    work = flops(world, len(world.plan.prompts)) / _speed(world)
    return Loading(times * len(_loaded(world)), seconds / (seconds + work))


def prompts_per_job(world: World, least: int) -> int:
    """Prompts per job with which loading stays under SHARE of the time, in whole batches.

    `least` where that does, or where weights are kept. Bounded by what waits in a job: reference logits on the disk,
    scores of sampling in memory.
    """
    total = len(world.plan.prompts)
    if world.all_fit or not world.plan.candidates or total <= least:
        return least
    each = flops(world, 1, texts=False) / _speed(world)
    wanted = math.ceil(_seconds(world) * (1 / SHARE - 1) / each)
    size = world.plan.batch_size
    evenly = math.ceil(total / max(1, total // wanted) / size) * size  # a short last job would load for little
    bound = min(DISK // _waiting(world), world.spool_bytes // max(1, _scores(world)))
    return least if wanted <= least else max(least, min(evenly, bound // size * size))


def flops(world: World, prompts: int, texts: bool = True) -> float:
    """Floating point operations of the forward passes for so many prompts, and for the texts, of every variant."""
    plan = world.plan
    variants = 1 + len(plan.candidates) + len(floors(world))
    writing = 1 if plan.mode == "screen" and not plan.continued else variants
    steps = prompts * plan.max_new_tokens
    tokens: float = writing * steps * world.rows_per_prompt() * (1 if plan.layout == "mixed" else 2)
    tokens += variants * (2 * steps * len(plan.cells) + (sum(t.tokens for t in world.texts.values()) if texts else 0))
    if plan.inject:  # beside what every variant does: a pass a candidate
        tokens += steps * world.rows_per_prompt() * len(plan.candidates)
    if plan.decompose:  # two readings a candidate and one of the reference, and each candidate's own text
        tokens += steps * len(plan.cells) * (1 + 3 * len(plan.candidates))
    return 2.0 * world.checkpoint.parameters * tokens


def floors(world: World) -> list[Variant]:
    """The candidates that also run against themselves in another layout."""
    return [c for c in world.plan.candidates if world.plan.noise_floor and c.precision == c.compute]


def waiting_bytes(world: World) -> int:
    """Bytes of logits that wait in the largest job."""
    plan = world.plan
    longest = max((len(w.reading.continuation) for t in world.texts.values() for w in t.windows), default=0)
    itemsize = DTYPES[plan.reference.compute or "fp32"].itemsize
    most = max((len(t.windows) for t in world.texts.values()), default=0)
    windows = min(world.windows_per_job(), most) * longest * world.width * itemsize
    return max(windows, min(len(plan.prompts), plan.prompts_per_job) * _waiting(world))


def _loaded(world: World) -> list[Variant]:
    """The variants that a job loads, as often as it does: a reference that cannot stay comes back to judge."""
    plan = world.plan
    back = [] if world.both_fit or not plan.candidates else [plan.reference]
    return [plan.reference, *plan.candidates, *back]


def _seconds(world: World) -> float:
    """Loading in one job."""
    return sum(world.others.get(v.name, world.checkpoint).parameters for v in _loaded(world)) / PARAMETERS


def _speed(world: World) -> float:
    kind = torch.device(world.plan.device).type
    return SPEED[kind] * ((world.plan.threads or torch.get_num_threads()) if kind == "cpu" else 1)


def _waiting(world: World) -> int:
    """Bytes of one prompt's logits that wait in a job: forced and greedy's own, those of floors and of the parts."""
    plan = world.plan
    kept = 2 + len(floors(world)) + (1 + len(plan.candidates) if plan.decompose else 0)
    itemsize = max(DTYPES[v.compute or "fp32"].itemsize for v in (plan.reference, *plan.candidates))
    return len(plan.cells) * plan.max_new_tokens * world.width * itemsize * kept


def _scores(world: World) -> int:
    """Bytes of one prompt's scores, an id and a float64 each, where every token may be allowed."""
    cells = sum(bool(s.samples and s.kind.wide) for s, _ in world.plan.cells)
    return cells * world.plan.max_new_tokens * world.width * 16
