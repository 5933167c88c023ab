"""What differs between two runs, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from decodedrift.core.records import shortened

MOST = 3  # differences that one line names
# by the memory that was free when the run began, or found out under way
SETTLED = (
    "batch_size_asked",
    "batch_size",
    "memory_bytes",
    "resident",
    "spilled_bytes",
    "lowered",
    "path",
    "path_reasons",
)


def shortly(found: list[str]) -> str:
    """The first of some differences, and how many more there are."""
    return "; ".join(found[:MOST]) + (f" and {len(found) - MOST} more" if len(found) > MOST else "")


def differences(place: str, then: Any, now: Any) -> Iterator[str]:
    """`place: before there, after here` for every leaf that differs; hashes and long texts are only said to differ."""
    if then == now:
        return
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*then, *now]):
            yield from differences(f"{place} {key}".strip(), then.get(key), now.get(key))
    elif isinstance(then, list) and isinstance(now, list):
        yield from _lists(place, then, now)
    elif _hash(then) and _hash(now):
        yield f"{place} differs"
    else:
        yield f"{place} {shortened(then, 30)} there, {shortened(now, 30)} here"


def _lists(place: str, then: list[Any], now: list[Any]) -> Iterator[str]:
    named = [{_name(i): i for i in side} for side in (then, now)]
    for name in dict.fromkeys([*named[0], *named[1]]):
        if name not in named[0] or name not in named[1]:
            yield f"{place} {name} only {'there' if name in named[0] else 'here'}"
        else:
            yield from differences(f"{place} {name}", named[0][name], named[1][name])
    if list(named[0]) != list(named[1]) and set(named[0]) == set(named[1]):
        yield f"{place} are in another order"


def _name(item: Any) -> str:
    """What an entry of a list is called: a variant, a strategy, a prompt, a seed."""
    if isinstance(item, Mapping):
        return str(item.get("label") or item.get("name") or item.get("id"))
    return str(item)


def _hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")
