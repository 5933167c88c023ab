"""A Worker in another process: as bytes and back, and the loop of a process that is told of jobs and tells results.

The first job settles path and batch size (`settled`); with these every process that unpacks a Worker runs its jobs as
the one that packed it would. A process is told by its standard input and answers on its standard output, in pickles:
whatever a model's code prints goes to stderr. It ends when its input does, in the middle of a job too, so that none is
left behind by a driver that was killed.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt

if TYPE_CHECKING:
    from decodedrift.runs.retry import Worker

STOP = "stop"
IGNORED = ("SIGINT", "SIGTERM", "SIGHUP")  # they are the driver's to hear: it tells when to stop
OFTEN = 0.1  # seconds between two accounts of tokens


def packed(work: Worker, option: str = "--workers", mend: str = "use --workers 1") -> bytes:
    """A Worker as bytes, without weights and without its progress. option: what asks for it; mend: what does not.

    Raises:
        InputError: something in it lives in this process alone.
    """
    try:
        return pickle.dumps(work, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever the caller's own tokenizer or code raises
        said = f"{type(error).__name__}: {excerpt(error, 120)}"
        raise InputError(f"{option}: this run cannot be given to another process ({said}); {mend}") from error


def unpacked(data: bytes, progress: Progress) -> Worker:
    """The Worker of `packed`, in another process. progress: told of its jobs; raises in `batch` to stop them."""
    try:
        work: Worker = pickle.loads(data)
    except ModuleNotFoundError:  # a configuration of a model's own code
        from decodedrift.models.world import restored

        work = restored(data)
    work.progress = progress
    return work


def settled(work: Worker) -> dict[str, Any]:
    """What the first job settles for all others."""
    return {"route": work.world.route, "size": work.size}


class _Stopped(BaseException):
    """The driver wants no more of the job in hand."""


class _Line(Progress):
    """Progress that is told to the driver, tokens a few times a second."""

    def __init__(self, out: BinaryIO, stopping: threading.Event) -> None:
        self._out, self._stopping, self._lock = out, stopping, threading.Lock()
        self._tokens, self._told = 0, 0.0

    def say(self, kind: str, *words: Any) -> None:
        """A message to the driver."""
        data = pickle.dumps((kind, words), protocol=pickle.HIGHEST_PROTOCOL)
        with self._lock:
            self._out.write(data)
            self._out.flush()

    def job(self, key: str) -> None:
        """Told."""
        self.say("progress", "job", key)

    def start(self, variant: str, what: str, tokens: int) -> None:
        """Told."""
        self.say("progress", "start", variant, what, tokens)

    def tick(self, tokens: int) -> None:
        """Told now and then."""
        self._tokens += tokens
        if time.monotonic() - self._told > OFTEN:
            self._tell()

    def batch(self) -> None:
        """The place to stop: nothing is half done."""
        if self._stopping.is_set():
            raise _Stopped

    def stop(self) -> None:
        """Told, with the tokens that were not told yet."""
        self._tell()
        self.say("progress", "stop")

    def _tell(self) -> None:
        if self._tokens:
            self.say("progress", "tick", self._tokens)
        self._tokens, self._told = 0, time.monotonic()


class _Log(logging.Handler):
    """Hands on what is logged; its arguments may be of any kind, its text is enough."""

    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args, record.exc_info = record.getMessage(), (), None
        self._line.say("log", record)


def main() -> None:
    """The whole life of a process: a Worker, what is settled, and jobs, until the input ends."""
    for name in IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stopping = threading.Event()
    line = _Line(out, stopping)
    threading.Thread(target=_listen, args=(sys.stdin.buffer, told, stopping), daemon=True).start()
    data, level = told.get()
    logger = logging.getLogger("decodedrift")
    logger.addHandler(_Log(line))
    logger.setLevel(level)
    logger.propagate = False
    warnings.showwarning = lambda text, kind, file, number, *_: line.say("warning", str(text), kind, file, number)  # type: ignore[assignment]
    with suppress(BrokenPipeError):  # the driver has gone
        _serve(unpacked(data, line), told, line)
    os._exit(0)  # an interpreter that ends would wait for the input that the thread is reading


def _listen(source: BinaryIO, told: queue.SimpleQueue[Any], stopping: threading.Event) -> None:
    """Takes what the driver says, a stop at once and all else in turn."""
    while True:
        try:
            message = pickle.load(source)
        except (EOFError, OSError, pickle.UnpicklingError):
            os._exit(1)
        if message == STOP:
            stopping.set()
        told.put(message)


def _serve(work: Worker, told: queue.SimpleQueue[Any], line: _Line) -> None:
    while (message := told.get()) != STOP:
        if isinstance(message, dict):
            work.world, work.size = replace(work.world, route=message["route"]), message["size"]
            continue
        try:
            line.say("result", work(message))
        except _Stopped:
            break
        except Exception as error:
            line.say("failed", *_told(error))
            break
    work.world.close()
    line.say("stopped")


def _told(error: Exception) -> tuple[Exception, str]:
    """An error as the driver raises it, and where it came from."""
    trail = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of somebody's own kind
        return RuntimeError(f"{type(error).__name__}: {error}"), trail
    return error, trail
