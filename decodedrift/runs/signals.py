"""SIGINT, SIGTERM and SIGHUP while a run is under way: stop after the batch in hand; a second one stops at once.

A terminal that is closed may send SIGHUP twice, by its shell and by the system, and takes no more words. A signal that
is ignored when the command begins stays ignored: SIGHUP under `nohup`, SIGINT of a script's `command &`. One that is
raised within a destructor, where Python ignores every exception, counts at the next batch.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

from decodedrift.core.estimate import Work
from decodedrift.core.progress import Progress

ENDING = ("SIGTERM", "SIGHUP")  # Windows knows no SIGHUP

_swallowed: int | None = None  # the signal whose exception a destructor of whatever library has swallowed


class Stopped(BaseException):
    """A signal ended the run; not an Exception, so that no candidate is blamed for it. code: 128 + the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.code = 128 + signum


class Stoppable(Progress):
    """Progress that passes everything on, and raises `Stopped` at the next batch once a signal has come."""

    def __init__(self, inner: Progress) -> None:
        self.inner = inner
        self.signum: int | None = None

    def begin(self, todo: Mapping[str, Work], finished: Work) -> None:
        """Passed on."""
        self.inner.begin(todo, finished)

    def job(self, key: str) -> None:
        """Passed on."""
        self.inner.job(key)

    def worker(self, number: int, of: int) -> None:
        """Passed on."""
        self.inner.worker(number, of)

    def elsewhere(self, key: str, of: int) -> None:
        """Passed on."""
        self.inner.elsewhere(key, of)

    def start(self, variant: str, what: str, tokens: int) -> None:
        """Passed on."""
        self.inner.start(variant, what, tokens)

    def tick(self, tokens: int) -> None:
        """Passed on."""
        self.inner.tick(tokens)

    def batch(self) -> None:
        """The place to stop: nothing is half done."""
        self.inner.batch()
        self.signum = self.signum or _swallowed
        if self.signum is not None:
            raise Stopped(self.signum)

    def stop(self) -> None:
        """Passed on."""
        self.inner.stop()

    def report(self) -> None:
        """Passed on."""
        self.inner.report()

    def received(self, signum: int, frame: FrameType | None) -> None:
        """A signal handler."""
        _take(signum)
        if self.signum is not None:
            raise Stopped(signum)
        self.signum = signum


@contextmanager
def stoppable(inner: Progress) -> Iterator[Stoppable]:
    """Progress through which a signal stops a run; the handlers that were there come back afterwards.

    Outside the main thread, where Python delivers no signals, it is plain progress.
    """
    progress = Stoppable(inner)
    with _handled(("SIGINT", *ENDING), progress.received):
        yield progress


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP as exceptions, so that a command that has nothing to finish still cleans up behind itself.

    Raises:
        Stopped: at the end, where a signal was swallowed and no batch came after it.
    """
    global _swallowed

    def received(signum: int, frame: FrameType | None) -> None:
        _take(signum)
        raise Stopped(signum)

    def heard(ignored: sys.UnraisableHookArgs) -> None:
        global _swallowed
        if isinstance(ignored.exc_value, Stopped):
            _swallowed = ignored.exc_value.code - 128
        elif issubclass(ignored.exc_type, KeyboardInterrupt):
            _swallowed = signal.SIGINT
        else:
            before(ignored)

    before, sys.unraisablehook, _swallowed = sys.unraisablehook, heard, None
    try:
        with _handled(ENDING, received):
            yield
        if _swallowed is not None:
            raise Stopped(_swallowed)
    finally:
        sys.unraisablehook, _swallowed = before, None


def _take(signum: int) -> None:
    """A second SIGHUP is ignored; what is said to a terminal that is closed goes nowhere: writing there is an error."""
    if signal.Signals(signum).name == "SIGHUP":
        signal.signal(signum, signal.SIG_IGN)
    for handle in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(handle).st_mode) and not os.isatty(handle):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, handle)
                os.close(nowhere)


@contextmanager
def _handled(names: tuple[str, ...], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """The handler for these signals, but for those that are ignored already and those that this system has not."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        before = {n: signal.signal(n, handler) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    try:
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)
