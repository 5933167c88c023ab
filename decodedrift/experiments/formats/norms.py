"""Squared sums: in which type a norm adds them up, found by trying, and where that overflows.

A norm of transformers widens what it reads to float32 before it squares; one that squares in its own type loses in fp16
every token with a number of 256 or more, though nothing that it is given or gives comes near 65,504.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from decodedrift.experiments.formats.counting import Counts
from decodedrift.experiments.formats.places import squared_sums

FORMAT, DTYPE = "fp16", torch.float16  # the only type that a norm runs in whose range is less than float32's
LARGE = 512.0  # its square is beyond fp16's largest number
OWN, WIDER, UNKNOWN = "own", "wider", "unknown"


@dataclass
class Squares:
    """One norm's. added_in: its OWN type, WIDER, or UNKNOWN. lost: tokens that it loses in fp16 where it is OWN."""

    norm: Any
    tokens: int = 0
    lost: int = 0
    added_in: str = ""
    counts: Counts = field(default_factory=lambda: Counts(()))
    narrow: Any = None

    def add(self, given: Tensor) -> None:
        """What the norm was given once."""
        sums = squared_sums(given)
        self.tokens += len(sums)
        self.counts.add(sums[:, None])
        self.added_in = self.added_in or self._tried(given)
        if self.added_in == OWN:
            self.lost += self._lost(given)

    def _tried(self, given: Tensor) -> str:
        """Gives the norm numbers that the type holds and whose squares it does not.

        The signs alternate, so that a mean that is subtracted is 0.
        """
        large = torch.full_like(given, LARGE)
        large[..., 1::2] *= -1
        try:
            self.narrow = bare(self.norm).to(DTYPE)
            expected = _output(bare(self.norm)(large))
            found = _output(self.narrow(large.to(DTYPE))).to(expected.dtype)
        except (RuntimeError, TypeError, ValueError):  # a norm that takes more than what it normalises
            return UNKNOWN
        close = (found - expected).abs().amax() <= 0.1 * expected.abs().amax()
        return WIDER if bool(close) else OWN

    def _lost(self, given: Tensor) -> int:
        """Tokens that the type holds, of which the norm gives no numbers in it, or nothing but 0."""
        held = given.to(DTYPE)
        found, held, given = (t.reshape(-1, t.shape[-1]) for t in (_output(self.narrow(held)), held, given))
        lost = ~found.isfinite().all(-1) | (found == 0).all(-1)
        return int((lost & held.isfinite().all(-1) & (given != 0).any(-1)).sum())


def bare(module: Any) -> Any:
    """A copy without hooks."""
    twin = copy.deepcopy(module)
    twin._forward_hooks.clear()
    twin._forward_pre_hooks.clear()
    return twin


def _output(value: Any) -> Tensor:
    return value[0] if isinstance(value, tuple) else value  # type: ignore[no-any-return]
