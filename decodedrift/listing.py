"""`decodedrift list`: what is registered, a line each, and whether this machine can run it."""

from __future__ import annotations

from decodedrift.metrics import TOKEN_METRICS, TRACE_METRICS
from decodedrift.models import check_device
from decodedrift.precisions import PRECISIONS
from decodedrift.prompts import bundled_sets, load_prompts
from decodedrift.strategies import STRATEGIES


def listing() -> str:
    """Every registry as text, at most 100 columns wide."""
    device = check_device("auto")
    lines = [f"precisions (on {device})"]
    for name, precision in PRECISIONS.items():
        reason = precision.unavailable(device.split(":")[0])
        lines.append(f"  {name:<9} {precision.about}" + (f"\n            not here: {reason}" if reason else ""))
        lines += [f"            {k}={_default(p.default)}  {p.about}" for k, p in precision.params.items()]
    lines.append("strategies")
    for name, kind in STRATEGIES.items():
        lines.append(f"  {name:<9} {kind.about}")
        if kind.params:
            lines.append("            " + ", ".join(f"{k}={_default(p.default)}" for k, p in kind.params.items()))
    for title, registry in (("metrics per position", TOKEN_METRICS), ("metrics per trace", TRACE_METRICS)):
        lines.append(title)
        for name, metric in registry.items():
            said = (metric.__doc__ or "").strip().splitlines()
            lines.append(f"  {name:<23} {said[0] if said else ''}"[:110])
    lines.append("prompt sets")
    for name in bundled_sets():
        found = load_prompts(name)
        tags = dict.fromkeys(p.tags[0] for p in found if p.tags)
        lines.append(f"  {name:<9} {len(found)} prompts: {', '.join(tags)}")
    return "\n".join(lines)


def _default(value: object) -> str:
    return "reference's" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"
