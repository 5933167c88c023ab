"""Executors run jobs: (Worker, jobs) -> their results, in whatever order they end. carry_out alone writes them down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from decodedrift.core.records import Job
from decodedrift.runs.executors import ray
from decodedrift.runs.executors.local import run as local

if TYPE_CHECKING:
    from decodedrift.measure.tables import JobResult
    from decodedrift.models.world import World
    from decodedrift.runs.retry import Worker

Executor = Callable[["Worker", Sequence[Job]], Iterator["JobResult"]]
EXECUTORS: dict[str, Executor] = {"local": local, "ray": ray.run}
CHECKS: dict[str, Callable[[World], None]] = {"ray": ray.check}  # what one refuses before weights load
