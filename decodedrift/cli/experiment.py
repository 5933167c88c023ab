"""A command for every experiment, made from its settings: `decodedrift compare`, `decodedrift inject`."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

from decodedrift.cli.app import Grouped, app
from decodedrift.cli.options import WORDS, frame_of, given_settings, with_options
from decodedrift.cli.place import place
from decodedrift.cli.working import conclude, log_to_stderr, more_files, read_gates, work
from decodedrift.core.records import InputError
from decodedrift.core.settings import Settings, make_settings
from decodedrift.core.untrusted import terminal, to_json
from decodedrift.experiments import EXPERIMENTS, experiment
from decodedrift.experiments.base import Experiment

S = TypeVar("S", bound=Settings)


def register(kind: Experiment) -> None:
    """Adds the experiment's command to the app."""

    frame = frame_of(kind.tables)

    def command(**flags: Any) -> None:
        if kind.plain is not None and _plainly(kind, flags.pop(WORDS) or [], flags):
            return
        _command(kind, {name: flags.pop(name) for name in frame}, flags)

    examples = "\n".join(["\b", "Examples:", *(f"  {line}" for line in kind.examples)])
    made = with_options(command, kind.settings, kind.name, kind.about, frame, words=kind.plain is not None)
    app.command(kind.name, cls=Grouped, epilog=examples)(made)


def _plainly(kind: Experiment, words: list[str], flags: dict[str, Any]) -> bool:
    """Shows what needs no run, where no option asks for one; whether it did.

    Raises:
        InputError: words and a run are asked for together.
    """
    asked = [name for name, value in flags.items() if value not in (None, False) and name != "as_json"]
    if asked and words:
        flag = next((kind.settings.flag(n) for n in asked if n in kind.settings.options()), "--" + asked[0])
        raise InputError(f"{words[0]}: is shown by itself, and {flag.replace('_', '-')} asks for a run; leave one out")
    if asked or kind.plain is None:
        return False
    text, data = kind.plain(words)
    print(to_json(data) if flags["as_json"] else text)
    return True


def _command(kind: Experiment, frame: dict[str, Any], flags: dict[str, Any]) -> None:
    """What a command does, from flags to an exit code."""
    log_to_stderr(frame["log_level"])
    settings = asked(kind.settings, frame, flags)
    from decodedrift.runs.prepare import draft, prepare

    plan = draft(settings)  # everything that can be refused without torch is refused before it is imported
    whole = [name for name in ("positions_csv", "spreadsheet_safe") if frame.get(name)]
    if whole and plan.shard is not None:
        raise InputError(f"--{whole[0].replace('_', '-')} is of a whole run, and a shard is a part: give it to merge")
    gates = read_gates(kind, frame["fail_on"], frame["fail_on_interval"], plan.as_dict())
    from decodedrift.core.progress import Bars
    from decodedrift.experiments.running import answers_in
    from decodedrift.runs.resume import stored_sizes
    from decodedrift.runs.signals import Stopped

    prefix = "" if kind.name == "compare" else f"{kind.name}-"
    folder, stored = place(frame["out"], frame["resume"], settings.model, prefix, frame["dry_run"])
    bars = Bars(silent=frame["quiet"])
    answers = None if frame["dry_run"] else answers_in(folder, stored, bars)
    try:
        ready = prepare(settings, sizes=stored_sizes(stored, settings), check=kind.check, answers=answers)
    except (Stopped, KeyboardInterrupt) as stopped:
        bars.close()
        if answers is not None and answers.folder is not None and answers.folder.is_dir():
            again = f"Go on with the whole command and --resume {terminal(folder)}"
            by = str(stopped) or "SIGINT"
            print(f"stopped by {by} while an endpoint was asked; its answers are kept. {again}", file=sys.stderr)
        raise
    bars.close()
    for doubt in ready.doubts():
        print(terminal(doubt, 300), file=sys.stderr)
    if frame["dry_run"]:
        if stored is not None:
            from decodedrift.runs.carry_out import finished
            from decodedrift.runs.runfolder import RunFolder

            finished(ready, RunFolder(folder))  # refuses what the run itself would

        print(kind.forecast(ready), file=sys.stderr if frame["as_json"] else sys.stdout)
        return
    study = work(kind, ready, folder, frame["resume"] is not None, frame["quiet"])
    more_files(study, frame.get("positions_csv", False), frame["spreadsheet_safe"])
    conclude(study, gates, frame["as_json"], frame["verbose"])


def asked(kind: type[S], frame: dict[str, Any], flags: dict[str, Any]) -> S:
    """The flags over the file: what is given as a flag wins."""
    from decodedrift.runs.config import over, read_config

    values = given_settings(kind, flags)
    if frame["prompt"]:
        values["prompts"] = _typed(values.get("prompts"), frame["prompt"])
    stored = read_config(frame["config"]) if frame["config"] is not None else {}
    settings = make_settings(kind, over(values, stored))
    if not isinstance(settings.model, str):
        raise InputError(f"--model: must be a text, not {settings.model!r}")
    return settings


def _typed(source: str | None, texts: list[str]) -> Any:
    """--prompts and --prompt together: the file's first, then the typed ones; of a bundled set a balanced few."""
    if source is None:
        return texts
    from decodedrift.core.prompts import BALANCED, balanced, bundled_sets, load_prompts

    prompts = load_prompts(source)
    return [*(balanced(prompts, BALANCED) if source in bundled_sets() else prompts), *texts]


for name in EXPERIMENTS:
    register(experiment(name))
