"""The factor on the loss that keeps small 16-bit gradients from 0: torch's, and the same for plain fp16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

START, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000  # torch.amp.GradScaler's own


class LossScale:
    """GradScaler's schedule for gradients of any type: its own refuses those of fp16 weights. Fixed, it never skips.

    A dynamic scale is halved by a step with infinite or undefined gradients, which is skipped, and doubled after
    `interval` steps in a row without one.
    """

    def __init__(self, start: float = START, dynamic: bool = True, interval: int = INTERVAL) -> None:
        self._scale, self._dynamic, self._interval = float(start), dynamic, interval
        self._since = 0
        self._broken = False

    def scale(self, outputs: Tensor) -> Tensor:
        """The loss times the scale."""
        return outputs * self._scale

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divides the gradients by the scale, in their own type, and sees whether all are finite."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._broken = not all(bool(gradient.isfinite().all()) for gradient in gradients)
        for gradient in gradients:
            gradient.mul_(1.0 / self._scale)

    def step(self, optimizer: Optimizer) -> Any:
        """The optimizer's step, unless it is to be skipped."""
        return None if self._dynamic and self._broken else optimizer.step()

    def update(self) -> None:
        """Halves or doubles the scale."""
        if not self._dynamic:
            return
        self._since = 0 if self._broken else self._since + 1
        if self._broken:
            self._scale *= BACKOFF
        elif self._since == self._interval:
            grown = self._scale * GROWTH
            self._scale = grown if grown <= torch.finfo(torch.float32).max else self._scale
            self._since = 0

    def get_scale(self) -> float:
        """The scale as it is."""
        return self._scale

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {"scale": self._scale, "since": self._since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state_dict."""
        self._scale, self._since = float(state["scale"]), int(state["since"])


def scaler(
    loss_scale: float | str | None, fp16_gradients: bool, device: str = "cpu", start: float = START
) -> LossScale | GradScaler:
    """What scales an arm's loss: None is no scaling, a number stays, dynamic is GradScaler wherever it can be.

    A step was skipped if, and only if, `update` lowered `get_scale()`.

    Args:
        fp16_gradients: whether the optimizer is given gradients in fp16, which GradScaler refuses.
        start: of a dynamic scale.
    """
    if loss_scale is None:
        return LossScale(1.0, dynamic=False)
    if loss_scale != "dynamic":
        return LossScale(float(loss_scale), dynamic=False)
    kind = torch.device(device).type
    return LossScale(start) if fp16_gradients else GradScaler(kind, init_scale=start)
