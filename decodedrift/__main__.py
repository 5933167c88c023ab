"""A process of our own, `decodedrift` or `python -m decodedrift`, from before its imports to its end."""

import atexit
import os
import sys


def begin() -> None:
    """Imports the command line and runs it; ends without taking apart what ends with the process.

    Taking apart every module of torch and transformers takes a second. Python calls what is registered with atexit last
    to first, after it has waited for the threads that are no daemons, and `leave` is called at the very end: it is
    registered before anything else, and not at all where somebody (coverage in a sitecustomize) came before; then the
    interpreter ends as ever.
    """
    code: int | None = None

    def leave() -> None:
        if code is None:  # a fork that ends in the midst of a command, an error that nobody expected
            return
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):  # full or closed meanwhile
                pass
        os._exit(code)

    if not atexit._ncallbacks():
        atexit.register(leave)
    try:
        from decodedrift.cli.entry import program  # half a second, in which Ctrl-C may come

        program()
    except KeyboardInterrupt:
        code = 130
        if sys.stderr is not None:
            print("interrupted", file=sys.stderr)
        sys.exit(code)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else None
        raise


if __name__ == "__main__":
    begin()
