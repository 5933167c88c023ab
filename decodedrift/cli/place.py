"""Where a run's files go: found usable before minutes are spent."""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from decodedrift.core.files import file_name
from decodedrift.core.formats import path_of
from decodedrift.core.records import InputError

if TYPE_CHECKING:
    from decodedrift.runs.runfolder import Stored


def place(
    out: str | None, resume: str | None, model: str, kind: str = "", dry_run: bool = False, resuming: bool = True
) -> tuple[str, Stored | None]:
    """The run's folder, and what is in it already.

    resuming: whether the command has --resume.

    Raises:
        InputError: it cannot be used.
    """
    from decodedrift.runs.runfolder import RunFolder

    if "" in (out, resume):
        raise InputError(f"{'--out' if out == '' else '--resume'}: name a folder")
    if out is not None and resume is not None:
        raise InputError("--out names a new folder and --resume one to go on in; give one of them")
    folder = resume or out or default_folder(model, kind)
    if dry_run:
        return folder, RunFolder(folder).stored() if resume else None
    existed = path_of(folder, "--out" if resume is None else "--resume").is_dir()
    run = RunFolder.reopen(folder) if resume else RunFolder.create(folder, resuming)
    if not existed:
        run.path.rmdir()
    return folder, run.stored()


def default_folder(model: str, kind: str = "") -> str:
    """reports/KINDMODEL-DATE-TIME, with a number where a run of the same second has it already."""
    base = os.path.join("reports", f"{kind}{file_name(Path(model).name)[:80]}-{time.strftime('%Y%m%d-%H%M%S')}")
    return next(name for n in count(1) if not os.path.exists(name := base if n == 1 else f"{base}-{n}"))
