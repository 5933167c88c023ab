"""What the run says in words, and on what: the top of the page."""

from __future__ import annotations

from typing import Any

from decodedrift.core.records import Strategy
from decodedrift.core.untrusted import visible
from decodedrift.decoding.strategies.base import kind_of
from decodedrift.report.html import Options, StudyLike
from decodedrift.report.phrases import sides
from decodedrift.report.texts import brief, isolated


def verdict(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """The verdict's sentences under a line of facts without a date: equal runs give equal pages."""
    first, rest = sentences(study)
    return {"facts": facts(study), "first": first, "rest": rest, "opening": True}


def in_words(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """The verdict's sentences as a section of their own, on a page that begins with something else."""
    first, rest = sentences(study)
    return {"heading": "In words", "facts": [], "first": first, "rest": rest}


def sentences(study: StudyLike) -> tuple[list[list[tuple[str, bool]]], list[list[tuple[str, bool]]]]:
    """The verdict's sentences, those to see at once and those to fold away, each in pieces with its names apart."""
    names = [visible(str(v["name"])) for v in sides(study.plan)]
    first, rest = study.experiment.folded(study)
    return [isolated(s, names) for s in first], [isolated(s, names) for s in rest]


def facts(study: StudyLike) -> list[tuple[str, str]]:
    """What was run, and on what: labels and values."""
    plan, ran = study.plan, study.environment.get("numerical", {})
    model = study.environment.get("model", {})
    commit = str(model.get("commit") or plan.get("revision") or "")
    prompts, texts = len(plan.get("prompts", ())), len(plan.get("texts", ()))
    reader = "judge" if plan.get("judge") else "model"
    known = [(reader, brief(str(plan.get("model", "")), 80) + (f" at {commit[:12]}" if commit else ""))]
    known += [("reference", brief(str(v["name"]), 60)) for v in sides(plan)[:1]]
    if prompts:
        seeds = len(plan.get("seeds", (0,)))
        sampled = any(kind_of(Strategy(**s)).samples for s in plan.get("strategies", ()))
        count = f"{prompts} × {seeds} seeds" if seeds > 1 and sampled else str(prompts)
        known.append(("prompts", count))
        known.append(("new tokens", str(plan.get("max_new_tokens", ""))))
    if texts:
        known.append(("texts", str(texts)))
    device = str(ran.get("gpu") or ran.get("device") or plan.get("device", ""))
    known.append(("ran on", device.upper() if device == "cpu" else device))
    return [(label, value) for label, value in known if value]
