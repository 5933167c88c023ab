"""The top tokens that a variant saw at a position: what a reader of two diverging texts asks for. Bounded.

All positions around a first divergence are kept, the others while the job's budget lasts, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from decodedrift.decoding.tops import COUNT, Tops
from decodedrift.measure.stacked import Part

AROUND = 8  # positions before and after a divergence that are always kept
BUDGET = 200_000  # rows of a job beyond those


class Ledger:
    """The alternatives of one job, within its budget."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.left = budget

    def rows(
        self, keys: dict[str, Any], sides: Mapping[tuple[str, str], Tops], divergence: int | None
    ) -> Iterator[Part]:
        """The kept rows of one compared trace, for `tables.stacked`.

        Args:
            sides: (variant, pass: `generated` or `forced`) -> its top tokens by position.
            divergence: t*, or None.
        """
        for (variant, pass_name), tops in sides.items():
            mask = np.zeros(len(tops), dtype=bool)
            if divergence is not None:
                mask[max(0, divergence - AROUND) : divergence + AROUND + 1] = True
            rest = np.flatnonzero(~mask)[: max(0, self.left) // COUNT]
            self.left -= len(rest) * COUNT
            mask[rest] = True
            if mask.any():
                yield keys | {"variant": variant, "pass": pass_name}, _columns(tops, np.flatnonzero(mask))


def _columns(tops: Tops, positions: np.ndarray) -> dict[str, np.ndarray]:
    width = tops.ids.shape[1]
    columns = {
        "position": np.repeat(positions, width),
        "rank": np.tile(np.arange(1, width + 1), len(positions)),
        "token_id": tops.ids[positions].reshape(-1),
        "logprob": tops.log_p[positions].reshape(-1),
    }
    some = columns["token_id"] >= 0  # of what was recorded there may be fewer
    return {name: values[some] for name, values in columns.items()}
