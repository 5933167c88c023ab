"""What knobs of execution came to: the reference's own execution, no changed bit, or what nobody can tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.models.knobs import KNOBS


def same_execution(study: Any) -> list[str]:
    """The candidates that are the reference's execution: equal weights and precision, and every knob read back equal.

    Run as deployed, one with a tokenizer, stop ids or settings of its own is another.

    Nothing is said of a candidate that did not run, or of a run that did not note its facts.
    """
    facts = study.environment.get("variants", {})
    reference, names = study.plan["reference"], []
    for variant in study.plan.get("candidates", ()):
        name = variant["name"]
        idle = facts.get(name, {}).get("idle_knobs")
        alike = all(variant.get(k) == reference.get(k) for k in ("precision", "compute", "options"))
        alike = alike and _equal_weights(study, variant)
        alike = alike and not (study.plan.get("as_deployed") and study.environment["deployment"].get(name))
        if alike and idle is not None and set(asked(variant, reference)) <= set(idle):
            names.append(str(name))
    return names


def unmoved(study: Any) -> dict[str, list[str]]:
    """Candidate -> its knobs that engaged, where every figure that was measured is the reference's to the last bit.

    Figures: all distances along the reference's text, and the log-probabilities of what was generated.
    """
    knobs = {
        name: [knob for knob in asked(variant, study.plan["reference"]) if knob not in idle]
        for name, variant, idle in _ran(study)
    }
    return {name: turned for name, turned in knobs.items() if turned and _equal_figures(study, name)}


def untold(study: Any) -> dict[str, list[str]]:
    """Candidate -> its knobs of which nothing was read back, so that nobody can tell whether they engaged."""
    facts, reference = study.environment.get("variants", {}), study.plan["reference"]
    knobs = {
        name: [k for k in asked(variant, reference) if k not in idle and facts[name].get(KNOBS[k].fact) is None]
        for name, variant, idle in _ran(study)
    }
    return {name: unread for name, unread in knobs.items() if unread}


def _ran(study: Any) -> list[tuple[str, Mapping[str, Any], list[str]]]:
    """(name, variant, knobs that did not engage) of each candidate that noted its facts."""
    facts = study.environment.get("variants", {})
    named = [(str(variant["name"]), variant) for variant in study.plan.get("candidates", ())]
    return [(n, v, facts[n]["idle_knobs"]) for n, v in named if facts.get(n, {}).get("idle_knobs") is not None]


def _equal_figures(study: Any, name: str) -> bool:
    """Whether no number of a candidate differs from the reference's; without any position nobody knows."""
    rows = study.columns_of("positions", ["role", "candidate", "kl", "logit_gap_max"])
    rows = rows[(rows["role"] == "candidate") & (rows["candidate"] == name)]
    if not len(rows) or not ((rows["kl"] == 0) & (rows["logit_gap_max"] == 0)).all():
        return False
    traces = study.traces
    ours, theirs = traces[traces["role"] == "reference"], traces[traces["variant"] == name]
    pairs = ours.merge(theirs[theirs["role"] == "candidate"], on=["strategy", "seed", "prompt_id"])
    if study.plan.get("mode") == "screen":
        return bool((study.divergences.query("role == 'candidate' and candidate == @name")["diverged"] == 0).all())
    return bool((pairs["logprob_sum_x"] == pairs["logprob_sum_y"]).all())


def asked(variant: Mapping[str, Any], reference: Mapping[str, Any]) -> list[str]:
    """The knobs that a plan's variant is asked to turn otherwise than the reference."""
    ours, theirs = ({**side, **(side.get("knobs") or {})} for side in (reference, variant))
    return [name for name in KNOBS if theirs.get(name) != ours.get(name)]


def _equal_weights(study: Any, variant: Mapping[str, Any]) -> bool:
    """Whether the candidate is no other checkpoint, or one of the same configuration and weights."""
    if not variant.get("model"):
        return True
    sides = study.environment.get("model"), study.environment.get("checkpoints", {}).get(variant["name"])
    ours, theirs = ([side.get(key) for key in ("config", "files")] if side else None for side in sides)
    return ours is not None and ours == theirs
