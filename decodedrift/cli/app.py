"""The typer app that every command registers with, and what commands share: exit codes, help in groups."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from decodedrift.core.options import GROUPS
from decodedrift.core.records import InputError

app = typer.Typer(
    name="decodedrift",
    help="Where does a language model's text start to differ when its execution changes, why, and does it matter?",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DONE, BUG, INPUT, FAILED, GATE, INTERRUPTED = 0, 1, 2, 3, 4, 130

FLAG = re.compile(r"--[a-z][a-z-]*(=.*)?", re.DOTALL)
WORD = re.compile(r"(?!-)[^\0]+|-(\.?[0-9]|inf|nan).*", re.DOTALL | re.IGNORECASE)  # what is no option
Text = str | None  # numbers too: the settings read them, and say what is wrong in words of their own
Items = list[str] | None


class Careful(TyperCommand):
    """A command of which no option takes the one behind it for its value, and no negative number is an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does it.

        Raises:
            InputError: an option lacks its value, and another follows it.
        """
        params = self.get_params(ctx)
        valued = {name for p in params for name in p.opts if not getattr(p, "is_flag", True)}
        words: list[str] | None = [] if any(p.param_type_name == "argument" for p in params) else None
        options: list[str] = []
        waiting = ""
        for n, arg in enumerate(args):
            if arg == "--" and words is not None and not waiting:
                words += args[n + 1 :]
                break
            (options if words is None or waiting or not WORD.fullmatch(arg) else words).append(arg)
            if waiting and FLAG.fullmatch(arg):
                mend = f"a value that begins with -- is written {waiting}={arg}"
                raise InputError(f"{waiting}: lacks its value before {arg} ({mend})")
            waiting = arg if arg in valued and not waiting else ""
        args = [*options, "--", *words] if words else args
        return super().parse_args(ctx, args)  # type: ignore[no-any-return]


class Grouped(Careful):
    """A command whose help lists its options in GROUPS."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments and general options last."""
        groups: dict[str, list[Any]] = {group: [] for group in (*GROUPS, "General")}
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                groups[getattr(param, "rich_help_panel", None) or "General"].append(record)
        for group, records in groups.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


def _show(wanted: bool) -> None:
    if wanted:
        from decodedrift.core.versions import version

        print(f"decodedrift {version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_show, is_eager=True, help="Print it.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
