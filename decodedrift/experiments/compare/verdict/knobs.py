"""What a run says of knobs: those that did nothing, candidates that are the reference, and what no reading can show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.core.untrusted import visible
from decodedrift.models.knobs import KNOBS
from decodedrift.report.phrases import listed


def sentences(study: Any) -> list[str]:
    """A candidate that is the reference, a knob that came to what the reference does, a knob that no reading uses."""
    facts, same = study.environment.get("variants", {}), same_execution(study)
    said = []
    if same:
        is_the = "is the reference's own execution" if len(same) == 1 else "are the reference's own execution"
        said.append(
            f"{listed(map(visible, same))} {is_the}, by what was read back: equal figures there are no finding."
        )
    idle = {name: f["idle_knobs"] for name, f in facts.items() if f.get("idle_knobs") and name not in same}
    if idle:
        parts = [f"{listed(knobs)} of {visible(name)}" for name, knobs in idle.items()]
        said.append(f"Did not engage, being what the reference does too: {listed(parts)}.")
    return said + _unread(study)


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
        if alike and idle is not None and set(_apart(variant, reference)) <= set(idle):
            names.append(str(name))
    return names


def _apart(variant: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
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


def _unread(study: Any) -> list[str]:
    """Candidates along whose reference's text there is no distance, since reading it would not use their knob."""
    knobs: dict[str, list[str]] = {}
    for variant in study.plan.get("candidates", ()):
        for name in _apart(variant, study.plan["reference"]):
            if not KNOBS[name].forced:
                knobs.setdefault(name, []).append(visible(str(variant["name"])))
    return [
        f"{knob} acts while tokens are generated and not where a given text is read at once: of {listed(names)} there "
        "are first divergences, and no distances along a text."
        for knob, names in knobs.items()
    ]
