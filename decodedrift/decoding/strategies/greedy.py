"""greedy: the largest logit (after a penalty, where one is asked), ties by the lower id."""

from __future__ import annotations

from decodedrift.decoding.strategies.base import PENALTIES, StrategyKind

GREEDY = StrategyKind(
    "the most probable token at every position", {**PENALTIES}, allowed=None, request=lambda params: {"temperature": 0}
)
