"""How much a run computes and how long it loads, estimated from its plan; and the jobs in which loading is little.

Nothing is timed here: jobs that depended on how busy the machine was could not be asked for again. The speeds are
those of two cores with AVX512, and of a GPU a guess; where weights are copied, not read, loading is overestimated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from decodedrift.core.batches import by_length, whole
from decodedrift.core.estimate import Floor, Work
from decodedrift.core.records import Job, Prompt, Variant
from decodedrift.models import budget
from decodedrift.models.footprint import LAYERS
from decodedrift.models.world import World

PARAMETERS = 60e6  # loaded in a second: 124M take 1.3 to 2.5 s, read from files or copied
SPEED = {"cpu": 50e9, "cuda": 10e12, "mps": 1e12}  # FLOP/s that decoding reaches; on a CPU per thread
LAUNCH = 0.5e-3  # seconds that a GPU waits to be told of one layer of a step: 0.4 to 1.1 ms on an H200's host
SHARE = 0.1  # of the time, what loading should stay under
COUNTING = 1000.0  # operations in whose time a number is held against a format
HELD = 10  # numbers that modules take and give of a token, to one that the cache keeps
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
    seconds = times * _loading_seconds(world)
    work = flops(world, len(world.plan.prompts)) / _speed(world) + waiting_seconds(world, len(world.plan.prompts))
    return Loading(times * len(_loads(world)), seconds / (seconds + work))


def prompts_per_job(world: World, least: int) -> int:
    """Prompts per job with which loading stays under SHARE of the time, in whole batches.

    `least` where that does, or where weights are kept. Bounded by what waits in a job: reference logits on the disk,
    the scores of wide strategies in memory (an id and a float64 each, if every token were allowed).
    """
    plan = world.plan
    total = len(plan.prompts)
    if budget.all_fit(world) or not plan.candidates or total <= least:
        return least
    each = flops(world, 1, texts=False) / _speed(world) + waiting_seconds(world, 1)
    target = math.ceil(_loading_seconds(world) * (1 / SHARE - 1) / each)
    size = plan.batch_size
    evenly = math.ceil(total / max(1, total // target) / size) * size  # a short last job would load for little
    scores = sum(s.samples and s.kind.wide for s, _ in plan.cells) * plan.max_new_tokens * world.width * 16
    bound = min(DISK // budget.prompt_bytes(world), budget.spool_bytes(world) // max(1, scores))
    return least if target <= least else max(least, min(evenly, bound // size * size))


def flops(world: World, prompts: int, texts: bool = True) -> float:
    """Floating point operations of the forward passes for so many prompts, and for the texts, of every variant."""
    plan, effort = world.plan, world.plan.effort
    steps, rows = prompts * plan.max_new_tokens, budget.rows_per_prompt(world)
    scored = sum(t.tokens for t in world.texts.values()) if texts else 0
    tokens: float = effort.writing * steps * rows * (1 if plan.layout == "mixed" else 2)
    tokens += effort.injecting * steps * rows + effort.stepwise * steps * len(plan.cells)
    tokens += effort.reading * (2 * steps * len(plan.cells) + scored)
    read = effort.prompts * sum(map(len, world.prompts.values())) * prompts / max(1, len(plan.prompts))
    tokens += read
    floors = sum(floored(world, floor, prompts) for floor in effort.floors) * plan.max_new_tokens
    tokens += floors * (rows * (1 if plan.layout == "mixed" else 2) + 2 * len(plan.cells))
    counted = world.checkpoint.parameters + read * (HELD * world.footprint.per_token + world.width)
    drafts = sum(draft.parameters for draft in world.drafts.values()) * steps  # each proposes as many at the least
    weights = world.checkpoint.parameters * (tokens + 3 * effort.trained)
    return 2.0 * (weights + drafts) + effort.counted * COUNTING * counted


def work(world: World, job: Job) -> Work:
    """The tokens that a job writes and reads, as its phases count them: each cell of strategy and seed for itself."""
    plan, effort = world.plan, world.plan.effort
    windows = world.texts[job.text].windows[slice(*job.windows)] if job.text is not None else ()
    scored = sum(len(w.reading.continuation) for w in windows)
    steps = len(job.prompts) * len(plan.cells) * plan.max_new_tokens
    earlier = job.index * int(plan.prompts_per_job)
    floors = sum(_floored_of(world, floor, job.prompts, earlier) for floor in effort.floors)
    floors *= len(plan.cells) * plan.max_new_tokens
    read = effort.reading and effort.reading + effort.writing - 1  # what others wrote, the reference judges
    return Work(
        (effort.writing + effort.injecting + effort.stepwise) * steps + floors + effort.trained / len(plan.shards()),
        read * steps + 2 * floors + effort.reading * scored + effort.prompts * _context(world, job),
    )


def floored(world: World, floor: Floor, prompts: int) -> int:
    """Over how many of a run's first prompts a floor runs."""
    each = int(world.plan.prompts_per_job)
    starts = range(0, min(prompts, world.plan.effort.floor_prompts), each)
    return sum(_floored_of(world, floor, world.plan.prompts[i : min(i + each, prompts)], i) for i in starts)


def _floored_of(world: World, floor: Floor, prompts: Sequence[Prompt], earlier: int) -> int:
    """The same of a job's prompts: those that it is measured on, or whole batches that hold one."""
    measured = {p.id for p in prompts[: max(0, world.plan.effort.floor_prompts - earlier)]}
    if not floor.whole or len(measured) == len(prompts):
        return len(measured)
    order = by_length(prompts, lambda p: len(world.prompts[p.id]), world.plan.batch_size)
    return len(whole([p.id for p in order], floor.size, measured))


def _context(world: World, job: Job) -> int:
    """Tokens of a job's prompts."""
    return sum(len(world.prompts[p.id]) for p in job.prompts)


def waiting_seconds(world: World, prompts: int) -> float:
    """What a GPU waits for its host while so many prompts are decoded, a step and a layer at a time; 0 on a CPU."""
    if torch.device(world.plan.device).type != "cuda":
        return 0.0
    plan, effort = world.plan, world.plan.effort
    layers = getattr(world.checkpoint.config.get_text_config(decoder=True), "num_hidden_layers", None) or LAYERS
    groups = 1 if plan.layout == "mixed" else len(plan.cells)
    batches = (effort.writing * groups + effort.injecting + effort.stepwise) * prompts / plan.batch_size
    batches += groups * sum(floored(world, floor, prompts) / floor.size for floor in effort.floors)
    return float((batches * plan.max_new_tokens + effort.prompts * prompts) * layers * LAUNCH)


def _loads(world: World) -> list[Variant]:
    """The variants that a job loads, as often as it does: a reference that cannot stay comes back to judge."""
    plan = world.plan
    return [*plan.running, *([] if budget.both_fit(world) or not plan.candidates else [plan.reader])]


def _loading_seconds(world: World) -> float:
    """Loading in one job."""
    return sum(budget.parameters(world, v) for v in _loads(world)) / PARAMETERS


def _speed(world: World) -> float:
    kind = torch.device(world.plan.device).type
    return SPEED[kind] * ((world.plan.threads or torch.get_num_threads()) if kind == "cpu" else 1)
