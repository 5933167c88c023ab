"""`decodedrift report`: a finished run's page or summary, or two runs side by side; needs no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from decodedrift.cli.app import Careful, Text, app
from decodedrift.cli.check import Log
from decodedrift.cli.working import log_to_stderr
from decodedrift.core.formats import path_of
from decodedrift.core.records import InputError, nearest
from decodedrift.core.untrusted import terminal

FORMATS = ("html", "md")
PAGE = b'content="decodedrift"'  # what a page of ours holds


@app.command(cls=Careful)
def report(
    run: Annotated[str, typer.Argument(metavar="DIR", help="The folder of a finished run.")],
    other: Annotated[
        Text, typer.Argument(metavar="[DIR]", help="A second run of the same plan, to hold beside it.")
    ] = None,
    title: Annotated[
        Text, typer.Option(metavar="TEXT", help="What stands at the top. [default: what was compared]")
    ] = None,
    top: Annotated[Text, typer.Option(metavar="N", help="Cases in the page. [default: 300]")] = None,
    no_text: Annotated[bool, typer.Option("--no-text", help="No prompt, continuation or token in the page.")] = False,
    format: Annotated[
        str, typer.Option(metavar="html|md", help="md: a summary in Markdown, for a pull request or a model card.")
    ] = "html",
    out: Annotated[
        Text,
        typer.Option(
            metavar="FILE",
            help="- is stdout. [default: DIR/report.html; two runs: DIR/beside-OTHER.html; md: -]",
        ),
    ] = None,
    log_level: Log = None,  # type: ignore[valid-type]
) -> None:
    """Render a finished run's page again, or hold two runs of one plan side by side."""
    from decodedrift.experiments.study import open_study

    log_to_stderr(log_level)
    if format not in FORMATS:
        raise InputError(f"--format {format}: unknown; {nearest(format, FORMATS)}")
    first = open_study(run)
    count = _count(top)
    if format == "md":
        if other is not None or top is not None:
            raise InputError("--format md is a summary of a single run: leave out the second run, and --top")
        from decodedrift.report.brief import summary

        _put(summary(first, title, not no_text), out or "-", b"<sub>decodedrift ")
        return
    if other is None:
        page = first.to_html(title, top=count, texts=not no_text)
        default = "report.html"
    else:
        if top is not None:
            raise InputError("--top is of a single run's page: two runs side by side have no cases; leave it out")
        second = open_study(other)
        kinds = [study.experiment.name for study in (first, second)]
        if kinds[0] != kinds[1]:
            raise InputError(f"{other}: a run of {kinds[1]} cannot be held beside one of {kinds[0]}")
        if first.experiment.beside is None:
            raise InputError(f"{run}: a run of {kinds[0]} cannot be held beside another")
        page = first.experiment.beside(first, second, names=(run, other), title=title, texts=not no_text)
        default = f"beside-{path_of(other).resolve().name}.html"
    _put(page, out or os.path.join(run, default), PAGE)


def _put(text: str, out: str, mark: bytes) -> None:
    """Writes to a file, or to stdout where it is `-`; mark: what our own files hold, which alone are overwritten."""
    if out == "-":
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")  # type: ignore[union-attr]
        print(text, end="")
        return
    path = path_of(out, "--out")
    write_page(path, text, mark)
    print(f"report: {terminal(str(path))}")


def _count(top: str | None) -> int | None:
    from decodedrift.core.notation import whole

    try:
        return None if top is None else whole(1, 100_000)(top)
    except ValueError as error:
        raise InputError(f"--top: {error}") from None


def write_page(path: Path, text: str, mark: bytes = PAGE) -> None:
    """Whole or not at all; a file that is none of ours is left alone."""
    from decodedrift.core.files import atomic

    if path.is_dir():
        raise InputError(f"--out {path}: this is a folder; name a file")
    if path.exists() and mark not in path.read_bytes()[:200_000]:
        raise InputError(f"--out {path}: this file is no report of decodedrift's; nothing else is overwritten")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}")
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
