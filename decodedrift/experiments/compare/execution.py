"""Candidates that turn out to be the reference's own execution, by what was read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.models.knobs import KNOBS


def same_execution(study: Any) -> list[str]:
    """The candidates that are the reference's execution: equal weights and precision, and every knob read back equal.

    Run as deployed, one with a tokenizer, stop ids or settings of its own is another.

    Nothing is said of a candidate that did not run, or of a run that did not note its facts.
    """
    facts = study.environment.get("variants", {})
    reference, names = study.plan["reference"], []
    for variant in study.plan.get("candidates", ()):
        name = variant["name"]
        idle = facts.get(name, {}).get("idle_knobs")
        alike = all(variant.get(k) == reference.get(k) for k in ("precision", "compute", "options"))
        alike = alike and _equal_weights(study, variant)
        alike = alike and not (study.plan.get("as_deployed") and study.environment["deployment"].get(name))
        if alike and idle is not None and set(asked(variant, reference)) <= set(idle):
            names.append(str(name))
    return names


def asked(variant: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """The knobs that a plan's variant is asked to turn otherwise than the reference."""
    ours, theirs = ({**side, **(side.get("knobs") or {})} for side in (reference, variant))
    return [name for name in KNOBS if theirs.get(name) != ours.get(name)]


def _equal_weights(study: Any, variant: Mapping[str, Any]) -> bool:
    """Whether the candidate is no other checkpoint, or one of the same configuration and weights."""
    if not variant.get("model"):
        return True
    sides = study.environment.get("model"), study.environment.get("checkpoints", {}).get(variant["name"])
    ours, theirs = ([side.get(key) for key in ("config", "files")] if side else None for side in sides)
    return ours is not None and ours == theirs
