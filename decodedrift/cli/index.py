"""`decodedrift index`: a page over the runs below a folder; needs no torch."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from decodedrift.cli.app import Careful, Text, app
from decodedrift.cli.report import write_page
from decodedrift.core.formats import path_of
from decodedrift.core.untrusted import terminal


@app.command(cls=Careful)
def index(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A folder with runs in it, however deep.")],
    title: Annotated[Text, typer.Option(metavar="TEXT", help="What stands at the top.")] = None,
    out: Annotated[Text, typer.Option(metavar="FILE", help="[default: DIR/index.html]")] = None,
) -> None:
    """A page over many runs and models: a row per run and candidate, with links to their reports."""
    from decodedrift.experiments.overview import overview

    path = path_of(out or os.path.join(folder, "index.html"), "--out")
    page, skipped = overview(folder, title, path.parent)
    write_page(path, page)
    for name, reason in skipped:
        print(terminal(f"skipped {name}: {reason}", 300), file=sys.stderr)
    print(f"index: {terminal(str(path))}")
