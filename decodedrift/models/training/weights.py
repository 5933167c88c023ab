"""An arm's weights as its optimizer sees them: themselves, float32 masters, or float32 for the length of a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from decodedrift.models.training.rounding import compensated, stochastic
from decodedrift.models.training.updates import updates


class Share(NamedTuple):
    """So many of so many."""

    n: int
    of: int

    @property
    def share(self) -> float:
        """n / of; nan of none."""
        return self.n / self.of if self.of else float("nan")


class Arrival(NamedTuple):
    """What became of a step's updates. cancelled: those that moved nothing, of all that are not 0.

    arrived: <change, updates> / <updates, updates>: 1 where the weights took all that the optimizer wanted.
    """

    cancelled: Share
    arrived: float


class Weights:
    """Weights that the optimizer changes in their own type, as torch does.

    seen: what the optimizer is given, and what the weights are from step to step. narrow: what the model runs with. A
    step is `gradients` after the backward pass, then unscaling and clipping of `seen`, `begin`, the optimizer's step,
    `finish`. Where the optimizer's step is skipped, so is `finish`.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.narrow = list(parameters)
        self.seen: list[Parameter] = self.narrow
        self._before: list[Tensor] = []
        self._updates: list[Tensor] = []

    def gradients(self) -> None:
        """Hands the gradients to the optimizer, in its type."""

    def begin(self, optimizer: Optimizer) -> None:
        """Remembers the weights, and what the optimizer wants to change."""
        self._before = [tensor.detach().clone() for tensor in self.seen]
        self._updates = list(updates(optimizer))

    def finish(self) -> Arrival:
        """Writes the weights that the model runs with, and tells what became of the updates."""
        moved = self.write()
        cancelled = wanted = 0
        product = square = 0.0
        for after, before, update, m in zip(self.seen, self._before, self._updates, moved, strict=True):
            wanted += int(update.count_nonzero())
            cancelled += int(((update != 0) & ~m).sum())
            product += float(((after.detach().double() - before.double()) * update).sum())
            square += float((update * update).sum())
        self._before, self._updates = [], []
        return Arrival(Share(cancelled, wanted), product / square if square else float("nan"))

    def write(self) -> list[Tensor]:
        """Writes what the model runs with; of each tensor, which entries the update moved."""
        return self._moved()

    def _moved(self) -> list[Tensor]:
        return [after.detach() != before for after, before in zip(self.seen, self._before, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the model's weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state_dict, once the model's weights are loaded."""


class MasterWeights(Weights):
    """float32 masters (Micikevicius et al. 2018, arXiv:1710.03740): the model runs with their 16-bit copies."""

    def __init__(self, parameters: Iterable[Parameter], initial: Iterable[Tensor] | None = None) -> None:
        """initial: what the masters begin with, where that is finer than the 16-bit weights."""
        super().__init__(parameters)
        begin = self.narrow if initial is None else initial
        self.seen = [Parameter(tensor.detach().to(torch.float32, copy=True)) for tensor in begin]

    def gradients(self) -> None:
        """Copies the gradients to float32 and lets go of the 16-bit ones."""
        for wide, narrow in zip(self.seen, self.narrow, strict=True):
            wide.grad = None if narrow.grad is None else narrow.grad.float()
            narrow.grad = None

    def write(self) -> list[Tensor]:
        """Rounds the masters to nearest into the model's weights."""
        _copy(self.narrow, self.seen)
        return self._moved()

    def state_dict(self) -> dict[str, Any]:
        """The masters."""
        return {"masters": [tensor.detach() for tensor in self.seen]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state_dict."""
        _copy(self.seen, state["masters"])
        _copy(self.narrow, self.seen)


class RoundedWeights(MasterWeights):
    """16-bit weights and nothing finer: float32 holds for the length of a step, and is rounded back to nearest.

    The optimizer's moments are float32.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        super().__init__(parameters)

    def write(self) -> list[Tensor]:
        """Rounds, and lets the next step begin from the rounded weights."""
        _copy(self.narrow, self.seen)
        _copy(self.seen, self.narrow)
        return self._moved()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: all is in the weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from the model's weights."""
        _copy(self.seen, self.narrow)


class StochasticWeights(RoundedWeights):
    """As RoundedWeights, rounded at random: an update arrives in the mean. Cancelled is what has no chance to move."""

    def __init__(self, parameters: Iterable[Parameter], seed: int) -> None:
        super().__init__(parameters)
        self.generator = torch.Generator(self.narrow[0].device).manual_seed(seed)

    def write(self) -> list[Tensor]:
        """Draws, and lets the next step begin from what was drawn."""
        moved = self._moved()
        _copy(self.narrow, [stochastic(w.data, n.dtype, self.generator) for w, n in zip(self.seen, self.narrow)])
        _copy(self.seen, self.narrow)
        return moved

    def state_dict(self) -> dict[str, Any]:
        """Where its draws are."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from the model's weights and a state_dict."""
        super().load_state_dict(state)
        self.generator.set_state(state["generator"].cpu())


class KahanWeights(RoundedWeights):
    """As RoundedWeights, with what was lost kept in as many bits again; the optimizer sees the sum of both."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        super().__init__(parameters)
        self.rest = [torch.zeros_like(tensor) for tensor in self.narrow]

    def write(self) -> list[Tensor]:
        """Rounds to nearest, and keeps what that lost."""
        for wide, narrow, rest in zip(self.seen, self.narrow, self.rest, strict=True):
            near, lost = compensated(wide.data, narrow.dtype)
            narrow.data.copy_(near)
            rest.data.copy_(lost)
        self._sum()
        return self._moved()

    def _sum(self) -> None:
        _copy(self.seen, [n.detach().float() + r.detach().float() for n, r in zip(self.narrow, self.rest, strict=True)])

    def state_dict(self) -> dict[str, Any]:
        """What was lost so far."""
        return {"rest": [tensor.detach() for tensor in self.rest]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from the model's weights and a state_dict."""
        _copy(self.rest, state["rest"])
        self._sum()


def weights(
    parameters: Iterable[Parameter],
    master: bool = False,
    rounding: str | None = None,
    seed: int = 0,
    initial: Iterable[Tensor] | None = None,
) -> Weights:
    """An arm's weights: masters, one of ROUNDINGS with float32 moments, or, with neither, torch's own way.

    Args:
        seed: of stochastic rounding. initial: of the masters, unrounded.

    Raises:
        KeyError: no such rounding.
    """
    if master:
        return MasterWeights(parameters, initial)
    if rounding == "stochastic":
        return StochasticWeights(parameters, seed)
    kinds: dict[str | None, type[Weights]] = {None: Weights, "nearest": RoundedWeights, "kahan": KahanWeights}
    return kinds[rounding](parameters)


def _copy(to: Iterable[Tensor], what: Iterable[Tensor]) -> None:
    """Writes tensors into others, rounded to nearest where these are narrower."""
    for target, source in zip(to, what, strict=True):
        target.data.copy_(source.data)
