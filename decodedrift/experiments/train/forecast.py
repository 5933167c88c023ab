"""`--dry-run` of a training: arms, steps, memory and about how long."""

from __future__ import annotations

from typing import Any

from decodedrift.core.progress import span
from decodedrift.experiments.train.arms import Arm
from decodedrift.experiments.train.settings import SGD
from decodedrift.models.footprint import hollow
from decodedrift.models.precisions.floating import DTYPES
from decodedrift.runs.workers import memory

FORWARD_AND_BACKWARD = 3  # passes' worth
MEASURING = 1.6  # of a step's time, with what is measured of it
SPARE = 3  # further copies of the largest arm: its step, and what is measured of it, in float64


def parameters(world: Any) -> int:
    """Weights; of a configuration those that it would have."""
    checkpoint = world.checkpoint
    return int(checkpoint.parameters or sum(p.numel() for p in hollow(checkpoint).parameters()))


def needed(world: Any) -> int:
    """Bytes for all arms side by side: weights, gradients, moments, and what is measured of one at a time."""
    plan, count = world.plan, parameters(world)
    moments = 0 if plan.optimizer == SGD else 2
    sizes = [_bytes(arm, moments) for arm in plan.every_arm]
    activations = plan.sequences * plan.context * (world.width * 3 + 64 * _hidden(world)) * 8
    return int(count * (sum(sizes) + SPARE * 8 + 4) + activations)


def _bytes(arm: Arm, moments: int) -> int:
    """Of one weight: as it runs, its gradient, moments, masters."""
    size = DTYPES[arm.weights].itemsize
    wide = arm.params["master"] or arm.params["rounding"]
    return 2 * size + (4 * (2 + moments) if wide else size * moments) + 8  # what a step changed, in float64


def _hidden(world: Any) -> int:
    config = world.checkpoint.config.get_text_config(decoder=True)
    width, layers = (getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers"))
    return int((width or 1024) * (layers or 12)) // 4


def forecast(ready: Any) -> str:
    """A few lines."""
    from decodedrift.models.machine import flops_per_second

    plan, world = ready.plan, ready.world
    arms = plan.every_arm
    tokens = plan.effort.trained
    seconds = 2 * FORWARD_AND_BACKWARD * parameters(world) * tokens / flops_per_second(plan.device)
    rows = len(arms) * plan.steps * len(plan.seeds)
    one = f"about {needed(world) / 2**30:.2f} GiB of {world.memory / 2**30:.1f} GiB"
    then = f"{len(plan.prompts)} prompts, {plan.max_new_tokens} new tokens" if plan.compare else "nothing"
    return "\n".join([
        ready.announcement(),
        f"jobs      {len(plan.seeds)} (a seed each, all arms side by side)",
        f"arms      {', '.join(arm.label for arm in arms)}",
        f"steps     {plan.steps} of {plan.sequences} x {plan.context} tokens, {tokens} tokens in all",
        f"rows      {rows} of training.csv, {len(arms) * len(plan.seeds)} of arms.csv",
        f"then      compare in fp32: {then}",
        f"memory    {memory(world) if world.workers > 1 else one}",
        f"time      roughly {span(seconds * 2 * MEASURING)} to {span(seconds * 5 * MEASURING)} on {plan.device},"
        " and the comparison",
    ])  # fmt: skip
