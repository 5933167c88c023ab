"""Candidates that turn out to be the reference's own execution, by what was read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.models.knobs import KNOBS


def same_execution(study: Any) -> list[str]:
    """The candidates that are the reference's execution: equal weights and precision, and every knob read back equal.

    Nothing is said of a candidate that did not run, or of a run that did not note its facts.
    """
    facts = study.environment.get("variants", {})
    reference, names = study.plan["reference"], []
    for variant in study.plan.get("candidates", ()):
        name = variant["name"]
        idle = facts.get(name, {}).get("idle_knobs")
        alike = all(variant.get(k) == reference.get(k) for k in ("precision", "compute", "options"))
        alike = alike and _equal_weights(study, variant)
        if alike and idle is not None and set(asked(variant, reference)) <= set(idle):
            names.append(str(name))
    return names


def unmoved(study: Any) -> list[str]:
    """The candidates that differ from the reference in knobs alone, which all engaged and changed no bit of a logit."""
    facts, same, names = study.environment.get("variants", {}), same_execution(study), []
    reference = study.plan["reference"]
    for variant in study.plan.get("candidates", ()):
        name = str(variant["name"])
        alike = all(variant.get(k) == reference.get(k) for k in ("precision", "compute", "options"))
        engaged = facts.get(name, {}).get("idle_knobs") == [] and asked(variant, reference)
        if name in same or not (alike and engaged and _equal_weights(study, variant)):
            continue
        tables = (study.positions, study.divergences)
        read, parted = (f[(f["role"] == "candidate") & (f["candidate"] == name)] for f in tables)
        moved = (read[["kl", "logit_gap_max"]] != 0).any(axis=None) or (parted["diverged"] == 1).any()
        if len(read) and not moved:
            names.append(name)
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
