"""What a registered metric says of itself: its function, the type of its column, and in a line what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Pair = TypeVar("Pair")

NUMBER = "float64"
INTEGERS = "Int64"  # nullable: an empty first_divergence is not 0 and not NaN


@dataclass(frozen=True)
class Metric(Generic[Pair]):
    """A registered metric; it is called like its function.

    column: the type of its column, a pandas dtype.
    """

    function: Callable[[Pair], Any]
    column: str = NUMBER

    def __call__(self, pair: Pair) -> Any:
        """The function's value."""
        return self.function(pair)

    def __post_init__(self) -> None:
        if not (self.function.__doc__ or "").strip():
            raise TypeError("a metric's function begins with its definition in a line")

    @property
    def about(self) -> str:
        """Its definition in a line: the first of the function's docstring, which every metric has."""
        return (self.function.__doc__ or "").strip().splitlines()[0]


@dataclass(frozen=True)
class TraceMetric(Metric[Pair]):
    """A metric of two texts.

    after: it is of what follows t*, and its column stands behind those of t*. whole: it needs both continuations to
    their end, which a screening does not have.
    """

    after: bool = True
    whole: bool = True
