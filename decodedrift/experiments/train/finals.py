"""What an arm came to: a row of `arms`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from decodedrift.experiments.train.arms import AGAIN, BUTTERFLY
from decodedrift.experiments.train.lockstep import Lockstep
from decodedrift.numerics.digits import digits_in_common

LAST = 10  # steps whose mean is the final loss
MEANS = (
    "cancelled",
    "arrived",
    "flushed_weights",
    "flushed_activations",
    "overflowed_weights",
    "overflowed_activations",
)


def finals(arms: Lockstep) -> list[dict[str, Any]]:
    """A row for each arm and control, in their order."""
    windows = [ids.to(arms.device) for ids in arms.material.windows]
    read = {name: r.predictions(windows) for name, r in arms.runners.items() if r.broken is None and windows}
    floor = next((row.get("distance") for row in reversed(arms.rows) if row["arm"] == BUTTERFLY), None)
    return [_final(arms, name, read, floor) for name in arms.runners]


def _final(arms: Lockstep, name: str, read: dict[str, torch.Tensor], floor: float | None) -> dict[str, Any]:
    runner, base = arms.runners[name], arms.base(arms.runners[name])
    steps = [row for row in arms.rows if row["arm"] == name]
    last = steps[-1]
    row: dict[str, Any] = {
        "arm": name, "role": runner.arm.role, "held_against": base.arm.label, "seed": arms.seed, "steps": len(steps),
        "loss": float(np.mean([s["loss"] for s in steps[-LAST:]])), "scale": last["scale"],
        "skipped": sum(s["skipped"] for s in steps),
        **{column: mean([s.get(column) for s in steps]) for column in MEANS},
    }  # fmt: skip
    if runner.broken is not None:
        step, module, why = runner.broken
        return row | {"broken_step": step, "broken_module": module, "broken_why": why}
    row |= {"distance": last.get("distance"), "distance_running": last.get("distance_running")}
    if floor and row["distance"] is not None:
        row["distance_floors"] = row["distance"] / floor
    if name == AGAIN:
        row["differing"] = arms.differing()
    if name in read:
        row |= {"held_out_tokens": len(read[name]), "perplexity": math.exp(-float(read[name].mean()))}
    if name in read and base.arm.label in read and runner is not base:
        digits = in_common(read[name], read[base.arm.label])
        p5, median = np.quantile(digits, (0.05, 0.5), method="lower")  # of which some are infinite
        row |= {"digits_median": float(median), "digits_p5": float(p5)}
    return row


def in_common(ours: torch.Tensor, theirs: torch.Tensor) -> np.ndarray:
    """Digits in common of each predicted probability, given as logarithms."""
    p, q = ours.exp().numpy(), theirs.exp().numpy()
    return digits_in_common(p, q)


def mean(values: list[Any]) -> float | None:
    """Of those that are there."""
    there = [float(v) for v in values if v is not None and not math.isnan(v)]
    return float(np.mean(there)) if there else None
