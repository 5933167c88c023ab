"""Texts and tokens for the page: everything visible, long ones cut where it matters least."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from decodedrift.core.untrusted import visible
from decodedrift.report.numbers import absent

LABEL = 40  # characters of a token in a table


@dataclass(frozen=True)
class Part:
    """A run of text: `text`, a drawn `space`, or a `note` of ours."""

    kind: str
    text: str


def shown(text: str) -> str:
    """Text in which nothing is hidden or acts, its line breaks and tabs kept."""
    return "\n".join("\t".join(visible(piece) for piece in line.split("\t")) for line in text.split("\n"))


def brief(text: str, width: int = 80) -> str:
    """At most `width` characters, cut in the middle: the ends of names and labels tell them apart."""
    if len(text) <= width:
        return text
    head = (width - 1) * 2 // 3
    return text[:head] + "…" + text[len(text) - (width - 1 - head) :]


def cell_text(value: Any) -> str:
    """A cell's text; nothing where it is empty."""
    return "" if value is None or (not isinstance(value, str) and absent(value)) else str(value)


def token_parts(token: Any, token_id: Any) -> list[Part]:
    """A token as a reader can tell it from its neighbours: spaces, line breaks and emptiness are drawn."""
    if absent(token_id):
        return [Part("note", "no token")]
    text = cell_text(token)
    if not text:
        return [Part("note", f"empty (id {int(token_id)})")]
    parts: list[Part] = []
    for char in text[:LABEL]:
        symbol = {" ": "␣", "\n": "⏎", "\t": "→"}.get(char)
        kind = "space" if symbol else "text"
        if parts and parts[-1].kind == kind:
            parts[-1] = Part(kind, parts[-1].text + (symbol or char))
        else:
            parts.append(Part(kind, symbol or char))
    if len(text) > LABEL:
        parts.append(Part("note", f"… {len(text):,} characters"))
    return parts


def isolated(sentence: str, names: Iterable[str]) -> list[tuple[str, bool]]:
    """A sentence in pieces, names apart: one that reads from right to left would take the next number along."""
    others = sorted({n for n in names if not n.isascii()}, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, others))})", sentence) if others else [sentence]
    return [(piece, i % 2 == 1) for i, piece in enumerate(pieces) if piece]
