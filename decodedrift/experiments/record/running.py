"""From settings to a recorded file, for Python and for the command line alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decodedrift.core.progress import Progress
from decodedrift.core.untrusted import terminal
from decodedrift.experiments.record.settings import RecordSettings
from decodedrift.models.recorded.writer import recording
from decodedrift.runs.prepare import draft, prepare


@dataclass(frozen=True)
class Outcome:
    """How a recording ended. texts: in the file; before: of these, those that were there; failed: asked for in vain."""

    path: Path
    texts: int
    before: int
    failed: int

    def __str__(self) -> str:
        before = f", {self.before} of them before" if self.before else ""
        failed = f"; {self.failed} failed, and the same command asks for them again" if self.failed else ""
        return f"recorded {self.texts} texts{before}{failed}: {terminal(str(self.path))}"


def recorded(settings: RecordSettings, out: str | Path, progress: Progress, tokenizer: Any = None) -> Outcome:
    """Records what is asked for into a file, or what is missing there.

    Raises:
        InputError: it cannot be recorded as asked.
    """
    draft(settings)  # everything that can be refused without torch is refused before it is imported
    with recording(out) as writer:
        before = len(writer.done)
        from decodedrift.experiments.record import local

        ready = prepare(settings, tokenizer, local.sizes(writer, settings))
        failed = local.record(ready, writer, progress)
        return Outcome(writer.path, len(writer.done), before, failed)
