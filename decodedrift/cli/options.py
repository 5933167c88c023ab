"""The options of a command: an experiment's settings, and those of the frame that every experiment has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import typer

from decodedrift.cli.app import Items, Text
from decodedrift.core.options import GATES, GROUPS, MACHINE, OUTPUT, PROMPTS, Option
from decodedrift.core.records import InputError
from decodedrift.core.settings import Settings

FAIL_ON = Option(
    'Exit code 4 where it holds: "COLUMN>0.1" of summary.csv (of compare also certificate.csv), "COLUMN>0.1:ROW", '
    '"quality==worse" of answer.csv, or default; repeatable.',
    GATES,
    "GATE",
    many=True,
)
FAIL_ON_INTERVAL = Option("Gates hold only where the whole 95 % interval is beyond the bound.", GATES)
AS_JSON = Option("The summary as JSON on stdout, all else on stderr.", OUTPUT, flag="json")
LOG_LEVEL = Option("What is logged on stderr: debug, info, warning.", OUTPUT, "NAME", default="warning", rare=True)
QUIET = Option("No progress; only the result.", OUTPUT)
VERBOSE = Option("The whole verdict and the table by strategy.", OUTPUT)
BASELINE = Option("Exit code 4 where a figure is worse than in this earlier run of the same.", GATES, "DIR")
FRAME = {  # beside an experiment's settings
    "prompt": Option("A prompt; repeatable.", PROMPTS, "TEXT", many=True),
    "config": Option("Settings from a plan.json or YAML file; flags win.", OUTPUT, "FILE"),
    "out": Option("A new folder.", OUTPUT, "DIR", default="reports/[EXPERIMENT-]MODEL-DATE-TIME"),
    "resume": Option("Go on with the run in DIR, or begin it there.", OUTPUT, "DIR"),
    "dry_run": Option("Say what would run, how long and in what memory.", MACHINE),
    "positions_csv": Option("positions/ as one CSV file too.", OUTPUT, rare=True),
    "spreadsheet_safe": Option("Each CSV a second time, so that no spreadsheet runs a cell.", OUTPUT, rare=True),
    "as_json": AS_JSON,
    "quiet": QUIET,
    "verbose": VERBOSE,
    "log_level": LOG_LEVEL,
    "fail_on": FAIL_ON,
    "fail_on_interval": FAIL_ON_INTERVAL,
}
OF_TABLES = {"positions_csv": "positions"}  # an option of the frame -> the table without which there is nothing to it
WORDS = "numbers"  # what a command takes beside its options, where it takes anything
SHORT = {("record", "out"): ("-o",)}  # (command, option) -> its short flags


def frame_of(tables: Collection[str]) -> dict[str, Option]:
    """FRAME as far as it is of an experiment that leaves these tables."""
    return {name: option for name, option in FRAME.items() if OF_TABLES.get(name) in (None, *tables)}


def parameter(name: str, option: Option, default: Any = None, short: tuple[str, ...] = ()) -> inspect.Parameter:
    """An option as typer takes it. default: the setting's own, for its help."""
    words = option.default or (",".join(map(str, default)) if isinstance(default, (tuple, list)) else default)
    ending = f" [default: {words}]" if option.metavar and words not in (None, "") else ""
    flag = option.flag or name.replace("_", "-")
    argument = typer.Option(
        f"--{flag}/--no-{flag}" if default is True else f"--{flag}", *short,
        metavar=option.metavar or None, help=option.help + ending, rich_help_panel=option.group,
        show_default=False,
    )  # fmt: skip
    kind: Any = bool if not option.metavar else Items if option.many else Text
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if option.metavar or default is True else False,
        annotation=Annotated[kind, argument],
    )


def with_options(
    function: Callable[..., None],
    kind: type[Settings],
    name: str,
    about: str,
    frame: Mapping[str, Option] = FRAME,
    *,
    words: bool = False,
) -> Callable[..., None]:
    """A function of keywords with the signature that typer reads: the settings and the frame, rare ones last.

    words: whether it takes words of its own, as WORDS.
    """
    fields = kind.model_fields
    entries = [(n, o, parameter(n, o, fields[n].default)) for n, o in kind.options().items()]
    entries += [(n, o, parameter(n, o, short=SHORT.get((name, n), ()))) for n, o in frame.items()]
    entries.sort(key=lambda entry: (GROUPS.index(entry[1].group), entry[1].rare))
    parameters = [entry[2] for entry in entries]
    if words:
        argument = Annotated[Items, typer.Argument(metavar="[NUMBER]...", show_default=False)]
        parameters.append(inspect.Parameter(WORDS, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=argument))
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    function.__name__, function.__doc__ = name, about
    return function


def given_settings(kind: type[Settings], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that flags were given for, read.

    Raises:
        InputError: a value that its flag does not take.
    """
    values = {}
    for name, option in kind.options().items():
        value = flags[name]
        if value is None or value is kind.model_fields[name].default is False:
            continue
        try:
            values[name] = option.read(value) if option.read else value
        except ValueError as error:
            raise InputError(f"{kind.flag(name)}: {error}") from None
    return values
