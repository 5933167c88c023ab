"""Heat tables, candidates or positions x strategies: what a page and a notebook's cell draw of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from decodedrift.report.numbers import absent

LEVELS = 8


@dataclass(frozen=True)
class Spot:
    """A cell: text, what stands below it, the exact values, and how hot from 0 to LEVELS."""

    text: str
    below: str = ""
    exact: str = ""
    level: int = 0


@dataclass(frozen=True)
class HeatMap:
    """One quantity over all cells. rows: (name, note, cells)."""

    name: str
    label: str
    meaning: str
    columns: list[str]
    rows: list[tuple[str, str, list[Spot | None]]] = field(default_factory=list)
    controls: list[tuple[str, str, list[Spot | None]]] = field(default_factory=list)


def level(share: Any) -> int:
    """How hot a share from 0 to 1 is."""
    return 0 if absent(share) or not math.isfinite(share) else round(LEVELS * min(1.0, max(0.0, float(share))))
