"""What a run says of knobs: those that did nothing, candidates that are the reference, and what no reading can show."""

from __future__ import annotations

from typing import Any

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.execution import asked, same_execution, unmoved, untold
from decodedrift.models.knobs import KNOBS
from decodedrift.report.phrases import listed


def sentences(study: Any) -> list[str]:
    """A candidate that is the reference; knobs that did not engage, changed nothing, or that nobody can read back."""
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
    if still := {name: knobs for name, knobs in unmoved(study).items() if name not in same}:
        parts = [f"{listed(knobs)} of {visible(name)}" for name, knobs in still.items()]
        said.append(f"Engaged, and changed no bit of any figure: {listed(parts)}.")
    if unknown := untold(study):
        parts = [f"{listed(knobs)} of {visible(name)}" for name, knobs in unknown.items()]
        said.append(f"Whether it engaged cannot be told, as nothing is read back: {listed(parts)}.")
    return said + _unread(study)


def _unread(study: Any) -> list[str]:
    """Candidates along whose reference's text there is no distance, since reading it would not use their knob."""
    knobs: dict[str, list[str]] = {}
    for variant in study.plan.get("candidates", ()):
        for name in asked(variant, study.plan["reference"]):
            if not KNOBS[name].forced:
                knobs.setdefault(name, []).append(visible(str(variant["name"])))
    return [
        f"{knob} acts while tokens are generated and not where a given text is read at once: of {listed(names)} there "
        "are first divergences, and no distances along a text."
        for knob, names in knobs.items()
    ]
