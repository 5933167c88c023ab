"""The sections of the page, in order: a function of the Study and a line here, a template of the same name.

A section returns what its template needs, or None where it has nothing to show. `heading`, where given, is its title
and its place in the page's list of contents; `template` names another template than the section's own; `figures` are
drawn by the page's script.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from decodedrift.experiments.compare.sections.cases import cases
from decodedrift.experiments.compare.sections.failures import failures
from decodedrift.experiments.compare.sections.injection import injection
from decodedrift.experiments.compare.sections.perplexity import perplexity
from decodedrift.experiments.compare.sections.pictures import (  # fmt: skip
    after,
    calibration,
    comparisons,
    decomposition,
    gaps,
    growth,
    reasons,
    survival,
)
from decodedrift.experiments.compare.sections.provenance import provenance
from decodedrift.experiments.compare.sections.summary import summary
from decodedrift.experiments.compare.sections.verdict import verdict

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options

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
