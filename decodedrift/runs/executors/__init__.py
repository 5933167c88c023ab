"""Executors run jobs: (function, jobs) -> results. They import nothing of ours, so that any way of mapping will do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from decodedrift.runs.executors.local import run as local

J = TypeVar("J")
R = TypeVar("R")

EXECUTORS: dict[str, Callable[[Callable[[J], R], Iterable[J]], Iterator[R]]] = {"local": local}
