"""Which strategies of a run draw without shared noise: there another batch layout draws anew, and is no noise floor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.core.records import Strategy
from decodedrift.decoding.strategies import STRATEGIES


def as_strategy(entry: Mapping[str, Any]) -> Strategy | None:
    """A plan's strategy as a record; None of one that is not registered here."""
    if entry["name"] not in STRATEGIES:
        return None
    return Strategy(entry["name"], entry["label"], entry["params"], entry.get("coupling", "gumbel"))


def uncoupled(plan: Mapping[str, Any]) -> list[str]:
    """Labels of the strategies whose draws come from a batch's own generator."""
    known = (as_strategy(entry) for entry in plan["strategies"])
    return [s.label for s in known if s is not None and s.samples and not s.coupled]
