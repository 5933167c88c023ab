"""A run in a few words: the two lines of its `repr`, and a Markdown summary for a pull request or a model card."""

from __future__ import annotations

import textwrap
from typing import Any

from decodedrift.core.records import InputError
from decodedrift.core.untrusted import terminal
from decodedrift.report.html import StudyLike
from decodedrift.report.markup import fenced, markdown, markdown_table
from decodedrift.report.sections.verdict import facts
from decodedrift.report.texts import brief

WIDTH = 240  # characters of a line of the `repr`


def heading(study: StudyLike) -> str:
    """What was run, in a line."""
    told = "; ".join(f"{label} {value}" for label, value in facts(study) if label != "reference")
    title = study.experiment.title(study.plan)
    return terminal(f"decodedrift {study.experiment.name}: {title}; {told}", WIDTH)


def short(study: StudyLike) -> str:
    """The answer, in a line."""
    alarms, answers, _ = study.experiment.brief(study)
    lines = [*alarms, *answers] or ["Nothing was compared."]
    return terminal("; ".join(line.removesuffix(".") for line in lines), WIDTH)


def summary(study: Any, title: str | None = None, texts: bool = True) -> str:
    """The answer, the table, what is to be known besides, one case and where it was measured, as Markdown.

    Nothing that a model, a prompt or a name brings along is markup, a mention or a link in it.
    """
    alarms, answers, besides = study.experiment.brief(study)
    table = study.table()
    parts = [
        f"## {markdown(title or study.experiment.title(study.plan))}",
        markdown("; ".join(f"{label} {value}" for label, value in facts(study))),
        _listed([*alarms, *answers]),
        markdown_table(table) if len(table) else "",
        _listed(besides),
        _case(study) if texts and study.words else "",
        f"<sub>{markdown(_provenance(study))}</sub>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _listed(sentences: list[str]) -> str:
    return "\n".join(f"- {markdown(sentence)}" for sentence in sentences)


def _case(study: Any) -> str:
    """One case, its texts as code."""
    try:
        case = study.case()
    except InputError:  # nothing was compared
        return ""
    if case.at is None:
        return ""
    after = textwrap.fill(". ".join([*case.held(), case.note]), 1000)
    return f"{markdown(case.heading)}:\n\n{fenced(chr(10).join(case.lines()))}\n\n{markdown(after)}"


def _provenance(study: StudyLike) -> str:
    """Versions, machine and date, in a line."""
    environment = study.environment
    versions, ran = environment.get("versions", {}), environment.get("numerical", {})
    named = [f"{name} {versions.get(name, 'of unknown version')}" for name in ("decodedrift", "torch", "transformers")]
    machine = [ran.get("gpu"), environment.get("cpu"), environment.get("system")]
    told = [*named, *(str(part) for part in machine if part), f"metrics {environment.get('metrics_version', 1)}"]
    return brief(", ".join([*told, str(environment.get("finished", ""))[:10]]).rstrip(", "), 400)
