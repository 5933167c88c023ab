"""The flip law: from forced margins and errors alone, the chance that a choice turns at each position.

A choice turns where margin + error < 0, margin being the strategy's best score less its second best under the
reference, and error what the candidate adds to that difference (`choice_margin` and `choice_error`). A law learns the
errors of some prompts and predicts others of which it is told the reference's margins only. Pure arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

FOLDS = 5
EDGES = (0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0)  # of predicted chances, for the calibration table


@dataclass(frozen=True)
class ForcedPositions:
    """Forced positions of one candidate and strategy, [n] each.

    margin: >= 0, inf where one id alone is allowed. error: NaN where unknown, -inf where the candidate forbids the best
    id, +inf where it forbids the second. scale: rms of the reference's centred logits. flipped: bool, whether the
    candidate chooses another token there. cluster: int64, the prompt.
    """

    margin: np.ndarray
    error: np.ndarray
    scale: np.ndarray
    flipped: np.ndarray
    cluster: np.ndarray

    def at(self, rows: np.ndarray) -> ForcedPositions:
        """These rows only."""
        return replace(self, **{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})

    @property
    def finite(self) -> np.ndarray:
        """Where the error is a number."""
        return np.asarray(np.isfinite(self.error))


Chance = Callable[[ForcedPositions], np.ndarray]  # reads margin and scale; must not look at error or flipped


def constant(positions: ForcedPositions) -> Chance:
    """No law at all: one risk for every position. What the others have to beat."""
    rate = positions.flipped.mean()
    return lambda new: np.full(len(new.margin), rate)


def normal(positions: ForcedPositions) -> Chance:
    """Phi(-margin / sigma), sigma the rms of all finite errors."""
    sigma = rms(positions.error[positions.finite])
    return lambda new: _below(-new.margin, sigma)


def scaled(positions: ForcedPositions) -> Chance:
    """Phi(-margin / (c scale)): errors in proportion to the size of the reference's logits."""
    sized = positions.at(positions.finite & (positions.scale > 0))
    factor = rms(sized.error / sized.scale)
    return lambda new: _below(-new.margin, factor * new.scale)


def empirical(positions: ForcedPositions) -> Chance:
    """The errors themselves: the share that is below -margin, one that meets it exactly counting half.

    Finite errors are taken from the less decided half of the positions, where choices turn. The share at which the
    candidate forbids the reference's token stands beside them: truncation turns a choice whatever its margin. Shares as
    they were seen: half a flip added to a count would be added at every position of a text. See `resolved`.
    """
    forbidden = np.isneginf(positions.error).sum() / (~np.isnan(positions.error)).sum()
    near = positions.finite & (positions.margin <= np.median(positions.margin[positions.finite]))
    errors = np.sort(positions.error[near])

    def chance(new: ForcedPositions) -> np.ndarray:
        counts = (np.searchsorted(errors, -new.margin, side) for side in ("left", "right"))
        return np.asarray(forbidden + (1 - forbidden) * sum(counts) / (2 * len(errors)))

    return chance


COUNTING = ("empirical", "constant")  # the laws whose chances are shares of what was seen
LAWS: dict[str, Callable[[ForcedPositions], Chance]] = {
    "empirical": empirical,
    "normal": normal,
    "scaled": scaled,
    "constant": constant,
}


def held_out(law: str, positions: ForcedPositions) -> np.ndarray:
    """Chance of a flip at every position, from the errors of other prompts only, float64 [n].

    Prompts are dealt to five folds in order. NaN where the other folds hold no finite error.

    Raises:
        ValueError: fewer than two prompts, so that there is nothing to hold out.
    """
    clusters = np.unique(positions.cluster)
    if len(clusters) < 2:
        raise ValueError("one prompt: nothing to hold out")
    fold = np.searchsorted(clusters, positions.cluster) % min(FOLDS, len(clusters))
    out = np.full(len(positions.margin), math.nan)
    for index in np.unique(fold):
        here = fold == index
        others = positions.at(~here)
        if others.finite.any():
            out[here] = LAWS[law](others)(positions.at(here))
    return out


def predicted_share(chance: np.ndarray, trace: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The share of traces that these chances expect to have parted by each position, float64 [longest trace].

    1 less the chance of no flip so far, in the mean over traces: one that has ended keeps its own. NaN counts as 0.
    """
    table, _ = _by_trace(chance, trace, position)
    return np.asarray(1 - np.cumprod(1 - table, axis=1).mean(0)) if len(table) else np.empty(0)


def predicted_curve(chance: np.ndarray, trace: np.ndarray, position: np.ndarray) -> np.ndarray:
    """S(t) that these chances predict, float64 [longest trace].

    As Kaplan-Meier would see it: at each position the mean chance over the traces that reach it, each weighted by its
    own chance of still being with the reference. A NaN chance counts as none.
    """
    table, there = _by_trace(chance, trace, position)
    if not len(table):
        return np.empty(0)
    alive = np.cumprod(1 - table, axis=1)
    alive = np.concatenate([np.ones((len(table), 1)), alive[:, :-1]], axis=1) * there
    weight = alive.sum(0)
    risk = np.divide((alive * table).sum(0), weight, out=np.zeros(len(weight)), where=weight > 0)
    return np.asarray(np.cumprod(1 - risk))


def _by_trace(chance: np.ndarray, trace: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(chances, 0 where there is none; whether the trace has the position), [traces, longest trace]."""
    _, row = np.unique(trace, return_inverse=True)
    table = np.zeros((int(row.max()) + 1, int(position.max()) + 1) if len(row) else (0, 0))
    there = np.zeros(table.shape, dtype=bool)
    table[row, position], there[row, position] = np.nan_to_num(chance), True
    return table, there


def brier(chance: np.ndarray, happened: np.ndarray) -> float:
    """Mean squared difference of chance and outcome (Brier 1950)."""
    return float(np.mean((chance - happened) ** 2)) if len(chance) else math.nan


def log_score(chance: np.ndarray, happened: np.ndarray) -> float:
    """Mean -ln of the chance given to what happened, nats; inf where the impossible did."""
    if not len(chance):
        return math.nan
    with np.errstate(divide="ignore"):
        return float(-np.mean(np.log(np.where(happened, chance, 1 - chance))))


def resolved(chance: np.ndarray, seen: int) -> np.ndarray:
    """Chances as counts of so many positions can tell them apart from none and from all: half a position off both.

    For the log score of a law that counts, which forgives no 0; an expected number takes the chances as they are.
    """
    least = 0.5 / (seen + 1)
    return np.asarray(np.clip(chance, least, 1 - least))


def bins(chance: np.ndarray) -> np.ndarray:
    """Index into EDGES of the bin that holds each chance."""
    return np.clip(np.searchsorted(EDGES, chance, side="right") - 1, 0, len(EDGES) - 2)


def rms(values: np.ndarray) -> float:
    """Root mean square; NaN of nothing."""
    return math.sqrt(float(np.mean(values**2))) if len(values) else math.nan


def _below(values: np.ndarray, sigma: float | np.ndarray) -> np.ndarray:
    """Phi(values / sigma); without spread a tie is an even chance and anything less is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sigma == 0, np.where(values == 0, 0.5, 0.0), ndtr(values / sigma))
