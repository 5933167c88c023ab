"""How a run tells how far it is: a protocol for the engine room, and bars on stderr for people."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """Told what runs and how far it is, in tokens. This one shows nothing."""

    def start(self, variant: str, what: str, tokens: int) -> None:
        """A phase begins that will advance `tokens` tokens at most."""

    def tick(self, tokens: int) -> None:
        """So many tokens more."""

    def batch(self) -> None:
        """A batch begins, nothing is half done: whoever wants the run to stop raises here."""

    def stop(self) -> None:
        """The phase is over."""


class Bars(Progress):
    """A tqdm bar per variant and phase on stderr, with tokens per second and the time left; none in a pipe.

    opening: a line said before the first phase. People who wait at a terminal get it at once; in a pipe it comes when
    the model is loaded, so that a run that is refused leaves a single line: why.
    """

    def __init__(self, shown: bool | None = None, opening: str = "") -> None:
        self.shown = sys.stderr.isatty() if shown is None else shown
        self._opening = opening
        self._bar: Any = None
        if self.shown:
            self._open()

    def _open(self) -> None:
        if self._opening:
            print(self._opening, file=sys.stderr)
        self._opening = ""

    def start(self, variant: str, what: str, tokens: int) -> None:
        """Opens a bar."""
        from tqdm import tqdm

        self.stop()
        self._open()
        if self.shown:
            name = f"{variant} {what}"
            self._bar = tqdm(
                total=tokens, desc=f"{name:<28.28}", unit="tok", file=sys.stderr, dynamic_ncols=True, leave=False
            )

    def tick(self, tokens: int) -> None:
        """Advances it."""
        if self._bar is not None:
            self._bar.update(tokens)

    def stop(self) -> None:
        """Closes it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
