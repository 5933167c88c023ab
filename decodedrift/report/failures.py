"""What did not run, and why, in the sentences that end a verdict."""

from __future__ import annotations

import pandas as pd

from decodedrift.core.untrusted import terminal, visible
from decodedrift.report.phrases import listed

LONGEST = 200  # characters of a reason; failures.csv has it whole
PARTS = ("decompose", "inject", "judge", "where")  # the rest of the variant stands
MOST = 8  # reasons that are given; a line a variant and stage


def sentences(failures: pd.DataFrame) -> list[str]:
    """Who failed, then a sentence a variant and stage with the reason met most often."""
    if not len(failures):
        return []
    parts = []
    for variant, rows in failures.groupby("variant", sort=False, dropna=False):
        kinds = sorted({_kind(stage, status) for stage, status in zip(rows["stage"], rows["status"], strict=True)})
        where = listed(visible(s) for s in dict.fromkeys(rows["strategy"]) if isinstance(s, str) and s)
        parts.append(f"{_name(variant)} ({', '.join(kinds)}{' under ' + where if where else ''})")
    lost = "" if (failures["status"] == "nonfinite").all() else "; nothing that failed to run is averaged in"
    return [f"Not everything ran as it should: {listed(parts)}{lost}.", *_reasons(failures)]


def _kind(stage: object, status: object) -> str:
    """A status, and of which part of the run where that is none that everything else rests on."""
    return f"{status} in {visible(str(stage))}" if stage in PARTS else str(status)


def _reasons(failures: pd.DataFrame) -> list[str]:
    """One for each variant and stage, the rest counted."""
    cells = failures.groupby(["variant", "stage"], sort=False, dropna=False)
    lines = []
    for (variant, stage), rows in cells:
        counts = rows["error"].value_counts()
        reason, times = str(counts.index[0]).strip().removeprefix(f"{variant}: "), int(counts.iloc[0])
        often = f" ({times} times)" if times > 1 else ""
        others = len(counts) - 1
        more = f"; {others} other reason{'s' if others > 1 else ''} in failures.csv" if others else ""
        sentence = f"{_name(variant)} ({visible(str(stage))}): {terminal(reason, LONGEST)}{often}{more}"
        lines.append(sentence if sentence.endswith((".", "…")) else f"{sentence}.")
    rest = [f"{len(lines) - MOST} more variants and stages failed; failures.csv has them."] if len(lines) > MOST else []
    return [*lines[:MOST], *rest]


def _name(variant: object) -> str:
    return visible(variant) if isinstance(variant, str) and variant else "prompts"
