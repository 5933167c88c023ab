"""A recorded file as repetitions of a run's prompts: texts and ids as the engine gave them, in nobody else's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from decodedrift.core.records import Key
from decodedrift.models.recorded.addresses import Addresses
from decodedrift.models.recorded.completion import Completion, Recorded
from decodedrift.models.recorded.match import grouped, repetitions

if TYPE_CHECKING:
    from decodedrift.core.settings import Settings
    from decodedrift.models.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Repeated:
    """completions: (strategy label, seed, prompt id) -> its repetitions in order, those that failed too.

    unmatched: reason -> places of lines that belong to nothing here.
    """

    path: str
    sha256: str
    header: Mapping[str, Any]
    completions: Mapping[Key, tuple[Completion, ...]]
    unmatched: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def at_a_time(self) -> int:
        """Requests that were under way at a time, as far as the file says; else 1."""
        plan = self.header.get("plan")
        count = plan.get("concurrency") if isinstance(plan, Mapping) else None
        return count if isinstance(count, int) else 1


def repeated(recorded: Recorded, plan: Settings, vocab: Vocabulary, prompts: Mapping[str, Sequence[int]]) -> Repeated:
    """The repetitions of a run's prompts in a file.

    Args:
        vocab, prompts: of the run's reference; prompts are recognized by them, and no completion is read in them.

    Raises:
        InputError: nothing of the file belongs to the run.
    """
    groups, unmatched = grouped(recorded, Addresses(plan, vocab, prompts))
    return Repeated(
        recorded.path,
        recorded.sha256,
        recorded.header,
        {key: tuple(repetitions(several)) for key, several in groups.items()},
        {reason: tuple(places) for reason, places in unmatched.items()},
    )
