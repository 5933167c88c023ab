"""What a run says of knobs: those that did nothing, who is the reference itself, and who is read token by token."""

from __future__ import annotations

from typing import Any

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.execution import asked, same_execution, unmoved, untold
from decodedrift.models.knobs import KNOBS
from decodedrift.report.phrases import listed


def sentences(study: Any) -> list[str]:
    """A candidate that is the reference; knobs that did not engage, changed nothing, or that nobody can read back."""
    facts, same = study.environment.get("variants", {}), same_execution(study)
    said = []
    if same:
        is_the = "is the reference's own execution" if len(same) == 1 else "are the reference's own execution"
        said.append(
            f"{listed(map(visible, same))} {is_the}, by what was read back: equal figures there are no finding."
        )
    idle = {name: f["idle_knobs"] for name, f in facts.items() if f.get("idle_knobs") and name not in same}
    if idle:
        parts = [f"{listed(knobs)} of {visible(name)}" for name, knobs in idle.items()]
        said.append(f"Did not engage, being what the reference does too: {listed(parts)}.")
    if still := {name: knobs for name, knobs in unmoved(study).items() if name not in same}:
        parts = [f"{listed(knobs)} of {visible(name)}" for name, knobs in still.items()]
        said.append(f"Engaged, and changed no bit of any figure: {listed(parts)}.")
    if unknown := untold(study):
        parts = [f"{listed(knobs)} of {visible(name)}" for name, knobs in unknown.items()]
        said.append(f"Whether it engaged cannot be told, as nothing is read back: {listed(parts)}.")
    return [*said, *_reused(study), *_alone(study), *_stepped(study), *_assisted(facts), *_without_local_error(facts)]


def _reused(study: Any) -> list[str]:
    """Where the reference comes from, if not from this run."""
    if (earlier := study.environment.get("reference_run")) is None:
        return []
    logits = {
        "kept": "with the logits that were kept there, bit for bit",
        "read again": "which kept no logits: they are those of one reading, and so are its scores where texts part",
    }
    return [f"The reference's texts are those of {visible(earlier['run'])}, {logits[earlier['logits']]}."]


def _alone(study: Any) -> list[str]:
    """Candidates in batches of another size, where a reading of a single text for each prompt does not show it."""
    ours = study.traces[study.traces["role"] == "reference"]
    if not len(ours) or ours["prompt_id"].duplicated().any():
        return []
    names = [v["name"] for v in study.plan.get("candidates", ()) if "batch_size" in asked(v, study.plan["reference"])]
    if not names:
        return []
    return [
        f"With one text for each prompt, texts are read whole, to nearly the same bits in any batch: distances of "
        f"{listed([visible(str(name)) for name in names])} do not show what the size of a batch does. A noise floor "
        "does, or a second strategy or seed."
    ]


def _stepped(study: Any) -> list[str]:
    """Candidates that turn a knob which one reading of a text would not use, and how they were measured instead."""
    acting: dict[str, list[str]] = {}
    for variant in study.plan.get("candidates", ()):
        turned = [
            name for name in asked(variant, study.plan["reference"]) if not KNOBS[name].forced and KNOBS[name].stepped
        ]
        if turned:
            acting[str(variant["name"])] = turned
    if not acting:
        return []
    knobs = list(dict.fromkeys(name for turned in acting.values() for name in turned))
    return [
        f"{listed(knobs)} {'acts' if len(knobs) == 1 else 'act'} on the KV cache, which reading a text at once does "
        f"not use: for the distances of {listed(map(visible, acting))} both sides read it token by token."
    ]


def _assisted(facts: Any) -> list[str]:
    """How much of a draft's proposals a candidate kept, in how many readings."""
    return [
        f"{visible(str(name))} kept {told['accepted']} of {told['proposed']} proposed tokens, in {told['calls']} "
        f"readings for {told['tokens']} tokens, each prompt alone. Reading a given text uses no draft: there are first "
        "divergences, and no distances along a text."
        for name, f in facts.items() if (told := f.get("assisted"))
    ]  # fmt: skip


def _without_local_error(facts: Any) -> list[str]:
    """Whose error of a single step (`--decompose`) does not exist, for what it was asked to do with its cache."""
    return [
        f"{visible(str(name))} has no error of a single step (e0): {visible(f['no_local_error'])}."
        for name, f in facts.items() if f.get("no_local_error")
    ]  # fmt: skip
