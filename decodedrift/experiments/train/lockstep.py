"""All arms of one seed, a step each in turn, so that every one is held against the reference arm at every step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from decodedrift.core.files import atomic
from decodedrift.experiments.train.arms import AGAIN, FP32, ORDER
from decodedrift.experiments.train.data import Material, other_order
from decodedrift.experiments.train.runner import Runner, apart, cosine

SEEDED = 2**63


class Lockstep:
    """The arms of one seed. rows: of `training`. place: the file that a resume goes on from, None without one."""

    def __init__(
        self, plan: Any, model: Any, material: Material, seed: int, device: torch.device, place: Path | None
    ) -> None:
        self.plan, self.material, self.seed, self.place, self.device = plan, material, seed, place, device
        self.runners = {arm.label: Runner(arm, model, plan, seed % SEEDED, device) for arm in plan.every_arm}
        self.rows: list[dict[str, Any]] = []
        self.done = 0
        self.order = other_order(seed, plan.steps)
        self._goes_on()

    def run(self, tick: Callable[[int], None], pause: Callable[[], None]) -> None:
        """The steps that are left. tick: told of tokens; pause: where the run may be stopped."""
        tokens = self.plan.sequences * self.plan.context
        while self.done < self.plan.steps:
            self._pause(pause)
            for runner in self.runners.values():
                if runner.broken is None:
                    self._step(runner)
                tick(tokens)
            self.done += 1
            if self.done % self.plan.every == 0 and self.done < self.plan.steps:
                self.keep()
        self.keep()

    def _pause(self, pause: Callable[[], None]) -> None:
        try:
            pause()
        except BaseException:  # a signal: the steps that are done stay so
            self.keep()
            raise

    def base(self, runner: Runner) -> Runner:
        """What a runner is held against: the fp32 arm for a control, for all others the reference arm."""
        return self.runners[FP32 if runner.arm.control else self.plan.reference_label]

    def _step(self, runner: Runner) -> None:
        arm, base = runner.arm, self.base(runner)
        place = self.order[self.done] if arm.control == ORDER else self.done
        size = (self.plan.batch_size, self.plan.context, self.plan.accumulate)
        batches = [ids.to(self.device) for ids in self.material.batches(self.seed, place, *size)]
        compared = runner is not base and not arm.control and base.broken is None
        row = {"arm": arm.label, "role": arm.role, "seed": self.seed, "step": self.done + 1}
        row |= runner.step(self.done + 1, batches, base if compared else None)
        if base.broken is None:
            row |= {"held_against": base.arm.label, "distance": apart(runner.kept, base.kept)}
            if runner.weights.seen is not runner.weights.narrow:
                row["distance_running"] = apart([p.detach() for p in runner.weights.narrow], base.kept)
            row["cosine"] = cosine(runner.delta, base.delta) if not row["skipped"] else None
        self.rows.append(row)

    def differing(self, label: str = AGAIN) -> int:
        """Numbers in which the weights of an arm and of what it is held against differ to the bit."""
        runner = self.runners[label]
        pairs = zip(runner.kept, self.base(runner).kept, strict=True)
        return sum(int((a != b).sum()) for a, b in pairs)

    def keep(self) -> None:
        """Writes where the arms are, whole or not at all."""
        if self.place is None:
            return
        state = {
            "done": self.done,
            "rows": self.rows,
            "arms": {name: runner.state_dict() for name, runner in self.runners.items()},
        }
        with atomic(self.place) as part:
            torch.save(state, part)

    def _goes_on(self) -> None:
        """Takes up what an earlier process left."""
        if self.place is None or not os.path.isfile(self.place):
            return
        state = torch.load(self.place, map_location="cpu", weights_only=True)
        self.done, self.rows = state["done"], state["rows"]
        for name, runner in self.runners.items():
            runner.load_state_dict(state["arms"][name])
