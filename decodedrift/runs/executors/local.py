"""One job after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

J = TypeVar("J")
R = TypeVar("R")


def run(function: Callable[[J], R], jobs: Iterable[J]) -> Iterator[R]:
    """Yields each job's result as soon as it is there."""
    for job in jobs:
        yield function(job)
