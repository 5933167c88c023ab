"""`decodedrift list`: what is registered, a line each, and whether this machine can run it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from decodedrift.core.prompts import bundled_sets, load_prompts
from decodedrift.decoding.strategies import STRATEGIES
from decodedrift.measure.metrics import TOKEN_METRICS, TRACE_METRICS
from decodedrift.measure.metrics.base import Metric
from decodedrift.models.machine import check_device
from decodedrift.models.precisions import PRECISIONS

WIDTH = 80


def listing() -> str:
    """Every registry as text, at most 80 columns wide."""
    device = check_device("auto")
    lines = [f"precisions (on {device})"]
    for name, precision in PRECISIONS.items():
        reason = precision.unavailable(device.split(":")[0])
        lines += _entry(name, precision.about)
        lines += _entry("", f"not here: {reason}") if reason else []
        for key, param in precision.params.items():
            lines += _entry("", f"{key}={_default(param.default)}  {param.about}")
    lines.append("strategies")
    for name, kind in STRATEGIES.items():
        lines += _entry(name, kind.about)
        if kind.params:
            lines += _entry("", ", ".join(f"{k}={_default(p.default)}" for k, p in kind.params.items()))
    metrics: dict[str, Mapping[str, Metric[Any]]] = {
        "metrics per position": TOKEN_METRICS, "metrics per trace": TRACE_METRICS
    }  # fmt: skip
    for title, registry in metrics.items():
        lines.append(title)
        for name, metric in registry.items():
            lines += _entry(name, metric.about, 24)
    lines.append("prompt sets")
    for name in bundled_sets():
        prompts = load_prompts(name)
        tags = dict.fromkeys(p.tags[0] for p in prompts if p.tags)
        lines += _entry(name, f"{len(prompts)} prompts: {', '.join(tags)}")
    return "\n".join(lines)


def _entry(name: str, about: str, column: int = 10) -> list[str]:
    """A name and what is said of it, in lines that fit."""
    first, rest = f"  {name:<{column}}", " " * (column + 2)
    return textwrap.wrap(about, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) or [first]


def _default(value: object) -> str:
    return "reference's" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"
