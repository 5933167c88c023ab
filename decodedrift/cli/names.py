"""`decodedrift list`: the names that the other commands take."""

from __future__ import annotations

from decodedrift.cli.app import app


@app.command(name="list")
def list_() -> None:
    """Precisions, strategies, metrics and prompt sets, and whether this machine can run them."""
    from decodedrift.cli.listing import listing

    print(listing())
