"""Here the texts part: one case as a trunk and two branches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.experiments.compare.selection import causes

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options


def fork(study: Study, options: Options) -> dict[str, Any] | None:
    """The frame that the page's script fills; None where no text parted or none may be shown."""
    rows = study.divergences
    parted = rows[(rows["role"] == "candidate") & (rows["diverged"] == 1)]
    if not len(parted) or not options.texts or not study.traces["token_ids"].notna().any():
        return None
    found = set(parted["cause"])  # of a meaning the first sentence: what follows speaks of figures that are not here
    whys = {
        n.replace("_", ""): f"{m.partition('. ')[0].rstrip('.')}." for n, m in causes(study.plan).items() if n in found
    }
    return {"heading": "Here the texts part", "opening": True, "whys": whys}
