"""The sections of the page, in order: a function of the Study and a line here, a template of the same name.

A section returns what its template needs, or None where it has nothing to show. `heading`, where given, is its title
and its place in the page's list of contents; `template` names another template than the section's own; `figures` are
drawn by the page's script.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from decodedrift.report.sections.cases import cases
from decodedrift.report.sections.failures import failures
from decodedrift.report.sections.injection import injection
from decodedrift.report.sections.perplexity import perplexity
from decodedrift.report.sections.pictures import (
    after,
    calibration,
    comparisons,
    decomposition,
    gaps,
    growth,
    reasons,
    survival,
)  # fmt: skip
from decodedrift.report.sections.provenance import provenance
from decodedrift.report.sections.summary import summary
from decodedrift.report.sections.verdict import verdict

if TYPE_CHECKING:
    from decodedrift.report.html import Options
    from decodedrift.study import Study

SECTIONS: dict[str, Callable[[Study, Options], dict[str, Any] | None]] = {
    "verdict": verdict,
    "summary": summary,
    "survival": survival,
    "comparisons": comparisons,
    "growth": growth,
    "reasons": reasons,
    "gaps": gaps,
    "calibration": calibration,
    "cases": cases,
    "perplexity": perplexity,
    "after": after,
    "injection": injection,
    "decomposition": decomposition,
    "failures": failures,
    "provenance": provenance,
}
