"""The page of a `train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.report.html import Section
from decodedrift.report.sections.failures import failures
from decodedrift.report.sections.provenance import provenance
from decodedrift.report.sections.verdict import verdict

SECTIONS: dict[str, Section] = {"verdict": verdict, "failures": failures, "provenance": provenance}


def sections() -> Mapping[str, Section]:
    """SECTIONS."""
    return SECTIONS


def title(plan: Mapping[str, Any]) -> str:
    """What was trained, and how."""
    return f"Trained for {plan['steps']} steps in {', '.join(plan['arms'])}"
