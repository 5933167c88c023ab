"""What a run says of knobs that did nothing."""

from __future__ import annotations

from typing import Any

from decodedrift.core.untrusted import visible
from decodedrift.report.phrases import listed


def sentences(study: Any) -> list[str]:
    """A candidate's knob that came to what the reference does: its result is no finding about that knob."""
    facts = study.environment.get("variants", {})
    idle = [f"{listed(knobs)} of {visible(name)}" for name, f in facts.items() if (knobs := f.get("idle_knobs"))]
    return [f"Did not engage, being what the reference does too: {listed(idle)}."] if idle else []
