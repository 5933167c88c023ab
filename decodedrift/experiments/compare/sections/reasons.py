"""Why tokens flip: the causes of the first differences, counted, and the margins at which they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.experiments.compare.sections import pictures
from decodedrift.experiments.compare.selection import causes

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options


def reasons(study: Study, options: Options) -> dict[str, Any] | None:
    """The causes in the order of CAUSES, and the figure of the margins."""
    rows = study.divergences
    counts = rows.loc[(rows["role"] == "candidate") & (rows["diverged"] == 1), "cause"].value_counts()
    meanings = causes(study.plan).items()
    counted = [(name, int(counts[name]), meaning) for name, meaning in meanings if name in counts.index]
    picture = pictures.reasons(study, options)
    if picture is None and not counted:
        return None
    empty = {"heading": pictures.reasons.heading, "lead": "", "figures": {}, "choices": [], "entries": []}
    return (picture or empty) | {"template": "reasons.html.j2", "causes": counted}
