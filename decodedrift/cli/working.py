"""A run as the command line carries it out: stopped by signals, shown, and turned into an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from decodedrift.cli.app import DONE, FAILED, GATE
from decodedrift.cli.shown import show
from decodedrift.core.records import InputError
from decodedrift.core.untrusted import terminal

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.runs.gates import Gate


def work(ready: Any, folder: str, resume: bool, quiet: bool) -> Study:
    """Carries a prepared run out in its folder.

    Raises:
        InputError: it cannot run; a folder in which nothing finished is taken away again.
        Stopped: a signal came; how to go on is said.
    """
    from decodedrift.core.progress import Bars
    from decodedrift.runs.carry_out import carry_out
    from decodedrift.runs.runfolder import RunFolder
    from decodedrift.runs.signals import Stopped, stoppable

    bars = Bars(False if quiet else None, opening="" if quiet else terminal(ready.announcement()))
    held = RunFolder.reopen(folder) if resume else RunFolder.create(folder)
    with held, stoppable(bars) as progress:
        try:
            study = carry_out(ready, held, progress)
        except InputError:
            held.discard()
            raise
        except Stopped as stopped:
            bars.stop()
            done = len(held.finished_jobs())
            print(
                f"stopped by {stopped}; {done} of {len(ready.jobs)} jobs are finished and kept. "
                f"Go on with: decodedrift resume {terminal(folder)}",
                file=sys.stderr,
            )
            raise
        finally:
            bars.stop()
    if progress.signum is not None:  # it came when all jobs had run: the run is complete, and the caller is told
        show(study, False, sys.stderr)
        raise Stopped(progress.signum)
    return study


def conclude(study: Study, gates: Sequence[Gate], as_json: bool) -> None:
    """Shows a finished run and exits: 3 where something failed, 4 where a gate is exceeded, 0 otherwise."""
    exceeded = []
    if gates:
        from decodedrift.runs.gates import faults

        spoilt = faults(study)
        exceeded = [said for gate in gates for said in gate.exceeded(study.summary, study.plan, spoilt)]
    with suppress(BrokenPipeError):  # whoever reads may have gone: what was found counts all the same
        show(study, as_json, sys.stderr if as_json else sys.stdout, exceeded)
    for said in exceeded:
        print(terminal(f"gate exceeded: {said}", 300), file=sys.stderr)
    raise typer.Exit(FAILED if study.failed else GATE if exceeded else DONE)


def more_files(study: Study, positions_csv: bool, spreadsheet_safe: bool) -> None:
    """Files that are written on request beside the run's own."""
    from decodedrift.measure.tables import without_words
    from decodedrift.runs.runfolder import CSV_TABLES, RunFolder

    folder = RunFolder(Path(study.path or os.curdir))

    def write(name: str, spreadsheet: bool) -> None:
        frame = getattr(study, name)
        folder.write_csv(name, frame if study.words else without_words(frame, name), spreadsheet)

    if positions_csv:
        write("positions", False)
    if spreadsheet_safe:
        for name in (*CSV_TABLES, "positions") if positions_csv else CSV_TABLES:
            write(name, True)
