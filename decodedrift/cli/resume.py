"""`decodedrift resume`: goes on with a run that was killed; its folder is all that is needed."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from decodedrift.cli.app import Grouped, app
from decodedrift.cli.check import Gates, Interval, Json, Log, Verbose
from decodedrift.cli.options import QUIET, parameter
from decodedrift.cli.working import conclude, log_to_stderr, read_gates, work
from decodedrift.core.formats import path_of

Quiet = parameter("quiet", QUIET).annotation


@app.command(cls=Grouped)
def resume(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The folder of the run.")],
    fail_on: Gates = None,  # type: ignore[valid-type]
    fail_on_interval: Interval = False,  # type: ignore[valid-type]
    as_json: Json = False,  # type: ignore[valid-type]
    quiet: Quiet = False,  # type: ignore[valid-type]
    verbose: Verbose = False,  # type: ignore[valid-type]
    log_level: Log = None,  # type: ignore[valid-type]
) -> None:
    """Go on with a run that was stopped or killed; finished jobs are not run again."""
    from decodedrift.experiments import experiment
    from decodedrift.experiments.merging import shard_study
    from decodedrift.experiments.study import experiment_of, open_study
    from decodedrift.runs.resume import stored_run
    from decodedrift.runs.runfolder import RunFolder

    log_to_stderr(log_level)
    stored = stored_run(folder)
    gates = read_gates(experiment(experiment_of(stored.plan)), fail_on, fail_on_interval, stored.plan)
    path = path_of(folder).resolve()
    if stored.finished:
        RunFolder(path).put_back()
        conclude(open_study(folder), gates, as_json, verbose)
    if (shard := shard_study(RunFolder(path))) is not None and shard.shard.complete:
        conclude(shard, gates, as_json, verbose)
    from decodedrift.experiments.running import prepared_again

    if os.path.isdir(where := os.path.expanduser(stored.unfinished.get("folder", ""))):
        os.chdir(where)  # a model given as a relative path is found from where the run was begun
    kind, ready = prepared_again(path, stored)
    conclude(work(kind, ready, str(path), True, quiet), gates, as_json, verbose)
