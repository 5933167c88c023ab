"""The table for a paper, a row per candidate and strategy, and the answer in a line per candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.settings import SLIDING
from decodedrift.experiments.compare.verdict import answer, assembly
from decodedrift.report.numbers import first, with_interval
from decodedrift.report.phrases import counted, relative

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

MOST = 3
COLUMNS = ("Candidate", "Strategy", "Parted", "First at (median)", "Mean KL (nats)", "Perplexity", "Answer")


def table(study: Study) -> pd.DataFrame:
    """The seven columns, as text with intervals (95 %) and units.

    Parted: traces whose tokens differ from the reference's, of a screening those predicted to. First at: where the
    first token differs, from 0, the median over the traces in which one does. Mean KL: on the
    reference's tokens. Perplexity: its change on texts that neither side wrote (named with it: the tool whose
    convention it is of), and Answer: both of a candidate over all strategies.
    """
    answers = {row.candidate: row for row in study.answer.itertuples()}
    summary = study.summary
    rows = [
        [
            row.candidate, row.strategy,
            counted(row.diverged, row.traces, row.divergence_rate_low, row.divergence_rate_high), _first(row),
            with_interval(row, "kl_mean").text,
            *_answer(answers.get(row.candidate)),
        ]
        for row in (summary[summary["role"] == "candidate"] if len(summary) else summary).itertuples()
    ]  # fmt: skip
    names = {"Parted": "Predicted to part"} if study.plan.get("mode") == "screen" else {}
    if (tool := study.plan.get("convention", SLIDING)) != SLIDING:
        names["Perplexity"] = f"Perplexity ({tool})"
    return pd.DataFrame(rows, columns=[names.get(name, name) for name in COLUMNS])


def _first(row: Any) -> str:
    text = first(row).text
    return text if text in ("never", "n/a") else f"token {text}"


def _answer(row: Any) -> tuple[str, str]:
    if row is None:
        return "n/a", "not compared"
    return relative(
        row.ppl_change, row.ppl_change_low, row.ppl_change_high
    ), f"wording {row.wording}; {answer.words(row)}"


def brief(study: Study) -> tuple[list[str], list[str], list[str]]:
    """The alarms, the answer in a line for each candidate, and what matters most besides; MOST alarms leave no room."""
    alarms = assembly.alarms(study)
    lines = [f"{visible(name)}: {'; '.join(words)}" for name, *words in answer.lines(study)]
    return alarms, lines, assembly.rest(study)[: max(0, MOST - len(alarms))]
