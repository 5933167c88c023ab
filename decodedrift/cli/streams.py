"""stdout and stderr of a process of ours: closed, full or without a reader, they do not end a command in the middle."""

from __future__ import annotations

import io
import os
import sys


class Outlet(io.TextIOWrapper):
    """A stream that from its first failure on goes nowhere.

    error: that failure. before: the stream in whose place it is, which would close what they share if it were let go.
    """

    error: OSError | None = None
    before: io.TextIOWrapper | None = None

    def write(self, text: str, /) -> int:
        """As any stream; characters that there are."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """As any stream."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        self.error = self.error or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        super().flush()  # what is pending would fail again


def secure() -> None:
    """Makes an `Outlet` of stdout and of stderr; one that is closed (`>&-`, None in Python) goes nowhere.

    A terminal without UTF-8 gets escapes, not a traceback.
    """
    for handle in range(3):  # a file of ours that is opened next would be the closed stream's, and be written into
        try:
            os.fstat(handle)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    for name, handle in (("stdout", 1), ("stderr", 2)):
        stream, escape = getattr(sys, name), "backslashreplace"
        if stream is None:
            setattr(sys, name, Outlet(io.BufferedWriter(io.FileIO(handle, "w", closefd=False)), "utf-8", escape))
        elif type(stream) is io.TextIOWrapper:
            lines, through = stream.line_buffering, stream.write_through
            outlet = Outlet(stream.buffer, stream.encoding, escape, None, lines, through)
            outlet.before = stream
            setattr(sys, name, outlet)
