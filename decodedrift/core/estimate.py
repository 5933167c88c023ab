"""How much of a run is done, and how long the rest will take: from what its own phases took, never from a guess."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

READING = "reading"  # what a phase is called that reads whole sequences; every other goes token by token
READ_COST = 0.2  # of a written token, where neither has been timed: it places the bar, and no time is told by it


class Floor(NamedTuple):
    """A variant against itself in batches of `size`: of the prompts that are measured, or `whole` ones of its own."""

    size: int
    whole: bool = False


class Effort(NamedTuple):
    """How much a run does, in passes over its prompts, beside loading: what time and memory are estimated from.

    writing, reading: passes that generate, and that read what the reference wrote; floors: further ones that do both,
    measured on the first `floor_prompts`. injecting: passes of the reference with tokens put in.
    stepwise: readings token by token. logits: those of one token that wait in a job. prompts: readings of the prompts
    alone. trained: tokens forward and backward, over all jobs. beside: bytes of a parameter that are held beside a
    variant's weights. texts: completions of a prompt that each variant leaves that runs here; elsewhere: that one
    leaves that does not. counted: formats that every number is held against. loading: whether weights load at all.
    """

    writing: int = 1
    reading: int = 0
    floors: tuple[Floor, ...] = ()
    floor_prompts: int = 0
    injecting: int = 0
    stepwise: int = 0
    logits: int = 1
    prompts: int = 0
    trained: int = 0
    beside: int = 0
    texts: int = 1
    elsewhere: int = 1
    counted: int = 0
    loading: bool = True


class Work(NamedTuple):
    """Tokens that a job writes, one by one, and that it reads, over all variants and passes, at most."""

    written: float = 0.0
    read: float = 0.0


NONE = Work()


@dataclass
class _Kind:
    """Phases of one kind that ended: what was planned of them, in what time; `asked` of `planned` in finished jobs."""

    seconds: float = 0.0
    tokens: float = 0.0
    asked: float = 0.0
    planned: float = 0.0

    def scale(self) -> float:
        """What finished jobs came to of what was planned of them."""
        return self.asked / self.planned if self.planned and self.asked else 1.0


@dataclass
class _Seat:
    """Where one job after another runs. ended: tokens planned in the phases of the present job that ended, by kind."""

    job: str | None = None
    began: float = 0.0
    in_phases: float = 0.0
    ended: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})
    phase: tuple[bool, float, float] | None = None  # whether it reads, tokens planned, when it began
    ticks: float = 0.0

    def done(self) -> dict[bool, float]:
        """Tokens of the present job that are done, by kind."""
        done = dict(self.ended)
        if self.phase is not None:
            done[self.phase[0]] += min(self.ticks, self.phase[1])
        return done


@dataclass
class Estimate:
    """The state of a run. todo: the jobs that are still to run, by key; finished: what earlier sessions ran.

    A kind's speed is its seconds per token planned in the phases that ended, and so holds that texts end early. What a
    job takes beside its phases (loading, tables) is taken to be what the last one took.
    """

    todo: dict[str, Work]
    finished: Work = NONE
    clock: Callable[[], float] = lambda: time.monotonic()
    _kinds: dict[bool, _Kind] = field(default_factory=lambda: {True: _Kind(), False: _Kind()})
    _done: set[str] = field(default_factory=set)
    _beside: float = 0.0
    _most: float = 0.0
    _workers: int = 1
    _seats: dict[int, _Seat] = field(default_factory=lambda: {0: _Seat()})
    _at: int = 0

    @property
    def _seat(self) -> _Seat:
        return self._seats[self._at]

    def worker(self, number: int, of: int) -> None:
        """What is told next is of this one of so many processes, each of which runs one job at a time."""
        self._at, self._workers = number, of
        self._seats.setdefault(number, _Seat())

    def job(self, key: str) -> None:
        """A job begins, or begins again; the one before it is over."""
        now, seat = self.clock(), self._seat
        self.stop()
        if seat.job not in (None, key):
            self._settle(str(seat.job), now)
        self._seats[self._at] = _Seat(key, now)

    def elsewhere(self, key: str, of: int) -> None:
        """A job has ended on another machine; its phases were timed by nobody."""
        self._workers = of
        self._done.add(key)

    def start(self, what: str, tokens: float) -> None:
        """A phase begins."""
        self.stop()
        self._seat.phase, self._seat.ticks = (what == READING, max(1.0, tokens), self.clock()), 0.0

    def tick(self, tokens: float) -> None:
        """So many tokens more of it."""
        self._seat.ticks += tokens

    def stop(self) -> None:
        """The phase is over, with all that was planned of it."""
        seat = self._seat
        if seat.phase is not None:
            reads, tokens, began = seat.phase
            seconds, kind = self.clock() - began, self._kinds[reads]
            kind.seconds, kind.tokens = kind.seconds + seconds, kind.tokens + tokens
            seat.ended[reads] += tokens
            seat.in_phases += seconds
            seat.phase = None

    def share(self) -> float:
        """How much of the run is done, 0 to 1; never less than it was."""
        rest, known = self._rest()
        done = _cost(self.finished, known) + sum(_cost(self.todo[key], known) for key in self._done)
        for seat in self._seats.values():
            done += sum(known[reads] * tokens for reads, tokens in seat.done().items())
        self._most = max(self._most, done / (done + rest) if done else 0.0)
        return min(self._most, 1.0)

    def left(self) -> float | None:
        """Seconds until the last job ends; None as long as a kind of phase that is to come has not been timed."""
        todo = self._remaining()
        if any(tokens > 0 and self._speed(reads) is None for reads, tokens in todo.items()):
            return None
        seconds = sum(tokens * (self._speed(reads) or 0.0) for reads, tokens in todo.items())
        under_way = {seat.job for seat in self._seats.values()} - {None, *self._done}
        jobs = len(self.todo) - len(self._done)
        return (seconds + self._beside * (jobs - len(under_way))) / max(1, min(self._workers, jobs))

    def _settle(self, key: str, now: float) -> None:
        """Takes a seat's job as finished."""
        seat = self._seat
        self._done.add(key)
        self._beside = now - seat.began - seat.in_phases
        for reads, planned in ((False, self.todo[key].written), (True, self.todo[key].read)):
            kind = self._kinds[reads]
            kind.asked, kind.planned = kind.asked + seat.ended[reads], kind.planned + planned

    def _remaining(self) -> dict[bool, float]:
        """Tokens that are to come, by kind; what a phase has announced comes, planned or not."""
        left = {False: 0.0, True: 0.0}
        for key, work in self.todo.items():
            if key not in self._done:
                left = {reads: left[reads] + tokens for reads, tokens in self._planned(work).items()}
        for seat in self._seats.values():
            if seat.job is None or seat.job in self._done:
                continue
            planned, done = self._planned(self.todo[seat.job]), seat.done()
            for reads in left:
                coming = max(0.0, planned[reads] - done[reads])
                if seat.phase is not None and seat.phase[0] == reads:
                    coming = max(coming, seat.phase[1] - seat.ticks)
                left[reads] += coming - planned[reads]
        return left

    def _planned(self, work: Work) -> dict[bool, float]:
        """What a job will come to, by kind, as those that finished did."""
        return {False: work.written * self._kinds[False].scale(), True: work.read * self._kinds[True].scale()}

    def _rest(self) -> tuple[float, Mapping[bool, float]]:
        """What is to come and a token's cost by kind, in seconds where both are known."""
        write, read = self._speed(False), self._speed(True)
        write = write or (read / READ_COST if read else 1.0)
        known = {False: write, True: read or write * READ_COST}
        return sum(tokens * known[reads] for reads, tokens in self._remaining().items()), known

    def _speed(self, reads: bool) -> float | None:
        """Seconds a planned token of a kind; of the phase under way where none has ended."""
        kind = self._kinds[reads]
        if kind.tokens:
            return kind.seconds / kind.tokens
        for seat in self._seats.values():
            if seat.phase is not None and seat.phase[0] == reads and seat.ticks:
                return (self.clock() - seat.phase[2]) / seat.ticks
        return None


def _cost(work: Work, known: Mapping[bool, float]) -> float:
    return work.written * known[False] + work.read * known[True]
