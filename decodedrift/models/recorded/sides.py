"""The recorded sides of a run: their files read and matched before a weight is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decodedrift.core.records import RECORDED
from decodedrift.core.settings import Settings
from decodedrift.models.recorded.continuation import Matched
from decodedrift.models.recorded.match import match
from decodedrift.models.recorded.read import read

if TYPE_CHECKING:
    from decodedrift.models.text.vocabulary import Vocabulary


def matched(
    plan: Settings, vocab: Vocabulary, prompts: Mapping[str, Sequence[int]], answers: Mapping[str, Path]
) -> dict[str, Matched]:
    """What the recorded candidates of a plan wrote, by name.

    Args:
        prompts: prompt id -> the ids that the reference reads.
        answers: the files of candidates that are endpoints.

    Raises:
        InputError: a file is not there, or is no recording of this model and these prompts.
    """
    files = {v.name: os.path.expanduser(str(v.model)) for v in plan.candidates if v.recorded and not v.endpoint}
    files |= {name: str(path) for name, path in answers.items()}
    return {name: match(read(path), plan, vocab, prompts) for name, path in files.items()}


def described(recorded: Mapping[str, Matched]) -> dict[str, dict[str, Any]]:
    """Recorded files for environment.json, by candidate: what each says of itself, and its hash; no path."""
    facts = {}
    for name, side in recorded.items():
        file = os.path.basename(side.path)
        facts[name] = {"name": file, "kind": RECORDED, "files": {file: side.sha256}, "header": dict(side.header)}
    return facts
