"""The folders of finished jobs read back, wherever they lie: those of one run, or of all its shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decodedrift.core.formats import read_json
from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt
from decodedrift.measure.tables import PARTS, TABLES, UNFOLDED, Gathered
from decodedrift.runs.partfiles import check, length, mend, prompts_of, read_several


def read_jobs(folders: Mapping[str, Path]) -> Gathered:
    """Jobs by key, each from its own folder, in the order of their keys; PARTS are checked and left where they are.

    Raises:
        InputError: a file of a job is missing, cannot be read, or is another job's; names it and what mends it.
    """
    for folder in folders.values():
        _refuse_mixed(folder)
        for table in PARTS:
            file = folder / f"{table}.parquet"
            length(file) if table in UNFOLDED else check(file, table)
    jobs = Gathered({
        t: read_several((f / f"{t}.parquet" for f in folders.values()), t) for t in TABLES if t not in PARTS
    })  # fmt: skip
    for key, folder in folders.items():
        facts = content(folder / "facts.json")
        jobs.note(key, facts["variants"], facts["batch_size"], facts.get("path", {}), facts.get("spilled_bytes", 0))
    return jobs


def _refuse_mixed(folder: Path) -> None:
    """A job compares texts that it has itself: else one of its files is another job's."""
    if other := prompts_of(folder / "divergences.parquet") - prompts_of(file := folder / "traces.parquet"):
        raise InputError(f"{file}: lacks prompt {min(other)} of this job, so a file is of another one; {mend(file)}")


def content(path: Path) -> dict[str, Any]:
    """What a JSON file of a run folder holds.

    Raises:
        InputError: it cannot be read.
    """
    try:
        values = read_json(path.read_text("utf-8"), "line")
        if not isinstance(values, dict):
            raise ValueError(f"it holds no table but a {type(values).__name__}")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({excerpt(error, 120)})") from None
    return values
