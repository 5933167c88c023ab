"""`decodedrift check`: gates a finished run."""

from __future__ import annotations

from typing import Annotated

import typer

from decodedrift.cli.app import Items, app
from decodedrift.cli.gated import FAIL_ON, FAIL_ON_INTERVAL, read_gates
from decodedrift.cli.working import conclude
from decodedrift.core.records import InputError


@app.command()
def check(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The folder of a finished run.")],
    fail_on: Annotated[Items, FAIL_ON] = None,
    fail_on_interval: Annotated[bool, FAIL_ON_INTERVAL] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON on stdout, all else on stderr.")] = False,
) -> None:
    """Hold a finished run against bounds; exit code 4 where one is exceeded."""
    from decodedrift.experiments.study import open_study
    from decodedrift.runs.runfolder import open_stored

    stored = open_stored(folder)
    if not fail_on:
        raise InputError('check: give at least one --fail-on, such as --fail-on "divergence_rate>0.1"')
    gates = read_gates(fail_on, fail_on_interval, stored.plan)
    conclude(open_study(folder), gates, as_json)
