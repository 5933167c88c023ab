"""`decodedrift resume`: goes on with a run that was killed; its folder is all that is needed."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from decodedrift.cli.app import Items, app
from decodedrift.cli.gated import FAIL_ON, FAIL_ON_INTERVAL, read_gates
from decodedrift.cli.working import conclude, work
from decodedrift.core.formats import path_of


@app.command()
def resume(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The folder of the run.")],
    fail_on: Annotated[Items, FAIL_ON] = None,
    fail_on_interval: Annotated[bool, FAIL_ON_INTERVAL] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON on stdout, all else on stderr.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; only the result.")] = False,
) -> None:
    """Go on with a run that was stopped or killed; finished jobs are not run again."""
    from decodedrift.experiments.study import open_study
    from decodedrift.runs.resume import begun

    stored = begun(folder)
    gates = read_gates(fail_on, fail_on_interval, stored.plan)
    if stored.finished:
        conclude(open_study(folder), gates, as_json)
    from decodedrift.runs.carry_out import prepared_again

    path = path_of(folder).resolve()
    if os.path.isdir(where := os.path.expanduser(stored.unfinished.get("folder", ""))):
        os.chdir(where)  # a model given as a relative path is found from where the run was begun
    study = work(prepared_again(stored), str(path), True, quiet)
    conclude(study, gates, as_json)
