"""From the console script to an exit code: every wrong input ends in one line on stderr, never in a traceback."""

from __future__ import annotations

import gc
import os
import sys

from decodedrift.cli.app import BUG, DONE, INPUT, INTERRUPTED, app
from decodedrift.cli.streams import secure
from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt, redacted
from decodedrift.core.untrusted import terminal
from decodedrift.runs.signals import Stopped, terminable

_alone = False  # whether the process is ours, not a notebook's or a test's


def settle() -> None:
    """What has been imported stays: from here on, garbage is not looked for among it in a process of ours alone."""
    if _alone:
        gc.freeze()


def program() -> None:
    """`main` in a process of ours alone, whose streams may fail: what a command found counts, and its exit code too.

    Where stdout could not be written, one line says so, and 2 is the code of what would have been done. A reader that
    has gone (`| head`) is no failure.
    """
    global _alone
    _alone = True
    gc.set_threshold(50_000, 20, 20)  # looking for garbage among what torch and transformers import takes a second
    secure()
    try:
        main()
    except SystemExit as stopped:
        sys.stdout.flush()
        failure = getattr(sys.stdout, "error", None)
        if failure is None or isinstance(failure, BrokenPipeError):
            raise
        _complain(f"stdout: cannot be written ({failure.strerror})")
        sys.exit(stopped.code or INPUT)


def main() -> None:
    """The console script: typer's own errors and ours, each as one line on stderr."""
    try:
        _main()
    except KeyboardInterrupt:  # before a command begins, or a second one while the first is being answered
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Stopped as stopped:
        sys.exit(stopped.code)


def _main() -> None:
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large tensors on huge pages: 6 % of a run on Linux
    try:
        with terminable():
            code = app(prog_name="decodedrift", standalone_mode=False)
    except InputError as error:
        _complain(str(error))
        sys.exit(INPUT)
    except Stopped as stopped:  # what is finished is kept, and how to go on has been said
        sys.exit(stopped.code)
    except Exception as error:
        if hasattr(error, "format_message"):  # the option parser's own, from the Click that typer carries
            _complain(error.format_message())
            print(f"Try '{_command(error)} --help'", file=sys.stderr)
            sys.exit(INPUT)
        sys.exit(_bug(error))
    if code == INTERRUPTED:  # what typer makes of Ctrl-C
        print("interrupted", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else DONE)


def _command(error: Exception) -> str:
    """The command that a usage error belongs to."""
    context = getattr(error, "ctx", None)
    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    named = [word for word in sys.argv[1:2] if word in names]
    return context.command_path if context else " ".join(["decodedrift", *named])


def _complain(message: str) -> None:
    print(terminal(excerpt(f"decodedrift: {message}", 300, end=120), 300), file=sys.stderr)


def _bug(error: Exception) -> int:
    """A traceback goes to a file, not to the terminal; the user is told where."""
    import tempfile
    import traceback

    trace = redacted("".join(traceback.format_exception(error))).encode("utf-8", "backslashreplace")
    try:
        with tempfile.NamedTemporaryFile(prefix="decodedrift-", suffix=".log", delete=False) as log:
            log.write(trace)
        where = f"the traceback is in {log.name}"
    except OSError as full:
        where = f"no log could be written ({full.strerror})"
    room = max(30, 250 - len(where))  # the path is what one needs
    what = terminal(excerpt(f"{type(error).__name__}: {error}", room), room)
    _complain(f"a bug of decodedrift's own ({what}); {where}")
    return BUG
