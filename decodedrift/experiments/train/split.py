"""Two texts of what was trained: the reference arm's and another arm's, from the comparison within the run folder."""

from __future__ import annotations

from typing import Any

from decodedrift.experiments.study import open_study
from decodedrift.experiments.train.arms import AGAIN
from decodedrift.experiments.train.verdict import by_role
from decodedrift.report.case import Case, pair
from decodedrift.report.html import Options, StudyLike


def cases(study: Any) -> dict[str, Case]:
    """By arm a text that parted, of the first seed; nothing where the comparison was not kept.

    Raises:
        InputError: the comparison has lost a file.
    """
    if study.path is None or not study.words:
        return {}
    folder = study.path / f"compare-seed-{study.plan['seeds'][0]}"
    if not folder.is_dir():  # none was asked for, or every arm broke
        return {}
    compared = open_study(folder)
    rows = compared.divergences
    rows = rows[(rows["role"] == "candidate") & (rows["diverged"] == 1)]
    names = [name for name in by_role(study) if name != AGAIN and name in set(rows["candidate"])]
    return {name: compared.case(candidate=name) for name in names}


def texts(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """Left the reference arm's text, right the other's."""
    parted = cases(study) if options.texts else {}
    if not parted:
        return None
    pairs = [pair(case, name) for name, case in parted.items()]
    folder = f"compare-seed-{study.plan['seeds'][0]}"
    return {"heading": "Where the arms' texts part", "pairs": pairs, "folder": folder}
