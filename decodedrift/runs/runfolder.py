"""The run folder: finished jobs written atomically, the tables made of them, and both read back.

plan.json is written before anything else and environment.json next. `unfinished.json` holds what a resume needs and a
finished run does not (where it was started, with --no-text the texts); that it goes is what finishes a run. The tables
are CSV; positions and alternatives are Parquet, a part a job, under one explicit schema. A table without rows has no
file: rows.json tells it from one that is lost. Where each file lies is `places.where`'s to say.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from decodedrift.core import untrusted
from decodedrift.core.files import LOCK, atomic, linked, locked, sync, writable, writing
from decodedrift.core.formats import path_of
from decodedrift.core.records import InputError
from decodedrift.measure.tables import PARTS, TABLES, Gathered, JobResult
from decodedrift.runs.jobfiles import content, read_jobs
from decodedrift.runs.partfiles import length, lost_parts, read_several, rows_written
from decodedrift.runs.places import ANSWERS, DATA, KEPT, MARK, RAN_ON, ROWS, STATE, UNFINISHED, where
from decodedrift.runs.sharding import refuse_shard
from decodedrift.runs.tablefiles import without_words, write_csv, write_parquet

WAITING = "decodedrift-"  # how the folders begin in which logits wait; a kill leaves them


@dataclass(frozen=True)
class Stored:
    """What a run folder says of itself. unfinished: empty once the run has finished."""

    plan: dict[str, Any]
    environment: dict[str, Any]
    unfinished: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the run is complete: tables, report and all."""
        return bool(self.environment) and not self.unfinished


class RunFolder:
    """One run's folder, locked while it is entered. `create` wants a new one, `reopen` also one that was begun."""

    def __init__(self, path: str | Path, fresh: bool = True) -> None:
        self.path = Path(path)
        self.fresh = fresh
        self._stack = ExitStack()

    @classmethod
    def create(cls, path: str | Path, resuming: bool = True) -> RunFolder:
        """A new folder (or an empty one).

        resuming: whether the command that asks could also go on with the run in it.

        Raises:
            InputError: it holds something already, or cannot be written.
        """
        folder = writable(path, "--out")
        if _foreign(folder):
            resumable = "; --resume goes on with the run in it" if resuming and where(folder, MARK).exists() else ""
            raise InputError(
                f"--out {folder}: the folder is not empty{resumable}; nothing is overwritten, name a new one"
            )
        return cls(folder)

    @classmethod
    def reopen(cls, path: str | Path) -> RunFolder:
        """The folder of a run that was begun; one that is absent, empty, or died before its plan.json is begun anew.

        Raises:
            InputError: it holds something else, or cannot be written.
        """
        folder = writable(path, "--resume")
        fresh = not where(folder, MARK).exists()
        if fresh and (other := _foreign(folder)):
            raise InputError(f"--resume {folder}: not a run folder (it holds {other[0]} and no {MARK}); name another")
        return cls(folder, fresh)

    def file(self, name: str) -> Path:
        """Where a file of the run lies."""
        return where(self.path, name)

    @property
    def internals(self) -> Path:
        """Where what no reader needs lies, and logits wait."""
        return self.file(MARK).parent

    def __enter__(self) -> RunFolder:
        self._stack.enter_context(locked(self.path))
        if self.fresh and self.file(MARK).exists():
            self._stack.close()
            raise InputError(f"{self.path}: another run has just begun in this folder; name a new one")
        for stale in [*self.internals.glob(f"{WAITING}*"), *self.file("jobs").glob("*.part")]:
            shutil.rmtree(stale, ignore_errors=True)
        for stale in self.path.glob("**/*.part"):
            stale.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is not None and self.fresh:
            for folder in (self.internals, self.path):  # a run that was refused leaves no empty folder
                with suppress(OSError):
                    folder.rmdir()

    def begin(self, plan: Mapping[str, Any], environment: Mapping[str, Any], unfinished: Mapping[str, Any]) -> None:
        """Writes what a resume goes by, the plan before anything else."""
        self.write_json(MARK, plan)
        self.write_json(UNFINISHED, unfinished)
        self.write_json(RAN_ON, environment)

    def finish(self, environment: Mapping[str, Any]) -> None:
        """The last step: from here on the run counts as finished."""
        self.write_json(RAN_ON, environment)
        with writing(self.path):
            self.file(UNFINISHED).unlink(missing_ok=True)
            sync(self.file(UNFINISHED).parent)

    def stored(self) -> Stored | None:
        """What the folder says of itself; None where not even the plan was written.

        Raises:
            InputError: a file of it cannot be read.
        """
        if not self.file(MARK).is_file():
            return None
        return Stored(*(content(p) if (p := self.file(name)).is_file() else {} for name in (MARK, RAN_ON, UNFINISHED)))

    def discard(self) -> None:
        """Takes away a folder in which no job finished: a run that was refused leaves nothing."""
        if self.fresh and not any(self.file("jobs").glob("*")):
            shutil.rmtree(self.file(KEPT), ignore_errors=True)
            for name in (RAN_ON, UNFINISHED, MARK):
                with suppress(OSError):  # on a disk that has become read-only the refusal is the error to tell
                    self.file(name).unlink(missing_ok=True)
            for folder in (self.file("jobs"), self.internals, self.path):
                with suppress(OSError):  # someone else's file is in it: it stays
                    folder.rmdir()

    def write_json(self, name: str, value: Any) -> None:
        """A JSON file, whole or not at all."""
        self.write_text(name, untrusted.to_json(value) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """A text file, whole or not at all."""
        with atomic(_housed(self.file(name))) as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")

    def write_job(self, result: JobResult) -> None:
        """A finished job under jobs/<key>/, whole or not at all.

        Raises:
            InputError: the disk is full, or the folder has gone (it is not made again: earlier jobs went with it).
        """
        part = (final := self.file("jobs") / result.key).with_name(f"{result.key}.part")
        if not self.file(MARK).is_file():
            raise InputError(f"{self.path}: the run folder has been moved or deleted; start again")
        shutil.rmtree(part, ignore_errors=True)
        with writing(final):
            part.mkdir(parents=True)
            for table in TABLES:
                write_parquet(result.frame(table), part / f"{table}.parquet", table)
            facts = {"variants": result.facts, "spilled_bytes": result.spilled_bytes}
            facts |= {"batch_size": result.batch_size, "path": result.path}
            (part / "facts.json").write_text(untrusted.to_json(facts) + "\n", encoding="utf-8")
            for file in part.iterdir():
                sync(file)
            sync(part)
            os.replace(part, final)
            sync(final.parent)
        (self.internals / f"{STATE}-{result.key}.pt").unlink(missing_ok=True)

    def finished_jobs(self) -> list[str]:
        """The keys of the jobs on disk."""
        return sorted(p.name for p in self.file("jobs").glob("*") if p.suffix != ".part")

    def written_jobs(self) -> list[str]:
        """The keys of the jobs that the tables are made of; a run that keeps no texts has no jobs/ any more."""
        return self.finished_jobs() or sorted(p.stem for p in self.file("positions").glob("*.parquet"))

    def job_facts(self, key: str) -> dict[str, Any]:
        """What a finished job says beside its rows: the batch size where it had to be lowered, the path it took."""
        return content(self.file("jobs") / key / "facts.json")

    def read_jobs(self, keys: Sequence[str]) -> Gathered:
        """The finished jobs, in the order of their keys.

        Raises:
            InputError: a job is missing, cannot be read, or holds rows of another.
        """
        return read_jobs({key: self.file("jobs") / key for key in keys})

    def write_csv(self, table: str, frame: pd.DataFrame, spreadsheet: bool = False) -> None:
        """One table as CSV, whole or not at all; `spreadsheet`: as TABLE.spreadsheet.csv, in which no cell is run."""
        name = f"{table}.spreadsheet.csv" if spreadsheet else f"{table}.csv"
        if len(frame):
            with atomic(_housed(self.file(name))) as part:
                write_csv(frame, part, spreadsheet)

    def write_tables(self, frames: Mapping[str, pd.DataFrame | None], words: bool = True) -> None:
        """A run's tables as CSV, and the long ones as Parquet; `words`: with all that spells out a text.

        None stands for a table that the finished jobs have and nobody read. What has no rows gets no file.
        """
        rows = {}
        for table, frame in frames.items():
            if frame is not None and not words:
                frame = without_words(frame, table)
            if table in PARTS:
                rows[table] = self._write_parts(table, frame, words)
            elif frame is not None:
                self.write_csv(table, frame)
                rows[table] = len(frame)
        self.write_json(ROWS, rows)

    def _write_parts(self, table: str, frame: pd.DataFrame | None, words: bool) -> int:
        """A folder of Parquet parts: the finished jobs' own, or one part for a study that was never on disk."""
        count = 0
        for key in (jobs := self.finished_jobs()):
            source, target = self.file("jobs") / key / f"{table}.parquet", self.file(table) / f"{key}.parquet"
            mine = None if words else without_words(read_several([source], table), table)
            if many := length(source) if mine is None else len(mine):
                with atomic(_housed(target)) as part:
                    linked(source, part) if mine is None else write_parquet(mine, part, table)
                count += many
        if not jobs and frame is not None and len(frame):
            with atomic(_housed(self.file(table) / "part-00000.parquet")) as part:
                write_parquet(frame, part, table)
            count = len(frame)
        return count

    def put_back(self) -> None:
        """Of a finished run: parts of tables that were lost, as its jobs still have them."""
        for table in [table for table, rows in rows_written(self.path).items() if table in PARTS and rows]:
            for part, source in lost_parts(self.path, table).items():
                with atomic(_housed(part)) as new:
                    linked(source, new)

    def drop_jobs(self) -> None:
        """Takes the finished jobs away: their rows hold texts that this run was asked not to keep."""
        with writing(self.path):
            if self.file("jobs").is_dir():
                shutil.rmtree(self.file("jobs"))


def open_stored(path: str | Path) -> Stored:
    """Plan and environment of a finished run's folder.

    Raises:
        InputError: not a run folder, or not finished.
    """
    folder = path_of(path)
    stored = RunFolder(folder).stored()
    if stored is None:
        raise InputError(f"{folder}: not a run folder (no {MARK} in it)")
    refuse_shard(folder, stored.plan, stored.unfinished)
    old = where(folder, MARK).parent == folder and not where(folder, ROWS).is_file()  # finished by version 0.1
    last = ("traces.csv", "failures.csv") if old else (ROWS,)
    missing = [name for name in (*last, RAN_ON) if not where(folder, name).is_file()]
    if missing or not stored.finished:
        why = f" ({missing[0]} is missing)" if missing else ""
        raise InputError(f"{folder}: this run did not finish{why}; go on with: decodedrift resume {folder}")
    return stored


def _foreign(folder: Path) -> list[str]:
    """Names in a folder beside what a run leaves that was killed before its plan was written: endpoints' answers."""
    ours = {LOCK, f"{MARK}.part"}  # the latter on top where it was version 0.1
    if not any(p.name not in (f"{MARK}.part", ANSWERS) for p in (folder / DATA).glob("*")):
        ours.add(DATA)
    return sorted(p.name for p in folder.iterdir() if p.name not in ours)


def _housed(file: Path) -> Path:
    """A path whose folder is there, on disk and not only in its cache; the run folder itself is never made again."""
    if not file.parent.is_dir():
        with writing(file.parent):
            file.parent.mkdir()
            sync(file.parent.parent)
    return file
