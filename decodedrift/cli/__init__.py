"""The command line. Starts without torch; a file a command, which registers itself with the app."""

from decodedrift.cli import check, compare, inject, listed, report, resume
from decodedrift.cli.app import app
from decodedrift.cli.entry import main

__all__ = ["app", "check", "compare", "inject", "listed", "main", "report", "resume"]
