"""What the verdict says of a screening: that nothing was generated, and how far off it can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study


def sentences(study: Study) -> list[str]:
    """That nothing was generated, and how far what was predicted instead can be off."""
    if study.plan.get("mode") != "screen":
        return []
    rows = study.divergences
    floor = rows[(rows["role"] == "floor") & (rows["reference"] == study.plan["reference"]["name"])]
    floor = floor[floor["compared"] > 0]
    text = "Screened, not generated: a first divergence is the first token of the reference's text that a candidate, "
    text += "reading it, would not have chosen" + ("; behind it, it wrote on" if study.plan.get("continued") else "")
    if not len(floor):
        return [f"{text}."]
    off = int(floor["diverged"].sum())
    return [
        f"{text}. The reference, reading, leaves its own text in {off} of {len(floor)} traces; types that round more "
        "are off more often."
    ]
