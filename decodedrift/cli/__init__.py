"""The command line. Starts without torch; a file a command, which registers itself with the app."""

from decodedrift.cli import check, compare, listed, resume
from decodedrift.cli.app import app
from decodedrift.cli.entry import main

__all__ = ["app", "check", "compare", "listed", "main", "resume"]
