"""The recorded sides of a run: their files read and matched before a weight is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decodedrift.core.records import RECORDED, InputError, Variant
from decodedrift.core.settings import Settings
from decodedrift.models.recorded.addresses import ordered
from decodedrift.models.recorded.continuation import Matched
from decodedrift.models.recorded.match import match
from decodedrift.models.recorded.read import read
from decodedrift.models.recorded.repeated import Repeated, repeated

if TYPE_CHECKING:
    from decodedrift.models.world import World


def refuse_reference(variants: Sequence[Variant]) -> None:
    """A text says nothing of other texts: the reference is a model.

    Raises:
        InputError: one of the variants is recorded; says how two are held against each other.
    """
    for variant in variants:
        if variant.recorded:
            mend = f"name it as a candidate too, and --model reads them all: --candidates {variant.name}=FILE,NAME=FILE"
            raise InputError(f"--reference {variant.name}: a recorded text reads no other; {mend}")


def strategies(settings: Settings, candidates: Sequence[Variant]) -> Any:
    """The strategies asked for; where none is and all candidates are files, those that these name, greedy unnamed."""
    files = [v for v in candidates if v.recorded and not v.endpoint]
    if "strategies" in settings.model_fields_set or len(files) < len(candidates) or not files:
        return settings.strategies
    labels = [c.strategy or "greedy" for v in files for c in read(_path(v)).completions]
    return list(dict.fromkeys(ordered(label) for label in labels))


def _path(variant: Variant) -> str:
    return os.path.expanduser(str(variant.model))


def read_into(world: World, answers: Mapping[str, Path]) -> None:
    """Reads what the recorded candidates of a plan wrote: to be read by the reference, or each repetition by itself.

    Args:
        answers: the files of candidates that are endpoints.

    Raises:
        InputError: a file is not there, or is no recording of this model and these prompts.
    """
    plan, vocab, prompts = world.plan, world.vocab, world.prompts
    files = {v.name: _path(v) for v in plan.candidates if v.recorded and not v.endpoint}
    files |= {name: str(path) for name, path in answers.items()}
    if getattr(plan, "repeats", False):
        world.repeated = {name: repeated(read(path), plan, vocab, prompts) for name, path in files.items()}
    else:
        world.recorded = {name: match(read(path), plan, vocab, prompts) for name, path in files.items()}


def described(recorded: Mapping[str, Matched | Repeated]) -> dict[str, dict[str, Any]]:
    """Recorded files for environment.json, by candidate: what each says of itself, and its hash; no path."""
    facts = {}
    for name, side in recorded.items():
        file = os.path.basename(side.path)
        facts[name] = {"name": file, "kind": RECORDED, "files": {file: side.sha256}, "header": dict(side.header)}
    return facts
