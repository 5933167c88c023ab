"""A small LSTM on a task of its own, in float64 and in float32: how many digits two trainings have in common.

A sequence is 10 numbers drawn from [0, 1); its label turns from 0 to 1 where their running sum passes 10 / 4. An LSTM
of 20 cells with a sigmoid at each step learns it by plain SGD (rate 0.001, batches of 32, 10 epochs, binary
cross-entropy), from torch's own initialisation, uniform within 1 / sqrt(20) for weights and biases; Keras's is another
one (Glorot, orthogonal, biases 0 and 1). Both draw other numbers in float64 than in float32 from one seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from decodedrift.numerics.digits import digits_in_common

NAME = "lstm"
STEPS, CELLS, RATE, BATCH, EPOCHS = 10, 20, 0.001, 32, 10
SEQUENCES, HELD_OUT = 1000, 200

EQUAL, DRAWN = "fp32 and fp64, equal weights", "fp32 and fp64, each drawn anew"
ULP, ORDER = "fp32 and fp32, weights one ulp aside", "fp32 and fp32, other order"
PAIRS = (EQUAL, DRAWN, ULP, ORDER)


class Data(NamedTuple):
    """x: [sequences, 10]; y: their labels, 0 or 1, of the same shape and type."""

    x: Tensor
    y: Tensor


class Labeller(nn.Module):
    """[batch, 10] -> the probability of label 1 at each step, [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, CELLS, batch_first=True)
        self.head = nn.Linear(CELLS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The probabilities."""
        return self.head(self.lstm(x[..., None])[0]).squeeze(-1).sigmoid()  # type: ignore[no-any-return]


def data(seed: int, sequences: int) -> Data:
    """Sequences and labels; float32 numbers held in float64, so that both types read the same."""
    x = torch.rand(sequences, STEPS, generator=torch.Generator().manual_seed(seed)).double()
    return Data(x, (x.cumsum(1) > STEPS / 4).double())


def drawn(seed: int, kind: torch.dtype) -> Labeller:
    """A model whose weights are drawn in a type."""
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(kind)
        try:
            return Labeller()
        finally:
            torch.set_default_dtype(default)


def training(model: Labeller, learnt: Data, held: Data, seed: int) -> Iterator[tuple[Tensor, float]]:
    """Trains; before and after each epoch the predictions of what was held out, and the loss there.

    seed: of the order of the sequences.
    """
    kind = model.head.weight.dtype
    x, y, optimizer = learnt.x.to(kind), learnt.y.to(kind), torch.optim.SGD(model.parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(EPOCHS + 1):
        with torch.no_grad():
            told = model(held.x.to(kind))
        yield told, float(nn.functional.binary_cross_entropy(told, held.y.to(kind)))
        if epoch < EPOCHS:
            for rows in torch.randperm(len(x), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
                optimizer.zero_grad()
                nn.functional.binary_cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()


def pair(name: str, seed: int) -> tuple[Labeller, Labeller, int]:
    """Two models that are to be held against each other, and the seed of the first one's order; `seed` is the second's.

    Raises:
        KeyError: no such pair.
    """
    first, order = drawn(seed, torch.float32), seed
    second = {
        EQUAL: lambda: drawn(seed, torch.float32).double(), DRAWN: lambda: drawn(seed, torch.float64),
        ULP: lambda: drawn(seed, torch.float32), ORDER: lambda: drawn(seed, torch.float32),
    }[name]()  # fmt: skip
    if name == ULP:
        with torch.no_grad():
            for weight in first.parameters():
                weight.copy_(torch.nextafter(weight, torch.full_like(weight, math.inf)))
    if name == ORDER:
        order = seed + 1
    return first, second, order


def digits(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of the table `digits`: per seed, pair and epoch, over all steps of the held-out sequences.

    The first of a pair is float32; the second is float64 (with EQUAL weights, or DRAWN anew) or float32 (ULP, ORDER).
    """
    rows = []
    for seed in seeds:
        learnt, held = data(2 * seed, SEQUENCES), data(2 * seed + 1, HELD_OUT)
        for name in PAIRS:
            first, second, order = pair(name, seed)
            began = common(_flat(first), _flat(second))["significant_digits"]
            runs = zip(training(first, learnt, held, order), training(second, learnt, held, seed), strict=True)
            for epoch, ((ours, loss), (theirs, other)) in enumerate(runs):
                rows.append(
                    {
                        "seed": seed, "pair": name, "epoch": epoch, **common(ours, theirs), "digits_weights": began,
                        "loss": loss, "loss_other": other,
                        "agree": float(((ours > 0.5) == (theirs > 0.5)).double().mean()),
                        "right": float(((ours > 0.5) == (held.y > 0.5)).double().mean()),
                    }
                )  # fmt: skip
    return rows


def common(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """Digits in common: the median, and what 95 of 100 have at least; infinite where two are equal."""
    told = digits_in_common(ours.double().numpy(), theirs.double().numpy())
    low, median = np.quantile(told, (0.05, 0.5), method="lower")
    return {"significant_digits": float(median), "significant_digits_p5": float(low)}


def _flat(model: Labeller) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])
