"""What a run says of its candidates' own tokenizers, stop ids and settings, by what was found before weights loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from decodedrift.core.untrusted import visible
from decodedrift.report.phrases import listed, setting

AS_DEPLOYED = "Each side as deployed: "
HOLDING_BACK = (
    "Compared under the reference's tokenizer and stop ids, without the models' own settings; "
    "deployed (--as-deployed), "
)


def sentences(study: Any) -> list[str]:
    """One sentence with every difference that deployment would see, or none."""
    reference = str(study.plan["reference"]["name"])
    parts = []
    for name, facts in study.environment.get("deployment", {}).items():
        if said := list(_said(facts, name == reference)):
            parts.append(f"{visible(name)} {listed(said)}")
    own = study.plan.get("as_deployed")
    said = [f"{AS_DEPLOYED if own else HOLDING_BACK}{'; '.join(parts)}."] if parts else []
    return said + (_apart(study) if own else [])


def _apart(study: Any) -> list[str]:
    """Texts whose prompts are other ids counted apart, and where there is no distance along a text."""
    rows = study.divergences
    rows = rows[(rows["role"] == "candidate") & (rows["compared"] > 0)]
    reference = str(study.plan["reference"]["name"])
    every = study.environment.get("deployment", {})
    counts, unread = [], []
    for name, facts in every.items():
        own, mine = rows[rows["candidate"] == name], facts.get("prompts", {}).get("ids", ())
        other = own["prompt_id"].isin(mine)
        if other.any():
            parts = [f"{int(own.loc[other, 'diverged'].sum())} of {int(other.sum())} where they do"]
            if not other.all():
                parts.append(f"{int(own.loc[~other, 'diverged'].sum())} of {int((~other).sum())} where they do not")
            counts.append(f"of {visible(name)} {' and '.join(parts)}")
        if name != reference and (mine or _processed(study, name)):
            unread.append(visible(name))
    if _processed(study, reference):
        unread = [visible(str(variant["name"])) for variant in study.plan.get("candidates", ())]
    said = [f"Of texts whose prompts encode to other ids there parted {'; '.join(counts)}."] if counts else []
    where = "Where ids of a prompt differ or settings act on the logits"
    return said + ([f"{where} ({listed(unread)}) there are first divergences, and no distances."] if unread else [])


def _processed(study: Any, name: str) -> bool:
    return bool(study.environment["generation"].get("own", {}).get(name, {}).get("settings"))


def _said(facts: Mapping[str, Any], reference: bool) -> Iterator[str]:
    if prompts := facts.get("prompts"):
        first = f"{visible(prompts['first'])}: {prompts['how']}"
        yield f"encodes {prompts['differ']} of {prompts['of']} prompts to other ids ({first})"
    if texts := facts.get("texts"):
        yield f"would read other ids of {listed(map(visible, texts))}"
    if facts.get("template"):
        yield "has another chat template"
    if told := _in_file(facts.get("gguf", {})):
        yield f"by its GGUF file, whose tokenizer is not run here, {listed(told)}"
    if stops := facts.get("stop_ids"):
        yield f"stops at {_ids(stops['candidate'])} (the reference at {_ids(stops['reference'])})"
    if settings := facts.get("settings"):
        yield f"applies {listed(setting(*item) for item in settings.items())}" if reference else _changed(settings)
    if tokens := facts.get("vocabulary"):
        yield f"has a vocabulary of {tokens['candidate']} tokens and not {tokens['reference']}"


def _in_file(facts: Mapping[str, Any]) -> list[str]:
    """What a GGUF file says of prompts and the reference's tokenizer does not do."""
    said = []
    for key, what, where in (("add_bos", "a BOS", "in front of"), ("add_eos", "an EOS", "behind")):
        if key in facts:
            ours, theirs = facts[key]
            what = what if theirs else f"no {what[-3:]}"
            said.append(f"puts {what} {where} every prompt (the reference {'does' if ours else 'does not'})")
    if "template" in facts:
        ours, theirs = facts["template"]
        said.append("has another chat template" if ours and theirs else f"has {'a' if theirs else 'no'} chat template")
    return said + (["does not say whether it adds a BOS"] if facts.get("unsaid") else [])


def _changed(settings: Mapping[str, Any]) -> str:
    """A candidate's settings that are not the reference's."""
    applies = [setting(key, theirs) for key, (_, theirs) in settings.items() if theirs is not None]
    leaves = [setting(key, ours) for key, (ours, theirs) in settings.items() if theirs is None]
    said = [f"applies {listed(applies)}"] if applies else []
    return ", ".join([*said, f"does not apply {listed(leaves)}"] if leaves else said)


def _ids(ids: list[int]) -> str:
    return listed(map(str, ids)) if ids else "no id"
