"""The summary and the perplexities as tables for a terminal, never wider than asked; no control character passes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from decodedrift.core.untrusted import terminal
from decodedrift.report.html import StudyLike
from decodedrift.report.numbers import MISSING, absent, first, percentage, significant


def summary_table(study: StudyLike, width: int = 80) -> str:
    """Candidates x strategies, and below them perplexity by text; no line is wider than `width` cells.

    What does not fit goes from the right, column by column; names are shortened first.
    """
    parts = [part for part in (_summary(study, width), _perplexity(study, width)) if part]
    return "\n\n".join(parts) if parts else cut("Nothing was compared.", width)


def _summary(study: StudyLike, width: int) -> str:
    table = study.summary
    rows = table[table["role"] == "candidate"] if len(table) else table
    head = ["candidate", "strategy", "diverged", "median t*", "near ties", "mean KL", "same top", "ppl ratio"]
    body = [
        [
            str(row.candidate), str(row.strategy), f"{int(row.diverged)}/{int(row.traces)}",
            first(row).text, percentage(row.near_tie_share), significant(row.kl_mean),
            percentage(row.top1_agreement), _ratio(row.ln_ppl_ratio),
        ]
        for row in rows.itertuples()
    ]  # fmt: skip
    distances = range(head.index("mean KL"), len(head))
    kept = [i for i in range(len(head)) if i not in distances or any(line[i] not in ("", MISSING) for line in body)]
    return text_table([head[i] for i in kept], [[line[i] for i in kept] for line in body], width, names=2)


def _perplexity(study: StudyLike, width: int) -> str:
    tool = study.plan.get("convention", "sliding")
    counted = "perplexity" if tool == "sliding" else f"ppl ({tool})"
    head = ["text", "variant", counted, "ppl ratio", "mean KL", "same top", "tokens"]
    body = [
        [
            str(row.text), str(row.variant), significant(row.perplexity, digits=5), _ratio(row.ln_ppl_ratio),
            significant(row.kl_mean), percentage(row.same_top1), significant(row.tokens),
        ]
        for row in study.perplexity.itertuples()
    ]  # fmt: skip
    return text_table(head, body, width, names=2)


def _ratio(logarithm: Any) -> str:
    """A perplexity ratio with the digits that tell it from 1."""
    if absent(logarithm):
        return ""
    return f"{math.exp(logarithm):.5f}" if abs(logarithm) < 2 else significant(math.exp(min(logarithm, 700.0)))


def wrapped(sentence: str, width: int = 80) -> str:
    """A sentence of the verdict as an item of a list."""
    return textwrap.fill(terminal(sentence), width, initial_indent="- ", subsequent_indent="  ", break_long_words=True)


def text_table(head: Sequence[str], body: list[list[str]], width: int, names: int) -> str:
    """Lines of a table at most `width` cells wide: `names` columns of text to the left, then numbers, right-aligned."""
    if not body:
        return ""
    rows = [[terminal(cell) for cell in row] for row in [list(head), *body]]
    least = sum(map(cell_len, rows[0][:names]))  # a column of numbers goes before the headings of the names do
    while True:
        widths = [max(cell_len(row[i]) for row in rows) for i in range(len(rows[0]))]
        numbers = sum(w + 2 for w in widths[names:])
        room = width - numbers - 2 * (names - 1)
        if room >= least or len(rows[0]) == names:
            break
        rows = [row[:-1] for row in rows]
    widths[:names] = _shares(widths[:names], max(0, room))
    lines = [_line(row, widths, names) for row in rows]
    rule = "─" * min(width, max(map(cell_len, lines)))
    return "\n".join(cut(line, width) for line in [lines[0], rule, *lines[1:]])


def _shares(widths: list[int], room: int) -> list[int]:
    """The room for the names, the widest giving way first."""
    while sum(widths) > room and max(widths) > 0:
        widths[widths.index(max(widths))] -= 1
    return widths


def _line(row: list[str], widths: list[int], names: int) -> str:
    parts = []
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        fitted = cut(cell, width)
        space = " " * (width - cell_len(fitted))
        parts.append(fitted + space if index < names else space + fitted)
    return "  ".join(parts).rstrip()


def cut(text: str, width: int) -> str:
    """At most `width` terminal columns, with an ellipsis in the middle: the ends tell names apart."""
    if cell_len(text) <= width or width <= 0:
        return text if width > 0 else ""
    head = set_cell_size(text, (width - 1) * 2 // 3).rstrip()
    tail = set_cell_size(text[::-1], width - 1 - cell_len(head)).rstrip()[::-1]
    return f"{head}…{tail}"
