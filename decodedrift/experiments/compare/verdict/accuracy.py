"""What differences of text cost in answers, in words: the accuracies of both sides, and how many splits did harm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from decodedrift.core.untrusted import visible
from decodedrift.report.phrases import percent, telling

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study


def measured(row: Any) -> bool:
    """Whether any answer of a candidate was checked, or should have been: then there is something to say."""
    return bool(getattr(row, "answered_prompts", 0) > 0)


def change(row: Any) -> str:
    """`accuracy 70 % to 62 %, a loss of 8.0 points (2.1 to 13.9)`; empty where nothing was checked."""
    if not row.checked:
        return ""
    drop, low, high = row.accuracy_drop, row.accuracy_drop_low, row.accuracy_drop_high
    what, ends = ("gain", (-high, -low)) if drop < 0 else ("loss", (low, high))
    spread = "" if math.isnan(low) else f" ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"
    if drop == 0:
        ranged = f" (a loss of {100 * low:.1f} to {100 * high:.1f} points)" if spread else ""
        return f"accuracy {percent(row.accuracy_reference)} on both sides{ranged}"
    sides = f"{percent(row.accuracy_reference)} to {percent(row.accuracy_candidate)}"
    return f"accuracy {sides}, a {what} of {abs(100 * drop):.1f} points{spread}"


def sentences(study: Study) -> list[str]:
    """Of the texts that parted and were checked, how many turned a right answer wrong; nothing where there are none."""
    rows = study.checks
    rows = rows[(rows["diverged"] == 1) & rows["flip"].notna()]
    parts, damage = {}, {}
    for name, cell in rows.groupby("candidate", sort=False):
        lost, won = (int((cell["flip"] == flip).sum()) for flip in ("right_to_wrong", "wrong_to_right"))
        damage[name] = lost / len(cell)
        parts[name] = (
            f"{visible(str(name))} turned {lost} of {len(cell)} from right to wrong and {won} from wrong to right"
        )
    return [f"Of the checked texts that parted, {'; '.join(telling(parts, damage))}."] if parts else []
