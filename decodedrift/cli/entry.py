"""From the console script to an exit code: every wrong input ends in one line on stderr, never in a traceback."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys

from decodedrift.cli.app import BUG, DONE, INPUT, INTERRUPTED, app
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
    """The whole life of a process of ours: `main`, then an end that does not take apart what ends with the process.

    Taking apart every module of torch and transformers takes a second, and so does looking for garbage among what they
    import. What is registered with atexit runs all the same: the last to be called is what was registered first.
    """
    global _alone
    code, _alone = BUG, True

    def leave() -> None:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # who read it has gone
                pass
        os._exit(code)

    atexit.register(leave)
    gc.set_threshold(50_000, 20, 20)
    try:
        main()
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else BUG if stopped.code else DONE
        raise


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
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 gets escapes, not a traceback
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large tensors on huge pages: 6 % of a run on Linux
    try:
        with terminable():
            code = app(prog_name="decodedrift", standalone_mode=False)
    except InputError as error:
        _complain(str(error))
        sys.exit(INPUT)
    except Stopped as stopped:  # what is finished is kept, and how to go on has been said
        sys.exit(stopped.code)
    except SystemExit as stopped:  # typer answers a reader that has gone (`| head`) with 1; it is no failure of ours
        sys.exit(DONE if stopped.code == 1 else stopped.code)
    except Exception as error:
        if hasattr(error, "format_message"):  # the option parser's own, from the Click that typer carries
            _complain(error.format_message())
            print(f"Try '{_command(error)} --help'", file=sys.stderr)
            sys.exit(INPUT)
        sys.exit(_bug(error))
    if code == INTERRUPTED:  # what typer makes of Ctrl-C
        print("interrupted", file=sys.stderr)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
