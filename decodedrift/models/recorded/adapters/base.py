"""What reads the response of one engine: a function from it to lines of our own format, which are checked there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Raw = Mapping[str, Any]
NOT_SHOWN = -9999.0  # what APIs write in the place of a log-probability that they do not tell
ADDRESS = ("prompt_id", "prompt", "messages", "prompt_token_ids", "strategy", "seed", "run", "meta")


@dataclass(frozen=True)
class Adapter:
    """One kind of response. knows: whether an object is one; lines: what it holds, a dict of `Line`'s keys each.

    `lines` may fail in any way on an object that only looks like one.
    """

    name: str
    what: str
    knows: Callable[[Raw], bool]
    lines: Callable[[Raw], list[dict[str, Any]]]


def address(raw: Raw) -> dict[str, Any]:
    """The keys of our own format that whoever logged a response put beside it."""
    return {key: raw[key] for key in ADDRESS if raw.get(key) is not None}


def meta(raw: Raw, *names: str) -> dict[str, Any]:
    """What of a response is kept as it is, with what the logger's own `meta` holds."""
    return {name: raw[name] for name in names if raw.get(name) is not None} | dict(raw.get("meta") or {})


def told(value: float | None) -> float | None:
    """A log-probability, None where the engine writes a number that is none."""
    return None if value is None or not NOT_SHOWN < value < float("inf") else value


def padded(values: list[Any], filler: Any, count: int) -> list[Any]:
    """Values of the first tokens of a text of `count`: an engine tells none of those that a stop string took away."""
    return values + [filler] * (count - len(values))
