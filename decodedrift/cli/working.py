"""A run as the command line carries it out: stopped by signals, shown, and turned into an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from decodedrift.cli.app import DONE, FAILED, GATE
from decodedrift.core.records import InputError, nearest
from decodedrift.core.untrusted import terminal
from decodedrift.experiments.base import Experiment

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.runs.gates import Gate
    from decodedrift.runs.wordgates import WordGate

LEVELS = ("debug", "info", "warning")


def log_to_stderr(level: str | None) -> None:
    """Sends what is logged from this level on to stderr.

    Raises:
        InputError: no such level.
    """
    import logging

    if level is None:
        return
    if level not in LEVELS:
        raise InputError(f"--log-level {level}: unknown; {nearest(level, LEVELS)}")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(_escaped)
    logger = logging.getLogger("decodedrift")
    logger.addHandler(handler)
    logger.setLevel(level.upper())


def _escaped(record: Any) -> bool:
    record.msg, record.args = terminal(record.getMessage(), 300), ()
    return True


def read_gates(
    kind: Experiment, texts: list[str] | None, interval: bool, plan: Mapping[str, Any]
) -> list[Gate | WordGate]:
    """The gates, refused before a run begins if they name what it will not have.

    Raises:
        InputError: not a gate; a column, candidate or strategy that there is not.
    """
    if interval and not texts:
        raise InputError("--fail-on-interval: there is no gate; add one with --fail-on")
    if not texts:
        return []
    if plan.get("shard") is not None:
        raise InputError("--fail-on: gates are of a whole run, and --shard is a part of one; give them to merge")
    from decodedrift.runs.wordgates import parse_gates

    return parse_gates(texts, interval, kind.gating(plan))


def work(kind: Experiment, ready: Any, folder: str, resume: bool, quiet: bool) -> Study:
    """Carries a prepared run out in its folder.

    Raises:
        InputError: it cannot run; a folder in which nothing finished is taken away again.
        Stopped: a signal came; how to go on is said.
    """
    from decodedrift.cli.entry import settle
    from decodedrift.core.progress import Bars
    from decodedrift.experiments.running import carried_out
    from decodedrift.runs.runfolder import RunFolder
    from decodedrift.runs.signals import Stopped, stoppable

    settle()
    bars = Bars(opening="" if quiet else terminal(ready.announcement()), silent=quiet)
    run = RunFolder.reopen(folder) if resume else RunFolder.create(folder)
    with run, stoppable(bars) as progress:
        try:
            study = carried_out(kind, ready, run, progress)
        except InputError:
            run.discard()
            raise
        except Stopped as stopped:
            bars.close()
            finished = len(run.finished_jobs())
            print(
                f"stopped by {stopped}; {finished} of {len(ready.jobs)} jobs are finished and kept. "
                f"Go on with: decodedrift resume {terminal(folder)}",
                file=sys.stderr,
            )
            raise
        finally:
            bars.close()
    if progress.signum is not None:  # it came when all jobs had run: the run is complete, and the caller is told
        show(study, False, sys.stderr)
        raise Stopped(progress.signum)
    return study


def conclude(
    study: Study, gates: Sequence[Gate | WordGate], as_json: bool, verbose: bool = False, baseline: Study | None = None
) -> None:
    """Shows a finished run and exits: 3 where something failed, 4 where a gate is exceeded, 0 otherwise.

    baseline: an earlier run that this one must not be worse than.
    """
    exceeded: list[str] = []
    passed: list[str] = []
    if gates:
        from decodedrift.runs.wordgates import WordGate

        gating = study.experiment.gating(study.plan)
        faults = gating.faults(study)
        table = gating.table(study)
        for gate in gates:
            rows = study.answer if isinstance(gate, WordGate) else table
            sentences = gate.exceeded(rows, gating, faults)
            exceeded += sentences
            if not sentences:
                passed.append(gate.passed(rows, gating))
    if baseline is not None:
        from decodedrift.experiments.compare.baseline import worse

        sentences, count = worse(study, baseline)
        exceeded += sentences
        if not sentences:
            passed.append(f"--baseline: none of {count} figures is worse")
    show(study, as_json, sys.stderr if as_json else sys.stdout, exceeded, passed, verbose)
    for sentence in exceeded:
        print(terminal(f"gate exceeded: {sentence}", 300), file=sys.stderr)
    raise typer.Exit(FAILED if study.failed else GATE if exceeded else DONE)


def show(
    study: Study,
    as_json: bool,
    say: Any,
    exceeded: Sequence[str] = (),
    passed: Sequence[str] = (),
    verbose: bool = False,
) -> None:
    """The result, the gates that passed and the paths to open on `say`; with `as_json` also JSON on stdout."""
    from decodedrift.core.untrusted import to_json
    from decodedrift.experiments.merging import ShardStudy

    if isinstance(study, ShardStudy):
        if as_json:
            print(to_json(study.facts()))
        print(terminal(str(study.shard), 400), file=say)
        return
    if as_json:
        summary = study.summary.astype(object).where(study.summary.notna(), None).to_dict("records")
        said = {"summary": summary, "verdict": study.verdict, "gates_exceeded": exceeded, "gates_passed": passed}
        print(to_json({**study.experiment.answers(study), **said, "run": str(study.path)}))
    print(study.experiment.shown(study, 80, verbose), file=say)
    print(file=say)
    for sentence in passed:
        print(terminal(f"gate passed: {sentence}", 300), file=say)
    print(f"report: {terminal(str(Path(study.path or '.') / 'report.html'))}", file=say)


def more_files(study: Study, positions_csv: bool, spreadsheet_safe: bool) -> None:
    """Files that are written on request beside the run's own."""
    from decodedrift.measure.tables import PARTS
    from decodedrift.runs.runfolder import RunFolder
    from decodedrift.runs.tablefiles import without_words

    folder = RunFolder(Path(study.path or os.curdir))
    long = [name for name in study.tables if name == "positions" and positions_csv]
    for name in [*(long if positions_csv else ()), *(study.tables if spreadsheet_safe else ())]:
        if name in PARTS and name not in long:
            continue
        frame = getattr(study, name) if study.words else without_words(getattr(study, name), name)
        if name in long:
            folder.write_csv(name, frame)
        if spreadsheet_safe:
            folder.write_csv(name, frame, spreadsheet=True)
    if positions_csv or spreadsheet_safe:
        study.write_readme(folder)
