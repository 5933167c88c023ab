"""Does it cost answers? Accuracy on both sides, what flipped, and the cases that turned a right answer wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.experiments.compare.folds.accuracy import EQUIVALENCE, harmful
from decodedrift.experiments.compare.selection import MOST, select_cases
from decodedrift.report.numbers import Number, absent, exactly, number, percent
from decodedrift.report.phrases import counted
from decodedrift.report.tables import Column, Table, merged, num, text
from decodedrift.report.texts import brief, cell_text
from decodedrift.report.tokenview import case_link, key_of

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options

ROWS = 100
CASES = 24
FILE = "accuracy.csv"
COLUMNS = (
    Column("Candidate", numeric=False),
    Column("Strategy", numeric=False),
    Column("Reference right", "Share of the checked texts in which the reference gives the expected answer."),
    Column("Candidate right", "The same of the candidate, on the same prompts."),
    Column("Loss, points", "The first less the second in percentage points, paired, with its 95 % interval by prompt; "
           "below 0 the candidate is right more often."),
    Column("Right → wrong", "Answers that the candidate lost."),
    Column("Wrong → right", "Answers that it won."),
    Column("Wrong → other wrong", "Answers that are wrong on both sides, and not the same."),
    Column("Splits that cost one", "Of the checked texts that parted, those that turned a right answer wrong."),
    Column("Answers", "Equivalent: the 90 % interval of the loss lies within the margin (two one-sided tests).",
           numeric=False),
    Column("Prompts needed", "With so many the test shows equivalence in 80 of 100 runs, if there is no difference."),
)  # fmt: skip


def accuracy(study: Study, options: Options) -> dict[str, Any] | None:
    """A row per candidate and strategy, and the first cases that cost an answer, each with its way into the page."""
    table = study.accuracy
    if not len(table):
        return None
    answered, prompts = int(table["answered_prompts"].max()), len(study.plan.get("prompts", ()))
    margin = f"{100 * float(study.plan.get('equivalence', EQUIVALENCE)):.3g}"
    rows = [
        [text(row.candidate, 48, head=True), text(row.strategy, 60), *_cells(row)]
        for row in table.head(ROWS).itertuples()
    ]
    lost = harmful(study.checks)
    return {
        "heading": "Does it cost answers?",
        "answered": answered, "prompts": prompts, "margin": margin, "check": str(study.plan.get("answer_check") or ""),
        "table": Table(COLUMNS, merged(rows), max(0, len(table) - ROWS), FILE),
        "cases": _cases(study, lost, options) if len(lost) else [],
        "texts": options.texts, "more": max(0, len(lost) - CASES),
    }  # fmt: skip


def _cells(row: Any) -> list[Any]:
    drop, ends = row.accuracy_drop, (row.accuracy_drop_low, row.accuracy_drop_high)
    named = dict(zip(("accuracy_drop", "accuracy_drop_low", "accuracy_drop_high"), (drop, *ends)))
    spread = "" if any(map(absent, ends)) else " ({:.1f} to {:.1f})".format(*(100 * end for end in ends))
    loss = "n/a" if absent(drop) else f"{100 * drop:.1f}{spread}".replace("-", "−")
    share = (row.harmful_share, row.harmful_share_low, row.harmful_share_high)
    bad = dict(zip(("harmful_share", "harmful_share_low", "harmful_share_high"), share))
    splits = counted(row.right_to_wrong, row.checked_diverged, *share[1:])
    return [
        num(percent(row.accuracy_reference, "accuracy_reference")),
        num(percent(row.accuracy_candidate, "accuracy_candidate")),
        num(Number(loss, exactly(named))),
        *(num(number(getattr(row, n), n)) for n in ("right_to_wrong", "wrong_to_right", "wrong_to_wrong")),
        num(Number(splits, exactly(bad))),
        text(row.answers),
        num(number(row.prompts_needed, "prompts_needed")),
    ]


def _cases(study: Study, lost: Any, options: Options) -> list[dict[str, Any]]:
    """The first of them; a link where the page carries the case."""
    readable = options.texts and bool(study.traces["token_ids"].notna().any())
    carried = {key_of(row) for row in select_cases(study, options.top or MOST).itertuples()} if readable else set()
    return [
        {
            "link": case_link(row) if key_of(row) in carried else "",
            "prompt": brief(cell_text(row.prompt_id), 36), "candidate": brief(str(row.candidate), 32),
            "strategy": brief(str(row.strategy), 36),
            "answers": [
                brief(cell_text(value), 80) for value in (row.expected, row.reference_answer, row.candidate_answer)
            ],
        }
        for row in lost.head(CASES).itertuples()
    ]  # fmt: skip
