"""SIGINT and SIGTERM while a run is under way: stop after the batch in hand; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from decodedrift.progress import Progress


class Stopped(BaseException):
    """A signal ended the run; not an Exception, so that no candidate is blamed for it. code: 128 + the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.code = 128 + signum


class Stoppable:
    """Progress that passes everything on, and raises `Stopped` at the next batch once a signal has come."""

    def __init__(self, inner: Progress) -> None:
        self.inner = inner
        self.signum: int | None = None

    def start(self, variant: str, what: str, tokens: int) -> None:
        """Passed on."""
        self.inner.start(variant, what, tokens)

    def tick(self, tokens: int) -> None:
        """Passed on."""
        self.inner.tick(tokens)

    def batch(self) -> None:
        """The place to stop: nothing is half done."""
        self.inner.batch()
        if self.signum is not None:
            raise Stopped(self.signum)

    def stop(self) -> None:
        """Passed on."""
        self.inner.stop()

    def received(self, signum: int, frame: FrameType | None) -> None:
        """A signal handler."""
        if self.signum is not None:
            raise Stopped(signum)
        self.signum = signum


@contextmanager
def stoppable(inner: Progress) -> Iterator[Stoppable]:
    """Progress through which SIGINT and SIGTERM stop a run; the handlers that were there come back afterwards.

    Outside the main thread, where Python delivers no signals, it is plain progress.
    """
    progress = Stoppable(inner)
    if threading.current_thread() is not threading.main_thread():
        yield progress
        return
    before = {s: signal.signal(s, progress.received) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield progress
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM as an exception, so that a command that has nothing to finish still cleans up behind itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def received(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum)

    before = signal.signal(signal.SIGTERM, received)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
