"""Going on with a run: what its folder holds, and whether what is asked now is the same run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from decodedrift.core.formats import path_of
from decodedrift.core.records import InputError, plain
from decodedrift.core.secrecy import home_shortened
from decodedrift.core.settings import Settings, make_settings, no_rows
from decodedrift.runs.differences import SETTLED, differences, shortly
from decodedrift.runs.places import ANSWERS, where
from decodedrift.runs.plan import IDENTITY
from decodedrift.runs.prepare import NOTHING, Sizes
from decodedrift.runs.runfolder import RunFolder, Stored, open_stored

S = TypeVar("S", bound=Settings)


def stored_run(folder: str | Path) -> Stored:
    """What the folder of a run says of itself.

    Raises:
        InputError: no run was begun there.
    """
    path = path_of(folder)
    stored = RunFolder(path).stored()
    if stored is None and where(path, ANSWERS).is_dir():
        raise InputError(
            f"{path}: it was stopped while an endpoint was asked; give the whole command again with --resume {path}"
        )
    if stored is None:
        raise InputError(f"{path}: no run was begun here (no plan.json in it); name the folder of a run")
    return stored


def unfinished(plan: Settings, every: Sequence[str], base: Path | None = None) -> dict[str, Any]:
    """What a resume needs beside the plan: where relative paths begin, texts kept off it; of a shard all jobs' keys."""
    values: dict[str, Any] = {"folder": home_shortened(os.path.abspath(base or os.getcwd()))}
    if plan.shard is not None:
        values["jobs"] = list(every)
    if plan.no_text:
        values |= {"prompts": plain(plan.prompts), "texts": plain(plan.texts)}
    return values


def stored_settings(kind: type[S], stored: Stored) -> S:
    """The settings of a stored run, so that its folder alone is enough to go on.

    Raises:
        InputError: it died before its texts were on disk, or ran a model in memory.
    """
    texts = {k: stored.unfinished[k] for k in ("prompts", "texts") if k in stored.unfinished}
    if stored.plan.get("no_text") and not texts:
        raise InputError("this run died before its prompts were on disk; give the whole command again with --resume")
    if stored.environment.get("model", {}).get("kind") == "memory":
        raise InputError(
            "this run's model was in memory; go on where it is: compare(model, tokenizer=..., out=..., resume=True)"
        )
    others = stored.environment.get("checkpoints", {}).items()
    if live := [name for name, facts in others if facts.get("kind") == "memory"]:
        again = f"compare(..., candidates={{{live[0]!r}: model}}, out=..., resume=True)"
        raise InputError(f"this run's candidate {live[0]} was a model in memory; go on where it is: {again}")
    sizes = stored.environment.get("generation", {})
    size = {"batch_size": sizes["batch_size_asked"]} if "batch_size_asked" in sizes else {}
    values = {k: v for k, v in (stored.plan | texts | size).items() if k != "experiment"}
    return make_settings(kind, values)


def stored_sizes(stored: Stored | None, settings: Settings) -> Sizes:
    """The sizes that a run was settled at, where the same was asked: memory that is free now changes nothing.

    Of a new run those of its `reference_run`, if it has one.

    Raises:
        InputError: the folder's are no sizes.
    """
    begun = stored is not None and bool(stored.environment)
    if stored is None and (earlier := getattr(settings, "reference_run", None)) is not None:
        stored = open_stored(earlier)  # batches are what they were there, whatever memory is free here
        unasked = "batch_size" not in settings.model_fields_set
    else:
        unasked = False
    if stored is None:
        return NOTHING
    way = stored.environment.get("generation", {})
    same = unasked or way.get("batch_size_asked") == settings.batch_size
    sizes = {"batch-size": way["batch_size"] if same else None, "prompts-per-job": stored.plan.get("prompts_per_job")}
    for name, size in sizes.items():
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise InputError(f"{name} must be a whole number >= 1, not {size!r}")
    return Sizes(sizes["batch-size"], sizes["prompts-per-job"], stored.plan.get("threads"), begun)


def refuse_another(stored: Stored, plan: Settings, environment: Mapping[str, Any], place: str) -> None:
    """Rows of two runs never mix.

    Raises:
        InputError: the plan, the weights, the tokenizer or the environment differ; names what.
    """
    if found := differing(stored, Stored(json.loads(json.dumps(plan.as_dict())), dict(environment)), type(plan)):
        raise InputError(f"{place} holds another run: {shortly(found)}; ask for the same, or name a new folder")


def differing(stored: Stored, other: Stored, kind: type[Settings]) -> list[str]:
    """What decides rows and is not the same in two runs, in words: of the first `there`, of the second `here`."""
    new = dict(other.plan)
    defaults = {name: field.default for name, field in kind.model_fields.items() if name in new}
    old = {"experiment": "compare"} | json.loads(json.dumps(defaults)) | stored.plan  # options that came later
    if old.get("no_text") != new["no_text"]:  # one side has no texts to compare
        old, new = ({k: v for k, v in side.items() if k not in ("prompts", "texts")} for side in (old, new))
    for key in no_rows(kind):
        old.pop(key, None)
        new.pop(key, None)
    found = list(differences("", old, new))
    if stored.environment:
        for key in IDENTITY:
            now = json.loads(json.dumps(other.environment[key], default=str))
            then = stored.environment.get(key)
            if key == "generation":
                then, now = ({k: v for k, v in side.items() if k not in SETTLED} for side in (then or {}, now))
            found += differences("" if key == "numerical" else key, then, now)
    return list(dict.fromkeys(found))  # threads are of the plan and of what they are by default
