"""`decodedrift record`: what a model or an endpoint writes, as a file that `compare` takes as a side."""

from __future__ import annotations

import sys
from typing import Any

import typer

from decodedrift.cli.app import DONE, FAILED, Grouped, app
from decodedrift.cli.experiment import asked
from decodedrift.cli.options import FRAME, with_options
from decodedrift.cli.working import log_to_stderr
from decodedrift.core.options import OUTPUT, Option
from decodedrift.core.records import InputError
from decodedrift.core.untrusted import terminal
from decodedrift.experiments.record.settings import RecordSettings

ABOUT = "Record what a model writes, here or behind an endpoint: a file that compare takes as a side."
EXAMPLES = """\b
Examples:
  decodedrift record --model gpt2 --variant bf16 -o here.jsonl
  decodedrift record --endpoint http://127.0.0.1:8000/v1 --model NAME -o there.jsonl"""
FILE = Option("A new .jsonl file, or one of the same recording, which goes on.", OUTPUT, "FILE")
OWN = {"out": FILE} | {name: FRAME[name] for name in ("prompt", "config", "quiet", "log_level")}


def _record(**flags: Any) -> None:
    frame = {name: flags.pop(name) for name in OWN}
    log_to_stderr(frame["log_level"])
    if not frame["out"]:
        raise InputError("--out: name the file to record into, such as -o recorded.jsonl")
    settings = asked(RecordSettings, frame, flags)
    from decodedrift.core.progress import Bars
    from decodedrift.experiments.record.running import recorded
    from decodedrift.runs.signals import Stopped, stoppable

    bars = Bars(silent=frame["quiet"])
    with stoppable(bars) as progress:
        try:
            outcome = recorded(settings, frame["out"], progress)
        except Stopped as stopped:
            bars.close()
            print(f"stopped by {stopped}; what is in {terminal(frame['out'])} is kept, and the same command goes on",
                  file=sys.stderr)  # fmt: skip
            raise
        finally:
            bars.close()
    print(outcome)
    raise typer.Exit(FAILED if outcome.failed else DONE)


app.command("record", cls=Grouped, epilog=EXAMPLES)(with_options(_record, RecordSettings, "record", ABOUT, OWN))
