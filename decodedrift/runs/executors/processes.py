"""Jobs in several processes of this machine, which are begun anew where one is killed.

The pools of the standard library and of loky end all jobs in hand when one process dies, and start it by running the
caller's script again, or replace one that has grown by 300 MB: here each process is a child with two pipes.
"""

from __future__ import annotations

import logging
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from decodedrift.core.records import InputError, Job
from decodedrift.runs.executors.remote import STOP, packed, settled

if TYPE_CHECKING:
    from decodedrift.measure.tables import JobResult
    from decodedrift.runs.retry import Worker

LOG = logging.getLogger("decodedrift")
DEATHS = 3  # of one job's processes, after which it is not run again
GRACE = 10.0  # seconds in which a process that has no more to do removes its files and ends
LOOK = 0.1  # seconds between two looks whether the run is to stop
MAIN = "import sys; sys.path[:] = {path!r}; from decodedrift.runs.executors.remote import main; main()"


def spread(work: Worker, jobs: Sequence[Job]) -> Iterator[JobResult]:
    """Yields results as they come. The first job runs here, while the others' processes start, unless all is settled.

    Raises:
        InputError: the work cannot leave this process, or the processes of one job died DEATHS times.
    """
    left, first = deque(jobs), not work.world.route.fixed
    processes = Processes(work, min(work.world.workers, len(jobs) - first))
    try:
        if first:
            work.progress.worker(0, processes.count)
            yield work(left.popleft())
        work.world.close()
        try:
            stopped = yield from processes.run(left)
        except Exception:
            processes.leave()
            raise
        processes.leave()
        if stopped is not None:
            raise stopped
    finally:
        processes.kill()


@dataclass
class _Child:
    """A process and the job in its hand."""

    process: subprocess.Popen[bytes]
    job: Job | None = None

    def say(self, message: Any) -> None:
        """Tells it something; one that has died is noticed by its silence."""
        with suppress(OSError):
            pickle.dump(message, self.process.stdin, protocol=pickle.HIGHEST_PROTOCOL)  # type: ignore[arg-type]
            self.process.stdin.flush()  # type: ignore[union-attr]


class Processes:
    """So many children that run the jobs of a Worker. They are started at once, and their jobs told later."""

    def __init__(self, work: Worker, count: int) -> None:
        self.work, self.count = work, count
        self._data = packed(work)
        self._heard: queue.SimpleQueue[tuple[int, _Child, str, tuple[Any, ...]]] = queue.SimpleQueue()
        self._warned: dict[Any, Any] = {}
        self._deaths: Counter[str] = Counter()
        self._children: dict[int, _Child] = {}
        for number in range(count):
            self._start(number)

    def run(self, jobs: deque[Job]) -> Generator[JobResult, None, BaseException | None]:
        """Yields the jobs' results as they come. A signal ends the jobs in hand at their next batch; it is returned."""
        stopped: BaseException | None = None
        for number in list(self._children):
            self._children[number].say(settled(self.work))
            self._next(number, jobs)
        while any(child.job for child in self._children.values()):
            if stopped is None and (stopped := self._stopping()) is not None:
                jobs.clear()
                for child in self._children.values():
                    child.say(STOP)
            with suppress(queue.Empty):
                number, child, kind, words = self._heard.get(timeout=LOOK)
                if child is not self._children[number]:
                    continue  # the last words of one that was given up
                if kind == "result":
                    child.job = None
                    yield words[0]
                    self._next(number, jobs)
                elif kind == "died" and child.job is not None and stopped is None:
                    self._again(number, child, jobs)
                else:
                    self._take(number, child, kind, words)
        return stopped

    def leave(self) -> None:
        """Lets all children remove what they have on the disk and end, for GRACE at most."""
        until = time.monotonic() + GRACE
        for child in self._children.values():
            child.say(STOP)
        for child in self._children.values():
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, until - time.monotonic()))

    def kill(self) -> None:
        """Ends all children at once."""
        for child in self._children.values():
            child.process.kill()
        for child in self._children.values():
            child.process.wait()
            with suppress(OSError):  # what was still to be told goes nowhere
                child.process.stdin.close()  # type: ignore[union-attr]

    def _start(self, number: int) -> None:
        apart: dict[str, Any] = {"process_group": 0} if sys.platform != "win32" else {"creationflags": 0x200}
        code = MAIN.format(path=sys.path)
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **apart
        )  # apart from the terminal's signals
        child = self._children[number] = _Child(process)
        threading.Thread(target=self._hear, args=(number, child), daemon=True).start()
        child.say((self._data, LOG.getEffectiveLevel()))

    def _hear(self, number: int, child: _Child) -> None:
        """A thread for each child: all that it says, and that it has died."""
        source = cast(BinaryIO, child.process.stdout)
        with suppress(Exception):  # a message that breaks off
            while True:
                kind, words = pickle.load(source)
                self._heard.put((number, child, kind, words))
        self._heard.put((number, child, "died", ()))

    def _next(self, number: int, jobs: deque[Job]) -> None:
        if jobs:
            child = self._children[number]
            child.job = jobs.popleft()
            child.say(child.job)

    def _again(self, number: int, child: _Child, jobs: deque[Job]) -> None:
        """A process died with a job in its hand, which another one runs."""
        job, code = child.job, child.process.wait()
        assert job is not None
        self._deaths[job.key] += 1
        LOG.warning("job %s: its process was ended by %s; it is run again", job.key, _cause(code))
        if self._deaths[job.key] == DEATHS:
            raise InputError(
                f"job {job.key}: its process was ended {DEATHS} times, at last by {_cause(code)}; finished jobs are "
                "kept. Where memory ran out, lower --workers or --batch-size"
            )
        self._start(number)
        self._children[number].say(settled(self.work))
        jobs.appendleft(job)
        self._next(number, jobs)

    def _take(self, number: int, child: _Child, kind: str, words: tuple[Any, ...]) -> None:
        """All that is no result."""
        if kind == "progress":
            self.work.progress.worker(number, self.count)
            getattr(self.work.progress, words[0])(*words[1:])
        elif kind == "log":
            LOG.handle(words[0])
        elif kind == "warning":
            text, category, file, line = words
            warnings.warn_explicit(text, category, file, line, registry=self._warned)
        elif kind == "failed":
            error, trail = words
            if not isinstance(error, InputError):
                error.add_note(trail)
            raise error
        elif kind in ("stopped", "died"):
            child.job = None

    def _stopping(self) -> BaseException | None:
        """What a signal raises at the driver's own batch."""
        try:
            self.work.progress.batch()
        except BaseException as error:
            return error
        return None


def _cause(code: int) -> str:
    """How a process ended, in words."""
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"
