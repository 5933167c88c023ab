"""From settings to a recorded file, for Python and for the command line alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from decodedrift.core.progress import Progress
from decodedrift.core.prompts import BALANCED, balanced, bundled_sets
from decodedrift.core.settings import Settings
from decodedrift.core.untrusted import terminal
from decodedrift.experiments.record.settings import RecordSettings
from decodedrift.models.recorded.api.client import checked_url
from decodedrift.models.recorded.api.recording import record
from decodedrift.models.recorded.writer import recording
from decodedrift.runs.prepare import draft, prepare

S = TypeVar("S", bound=Settings)


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
        return f"recorded {self.texts} text{'s' * (self.texts != 1)}{before}{failed}: {terminal(str(self.path))}"


def recorded(settings: RecordSettings, out: str | Path, progress: Progress, tokenizer: Any = None) -> Outcome:
    """Records what is asked for into a file, or what is missing there.

    Raises:
        InputError: it cannot be recorded as asked.
    """
    plan = draft(settings)  # everything that can be refused without torch is refused before it is imported
    with recording(out) as writer:
        before = len(writer.done)
        if settings.endpoint is not None:
            url = checked_url(settings.endpoint)
            failed = record(url, few(plan, settings), writer, progress, settings.precision)
        else:
            from decodedrift.experiments.record import local

            ready = prepare(settings, tokenizer, local.sizes(writer, settings))
            failed = local.record(ready, writer, progress)
        return Outcome(writer.path, len(writer.done), before, failed)


def few(plan: S, settings: Settings) -> S:
    """A plan with a balanced few of a bundled set, as every run has them where nothing is tokenized."""
    if plan.prompt_source not in bundled_sets():
        return plan
    count = len(plan.prompts) if settings.prompt_ids and not settings.limit else settings.limit or BALANCED
    return plan.having(prompts=balanced(plan.prompts, count))
