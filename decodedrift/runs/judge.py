"""`--judge MODEL`: recorded runs on both sides, read by a model that wrote neither."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from decodedrift.core.notation import is_endpoint, is_recording
from decodedrift.core.records import RECORDED, InputError, Variant, shortened
from decodedrift.core.settings import Settings
from decodedrift.models.variants import is_model, parse_variants, variant_from_dict

JUDGE = "judge"  # what the variant is called
ASK = "--reference NAME=FILE --candidates NAME=FILE"
S = TypeVar("S", bound=Settings)


def with_judge(settings: S) -> S:
    """Settings whose model is the judge and whose judge is a variant of it, where there is one; else as they are.

    Raises:
        InputError: it is no model, or is asked for beside another.
    """
    asked = getattr(settings, "judge", None)
    if asked is None or (isinstance(asked, Variant) and asked.model is None):
        return settings
    if isinstance(asked, Mapping):  # as a plan has it, beside its model
        return settings.having(judge=variant_from_dict(asked))
    if "model" in settings.model_fields_set:
        raise InputError("--judge is the model that runs here, and so is --model: leave --model out")
    if "reference" not in settings.model_fields_set:
        raise InputError(f"--judge reads recorded runs, a reference too: give {ASK}, or leave --judge out")
    if is_model(asked):
        return settings.having(model=asked, judge=Variant(JUDGE, "fp32"))
    variant = _variant(asked)
    revision = variant.revision or settings.revision
    return settings.having(
        model=variant.model, revision=revision, judge=replace(variant, name=JUDGE, model=None, revision=None)
    )


def _variant(asked: Any) -> Variant:
    if isinstance(asked, Variant):
        variant = asked
    elif isinstance(asked, (str, os.PathLike)):
        variant = _written(os.fspath(asked))
    else:
        raise InputError(f"--judge: a folder, a hub id or a model, not {shortened(str(asked))}")
    if variant.recorded or not variant.model:
        raise InputError(
            f"--judge {variant.model or variant.name}: the judge is a model that runs here: a folder or hub id"
        )
    return variant


def _written(asked: str) -> Variant:
    """A judge as it is written: what --model takes, and its parameters behind a colon."""
    whole = os.path.exists(asked) or is_endpoint(asked)
    name, colon, params = (asked, "", "") if whole else asked.partition(":")
    if is_recording(name) or is_endpoint(name):
        return Variant(JUDGE, RECORDED, model=name)
    (variant,) = parse_variants(f"{JUDGE}=OWNER/MODEL{colon}{params}")
    return replace(variant, model=name)


def the_reference(given: Sequence[Variant], settings: Settings) -> Variant:
    """The reference is a variant of the model, or recorded beside a judge.

    Raises:
        InputError: it is neither.
    """
    if len(given) != 1 or (given[0].model and not given[0].recorded):
        raise InputError(f"--reference takes one variant of --model, not {settings.reference!r}")
    reference, judged = given[0], getattr(settings, JUDGE, None) is not None
    if reference.recorded and not judged:
        raise InputError(
            f"--reference {reference.name}: a recorded text reads no other; name a model that does: --judge MODEL"
        )
    if judged and not reference.recorded:
        raise InputError(
            f"--reference {reference.name} runs here, and needs no judge: leave --judge out, or give {ASK}"
        )
    return reference


def refuse_candidates(candidates: Sequence[Variant], reference: Variant) -> None:
    """Beside a recorded reference all is recorded: nothing that runs here could be held against logits of it.

    Raises:
        InputError: one of them runs here.
    """
    for variant in candidates if reference.recorded else ():
        if not variant.recorded:
            mend = f"--model MODEL --reference {variant.name} --candidates {reference.name}=FILE"
            raise InputError(
                f"--candidates {variant.name} runs here, and --judge reads recorded runs; hold it so: {mend}"
            )
