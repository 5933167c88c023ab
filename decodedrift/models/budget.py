"""What a run needs, estimated before a weight is loaded: memory, loads, arithmetic; and the batches and jobs that fit.

Nothing is timed here: jobs that depended on how busy the machine was could not be asked for again. The speeds are
those of two cores with AVX512, and of a GPU a guess; where weights are copied, not read, loading is overestimated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from decodedrift.core.estimate import Work
from decodedrift.core.records import InputError, Job, Variant
from decodedrift.core.settings import Settings
from decodedrift.models.footprint import LAYERS
from decodedrift.models.knobs import kept
from decodedrift.models.knobs.base import setting
from decodedrift.models.machine import available_memory
from decodedrift.models.precisions import PRECISIONS
from decodedrift.models.precisions.floating import DTYPES
from decodedrift.models.world import World

USABLE = 0.8  # of what is free
SPOOL_SHARE = 0.25  # of the memory, for the reference's waiting logits; what exceeds it goes to files
WINDOW_BYTES = 2 * 2**30  # of reference logits that one job of text windows makes
PARAMETERS = 60e6  # loaded in a second: 124M take 1.3 to 2.5 s, read from files or copied
SPEED = {"cpu": 50e9, "cuda": 10e12, "mps": 1e12}  # FLOP/s that decoding reaches; on a CPU per thread
LAUNCH = 0.5e-3  # seconds that a GPU waits to be told of one layer of a step: 0.4 to 1.1 ms on an H200's host
SHARE = 0.1  # of the time, what loading should stay under
NUMBERS = 128  # bytes of what is kept of a token beside logits
COUNTING = 1000.0  # operations in whose time a number is held against a format
HELD = 10  # numbers that modules take and give of a token, to one that the cache keeps
DISK = 8 * 2**30  # of waiting logits that an enlarged job may leave on the disk


def usable_memory(plan: Settings) -> int:
    """Bytes that may be used: what the plan declares, else 80 % of what is free."""
    return plan.memory_bytes or int(available_memory(plan.device) * USABLE)


def spool_bytes(world: World) -> int:
    """Memory for the reference's waiting logits, which wait on the host; the rest is for weights and batches."""
    host = world.memory
    if torch.device(world.plan.device).type == "cuda":
        host = min(host, int(available_memory("cpu") * USABLE))
    return int(host * SPOOL_SHARE)


def weight_bytes(world: World, variant: Variant) -> int:
    """Memory of one variant's weights while it runs, its draft's and further copies too.

    By the file headers in the types that they are kept in, or as the files hold what stays packed.
    """
    checkpoint = world.others.get(variant.name, world.checkpoint)
    draft = world.drafts.get(variant.name)
    beside = draft.parameters * _itemsize(variant) if draft else 0
    if checkpoint.quantization is not None and not checkpoint.quantization.kind.dense:
        return checkpoint.bytes + beside
    weights = checkpoint.parameters * sum(DTYPES[name].itemsize for name in kept(variant))
    return world.on_a_device(variant, weights) + beside


def loading_bytes(world: World, variant: Variant) -> int:
    """The most that they take: some are read in a wider type than they are kept in."""
    checkpoint = world.others.get(variant.name, world.checkpoint)
    if checkpoint.quantization is not None:
        return weight_bytes(world, variant)
    merged = "fp32" if setting(variant, "merge") == "fp32" else None
    read = [PRECISIONS[variant.precision].reads(variant.options), merged, variant.compute]
    widest = max(DTYPES[name].itemsize for name in read if name is not None)
    return max(weight_bytes(world, variant), world.on_a_device(variant, checkpoint.parameters * widest))


def pair_bytes(world: World) -> int:
    """The reference, the largest candidate as it loads, and a batch."""
    largest = max((loading_bytes(world, v) for v in _beside(world)), default=0)
    return weight_bytes(world, world.plan.reader) + largest + further_bytes(world) + batch_bytes(world)


def further_bytes(world: World) -> int:
    """What is held beside the weights of the largest variant: other copies of them."""
    return int(world.plan.effort.beside * max((_parameters(world, v) for v in world.plan.running), default=0))


def _beside(world: World) -> list[Variant]:
    """What is loaded beside the reference: candidates that run here, and casts that recorded ones are held beside."""
    plan = world.plan
    return [*plan.running[1:], *getattr(plan, "recorded_casts", ())]


def both_fit(world: World) -> bool:
    """Whether the reference can stay resident beside the largest candidate."""
    return pair_bytes(world) <= world.memory * (1 - SPOOL_SHARE)


def all_fit(world: World) -> bool:
    """Whether every variant's weights can stay in memory at once."""
    variants = world.plan.running
    every = sum(weight_bytes(world, v) for v in variants)
    every += max(loading_bytes(world, v) - weight_bytes(world, v) for v in variants)
    return every + further_bytes(world) + batch_bytes(world) <= world.memory * (1 - SPOOL_SHARE)


def resident(world: World) -> str:
    """Whose weights are in memory at once."""
    both = both_fit(world) and _beside(world)
    return "every variant" if world.keeps else "both variants" if both else "one variant"


def rows_per_prompt(world: World) -> int:
    """Rows that one prompt takes in a generating batch."""
    widths = [s.rows for s, _ in world.plan.cells]
    return (sum(widths) or 1) if world.plan.layout == "mixed" else max(widths, default=1)


def batch_bytes(world: World, size: int | None = None) -> int:
    """A generous estimate of one generating batch: KV cache (twice: it is copied as it grows), float64 logits."""
    longest = max((len(ids) for ids in world.prompts.values()), default=0) + world.plan.max_new_tokens
    cache = 2 * world.footprint.elements(longest) * _itemsize(*world.plan.running)
    return int((size or world.plan.batch_size) * rows_per_prompt(world) * (cache + world.width * 8 * 4))


def fitting_batch(world: World) -> int:
    """The plan's batch size, halved until a batch fits beside the weights. Decided before anything runs.

    Raises:
        InputError: not even one prompt fits.
    """
    room = world.memory * (1 - SPOOL_SHARE) - max(weight_bytes(world, v) for v in world.plan.running)
    room -= further_bytes(world)
    size = world.plan.batch_size
    while size > 1 and batch_bytes(world, size) > room:
        size //= 2
    if batch_bytes(world, size) > room:
        need = (world.memory - room + batch_bytes(world, 1)) / 2**20
        raise InputError(
            f"--memory {world.memory / 2**20:.0f} MiB is too little: about {need:.0f} MiB are needed even with one "
            "prompt at a time; raise it, or lower --max-new-tokens or the number of beams"
        )
    return size


def windows_per_job(world: World) -> int:
    """Text windows per job, so that their reference logits stay within a bound."""
    return max(1, WINDOW_BYTES // max(1, _window_bytes(world)))


def waiting_bytes(world: World) -> int:
    """Bytes of logits that wait in the largest job."""
    windows = min(windows_per_job(world), max((len(t.windows) for t in world.texts.values()), default=0))
    prompts = min(len(world.plan.prompts), int(world.plan.prompts_per_job))
    return max(windows * _window_bytes(world), prompts * _prompt_bytes(world))


def kept_logits(world: World) -> str:
    """What `--keep-logits` leaves in the run folder, at most, in words.

    Of each text the logits of its reading, of greedy's those it was written by too; of coupled sampling an id and a
    score for each token that may be allowed.
    """
    plan, size = world.plan, _itemsize(world.plan.reference)
    each = sum(NUMBERS + world.width * size for _ in plan.cells)
    for strategy in (s for s, _ in plan.cells if not s.searches):
        greedy = world.width * (8 if strategy.penalised else size)
        allowed = 16 * min(world.width, strategy.params.get("k", world.width))
        each += allowed if strategy.coupled else 0 if strategy.samples else greedy
    count = each * len(plan.prompts) * plan.max_new_tokens
    count += sum(text.tokens for text in world.texts.values()) * world.width * size
    shown = f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"
    return f"the reference's logits stay in the run folder, up to {shown}"


def _window_bytes(world: World) -> int:
    """Of the reference's logits at the longest window."""
    longest = max((len(w.reading.continuation) for t in world.texts.values() for w in t.windows), default=1)
    return longest * world.width * _itemsize(world.plan.reader)


def _prompt_bytes(world: World) -> int:
    """Of one prompt's logits: forced and greedy's own, those of floors and of the parts."""
    plan = world.plan
    return len(plan.cells) * plan.max_new_tokens * world.width * _itemsize(*plan.running) * plan.effort.logits


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
    if all_fit(world) or not plan.candidates or total <= least:
        return least
    each = flops(world, 1, texts=False) / _speed(world) + waiting_seconds(world, 1)
    target = math.ceil(_loading_seconds(world) * (1 / SHARE - 1) / each)
    size = plan.batch_size
    evenly = math.ceil(total / max(1, total // target) / size) * size  # a short last job would load for little
    scores = sum(s.samples and s.kind.wide for s, _ in plan.cells) * plan.max_new_tokens * world.width * 16
    bound = min(DISK // _prompt_bytes(world), spool_bytes(world) // max(1, scores))
    return least if target <= least else max(least, min(evenly, bound // size * size))


def flops(world: World, prompts: int, texts: bool = True) -> float:
    """Floating point operations of the forward passes for so many prompts, and for the texts, of every variant."""
    plan, effort = world.plan, world.plan.effort
    steps, rows = prompts * plan.max_new_tokens, rows_per_prompt(world)
    scored = sum(t.tokens for t in world.texts.values()) if texts else 0
    tokens: float = effort.writing * steps * rows * (1 if plan.layout == "mixed" else 2)
    tokens += effort.injecting * steps * rows + effort.stepwise * steps * len(plan.cells)
    tokens += effort.reading * (2 * steps * len(plan.cells) + scored)
    read = effort.prompts * sum(map(len, world.prompts.values())) * prompts / max(1, len(plan.prompts))
    tokens += read
    floored = effort.floors * min(prompts, effort.floor_prompts) * plan.max_new_tokens
    tokens += floored * (rows * (1 if plan.layout == "mixed" else 2) + 2 * len(plan.cells))
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
    floors = effort.floors * max(0, min(len(job.prompts), effort.floor_prompts - earlier)) * len(plan.cells)
    floors *= plan.max_new_tokens
    read = effort.reading and effort.reading + effort.writing - 1  # what others wrote, the reference judges
    return Work(
        (effort.writing + effort.injecting + effort.stepwise) * steps + floors + effort.trained / len(plan.shards()),
        read * steps + 2 * floors + effort.reading * scored + effort.prompts * _context(world, job),
    )


def _context(world: World, job: Job) -> int:
    """Tokens of a job's prompts."""
    return sum(len(world.prompts[p.id]) for p in job.prompts)


def waiting_seconds(world: World, prompts: int) -> float:
    """What a GPU waits for its host while so many prompts are decoded, a step and a layer at a time; 0 on a CPU."""
    if torch.device(world.plan.device).type != "cuda":
        return 0.0
    plan, effort = world.plan, world.plan.effort
    layers = getattr(world.checkpoint.config.get_text_config(decoder=True), "num_hidden_layers", None) or LAYERS
    passes = effort.writing * (1 if plan.layout == "mixed" else len(plan.cells))
    batches = (passes + effort.injecting + effort.stepwise) * prompts / plan.batch_size
    batches += effort.floors * min(prompts, effort.floor_prompts)
    return float((batches * plan.max_new_tokens + effort.prompts * prompts) * layers * LAUNCH)


def _loads(world: World) -> list[Variant]:
    """The variants that a job loads, as often as it does: a reference that cannot stay comes back to judge."""
    plan = world.plan
    return [*plan.running, *([] if both_fit(world) or not plan.candidates else [plan.reader])]


def _loading_seconds(world: World) -> float:
    """Loading in one job."""
    return sum(_parameters(world, v) for v in _loads(world)) / PARAMETERS


def _speed(world: World) -> float:
    kind = torch.device(world.plan.device).type
    return SPEED[kind] * ((world.plan.threads or torch.get_num_threads()) if kind == "cpu" else 1)


def _parameters(world: World, variant: Variant) -> int:
    draft = world.drafts.get(variant.name)
    return world.others.get(variant.name, world.checkpoint).parameters + (draft.parameters if draft else 0)


def _itemsize(*variants: Variant) -> int:
    """Bytes of a number, in the widest compute type."""
    return max(DTYPES[v.compute or "fp32"].itemsize for v in variants)
