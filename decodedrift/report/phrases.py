"""Numbers and lists as the verdict's sentences have them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from decodedrift.core.records import shortened
from decodedrift.core.untrusted import visible

MOST = 5  # things named one by one in a sentence
TINY = 1e-5  # a share below which only that is told
UNDER = "under 0.001 %"


def sides(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The variants of a stored plan, the reference first; none of an experiment that runs none."""
    return [*([plan["reference"]] if "reference" in plan else []), *plan.get("candidates", ())]


def telling(parts: Mapping[Any, str], size: Mapping[Any, float]) -> list[str]:
    """All parts, or of many the largest two and the smallest, in order, with the count of the rest."""
    if len(parts) <= MOST:
        return list(parts.values())
    ranked = sorted(parts, key=lambda name: size[name], reverse=True)
    shown = {*ranked[:2], ranked[-1]}
    return [
        *(part for name, part in parts.items() if name in shown),
        f"{len(parts) - 3} more lie between (summary.csv)",
    ]


def change(share: float, low: float, high: float) -> str:
    """A relative change in per cent within a sentence: as `relative`, with the hyphen for a minus."""
    return relative(share, low, high).replace("−", "-")


def number(value: float, digits: int = 2) -> str:
    """Two significant digits, or as many as asked."""
    if pd.isna(value):
        return "n/a"
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if 100 <= abs(value) < 1e5 else text


def percent(share: float) -> str:
    """A share as a percentage that never rounds to all or nothing."""
    if pd.isna(share):
        return "n/a"
    if 0 < share < TINY:
        return UNDER
    if share in (0.0, 1.0) or 0.1 <= share < 0.9:
        return f"{share * 100:.0f} %"
    if share > 1.0:  # a ratio, not a part
        return f"{share * 100:.3g} %" if share < 10.0 else f"{share * 100:,.0f} %"
    if share < 0.1:
        return f"{share * 100:.2g} %"
    rest = 100 - share * 100
    return f"{share * 100:.{max(1, -math.floor(math.log10(rest)))}f} %"  # the rest to a digit


def listed(parts: Iterable[str]) -> str:
    """`a, b and c`."""
    items = list(parts)
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else ""


def setting(key: str, value: Any) -> str:
    """`repetition_penalty=1.3`, of a model's own settings."""
    return visible(f"{key}={shortened(value, 40)}")


def counted(count: Any, total: Any, low: Any, high: Any) -> str:
    """`23 of 64 (36 %, 25 to 48 %)`."""
    if not total:
        return "n/a"
    ends = "" if pd.isna(low) or pd.isna(high) else f", {percent(low).removesuffix(' %')} to {percent(high)}"
    return f"{int(count)} of {int(total)} ({percent(count / total)}{ends})"


def relative(value: Any, low: Any, high: Any) -> str:
    """A relative change in percent, with as many decimals as its interval bears."""
    if pd.isna(value):
        return "n/a"
    known = math.isfinite(high - low) and high > low
    ends = (value, low, high) if known else (value,)
    if all(abs(end) < TINY for end in ends):
        return UNDER if any(ends) else "0 %"
    width = 100 * (high - low) / 2 if known else abs(100 * value)
    decimals = min(5, max(0, 1 - math.floor(math.log10(width)))) if 0 < width < math.inf else 2
    spread = f" ({100 * low:+.{decimals}f} to {100 * high:+.{decimals}f} %)" if known else ""
    return f"{100 * value:+.{decimals}f} %{spread}".replace("-", "−")
