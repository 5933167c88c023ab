"""`decodedrift list`: the names that the other commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from decodedrift.cli.app import app


@app.command(name="list")
def list_(
    what: Annotated[
        str | None, typer.Argument(metavar="[WHAT]", help="precisions, knobs, strategies, metrics or prompts.")
    ] = None,
) -> None:
    """Precisions, knobs, strategies, metrics and prompt sets, and whether this machine can run them."""
    from decodedrift.cli.listing import listing

    print(listing(what))
