"""Texts and tokens for the page: everything visible, long ones cut where it matters least, differences marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from decodedrift.report.numbers import absent
from decodedrift.sinks import visible

PREFIX, TOKEN, REST, PROMPT = 420, 240, 560, 600  # characters of a case that are shown
LABEL = 40  # characters of a token in a table


@dataclass(frozen=True)
class Part:
    """A run of text: `same` before the divergence, `mark` the token that differs, `rest`, `space`, a `note` of ours."""

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


def said(value: Any) -> str:
    """A cell's text; nothing where it is empty."""
    return "" if value is None or (not isinstance(value, str) and absent(value)) else str(value)


def token_parts(token: Any, token_id: Any) -> list[Part]:
    """A token as a reader can tell it from its neighbours: spaces, line breaks and emptiness are drawn."""
    if absent(token_id):
        return [Part("note", "no token")]
    text = said(token)
    if not text:
        return [Part("note", f"empty (id {int(token_id)})")]
    parts: list[Part] = []
    for char in text[:LABEL]:
        drawn = {" ": "␣", "\n": "⏎", "\t": "→"}.get(char)
        kind = "space" if drawn else "text"
        if parts and parts[-1].kind == kind:
            parts[-1] = Part(kind, parts[-1].text + (drawn or char))
        else:
            parts.append(Part(kind, drawn or char))
    if len(text) > LABEL:
        parts.append(Part("note", f"… {len(text):,} characters"))
    return parts


def prompt_parts(text: str) -> list[Part]:
    """A prompt, its end where it is long: what the continuation hangs on."""
    return [*_earlier(text, PROMPT), Part("rest", text[-PROMPT:])]


def sides(reference: str, candidate: str, row: Any) -> tuple[list[Part], list[Part]]:
    """Both continuations of a row of divergences, cut alike, each with its first divergent token marked."""
    char = row.first_divergence_char
    if absent(char):
        return _side(reference, len(reference), ""), _side(candidate, len(candidate), "")
    tokens = said(row.reference_token), said(row.candidate_token)
    start = token_start(reference, candidate, tokens, int(char))
    return _side(reference, start, tokens[0]), _side(candidate, start, tokens[1])


def token_start(reference: str, candidate: str, tokens: tuple[str, str], char: int) -> int:
    """Where the first divergent tokens begin in both texts.

    Two tokens may share their first characters (a space), so the token begins at or before the first differing
    character. Tokens that are no text of their own (bytes of a character) are not found: then it is the character.
    """
    longest = max(len(t) for t in tokens)
    for start in range(char, max(-1, char - longest - 1), -1):
        if reference.startswith(tokens[0], start) and candidate.startswith(tokens[1], start):
            return start
    return char


def _side(text: str, start: int, token: str) -> list[Part]:
    """Common prefix, marked token, rest; each cut to its share."""
    end = start + len(token) if token and text.startswith(token, start) else min(len(text), start + 1)
    before, mark, after = text[:start], text[start:end], text[end:]
    parts = [*_earlier(before, PREFIX), Part("same", before[-PREFIX:])]
    if mark:
        parts.append(Part("mark", mark[:TOKEN]))
        if len(mark) > TOKEN:
            parts.append(Part("note", f" … {len(mark) - TOKEN:,} more characters of this token … "))
    parts.append(Part("rest", after[:REST]))
    if len(after) > REST:
        parts.append(Part("note", f" … {len(after) - REST:,} more characters"))
    return [p for p in parts if p.text]


def _earlier(text: str, width: int) -> list[Part]:
    return [Part("note", f"{len(text) - width:,} earlier characters … ")] if len(text) > width else []
