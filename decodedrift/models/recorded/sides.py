"""The recorded sides of a run: their files read and matched before a weight is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decodedrift.core.records import RECORDED, InputError, Variant, nearest, shortened
from decodedrift.core.settings import Settings
from decodedrift.models.knobs import COARSER
from decodedrift.models.recorded.addresses import ordered
from decodedrift.models.recorded.continuation import Matched
from decodedrift.models.recorded.match import match
from decodedrift.models.recorded.read import KEPT, read
from decodedrift.models.recorded.repeated import Repeated, repeated

if TYPE_CHECKING:
    from decodedrift.models.world import World


def strategies(settings: Settings, variants: Sequence[Variant]) -> Any:
    """The strategies asked for; where none is and all candidates are files, those that these name, greedy unnamed.

    Args:
        variants: the reference first.
    """
    files = [v for v in variants if v.recorded and not v.endpoint]
    if "strategies" in settings.model_fields_set or not files or any(v not in files for v in variants[1:]):
        return settings.strategies
    labels = [c.strategy or "greedy" for v in files for c in read(_path(v)).completions]
    return list(dict.fromkeys(ordered(label) for label in labels))


def typed(variants: Sequence[Variant], option: str = "--candidates") -> tuple[Variant, ...]:
    """Variants, named by `option`, with the types that their files' headers say they ran in; `precision=` must agree.

    Raises:
        InputError: a header's type is none, or another than was asked for; or the file cannot be read.
    """
    return tuple(_typed(v, option) if v.recorded and not v.endpoint else v for v in variants)


def _typed(variant: Variant, option: str) -> Variant:
    said, kinds = read(_path(variant), option).header.get("precision"), tuple(reversed(COARSER))
    where = f"{option} {variant.name}: the header of {os.path.basename(_path(variant))}"
    if said is None:
        return variant
    if said not in kinds:
        mend = "correct it, or leave `precision` out of the header"
        raise InputError(
            f"{where} says precision {shortened(said)}, which is none; {nearest(str(said), kinds)}; {mend}"
        )
    if variant.compute not in (None, said):
        raise InputError(f"{where} says precision {said}, and precision={variant.compute} is asked for; which is it?")
    return replace(variant, compute=said)


def _path(variant: Variant) -> str:
    return os.path.expanduser(str(variant.model))


def read_into(world: World, answers: Mapping[str, Path]) -> None:
    """Reads what the recorded sides of a plan wrote: to be read by the reader, or each repetition by itself.

    Args:
        answers: the files of those that are endpoints.

    Raises:
        InputError: a file is not there, or is no recording of this model and these prompts.
    """
    plan, vocab, prompts = world.plan, world.vocab, world.prompts
    files = {v.name: _path(v) for v in plan.variants if v.recorded and not v.endpoint}
    files |= {name: str(path) for name, path in answers.items()}
    if getattr(plan, "repeats", False):
        world.repeated = {name: repeated(read(path), plan, vocab, prompts) for name, path in files.items()}
    else:
        world.recorded = {name: match(read(path), plan, vocab, prompts) for name, path in files.items()}
    KEPT.clear()


def described(recorded: Mapping[str, Matched | Repeated]) -> dict[str, dict[str, Any]]:
    """Recorded files for environment.json, by name: what each says of itself, and its hash; no path."""
    facts = {}
    for name, side in recorded.items():
        file = os.path.basename(side.path)
        facts[name] = {"name": file, "kind": RECORDED, "files": {file: side.sha256}, "header": dict(side.header)}
    return facts
