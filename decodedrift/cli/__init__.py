"""The command line. Starts without torch; a file a command, which registers itself with the app."""

from decodedrift.cli import compare, inject, listed, report
from decodedrift.cli.app import app
from decodedrift.cli.entry import main

__all__ = ["app", "compare", "inject", "listed", "main", "report"]
