"""greedy: the largest logit, ties by the lower id."""

from __future__ import annotations

from decodedrift.decoding.strategies.base import StrategyKind

GREEDY = StrategyKind("the most probable token at every position", {}, allowed=None)
