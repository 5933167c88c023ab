"""How a run tells how far it is: a protocol for the engine room, and one bar on stderr for people."""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any

from decodedrift.core.estimate import Estimate, Work

EVERY = 60.0  # seconds between two lines where there is no terminal
NEARLY = 0.9  # done; before that, less than a second left is a guess of phases that were too short to time
WORDS = 47  # characters beside the bar: 28 of what runs, and the time left
COLUMNS, ROWS = 80, 24  # of a terminal that does not say how large it is


class Progress:
    """Told what runs and how far it is, in tokens. This one shows nothing."""

    def begin(self, todo: Mapping[str, Work], finished: Work) -> None:
        """The run begins, or goes on: what each job comes to by its key, and what finished jobs came to."""

    def job(self, key: str) -> None:
        """A job begins, or begins again in another way."""

    def worker(self, number: int, of: int) -> None:
        """What is told next is of this one of so many processes that run jobs at once."""

    def elsewhere(self, key: str, of: int) -> None:
        """A job has ended on another machine, of so many that run at once."""

    def start(self, variant: str, what: str, tokens: int) -> None:
        """A phase begins that will advance `tokens` tokens at most."""

    def tick(self, tokens: int) -> None:
        """So many tokens more."""

    def batch(self) -> None:
        """A batch begins, nothing is half done: whoever wants the run to stop raises here."""

    def stop(self) -> None:
        """The phase is over."""

    def report(self) -> None:
        """All jobs are done: tables, verdict and page are being made."""


class Bars(Progress):
    """One tqdm bar for the whole run on stderr, with the time left; where there is no terminal a line a minute.

    opening: a line said before the first phase. People who wait at a terminal get it at once; in a pipe it comes when
    the model is loaded, so that a run that is refused leaves a single line: why. silent: not even lines.
    """

    def __init__(self, shown: bool | None = None, opening: str = "", silent: bool = False) -> None:
        self.shown = not silent and (sys.stderr.isatty() if shown is None else shown)
        self._opening, self._silent = opening, silent
        self._estimate: Estimate | None = None
        self._bar: Any = None
        self._many = 1
        self._what, self._said, self._spoke, self._drawn = "", time.monotonic(), False, -math.inf
        if self.shown:
            self._open()

    def _open(self) -> None:
        if self._opening:
            print(self._opening, file=sys.stderr)
        self._opening = ""

    def begin(self, todo: Mapping[str, Work], finished: Work) -> None:
        """From here on the whole is known."""
        self._estimate = Estimate(dict(todo), finished)

    def job(self, key: str) -> None:
        """Counted."""
        if self._estimate is not None:
            self._estimate.job(key)

    def worker(self, number: int, of: int) -> None:
        """Counted for itself."""
        self._many = of
        if self._estimate is not None:
            self._estimate.worker(number, of)

    def elsewhere(self, key: str, of: int) -> None:
        """Counted as a whole."""
        self._what, self._drawn = f"{of} jobs at once", -math.inf
        if self._estimate is not None:
            self._estimate.elsewhere(key, of)
        self._show()

    def start(self, variant: str, what: str, tokens: int) -> None:
        """Says what runs, of several processes how many there are."""
        self._open()
        self._what = f"{variant} {what}" if self._many == 1 else f"{self._many} processes"
        if self._estimate is not None:
            self._estimate.start(what, tokens)
        self._drawn = -math.inf
        self._show()

    def tick(self, tokens: int) -> None:
        """Advances it."""
        if self._estimate is not None:
            self._estimate.tick(tokens)
        self._show()

    def stop(self) -> None:
        """Counts the phase; whoever speaks next has the line to himself."""
        if self._estimate is not None:
            self._estimate.stop()
        if self._bar is not None and self._many == 1:
            self._bar.clear()

    def report(self) -> None:
        """The last step, of which no time is told: all that was to be measured is."""
        if self._bar is not None:
            self._put(1.0, "all measured")
        self.close()
        if self.shown or self._spoke:
            print("writing the report", file=sys.stderr)

    def close(self) -> None:
        """Takes the bar away."""
        self.stop()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self) -> None:
        """The bar, or a line where the last was said a while ago."""
        if self.shown and time.monotonic() - self._drawn > 0.1:
            self._drawn = time.monotonic()
            self._draw()
        elif not self.shown and not self._silent and self._estimate and time.monotonic() - self._said > EVERY:
            self._said, self._spoke = time.monotonic(), True
            print(f"{100 * self._estimate.share():.0f} % done{self._left()}", file=sys.stderr)

    def _draw(self) -> None:
        if self._bar is None:
            from tqdm.std import tqdm

            form = "{percentage:3.0f} % {bar} {desc}" if self._estimate is not None else "{desc}"
            room = columns()
            self._bar = tqdm(total=100.0, bar_format=form, file=sys.stderr, ncols=room, nrows=ROWS, leave=False)
        self._put(self._estimate.share() if self._estimate is not None else 0.0, f"{self._what[:28]}{self._left()}")

    def _put(self, share: float, words: str) -> None:
        """Draws it; the words always take the same room, and the bar thus the same."""
        self._bar.ncols, self._bar.n = columns(), 100 * share
        self._bar.set_description_str(f"{words:<{WORDS}}")

    def _left(self) -> str:
        if self._estimate is None or (left := self._estimate.left()) is None:
            return ""
        return f", about {span(left)} left" if left >= 1 or self._estimate.share() > NEARLY else ""


def columns() -> int:
    """How wide stderr's terminal is."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS
    except (OSError, ValueError):  # no terminal, or no file
        return COLUMNS


def span(seconds: float) -> str:
    """A time in the unit that it is told in."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def without_widgets() -> None:
    """Lets tqdm choose its bars now: in a notebook without ipywidgets its choice is a warning in a box."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tqdm.auto  # noqa: F401
