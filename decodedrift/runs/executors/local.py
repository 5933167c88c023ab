"""Jobs on this machine: one after another in this process, or, after the first, in as many as the world says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from decodedrift.core.records import Job
from decodedrift.runs.executors.processes import spread

if TYPE_CHECKING:
    from decodedrift.measure.tables import JobResult
    from decodedrift.runs.retry import Worker


def run(work: Worker, jobs: Sequence[Job]) -> Iterator[JobResult]:
    """Yields each job's result as soon as it is there."""
    if work.world.workers > 1 and len(jobs) > 1:
        yield from spread(work, jobs)
    else:
        yield from map(work, jobs)
