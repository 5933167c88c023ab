"""Sections of the page that the tables fill: what is shown, and what is left out because nobody has it."""

from __future__ import annotations

import copy
import math

import pandas as pd
import running
from test_report import parted, study

from decodedrift.experiments.compare.folds.certificate import GATED as CERTIFICATE
from decodedrift.experiments.compare.sections.answer import answer
from decodedrift.experiments.compare.sections.certificate import certificate
from decodedrift.experiments.compare.sections.fork import fork
from decodedrift.experiments.compare.sections.injection import injection
from decodedrift.report.html import Options


def test_a_column_that_holds_nothing_for_anybody_is_not_shown() -> None:
    """The cast beside which all are casts; and an earlier run's second split."""
    made = study({"bf16": [parted()]})
    keys = {"candidate": "bf16", "strategy": "greedy", "floor_positions": 3, "cast_positions": 0, "noise_ratio": 2.0}
    made.certificate = pd.DataFrame([dict.fromkeys(CERTIFICATE, math.nan) | keys])
    heads = [column.label for column in certificate(made, Options())["noise"].columns]
    assert heads == ["Candidate", "Strategy", "Times the noise"]


def test_the_second_split_is_beside_the_replaced_token() -> None:
    """With its interval, and the tokens that the share is taken over."""
    made = study({"bf16": [parted()]})
    figures = {"injected": 1, "recovered_share": 0.5, "trajectory_share": 0.4, "trajectory_share_low": 0.3,
               "trajectory_share_high": 0.5}  # fmt: skip
    new = {"trajectory_horizon": 57.0, "second_hazard": 0.02, "second_hazard_low": 0.01, "second_hazard_high": 0.04,
           "second_hazard_ratio": 0.97, "second_hazard_ratio_low": 0.63, "second_hazard_ratio_high": 1.48}  # fmt: skip
    made.summary = made.summary.assign(**figures)
    told = injection(made, Options())["table"]
    assert len(told.columns) == 6
    made.summary = made.summary.assign(**new)
    told = injection(made, Options())["table"]
    assert [cell.text for cell in told.rows[0][-3:]] == ["57", "2.0 % (1.0 % to 4.0 %)", "0.97 (0.63 to 1.48)"]


def test_the_causes_of_the_fork_speak_of_nothing_that_is_not_there() -> None:
    """A beam's gap and swing stand in other sections."""
    made = study({"bf16": [parted(1, "search")]}, texts=True)
    assert fork(made, Options())["whys"] == {"search": "Beam search: whole hypotheses were exchanged."}


def test_perplexity_changes_by_little_and_is_not_little() -> None:
    """What is nearly 0 is the change."""
    ran = copy.copy(running.run("demo", candidates=["bf16"], strategies=["greedy"], limit=4, max_new_tokens=24))
    ends = {"ppl_change": 1e-8, "ppl_change_low": -2e-8, "ppl_change_high": 3e-8}
    ran.answer = ran.answer.assign(**ends)
    [card] = answer(ran, Options())["cards"]
    assert card.change.text == "changes by under 0.001 %"
