"""What a run says of checkpoints: how their weights are stored, what was found quantized, and what they ran in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decodedrift.core.untrusted import visible
from decodedrift.report.phrases import listed, percent

SHOWN = 3  # modules that are named
FLOATS = {"F64": "fp64", "F32": "fp32", "BF16": "bf16", "F16": "fp16"}  # as safetensors names them


def sentences(study: Any) -> list[str]:
    """A sentence for each quantized checkpoint, each plain one not run in the type it is stored in, each adapter."""
    facts = study.environment.get("variants", {})
    variants = [study.plan["reference"], *study.plan.get("candidates", ())]
    told = [_sentence(v, facts[v["name"]]) for v in variants if v["name"] in facts]
    first = facts.get(variants[0]["name"], {}).get("adapter")
    tuned = [(v["name"], facts[v["name"]].get("adapter")) for v in variants if v["name"] in facts]
    own = {str(v["name"]) for v in variants if v.get("model")}
    told += [_adapted(n, a) for n, a in tuned if a and (n == variants[0]["name"] or n in own or a != first)]
    return [sentence for sentence in dict.fromkeys(told) if sentence]


def _sentence(variant: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    name, ran = visible(str(variant["name"])), facts.get("compute")
    if facts.get("format") == "gguf":
        share = facts["file_quantized_share"]
        kinds = listed([f"{n} {kind}" for kind, n in facts["tensor_types"].items()])
        how = f"{percent(share)} of its weights are quantized there, and were dequantized when they were loaded"
        how = how if share else "none is quantized"
        return f"{name} is a GGUF file of {kinds} tensors; {how}: the arithmetic is {ran}."
    if facts.get("format"):
        return _quantized(name, facts)
    stored = facts.get("stored_dtypes") or {}
    most = FLOATS.get(max(stored, key=lambda kind: stored[kind], default=""))
    if variant.get("model") and most and most != ran and variant["precision"] == ran:
        return f"{name} is stored in {most} and ran in {ran}."
    return ""


def _adapted(name: str, adapter: Mapping[str, Any]) -> str:
    how = {
        "none": "run beside its weights",
        "fp32": "merged into its weights in float32, or wider where it runs so",
        "stored": "merged into its weights in the type that those are stored in",
    }[adapter["merge"]]
    zero, modules = adapter["zero_modules"], adapter["modules"]
    numbers = f"rank {_numbers(adapter['rank'])}, scaling {_numbers(adapter['scaling'])}, on {modules} modules"
    idle = "" if not zero else "; the products of " + ("all" if zero == modules else str(zero)) + " of them are zero"
    kind = "LoRA" if (dora := adapter.get("dora_modules", 0)) == 0 else "DoRA" if dora == modules else "partly DoRA"
    apart = ", its head untied from its embedding first, since the adapter is of one of the two"
    whole = [visible(path) for path in adapter.get("replaced", ())]
    some = [*whole[:SHOWN], f"{len(whole) - SHOWN} more"] if len(whole) > SHOWN + 1 else whole
    idle += f"; {listed(some)} {'is' if len(whole) == 1 else 'are'} replaced whole" if whole else ""
    how += apart if adapter.get("untied") else ""
    return f"{visible(name)} is a base with a {kind} adapter ({numbers}), {how}{idle}."


def _numbers(value: Any) -> str:
    return listed([f"{n:g}" for n in (value if isinstance(value, list) else [value])])


def _quantized(name: str, facts: Mapping[str, Any]) -> str:
    form = visible(str(facts["format"]))
    if not facts["quantized_parameters"]:
        return f"{name} is quantized ({form}) by its configuration, and no quantized weight was found in it."
    bits = f"{facts['bits']} bit" if facts.get("bits") else "of unknown width"
    group = f", groups of {facts['group_size']}" if facts.get("group_size") else ""
    scheme = f": {visible(str(facts['scheme']))}" if facts.get("scheme") else ""
    modules = f" in {facts['quantized_modules']} modules" if facts["quantized_modules"] else ""
    kinds = listed(list(facts["stored_dtypes"]))
    expanded = ", to which the quantized ones were expanded when they were loaded" if facts.get("unpacked") else ""
    return (
        f"{name} is quantized ({form}, {bits}{group}{scheme}): {percent(facts['quantized_share'])} of its "
        f"weights{modules}. It is stored as {kinds}; what is not quantized ran in {facts['compute']}{expanded}."
    )
