"""The typer app that every command registers with, and what commands share: option types and exit codes."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="decodedrift",
    help="Where does a language model's text start to differ when its execution changes, why, and does it matter?",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

option = typer.Option

DONE, BUG, INPUT, FAILED, GATE, INTERRUPTED = 0, 1, 2, 3, 4, 130

Text = str | None  # numbers too: `settings` reads them, and says what is wrong in words of its own
Items = list[str] | None


def _said(asked: bool) -> None:
    if asked:
        from decodedrift.core.versions import version

        print(f"decodedrift {version()}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_said, is_eager=True, help="Print it.")] = False,
) -> None:
    pass
