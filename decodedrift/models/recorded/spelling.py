"""Which tokens a text was made of, where each may be one of a few: an answer only where one reading is possible."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Ids = tuple["Ids", int] | None  # the last id and those before it


def spelled(choices: Iterable[Sequence[tuple[int, bytes]]], text: bytes) -> tuple[int, ...] | None:
    """The only ids whose bytes are a text, one after another; None where there are none, or several.

    Args:
        choices: for each place the ids that it may be, each with its bytes in the text.
    """
    ways: dict[int, tuple[Ids, bool]] = {0: (None, True)}  # bytes of the text that are read -> ids, whether no others
    for pairs in choices:
        further: dict[int, tuple[Ids, bool]] = {}
        for end, (ids, only) in ways.items():
            for token, part in dict.fromkeys(pairs):
                if text.startswith(part, end):
                    at = end + len(part)
                    further[at] = ((ids, token), only and at not in further)
        ways = further
    ids, only = ways.get(len(text), (None, False))
    reading: list[int] = []
    while ids is not None:
        ids, token = ids
        reading.append(token)
    return tuple(reversed(reading)) if only else None
