"""`--reference-run`: whether the reference of an earlier run is the one that is asked for here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from decodedrift.core.records import InputError, Job, plain
from decodedrift.core.settings import Settings
from decodedrift.runs.differences import SETTLED, differences, shortly
from decodedrift.runs.runfolder import Stored, open_stored

OPTION = "--reference-run"
ASKED = (  # of a plan: what the reference's texts and their batches come from
    "strategies", "seeds", "max_new_tokens", "prompts_per_job", "layout", "coupling", "chat_template", "ignore_eos",
    "as_deployed",
)  # fmt: skip
READ = ("id", "text", "messages", "prompt_token_ids")  # of a prompt
WEIGHTS = ("type", "config", "files")  # of a checkpoint: by what they hold, wherever they lie
PLACE = ("name", "device", "threads", "model", "revision")  # of a variant: what it is called and where it runs
CODE = "check_code"  # of generation: what judges texts and writes none


def settle(world: Any, environment: dict[str, Any]) -> list[str]:
    """Holds a run's `reference_run` against what is asked; from then on the run takes that one's path.

    environment: gets what is to be known of it under `reference_run`, and a warning of what else differs.
    Returns what is said of the run before it begins.

    Raises:
        InputError: the reference there is another one, or cannot be used; names what differs.
    """
    from decodedrift.models import budget
    from decodedrift.models.probe import Route

    plan: Any = world.plan
    said = [budget.kept_logits(world)] if getattr(plan, "keep_logits", False) else []
    folder = getattr(plan, "reference_run", None)
    if folder is None:
        return said
    stored = open_stored(folder)
    _refuse(stored, folder)
    if found := _another(stored, plan, environment):
        ways = "ask for the same, or make that run again"
        raise InputError(f"{OPTION} {folder}: its reference is another one: {shortly(found)}; {ways}")
    way = stored.environment["generation"]
    if "path" in way:
        whose = f"the texts of {OPTION}"
        world.route = Route(way["path"], fixed=True, by_whom=whose, reasons=dict(way.get("path_reasons", {})))
    kept = stored.plan.get("keep_logits", False)
    environment["reference_run"] = {"run": str(folder), "logits": "kept" if kept else "read again"}
    for difference in _elsewhere(stored.environment, environment):
        environment["warnings"].append(f"{OPTION} {folder} was made elsewhere: {difference}")
    return [*said, f"its reference is that of {folder}, {'with the logits kept there' if kept else 'read again'}"]


def _refuse(stored: Stored, folder: str) -> None:
    """What no reference can be taken from, whatever is asked."""
    if (kind := stored.plan.get("experiment", "compare")) != "compare":
        raise InputError(f"{OPTION} {folder}: a run of {kind}; name one of compare")
    if stored.plan.get("judge"):
        raise InputError(f"{OPTION} {folder}: a judge read recorded texts there; name a run whose reference ran itself")
    if stored.plan.get("no_text"):
        raise InputError(f"{OPTION} {folder}: it kept no texts (--no-text); name a run that did")
    if other := stored.plan.get("reference_run"):
        raise InputError(f"{OPTION} {folder}: it took its reference from {other}; name that one")
    if sizes := stored.environment.get("generation", {}).get("lowered"):
        size = min(sizes.values())
        raise InputError(
            f"{OPTION} {folder}: its batches were lowered to {size} under way; make it again with --batch-size {size}"
        )


def _another(stored: Stored, plan: Settings, environment: Mapping[str, Any]) -> list[str]:
    """What of an earlier run's reference is not as it is asked for here, in words."""
    defaults = {name: field.default for name, field in type(plan).model_fields.items()}
    sides = (
        _identity(defaults | stored.plan, stored.environment),
        _identity(plan.as_dict() | {"prompts": plain(plan.prompts)}, environment),
    )
    then, now = (json.loads(json.dumps(side, default=str)) for side in sides)
    return list(differences("", then, now))


def _identity(plan: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """What the reference's texts and logits depend on, of a plan and its environment."""
    way = environment["generation"]
    own = (way.get("own") or {}).get(plan["reference"]["name"])
    return {
        "metrics_version": environment.get("metrics_version"),
        "model": {key: environment["model"].get(key) for key in WEIGHTS},
        "tokenizer": environment["tokenizer"],
        "reference": {key: value for key, value in plan["reference"].items() if key not in PLACE},
        "prompts": [{key: prompt.get(key) for key in READ} for prompt in plan["prompts"]],
        "batch_size": way["batch_size"],
        **{key: plan[key] for key in ASKED},
        "generation": {k: v for k, v in way.items() if k not in (*SETTLED, "own", CODE)} | {"own": own},
    }


def _elsewhere(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of versions and the machine differs, in words: it moves rounding, and is not refused."""
    keys = ("numerical", "versions", "cpu")
    sides = ({key: json.loads(json.dumps(side.get(key), default=str)) for key in keys} for side in (then, now))
    return list(differences("", *sides))


def kept_file(plan: Settings, job: Job) -> str:
    """The name under which a job's reference is kept, by what is read in it: of a text's windows, how they are cut."""
    content: list[Any] = [[prompt.id, prompt.text] for prompt in job.prompts]
    if job.text is not None:
        texts = [text.text for text in plan.texts if text.name == job.text]
        content = [job.text, texts, job.windows, *(getattr(plan, n) for n in ("context", "stride", "convention"))]
    name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return f"{'text' if job.text is not None else f'{job.index:05d}'}-{name}.safetensors"
