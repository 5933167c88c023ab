"""From a question to a Study, for Python and for the command line alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any

from decodedrift.core.progress import Bars, Progress
from decodedrift.core.records import InputError
from decodedrift.core.settings import Settings, make_settings
from decodedrift.experiments import experiment
from decodedrift.experiments.base import Experiment
from decodedrift.experiments.merging import shard_study
from decodedrift.experiments.study import Study, experiment_of, open_study
from decodedrift.models.recorded.api.recording import Answers
from decodedrift.runs.carry_out import carry_out, finished
from decodedrift.runs.places import ANSWERS, where
from decodedrift.runs.prepare import Prepared, prepare
from decodedrift.runs.resume import stored_run, stored_settings, stored_sizes
from decodedrift.runs.runfolder import RunFolder, Stored

WORD = r"(?:auto|cpu|cuda|mps|exact|screen|gumbel|none|mixed|per-strategy|ray|[0-9]+)\b"


def nondefault(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among a call's arguments that are not the function's own defaults."""
    defaults = {n: p.default for n, p in signature(function).parameters.items()}
    beside = ("tokenizer", "out", "resume", "progress")
    return {n: v for n, v in arguments.items() if n not in beside and v is not defaults[n]}


def run(
    name: str,
    values: Mapping[str, Any],
    tokenizer: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
    base: Path | None = None,
) -> Study:
    """Asks an experiment as Python does.

    Args:
        progress: told how far it is; True shows it on stderr.
        base: a folder; models that lie in it are named by their place there.

    Raises:
        InputError: it cannot be run as asked; the message is one line, in which options are keywords.
    """
    kind = experiment(name)
    progress = (Bars() if progress else None) if isinstance(progress, bool) else progress
    if resume and out is None:
        raise InputError("resume=True goes on with the run in a folder: name it with out=")
    if isinstance(tokenizer, (str, PathLike)):
        raise InputError(f"tokenizer={tokenizer!r}: takes a loaded tokenizer, not a name")
    if tokenizer is not None and isinstance(values.get("judge", values.get("model", "demo")), (str, PathLike)):
        raise InputError("tokenizer= belongs to a model in memory; a named model brings its own: leave it out")
    try:
        settings = make_settings(kind.settings, values)
        if settings.shard is not None and out is None:
            raise InputError(f"--shard {settings.shard} leaves jobs in a folder, for merge: name it with --out")
        if out is None:
            sizes, answers = stored_sizes(None, settings), Answers(progress=progress or Progress())
            ready = prepare(settings, tokenizer, sizes, kind.check, answers, base)
            return carried_out(kind, ready, None, progress)
        with RunFolder.reopen(out) if resume else RunFolder.create(out) as folder:
            stored = folder.stored()
            sizes, answers = stored_sizes(stored, settings), answers_in(folder.path, stored, progress)
            ready = prepare(settings, tokenizer, sizes, kind.check, answers, base)
            return carried_out(kind, ready, folder, progress)
    except InputError as error:
        raise InputError(in_keywords(str(error), kind.settings)) from error.__cause__


def carried_out(
    kind: Experiment, ready: Prepared, folder: RunFolder | None = None, progress: Progress | None = None
) -> Study:
    """A prepared run as a Study; one that its folder holds complete is only read.

    Raises:
        InputError: it cannot run, or the folder holds another run.
    """
    if folder is not None and finished(ready, folder):
        folder.put_back()
        return open_study(folder.path)
    study = carry_out(kind.execute, Study, ready, folder, progress)
    return study if folder is None else shard_study(folder) or study


def answers_in(folder: str | Path, stored: Stored | None, progress: Progress | None) -> Answers:
    """Where a run keeps what its endpoints answer; once it has begun they are not asked again."""
    begun = stored is not None and bool(stored.environment)
    return Answers(where(Path(folder), ANSWERS), progress or Progress(), begun)


def prepared_again(folder: str | Path, stored: Stored) -> tuple[Experiment, Prepared]:
    """A stored run, ready to go on: in the sizes it was settled at."""
    kind = experiment(experiment_of(stored.plan))
    settings = stored_settings(kind.settings, stored)
    answers = answers_in(folder, stored, None)
    return kind, prepare(settings, sizes=stored_sizes(stored, settings), check=kind.check, answers=answers)


def resume(folder: str | Path, progress: Progress | None = None) -> Study:
    """Goes on with the run in a folder, which is all that is needed; a finished one is only read, without torch.

    What it lost of its long tables is put back before, from its finished jobs.

    Raises:
        InputError: no run was begun there, or this is no longer the place where its rows would come out the same.
    """
    stored = stored_run(folder)
    if stored.finished:
        RunFolder(folder).put_back()
        return open_study(folder)
    if (shard := shard_study(RunFolder(folder))) is not None and shard.shard.complete:
        return shard
    kind, ready = prepared_again(folder, stored)
    with RunFolder.reopen(folder) as run_folder:
        return carried_out(kind, ready, run_folder, progress)


def in_keywords(message: str, kind: type[Settings]) -> str:
    """A message about flags as one about keyword arguments: `--candidates` becomes `candidates=`."""
    names = {kind.flag(name).removeprefix("--"): name for name in kind.options()}
    switches = {name for name, option in kind.options().items() if not option.metavar} | {"resume"}
    names |= {"resume": "resume", "out": "out"}

    def keyword(match: re.Match[str]) -> str:
        name = names.get(match[1])
        if name is None:
            return match[0]
        if name in switches:
            return f"{name}=True{match[2] or ''}"
        value = (match[2] or "").strip()
        return f"{name}={value if value.isdigit() or not value else repr(value)}"

    message = re.sub(rf"--([a-z][a-z-]*)( {WORD})?", keyword, message)
    return re.sub(r"^(\w+=) (\S+:)", r"\1\2", message)
