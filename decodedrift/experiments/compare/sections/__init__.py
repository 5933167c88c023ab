"""The sections of the page, in order: a function of the Study and a line here, a template of the same name.

What a section returns is said in `report.html.render`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.experiments.compare.sections.accuracy import accuracy
from decodedrift.experiments.compare.sections.answer import answer
from decodedrift.experiments.compare.sections.cases import cases
from decodedrift.experiments.compare.sections.certificate import certificate
from decodedrift.experiments.compare.sections.fork import fork
from decodedrift.experiments.compare.sections.injection import injection
from decodedrift.experiments.compare.sections.perplexity import perplexity
from decodedrift.experiments.compare.sections.pictures import (
    after,
    calibration,
    comparisons,
    decomposition,
    gaps,
    growth,
    survival,
    where,
)
from decodedrift.experiments.compare.sections.reasons import reasons
from decodedrift.experiments.compare.sections.recorded import recorded
from decodedrift.experiments.compare.sections.summary import summary
from decodedrift.report.html import Section
from decodedrift.report.sections.failures import failures
from decodedrift.report.sections.provenance import provenance
from decodedrift.report.sections.verdict import in_words
from decodedrift.report.sections.words import words
from decodedrift.report.texts import brief

SECTIONS: dict[str, Section] = {
    "answer": answer,
    "fork": fork,
    "cases": cases,
    "accuracy": accuracy,
    "verdict": in_words,
    "summary": summary,
    "survival": survival,
    "perplexity": perplexity,
    "certificate": certificate,
    "recorded": recorded,
    "reasons": reasons,
    "gaps": gaps,
    "growth": growth,
    "calibration": calibration,
    "comparisons": comparisons,
    "after": after,
    "injection": injection,
    "decomposition": decomposition,
    "where": where,
    "failures": failures,
    "provenance": provenance,
    "words": words,
}


def sections() -> Mapping[str, Section]:
    """SECTIONS; the charting library loads with them."""
    return SECTIONS


def title(plan: Mapping[str, Any]) -> str:
    """What was held against what: `bf16 and int8 against fp32`."""
    names = [brief(str(v["name"]), 40) for v in plan.get("candidates", ())]
    if not names:
        return "decodedrift report"
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    sides = f"{len(names)} variants" if len(names) > 4 else listed
    return f"{sides} against {brief(str(plan['reference']['name']), 40)}"
