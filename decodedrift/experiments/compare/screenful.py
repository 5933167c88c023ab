"""A run on a terminal: the answer, a table, what matters most and one split of two texts, on a screen of 80 x 24."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

from decodedrift.core.untrusted import terminal
from decodedrift.experiments.compare.selection import fork, telling_case
from decodedrift.experiments.compare.verdict import answer, assembly
from decodedrift.report.case import word
from decodedrift.report.numbers import percentage, significant
from decodedrift.report.phrases import percent
from decodedrift.report.terminal import cut, summary_table, text_table, wrapped

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

HEIGHT = 24  # of a terminal, of which the command line takes one and the paths below take two
SENTENCES = 3


def screenful(study: Study, width: int = 80, verbose: bool = False) -> str:
    """What a run says, most important first; all of it with `verbose`."""
    alarms = [wrapped(sentence, width) for sentence in assembly.alarms(study)]
    parts = [
        "\n".join(alarms),
        _answers(study, width),
        summary_table(study, width) if verbose else _rates(study, width),
    ]
    split = _split(study, width)
    rest = [wrapped(sentence, width) for sentence in assembly.rest(study)]
    shown = rest if verbose else _fitting(rest, [*parts, split])
    return "\n\n".join(part for part in (*parts, "\n".join(shown), split) if part)


def _fitting(rest: list[str], others: list[str]) -> list[str]:
    """The first few sentences, as many as the screen has room for."""
    room = HEIGHT - 3 - sum(part.count("\n") + 2 for part in others if part)
    shown: list[str] = []
    for sentence in rest[:SENTENCES]:
        room -= sentence.count("\n") + 1
        if room < 0:
            break
        shown.append(sentence)
    return shown


def _answers(study: Study, width: int) -> str:
    """Two lines a candidate, the words first."""
    entries = [(terminal(name, 24), *texts) for name, *texts in answer.lines(study)]
    column = max((cell_len(name) for name, *_ in entries), default=0) + 2
    blocks = []
    for name, *texts in entries:
        for index, text in enumerate(texts):
            first = (name if index == 0 else "") + " " * (column - cell_len(name if index == 0 else ""))
            blocks.append(
                textwrap.fill(terminal(text), width, initial_indent=first, subsequent_indent=" " * (column + 2))
            )
    return "\n".join(blocks)


def _rates(study: Study, width: int) -> str:
    """How many texts part, candidates by strategies, and how far the distributions are on the reference's text."""
    table = study.summary
    rows = table[table["role"] == "candidate"] if len(table) else table
    labels = list(dict.fromkeys(rows["strategy"])) if len(rows) else []
    if not labels:
        return cut("Nothing was compared.", width)
    body = []
    for name, cells in rows.groupby("candidate", sort=False):
        by_label = {str(row.strategy): row for row in cells.itertuples()}
        parted = [f"{int(r.diverged)}/{int(r.traces)}" if (r := by_label.get(x)) else "" for x in labels]
        kl, top = (assembly.pooled(cells, column) for column in ("kl_mean", "top1_agreement"))
        body.append([str(name), *parted, significant(kl), percentage(top)])
    reference = terminal(str(study.plan["reference"]["name"]), 24)
    return text_table([f"parted from {reference}", *labels, "mean KL", "same top"], body, width, names=1)


def _split(study: Study, width: int) -> str:
    """One split of two texts in three lines: what the reference held at the fork, and how each went on."""
    row: Any = telling_case(study)
    texts = fork(study, row) if row is not None else None
    if texts is None:
        return ""
    sides = ((texts.reference_token, texts.p_reference), (texts.candidate_token, texts.p_candidate))
    held = " | ".join(
        f'"{cut(terminal(word(token)), 12)}"' + ("" if math.isnan(p) else f" {percent(p)}") for token, p in sides
    )
    names = [cut(terminal(str(name)), 12) for name in (row.reference, row.candidate)]
    column = max(map(cell_len, names)) + 4
    tail = f'", {names[0]} held {held}:'
    lines = [f'After "{_ending(texts.shared, max(4, width - 7 - cell_len(tail)))}{tail}']
    for name, text in zip(names, (texts.reference_text, texts.candidate_text), strict=True):
        lines.append(f"  {name}{' ' * (column - 2 - cell_len(name))}{_beginning(text, width - column)}")
    return "\n".join(lines)


def _beginning(text: str, width: int) -> str:
    """As much as fits, in whole words where there are any."""
    line = terminal(" ".join(text.split()), 4 * width)
    if cell_len(line) <= width:
        return line
    line = set_cell_size(line, width - 2)
    return (line[: line.rfind(" ")] if line.rfind(" ") > width // 2 else line).rstrip() + " …"


def _ending(text: str, width: int) -> str:
    """As much of the end as fits."""
    line = terminal(" ".join(text.split())[-4 * width :], 8 * width)
    while cell_len(line) > width - 1:
        _, _, line = line.partition(" ") if " " in line else ("", "", line[1:])
    return line if line == " ".join(text.split()) else f"…{line}"
