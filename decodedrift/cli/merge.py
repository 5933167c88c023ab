"""`decodedrift merge`: the shards of one run put together; needs neither the model nor torch."""

from __future__ import annotations

from typing import Annotated

import typer

from decodedrift.cli.app import Grouped, app
from decodedrift.cli.check import Gates, Interval, Json, Log, Verbose
from decodedrift.cli.options import FRAME, parameter
from decodedrift.cli.working import conclude, log_to_stderr, more_files, read_gates

Out = parameter("out", FRAME["out"]).annotation
Positions = parameter("positions_csv", FRAME["positions_csv"]).annotation
Spreadsheet = parameter("spreadsheet_safe", FRAME["spreadsheet_safe"]).annotation


@app.command(cls=Grouped)
def merge(
    folders: Annotated[list[str], typer.Argument(metavar="DIR...", help="The folders of all shards, in any order.")],
    out: Out = None,  # type: ignore[valid-type]
    fail_on: Gates = None,  # type: ignore[valid-type]
    fail_on_interval: Interval = False,  # type: ignore[valid-type]
    as_json: Json = False,  # type: ignore[valid-type]
    positions_csv: Positions = False,  # type: ignore[valid-type]
    spreadsheet_safe: Spreadsheet = False,  # type: ignore[valid-type]
    verbose: Verbose = False,  # type: ignore[valid-type]
    log_level: Log = None,  # type: ignore[valid-type]
) -> None:
    """Put the shards of one run (--shard) together: tables, verdict and page as one run makes them."""
    from decodedrift.cli.place import place
    from decodedrift.experiments import experiment
    from decodedrift.experiments.merging import merge as merged
    from decodedrift.experiments.study import experiment_of
    from decodedrift.runs.merging import refuse_inside
    from decodedrift.runs.resume import stored_run

    log_to_stderr(log_level)
    plan = stored_run(folders[0]).plan | {"shard": None}
    kind = experiment(experiment_of(plan))
    gates = read_gates(kind, fail_on, fail_on_interval, plan)
    prefix = "" if kind.name == "compare" else f"{kind.name}-"
    if out:
        refuse_inside(folders, out)
    folder, _ = place(out, None, str(plan["model"]), prefix, resuming=False)
    study = merged(folders, out=folder)
    more_files(study, positions_csv, spreadsheet_safe)
    conclude(study, gates, as_json, verbose)
