"""`decodedrift check`: gates a finished run."""

from __future__ import annotations

from typing import Annotated

import typer

from decodedrift.cli.app import Grouped, app
from decodedrift.cli.options import AS_JSON, BASELINE, FAIL_ON, FAIL_ON_INTERVAL, VERBOSE, parameter
from decodedrift.cli.working import conclude, read_gates
from decodedrift.core.records import InputError

Gates = parameter("fail_on", FAIL_ON).annotation
Interval = parameter("fail_on_interval", FAIL_ON_INTERVAL).annotation
Json = parameter("as_json", AS_JSON).annotation
Verbose = parameter("verbose", VERBOSE).annotation
Baseline = parameter("baseline", BASELINE).annotation


@app.command(cls=Grouped)
def check(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="The folder of a finished run.")],
    fail_on: Gates = None,  # type: ignore[valid-type]
    fail_on_interval: Interval = False,  # type: ignore[valid-type]
    baseline: Baseline = None,  # type: ignore[valid-type]
    as_json: Json = False,  # type: ignore[valid-type]
    verbose: Verbose = False,  # type: ignore[valid-type]
) -> None:
    """Hold a finished run against bounds or an earlier run; exit code 4 where one is exceeded."""
    from decodedrift.experiments.study import open_study

    study = open_study(folder)
    if not fail_on and baseline is None:
        raise InputError('check: give --baseline DIR or at least one --fail-on, such as default or "COLUMN>0.1"')
    gates = read_gates(study.experiment, fail_on, fail_on_interval, study.plan)
    conclude(study, gates, as_json, verbose, None if baseline is None else open_study(baseline))
