"""What each arm is, read back from its tensors in its first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from decodedrift.report.html import Options, StudyLike
from decodedrift.report.tables import Column, Table, text

PARTS = {
    "weights": "Weights kept", "running": "Weights that run", "gradients": "Gradients", "moments": "Moments",
    "activations": "Activations",
}  # fmt: skip
COLUMNS = tuple(Column(label, numeric=False) for label in ("Arm", *PARTS.values(), "Optimizer", "Loss scale by"))


def arms(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """A row per arm: the types of its parts."""
    rows = []
    for name, facts in study.environment.get("variants", {}).items():
        if "moments" in facts:
            cells = [text(types(facts.get(part, {})), 60) for part in PARTS]
            rows.append([text(name, 60, head=True), *cells, text(facts["optimizer"]), text(facts["scaler"])])
    return {"heading": "What each arm is", "table": Table(COLUMNS, rows), "folded": True} if rows else None


def types(counts: Mapping[str, Any]) -> str:
    """Types by share, the most frequent first; of modules by their number."""
    by_type: Counter[str] = Counter()
    for key, value in counts.items():
        by_type[value if isinstance(value, str) else key] += 1 if isinstance(value, str) else int(value)
    total = sum(by_type.values())
    if len(by_type) < 2:
        return "".join(by_type)
    unit = " of modules" if any(isinstance(value, str) for value in counts.values()) else ""
    return ", ".join(f"{kind} ({n / total:.0%}{unit})" for kind, n in by_type.most_common())
