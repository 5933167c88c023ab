"""A run on a terminal: the answer, a table, what matters most and one split of two texts, on a screen of 80 x 24."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

from decodedrift.core.untrusted import terminal
from decodedrift.experiments.compare.selection import fork, telling_case
from decodedrift.experiments.compare.settings import reader_word
from decodedrift.experiments.compare.verdict import answer, assembly
from decodedrift.report.case import word
from decodedrift.report.numbers import MISSING, percentage, significant
from decodedrift.report.phrases import percent
from decodedrift.report.terminal import cut, summary_table, text_table, wrapped

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

ROOM = 24 - 3  # lines of a terminal, less the command line and the paths below
SENTENCES = 3
TWO_LINES = 3  # candidates at most that have two lines each
ALARM = 6  # lines at most of what must be read first
HEADING = 12  # cells that the heading of a strategy is not shortened below
MORE = "--verbose has all"
LOUD = ("nonfinite", "not compared", "more than noise")


def screenful(study: Study, width: int = 80, verbose: bool = False) -> str:
    """What a run says, most important first; all of it with `verbose`."""
    said = (assembly.alarms(study), assembly.outside(study), assembly.rest(study))
    alarms, outside, rest = ([wrapped(sentence, width) for sentence in sentences] for sentences in said)
    split = _split(study, width)
    if verbose:
        return _joined("\n".join(alarms), _answers(study, width), summary_table(study, width), "\n".join(rest), split)
    parts = ["", "", ""]
    for parts in _layouts(study, width, split):
        if _joined(_few(alarms), *parts[:2], _few(outside), parts[2]).count("\n") < ROOM:
            break
    shown = outside
    for sentence in rest[len(outside) :]:
        more = _joined(_few(alarms), *parts[:2], _few([*shown, sentence]), parts[2])
        if len(shown) < SENTENCES and more.count("\n") < ROOM and sentence in more:
            shown = [*shown, sentence]
    return _joined(_few(alarms), *parts[:2], _few(shown), parts[2])


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _few(sentences: list[str]) -> str:
    """As many lines as an alarm may have."""
    lines = "\n".join(sentences).split("\n")
    return "\n".join(lines if len(lines) <= ALARM else [*lines[: ALARM - 1], f"  … {MORE}"])


def _layouts(study: Study, width: int, split: str) -> Iterator[list[str]]:
    """Answers, table and split, from the fullest to what fits any screen."""
    names = [str(name) for name in study.answer["candidate"]]
    if len(names) <= TWO_LINES:
        yield [_answers(study, width), _rates(study, width, names), split]
    order = sorted(names, key=dict(zip(study.answer["candidate"], ~study.answer["wording"].isin(LOUD))).__getitem__)
    for count in range(len(names), 0, -1):
        some = [name for name in names if name in order[:count]]
        block = [_lines(study, width, some), _rates(study, width, some)]
        if count == len(names):
            yield [*block, split]
        yield [*block, ""]


def _lines(study: Study, width: int, names: list[str]) -> str:
    """A line a candidate, the words first; what is left out is said."""
    every = answer.briefly(study)
    column = max((cell_len(terminal(name, 24)) for name in names), default=0) + 2
    lines = []
    for name, rates, wording, quality in (row for row in every if row[0] in names):
        full, short = f"{wording}{rates}; {quality}", f"{wording}; {quality}"
        begin = terminal(name, 24)
        text = full if column + cell_len(full) <= width else short
        lines.append(f"{begin}{' ' * (column - cell_len(begin))}{_beginning(text, width - column)}")
    hidden = len(every) - len(lines)
    return "\n".join([*lines, f"({f'{hidden} more candidates; ' if hidden else ''}{MORE})"])


def _answers(study: Study, width: int) -> str:
    """Two lines a candidate, the words first, and what would tell where they cannot."""
    entries = [(terminal(name, 24), *texts) for name, *texts in answer.lines(study)]
    column = max((cell_len(name) for name, *_ in entries), default=0) + 2
    blocks = []
    for name, *texts in entries:
        for index, text in enumerate(texts):
            first = (name if index == 0 else "") + " " * (column - cell_len(name if index == 0 else ""))
            blocks.append(
                textwrap.fill(terminal(text), width, initial_indent=first, subsequent_indent=" " * (column + 2))
            )
    return "\n".join([*blocks, *([textwrap.fill(terminal(hint), width)] if (hint := answer.outlook(study)) else [])])


def _rates(study: Study, width: int, names: list[str]) -> str:
    """How many texts part, candidates by strategies, and how far the distributions are on the reference's text."""
    table = study.summary
    rows = table[(table["role"] == "candidate") & table["candidate"].isin(names)] if len(table) else table
    labels = list(dict.fromkeys(rows["strategy"])) if len(rows) else []
    if not labels:
        return cut("Nothing was compared.", width)
    body = []
    for name, cells in rows.groupby("candidate", sort=False):
        by_label = {str(row.strategy): row for row in cells.itertuples()}
        counts = [f"{int(r.diverged)}/{int(r.traces)}" if (r := by_label.get(x)) else "" for x in labels]
        kl, top = (assembly.pooled(cells, column) for column in ("kl_mean", "top1_agreement"))
        body.append([str(name), *counts, significant(kl), percentage(top)])
    reference = terminal(str(study.plan["reference"]["name"]), 24)
    parted = "predicted to leave" if study.plan.get("mode") == "screen" else "parted from"
    first, beside = f"{parted} {reference}", ["mean KL", "same top"]
    if all(line[-2:] == [MISSING] * 2 for line in body):  # nobody read a text of the reference
        beside, body = [], [line[:-2] for line in body]
    taken = [max(map(cell_len, column)) + 2 for column in zip(beside, *(line[1 + len(labels) :] for line in body))]
    heads = _headings(labels, width - cell_len(first) - sum(taken))
    lines = text_table([first, *heads, *beside], body, width, names=1)
    shown = len(re.split(" {2,}", lines.partition("\n")[0])) - 1
    return lines + (f"\n({len(labels) - shown} more strategies; {MORE})" if shown < len(labels) else "")


def _headings(labels: list[str], room: int) -> list[str]:
    """Strategies side by side, the widest shortened first, none below what tells it from the others."""
    names = [terminal(label) for label in labels]
    widths = list(map(cell_len, names))
    while sum(widths) + 2 * len(widths) > room and max(widths) > HEADING:
        widths[widths.index(max(widths))] -= 1
    return [cut(name, width) for name, width in zip(names, widths, strict=True)]


def _split(study: Study, width: int) -> str:
    """One split of two texts in three lines: what the reference held at the fork, and how each went on."""
    row: Any = telling_case(study)
    texts = fork(study, row) if row is not None else None
    if texts is None:
        return ""
    sides = ((texts.reference_token, texts.p_reference), (texts.candidate_token, texts.p_candidate))
    tokens = ["" if token is None else f'"{cut(terminal(word(token)), 12)}"' for token, _ in sides]
    names = [cut(terminal(str(name)), 12) for name in (row.reference, row.candidate)]
    column = max(map(cell_len, names)) + 4
    held = " | ".join(f"{token} {percent(p)}" for token, (_, p) in zip(tokens, sides, strict=True))
    who = "the judge" if reader_word(study.plan) == "judge" else names[0]
    drawn = any(math.isnan(p) for _, p in sides)  # of a draw they are not what decided
    verbs = [" took ", " " if tokens[0] else " took "]
    ends = [f"{n}{v}{t}" if t else f"{n} stopped" for n, v, t in zip(names, verbs, tokens, strict=True)]
    tail = f'", {", ".join(ends)}:' if drawn or not all(tokens) else f'", {who} held {held}:'
    lines = [f'After "{_ending(texts.shared, max(4, width - 7 - cell_len(tail)))}{tail}']
    for name, text in zip(names, (texts.reference_text, texts.candidate_text), strict=True):
        beginning = _beginning(text, width - column) or "(the end)"
        lines.append(f"  {name}{' ' * (column - 2 - cell_len(name))}{beginning}")
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
