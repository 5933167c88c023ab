"""`decodedrift list`: what is registered, a line each, and whether this machine can run it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

from decodedrift.core.prompts import bundled_sets, load_prompts
from decodedrift.core.records import InputError, nearest
from decodedrift.decoding.strategies import STRATEGIES
from decodedrift.decoding.strategies.base import PENALTIES
from decodedrift.measure.checks import CHECKS
from decodedrift.measure.metrics import TOKEN_METRICS, TRACE_METRICS
from decodedrift.models.knobs import KNOBS
from decodedrift.models.machine import check_device
from decodedrift.models.precisions import PRECISIONS

WIDTH = 80


def listing(what: str | None = None) -> str:
    """Every registry as text, or the one of a name; at most 80 columns wide.

    Raises:
        InputError: there is none of that name.
    """
    if what is not None and what not in PARTS:
        raise InputError(f"list {what!r}: nothing of that name is listed; {nearest(what, tuple(PARTS))}")
    return "\n".join(line for name, part in PARTS.items() if what in (None, name) for line in part())


def _precisions() -> Iterator[str]:
    device = check_device("auto")
    yield f"precisions (on {device})"
    for name, precision in PRECISIONS.items():
        yield from _entry(name, precision.about)
        if reason := precision.unavailable(device.split(":")[0]):
            yield from _entry("", f"not here: {reason}")
        for key, param in precision.params.items():
            yield from _entry("", f"{key}={_default(param.default)}  {param.about}")


def _knobs() -> Iterator[str]:
    yield "knobs of execution"
    for name, knob in KNOBS.items():
        yield from _entry(name, knob.param.about, 14)


def _strategies() -> Iterator[str]:
    yield "strategies"
    for name, kind in STRATEGIES.items():
        yield from _entry(name, kind.about)
        if own := {k: p for k, p in kind.params.items() if k not in PENALTIES}:
            yield from _entry("", ", ".join(f"{k}={_default(p.default)}" for k, p in own.items()))
    able = ", ".join(name for name, kind in STRATEGIES.items() if PENALTIES.keys() <= kind.params.keys())
    yield f"parameters of {able}"
    for name, param in PENALTIES.items():
        yield from _entry(f"{name}={_default(param.default)}", param.about, 24)


def _metrics() -> Iterator[str]:
    yield "metrics per position"
    for name, metric in TOKEN_METRICS.items():
        yield from _entry(name, metric.about, 24)
    yield "metrics per trace"
    for name, trace_metric in TRACE_METRICS.items():
        yield from _entry(name, trace_metric.about, 24)


def _checks() -> Iterator[str]:
    yield "checks of answers"
    for name, kind in CHECKS.items():
        yield from _entry(name, kind.about)
        if kind.params:
            yield from _entry("", ", ".join(f"{k}={_default(p.default)}" for k, p in kind.params.items()))


def _prompts() -> Iterator[str]:
    yield "prompt sets"
    for name in bundled_sets():
        prompts = load_prompts(name)
        tags = dict.fromkeys(p.tags[0] for p in prompts if p.tags)
        yield from _entry(name, f"{len(prompts)} prompts: {', '.join(tags)}")


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "precisions": _precisions,
    "knobs": _knobs,
    "strategies": _strategies,
    "metrics": _metrics,
    "checks": _checks,
    "prompts": _prompts,
}


def _entry(name: str, about: str, column: int = 10) -> list[str]:
    """A name and what is said of it, in lines that fit."""
    first, rest = f"  {name:<{column}}", " " * (column + 2)
    return textwrap.wrap(about, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) or [first]


def _default(value: object) -> str:
    return "reference's" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"
