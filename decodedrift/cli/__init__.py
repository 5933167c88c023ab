"""The command line: one command per experiment, made from its settings, and those that read a run folder.

Starts without torch. What a command does beside asking, showing and exit codes belongs below.
"""

from decodedrift.cli import experiment, record, resume, merge, report, index, check, names  # isort: skip - the order of the help
from decodedrift.cli.app import app
from decodedrift.cli.entry import main

__all__ = ["app", "check", "experiment", "index", "main", "merge", "names", "record", "report", "resume"]
