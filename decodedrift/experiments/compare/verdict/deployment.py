"""What a run says of its candidates' own tokenizers, stop ids and settings, by what was found before weights loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from decodedrift.core.records import shortened
from decodedrift.core.untrusted import visible
from decodedrift.report.phrases import listed

HOLDING_BACK = "Compared under the reference's tokenizer and stop ids and without the models' own settings; deployed, "


def sentences(study: Any) -> list[str]:
    """One sentence with every difference that deployment would see, or none."""
    reference = str(study.plan["reference"]["name"])
    parts = []
    for name, facts in study.environment.get("deployment", {}).items():
        if said := list(_said(facts, name == reference)):
            parts.append(f"{visible(name)} {listed(said)}")
    return [f"{HOLDING_BACK}{'; '.join(parts)}."] if parts else []


def _said(facts: Mapping[str, Any], reference: bool) -> Iterator[str]:
    if prompts := facts.get("prompts"):
        first = f"first {visible(prompts['first'])}: {prompts['how']}"
        yield f"encodes {prompts['differ']} of {prompts['of']} prompts to other ids ({first})"
    if texts := facts.get("texts"):
        yield f"reads other ids of {listed(map(visible, texts))}"
    if facts.get("template"):
        yield "has another chat template"
    if stops := facts.get("stop_ids"):
        yield f"stops at {_ids(stops['candidate'])} and not at {_ids(stops['reference'])}"
    if settings := facts.get("settings"):
        yield f"applies {listed(_setting(*item) for item in settings.items())}" if reference else _changed(settings)
    if tokens := facts.get("vocabulary"):
        yield f"has {tokens['candidate']} tokens and not {tokens['reference']}"


def _changed(settings: Mapping[str, Any]) -> str:
    """A candidate's settings that are not the reference's."""
    applies = [_setting(key, theirs) for key, (_, theirs) in settings.items() if theirs is not None]
    leaves = [_setting(key, ours) for key, (ours, theirs) in settings.items() if theirs is None]
    said = [f"applies {listed(applies)}"] if applies else []
    return ", ".join([*said, f"does not apply {listed(leaves)}"] if leaves else said)


def _setting(key: str, value: Any) -> str:
    return visible(f"{key}={shortened(value, 40)}")


def _ids(ids: list[int]) -> str:
    return listed(map(str, ids)) if ids else "no id"
