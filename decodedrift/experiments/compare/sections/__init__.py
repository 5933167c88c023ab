"""The sections of the page, in order: a function of the Study and a line here, a template of the same name.

What a section returns is said in `report.html.render`.
"""

from __future__ import annotations

from decodedrift.experiments.compare.sections.cases import cases
from decodedrift.experiments.compare.sections.injection import injection
from decodedrift.experiments.compare.sections.perplexity import perplexity
from decodedrift.experiments.compare.sections.pictures import (
    after,
    calibration,
    comparisons,
    decomposition,
    gaps,
    growth,
    reasons,
    survival,
)
from decodedrift.experiments.compare.sections.summary import summary
from decodedrift.report.html import Section
from decodedrift.report.sections.failures import failures
from decodedrift.report.sections.provenance import provenance
from decodedrift.report.sections.verdict import verdict

SECTIONS: dict[str, Section] = {
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
