"""The recorded sides of a run: their files found, read and matched before a weight is loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from decodedrift.core.records import RECORDED
from decodedrift.core.settings import Settings
from decodedrift.models.recorded.continuation import Matched


def matched(plan: Settings, vocab: Any, prompts: Mapping[str, Sequence[int]]) -> dict[str, Matched]:
    """What the recorded candidates of a plan wrote, by name.

    Args:
        prompts: prompt id -> the ids that the reference reads.

    Raises:
        InputError: a file is not there, or is no recording.
    """
    files = {v.name: os.path.expanduser(str(v.model)) for v in plan.candidates if v.recorded and not v.endpoint}
    if not files:
        return {}
    from decodedrift.models.recorded.match import match
    from decodedrift.models.recorded.read import read

    return {name: match(read(path), plan, vocab, prompts) for name, path in files.items()}


def described(recorded: Mapping[str, Matched]) -> dict[str, dict[str, Any]]:
    """Recorded files for environment.json, by candidate: what each says of itself, and its hash; no path."""
    facts = {}
    for name, side in recorded.items():
        with open(side.path, "rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        file = os.path.basename(side.path)
        facts[name] = {"name": file, "kind": RECORDED, "files": {file: digest}, "header": dict(side.header)}
    return facts
