"""What a run says of precisions: those that rounded nothing, left modules out, lost weights, or missed inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.core.untrusted import visible
from decodedrift.report.phrases import listed, percent

FLOATING = ("fp16", "fp8-e4m3", "fp8-e5m2")  # of whose small numbers a share becoming 0 is a lack of range


def sentences(study: Any) -> list[str]:
    """By what was read back of each candidate."""
    facts: dict[str, Any] = dict(study.environment.get("variants", {}))
    candidates = list(study.plan.get("candidates", ()))
    plain = [
        visible(str(v["name"])) for v in candidates
        if v["precision"] == v["compute"] and not v["model"] and facts.get(v["name"], {}).get("rounded_share") == 0.0
        and v["compute"] in ("bf16", "fp16") and v["compute"] != study.plan["reference"]["compute"]
    ]  # fmt: skip
    said = []
    if plain:
        said.append(
            f"No weight of this checkpoint is rounded under {listed(plain)}; what differs there is the arithmetic."
        )
    on_grid = [visible(str(v["name"])) for v in candidates if _on_grid(v, facts.get(v["name"], {}))]
    if on_grid:
        said.append(f"Rounding changed no weight of {listed(on_grid)}: they are on its grid already.")
    for name in (str(v["name"]) for v in candidates):
        said += _one(visible(name), facts.get(name, {}))
    return said


def _on_grid(variant: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether a precision was asked to round weights alone, without computing in it, and changed none."""
    return facts.get("round") == "weights" and facts.get("rounded_share") == 0.0 and not variant["model"]


def _one(name: str, facts: Mapping[str, Any]) -> list[str]:
    said = []
    if modules := facts.get("left_out_modules"):
        names = ", ".join(map(visible, facts["left_out"])) + (", ..." if modules > len(facts["left_out"]) else "")
        share = percent(facts["left_out_parameters"] / facts["parameters"])
        as_what = f"are {facts['left_out_as']}" if facts.get("left_out_as") else "stay as they are"
        said.append(
            f"{name} does not quantize {modules} modules ({share} of the parameters), whose rows its blocks do not "
            f"divide; they {as_what}: {names}."
        )
    if overflowed := facts.get("overflowed"):
        most = f", most in {visible(facts['overflowed_at'])}" if "overflowed_at" in facts else ""
        said.append(f"{overflowed:,} weights of {name} lie beyond the largest value of its format and are lost{most}.")
    if "flushed_at" in facts and facts["precision"] in FLOATING:
        whole, most = percent(facts["flushed"] / facts["parameters"]), percent(facts["flushed_most"])
        said.append(
            f"{facts['flushed']:,} weights of {name} are flushed to 0 ({whole}), the largest share in "
            f"{visible(facts['flushed_at'])} ({most})."
        )
    inputs = facts.get("rounded_inputs") or {}
    if inputs.get("called", 0) < inputs.get("modules", 0):
        said.append(
            f"Of the {inputs['modules']} modules whose inputs {name} rounds, {inputs['called']} were called in a trial "
            "of four tokens; inputs of a projection that is never called as a module are not rounded."
        )
    return said
