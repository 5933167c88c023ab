"""The memory that a run needs, estimated before a weight is loaded, and the batches that fit. Time: `workload`."""

from __future__ import annotations

import torch

from decodedrift.core.records import InputError, Variant
from decodedrift.core.settings import Settings
from decodedrift.models.knobs import kept
from decodedrift.models.knobs.base import setting
from decodedrift.models.machine import available_memory
from decodedrift.models.precisions import PRECISIONS
from decodedrift.models.precisions.floating import DTYPES
from decodedrift.models.world import World

USABLE = 0.8  # of what is free
SPOOL_SHARE = 0.25  # of the memory, for the reference's waiting logits; what exceeds it goes to files
WINDOW_BYTES = 2 * 2**30  # of reference logits that one job of text windows makes
NUMBERS = 128  # bytes of what is kept of a token beside logits


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
    return int(world.plan.effort.beside * max((parameters(world, v) for v in world.plan.running), default=0))


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
    return max(windows * _window_bytes(world), prompts * prompt_bytes(world))


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


def prompt_bytes(world: World) -> int:
    """Of one prompt's logits: forced and greedy's own, those of floors and of the parts."""
    plan = world.plan
    return len(plan.cells) * plan.max_new_tokens * world.width * _itemsize(*plan.running) * plan.effort.logits


def parameters(world: World, variant: Variant) -> int:
    """Weights that are loaded for a variant, its draft's too."""
    draft = world.drafts.get(variant.name)
    return world.others.get(variant.name, world.checkpoint).parameters + (draft.parameters if draft else 0)


def _itemsize(*variants: Variant) -> int:
    """Bytes of a number, in the widest compute type."""
    return max(DTYPES[v.compute or "fp32"].itemsize for v in variants)
