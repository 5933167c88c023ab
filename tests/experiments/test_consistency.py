"""Whether a recorded text is rounding: the words on gaps of known size, and the figures in closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from decodedrift.experiments.compare.folds.consistency import CANNOT_TELL, CONSISTENT, MORE, NOT_MEASURED
from decodedrift.experiments.compare.recorded import _shown
from decodedrift.experiments.study import Study
from decodedrift.measure.tables import typed
from decodedrift.numerics import intervals as iv

PROMPTS, TOKENS = 30, 20
PLAN: dict[str, Any] = {
    "experiment": "compare", "model": "m", "max_new_tokens": TOKENS, "near_tie_below": 0.1,
    "reference": {"name": "fp32", "precision": "fp32", "compute": "fp32"},
    "candidates": [{"name": "vllm", "precision": "recorded", "compute": "bf16", "model": "r.jsonl"}],
    "strategies": [{"name": "greedy", "label": "greedy", "params": {}}],
}  # fmt: skip


def study(compute: str | None = "bf16", reference: str = "fp32", **columns: Any) -> Study:
    keys = {
        "model": "m",
        "reference": "fp32",
        "candidate": "vllm",
        "role": "candidate",
        "strategy": "greedy",
        "seed": 0,
    }
    place = {"prompt_id": np.repeat([f"p{i}" for i in range(PROMPTS)], TOKENS), "rank": 1, "nll_reference": 1.0,
             "position": np.tile(np.arange(TOKENS), PROMPTS)}  # fmt: skip
    plan = PLAN | {"candidates": [PLAN["candidates"][0] | {"compute": compute}]}
    plan |= {"reference": {"name": reference, "precision": reference, "compute": reference}}
    return Study({"recorded": typed(pd.DataFrame(keys | place | columns), "recorded")}, plan)


def gaps(scale: float = 1.0, share: float = 0.1) -> dict[str, np.ndarray]:
    """Gaps of an engine and a cast that lose their near ties independently of each other."""
    rng, n = np.random.default_rng(5), PROMPTS * TOKENS
    sides = [np.where(rng.random(n) < share, rng.exponential(0.05, n), 0.0) for _ in range(2)]
    return {"gap": scale * sides[0], "cast_gap": sides[1]}


def row(of: Study) -> dict[str, Any]:
    (record,) = of.consistency.to_dict("records")
    return {str(name): value for name, value in record.items()}


def test_gaps_that_can_be_exchanged_are_rounding_and_larger_ones_are_more() -> None:
    same, more = row(study(**gaps())), row(study(**gaps(scale=4.0)))
    assert same["rounding"] == CONSISTENT and same["excess_low"] <= 0 < same["cast_gap_mean"]
    assert same["excess_high"] < same["cast_gap_mean"]
    assert more["rounding"] == MORE and more["excess_low"] > 0
    swapped = gaps()
    swapped["gap"], swapped["cast_gap"] = swapped["cast_gap"], swapped["gap"]
    assert row(study(**swapped))["excess"] == pytest.approx(-same["excess"])


def test_few_gaps_cannot_tell() -> None:
    columns = {name: np.zeros(PROMPTS * TOKENS) for name in ("gap", "cast_gap")}
    columns["gap"][7], columns["cast_gap"][300] = 0.5, 0.01
    few = row(study(**columns))
    assert few["rounding"] == CANNOT_TELL and few["excess_low"] < 0 < few["cast_gap_mean"] < few["excess_high"]
    assert "p0, position 7" in few["rounding_note"] and "p15, position 0" in few["rounding_note"]
    assert (few["texts_not_top"], few["first_not_top_median"], few["gap_max"]) == (1, 7, 0.5)


def test_texts_that_were_encoded_again_are_the_reason_why_no_gap_is_known() -> None:
    unknown, why = {name: np.full(PROMPTS * TOKENS, np.nan) for name in ("gap", "cast_gap")}, {}
    for strategy in ("greedy", "top-p:p=0.9"):
        made = study(**unknown)
        made.environment = {"variants": {"vllm": {"recorded": {"encoded_again": {strategy: 3}}}}}
        why[strategy] = row(made)
        assert why[strategy]["rounding"] == NOT_MEASURED
    assert "3 of its texts had no token ids and were encoded again" in why["greedy"]["rounding_note"]
    assert "a strategy took for the best" in why["top-p:p=0.9"]["rounding_note"]  # those of another strategy


def test_figures_are_those_of_the_rows() -> None:
    columns = gaps()
    figures = row(study(**columns))
    prompts = np.repeat(np.arange(PROMPTS), TOKENS)
    value, low, high = iv.mean_interval(columns["gap"] - columns["cast_gap"], prompts)
    assert [figures[f"excess{end}"] for end in ("", "_low", "_high")] == pytest.approx([value, low, high])
    assert figures["not_top"] == pytest.approx((columns["gap"] > 0).mean())
    assert figures["cast_not_top"] == pytest.approx((columns["cast_gap"] > 0).mean())
    assert figures["excess_not_top"] == pytest.approx(figures["not_top"] - figures["cast_not_top"])
    assert figures["gap_mean"] == pytest.approx(columns["gap"].mean())
    assert (figures["gap_max"], figures["tokens"], figures["texts"]) == (columns["gap"].max(), 600, PROMPTS)
    assert "logprob_tokens" in figures and math.isnan(figures["logprob_tokens"])


def test_the_same_tokens_as_the_cast_are_rounding_without_an_interval() -> None:
    columns = gaps()
    columns["cast_gap"] = columns["gap"]
    figures = row(study(**columns))
    assert figures["rounding"] == CONSISTENT and figures["excess_low"] == figures["excess_high"] == 0
    assert "takes at each of 600 tokens" in figures["rounding_note"]


@pytest.mark.parametrize(("turns", "word"), [(9, CANNOT_TELL), (10, CONSISTENT)])
def test_consistent_is_said_of_no_fewer_than_ten_turned_positions(turns: int, word: str) -> None:
    """Equal choices, and rounding that the engine has less of: nothing but their number stands in the way."""
    places = np.linspace(0, PROMPTS * TOKENS - 1, turns, dtype=int)
    for share in (1.0, 0.0):
        columns = {name: np.zeros(PROMPTS * TOKENS) for name in ("gap", "cast_gap")}
        columns["cast_gap"][places], columns["gap"][places] = 0.05, 0.05 * share
        figures = row(study(**columns))
        assert (figures["turns"], figures["rounding"]) == (turns, word)
        assert ("would tell" in figures["rounding_note"]) == (word == CANNOT_TELL)


def test_consistent_needs_the_cast_to_be_known_as_well_as_the_engine() -> None:
    """The bound is twice the cast's own mean, of which no more is known than of the engine's."""
    columns = gaps(scale=1.4)
    figures = row(study(**columns))
    prompts = np.repeat(np.arange(PROMPTS), TOKENS)
    beyond = iv.mean_interval(columns["gap"] - 2 * columns["cast_gap"], prompts)
    assert [figures[f"beyond{end}"] for end in ("", "_low", "_high")] == pytest.approx(list(beyond))
    assert figures["excess_high"] < figures["cast_gap_mean"] and figures["excess_low"] <= 0 < figures["beyond_high"]
    assert figures["rounding"] == CANNOT_TELL
    columns["cast_gap"][120:] = columns["gap"][120:] = 0.0
    few = row(study(**columns))
    width = few["beyond_high"] - few["beyond"]
    needed = math.ceil(few["turns"] * (width / few["cast_gap_mean"]) ** 2)
    assert needed > few["turns"] and f"at {few['turns']} positions" in few["rounding_note"]
    assert f"about {needed} would tell" in few["rounding_note"]


@pytest.mark.parametrize(
    ("compute", "reference", "why"),
    [(None, "fp32", "what it ran in is not said"), ("bf16", "bf16", "computes in bf16 itself"),
     ("fp32", "fp32", "--reference fp64")],
)  # fmt: skip
def test_without_a_cast_nothing_is_judged_and_why_is_said(compute: str | None, reference: str, why: str) -> None:
    columns = gaps(scale=9.0)
    columns["cast_gap"] = np.full(PROMPTS * TOKENS, math.nan)
    figures = row(study(compute, reference, **columns))
    assert figures["rounding"] == NOT_MEASURED and why in figures["rounding_note"]
    assert figures["gap_mean"] > 0 and math.isnan(figures["excess"])


def test_log_probabilities_and_shown_ids_are_folded() -> None:
    n = PROMPTS * TOKENS
    columns = gaps() | {"logprob": np.full(n, -1.25), "nll_cast": np.full(n, 1.5), "shown": 4,
                        "kl_shown": np.full(n, 0.25), "missing_reference": 0.5, "missing_candidate": 0.125}  # fmt: skip
    figures = row(study(**columns))
    assert (figures["logprob_delta"], figures["logprob_delta_rms"], figures["cast_delta_rms"]) == (-0.25, 0.25, 0.5)
    assert (figures["kl_shown"], figures["missing_reference"], figures["missing_candidate"]) == (0.25, 0.5, 0.125)


def test_kl_over_shown_ids_is_renormalised_and_tells_what_is_missing() -> None:
    p = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    shown, kl, ours, theirs = _shown(p.log(), {0: math.log(0.4), 1: math.log(0.4)})
    p_shown = [2 / 3, 1 / 3]
    assert (shown, ours, theirs) == (2, pytest.approx(0.25), pytest.approx(0.2))
    assert kl == pytest.approx(sum(a * math.log(a / 0.5) for a in p_shown))
    exact = {i: math.log(q) for i, q in enumerate(p.tolist())}
    assert _shown(p.log(), exact)[1:] == (
        pytest.approx(0, abs=1e-15),
        pytest.approx(0, abs=1e-15),
        pytest.approx(0, abs=1e-15),
    )
    assert math.isnan(_shown(p.log(), {2: -1.0})[1]) and _shown(p.log(), {})[0] == 0
