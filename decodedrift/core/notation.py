"""The command line's small language: `name:key=value,key=value`, lists of such items, and checked parameter values.

Every registry (strategies, precisions) declares its parameters with `Param`, so the same checks meet a value typed on
the command line, read from a plan file or passed from a notebook.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from decodedrift.core.records import RECORDINGS, InputError, nearest

AUTO = "auto"  # of device_map: accelerate chooses


@dataclass(frozen=True)
class Param:
    """A parameter: how its value is read (from text or from Python) and what it is when nobody says."""

    read: Callable[[Any], Any]
    default: Any
    about: str = ""


@dataclass(frozen=True)
class Item:
    """One parsed item: `head` before its parameters (`top-k`, or `mine=path/to/checkpoint`), and them, still text."""

    head: str
    params: Mapping[str, str]

    @property
    def label(self) -> str:
        """The item as asked, keys sorted: the canonical spelling."""
        body = ",".join(f"{k}={v}" for k, v in sorted(self.params.items()))
        return f"{self.head}:{body}" if body else self.head


def whole(low: int, high: int | None = None) -> Callable[[Any], int]:
    """A reader of whole numbers within [low, high]."""

    def read(value: Any) -> int:
        try:
            # operator.index takes numpy's integers too, but no 2.0: a fraction is a mistake even where it is .0
            number = int(value) if isinstance(value, str) else operator.index(value)
        except (TypeError, ValueError):
            number = low - 1
        if isinstance(value, bool) or number < low or (high is not None and number > high):
            bounds = f">= {low}" if high is None or number < low else f"from {low} to {high}"
            raise ValueError(f"must be a whole number {bounds}, not {value!r}")
        return number

    return read


count = whole(1, 2**31 - 1)  # what torch can count in


def processes(value: Any) -> int | str:
    """How many processes, or auto."""
    try:
        return "auto" if value == "auto" else whole(1, 1024)(value)
    except ValueError:
        raise ValueError(f"must be auto or a whole number from 1 to 1024, not {value!r}") from None


thread_count = whole(1, 1024)  # far beyond any use; a million threads would take the process down


def shard_numbers(value: Any) -> tuple[int, int]:
    """(i, n) of a shard as it is written, `i/n`, from 1 to n."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value) if isinstance(value, str) else None
    index, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= of:
        raise ValueError(f"must be i/n with i from 1 to n, such as 2/8, not {value!r}")
    return index, of


def shard_name(value: Any) -> str | None:
    """A shard in its canonical spelling; None is the whole run."""
    return value if value is None else "{}/{}".format(*shard_numbers(value))


def number(low: float, high: float = math.inf, *, open_low: bool = False) -> Callable[[Any], float]:
    """A reader of finite numbers within [low, high], or (low, high] with `open_low`."""

    def read(value: Any) -> float:
        """The number, or a ValueError that says which ones there are."""
        try:
            result = float(value)
        except (TypeError, ValueError, OverflowError):
            result = math.nan
        if (
            isinstance(value, bool)
            or not math.isfinite(result)
            or result > high
            or result < low
            or (open_low and result == low)
        ):
            left = f"> {low:g}" if open_low else f">= {low:g}"
            right = "" if high == math.inf else f" and <= {high:g}"
            raise ValueError(f"must be a number {left}{right}, not {value!r}")
        return result

    return read


def boolean(value: Any) -> bool:
    """true/false, also yes/no, on/off, 1/0."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "yes", "on", "1"):
        return True
    if text in ("false", "no", "off", "0"):
        return False
    raise ValueError(f"must be true or false, not {value!r}")


def one_of(*choices: str) -> Callable[[Any], str]:
    """A reader that takes one of the given words."""

    def read(value: Any) -> str:
        if str(value) not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")
        return str(value)

    return read


def text(value: Any) -> str:
    """Any non-empty string."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a non-empty text, not {value!r}")
    return value


def split(items: Iterable[Any]) -> list[Any]:
    """Items, and those that a comma separates within a text."""
    parts = [item.split(",") if isinstance(item, str) else [item] for item in items]
    return [part.strip() if isinstance(part, str) else part for piece in parts for part in piece if part != ""]


def read_params(owner: str, params: Mapping[str, Any], declared: Mapping[str, Param]) -> dict[str, Any]:
    """Every declared parameter with its checked value; unknown ones are refused with the choices.

    Raises:
        InputError: an unknown parameter, or a value out of its range.
    """
    for key in params:
        if key not in declared:
            listed = nearest(key, tuple(declared)) if declared else "it takes none"
            raise InputError(f"{owner}: unknown parameter {key!r}; {listed}")
    values = {}
    for key, param in declared.items():
        if key not in params:
            values[key] = param.default
            continue
        try:
            values[key] = param.read(params[key])
        except ValueError as error:
            raise InputError(f"{owner}: {key} {error}") from None
    return values


def split_items(
    pieces: str | Iterable[str], params_of: Callable[[str], Collection[str]], *, sources: bool = False
) -> list[Item]:
    """A list option (repeated, comma-separated, or both) as items.

    A piece `key=value` whose key is a parameter of the item before it belongs to that item. With `sources`, any other
    `name=source` begins a new item; without, it is an error that names the nearest parameter.
    """
    texts = [pieces] if isinstance(pieces, str) else list(pieces)
    items: list[Item] = []
    for piece in (p.strip() for text_ in texts for p in text_.split(",")):
        if not piece:
            continue
        key, sign, value = piece.partition("=")
        if items and sign and ":" not in key and key in params_of(items[-1].head):
            items[-1] = Item(items[-1].head, _with(items[-1], key, value))
        else:
            items.append(_item(piece, items, params_of, sources))
    return items


def _item(piece: str, before: list[Item], params_of: Callable[[str], Collection[str]], sources: bool) -> Item:
    head, params = _cut_params(piece)
    name, sign, source = head.partition("=")
    if sign and (not sources or not name or not _is_source(source)):
        raise InputError(_misplaced(piece, name, source, before[-1].head if before else None, params_of, sources))
    item = Item(head, {})
    for key, value in params:
        item = Item(head, _with(item, key, value))
    return item


def _misplaced(
    piece: str,
    name: str,
    source: str,
    before: str | None,
    params_of: Callable[[str], Collection[str]],
    sources: bool,
) -> str:
    """What is wrong with a piece `name=source` that begins no item."""
    if sources and not name:
        return f"{piece!r}: give it a name before the =, as NAME=FOLDER"
    if before is not None:
        names = tuple(params_of(before))
        choices, _, hint = nearest(name, names).replace("choices", "its parameters").partition("; ")
        listed = (f"{hint} " if hint else "") + choices if names else "it takes no parameters"
        other = "NAME=FOLDER (no such folder) or NAME=OWNER/MODEL" if sources else "an item of its own"
        return f"{piece!r} is neither a parameter of {before!r} nor {other}; {listed}"
    if sources:
        kinds = "neither an existing folder or .gguf file nor a hub id OWNER/MODEL, BASE+ADAPTER of such"
        return f"{piece!r}: {source!r} is {kinds}, a recorded .jsonl or an endpoint's URL#MODEL"
    return f"{piece!r} does not begin with a name; write NAME:KEY=VALUE"


def _cut_params(piece: str) -> tuple[str, list[tuple[str, str]]]:
    """Cuts a piece at every `:key=`: (head, its parameters). Values (`device=cuda:1`) and paths may hold colons.

    A source that exists is kept whole, whatever it holds: of all cuts the longest such head wins.
    """
    cuts = [*(match.start() for match in re.finditer(r":(?=[A-Za-z_]+=)", piece)), len(piece)]
    first = 0
    if "=" in piece[: cuts[0]]:
        sources = [piece[:cut].partition("=")[2] for cut in cuts]
        first = max((n for n, source in enumerate(sources) if _is_source(source)), default=0)
    params = [piece[begin + 1 : end].partition("=") for begin, end in pairwise(cuts[first:])]
    return piece[: cuts[first]], [(key, value) for key, _, value in params]


def _with(item: Item, key: str, value: str) -> dict[str, str]:
    if key in item.params:
        raise InputError(f"{item.head}: parameter {key!r} is given twice")
    return {**item.params, key: value.strip()}


def base_and_adapter(source: str) -> tuple[str, str] | None:
    """The two of `BASE+ADAPTER`, each a source of its own (the bundled model too); None of any other text."""
    if os.path.exists(os.path.expanduser(source)):
        return None
    cuts = [(source[: match.start()], source[match.end() :]) for match in re.finditer(r"\+", source)]
    return next((cut for cut in cuts if (cut[0] == "demo" or _is_one(cut[0])) and _is_one(cut[1])), None)


def _is_source(source: str) -> bool:
    return _is_one(source) or base_and_adapter(source) is not None


def is_recording(source: str | None) -> bool:
    """Whether a source is the name of a file of texts that another engine wrote, whether it is there or not."""
    return source is not None and source.lower().endswith(RECORDINGS) and not os.path.isdir(os.path.expanduser(source))


def is_endpoint(source: str | None) -> bool:
    """Whether a source is an endpoint and the model that it serves: `http://127.0.0.1:8000/v1#NAME`."""
    return source is not None and re.fullmatch(r"https?://[^#\s]+#(?!.*:[A-Za-z_]+=)\S+", source) is not None


def _is_one(source: str) -> bool:
    path = os.path.expanduser(source)
    hub = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source)
    local = os.path.isdir(path) or (path.endswith(".gguf") and os.path.isfile(path))
    return local or is_recording(source) or is_endpoint(source) or hub is not None


def gib(value: object) -> int:
    """GiB, as `--memory` takes it, in bytes."""
    try:
        return max(1, int(number(0, 1e6, open_low=True)(value) * 2**30))
    except ValueError as error:
        raise ValueError(f"{error} (GiB)") from None


def spread(value: Any) -> str:
    """How a model is spread over devices: `auto`, or `auto@GIB`, with at most so many GiB of weights on each.

    Raises:
        ValueError: anything else.
    """
    name, at, gib = str(value).partition("@")
    try:
        if name != AUTO or (at and not gib):
            raise ValueError
        return f"{AUTO}@{number(0, 1e6, open_low=True)(gib):g}" if gib else AUTO
    except ValueError:
        raise ValueError(f"must be auto, or auto@GIB with the GiB of weights on each device, not {value!r}") from None
