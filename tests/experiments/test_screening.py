"""Screening: what a reading predicts is what generating does, wherever rounding does not decide it."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import running
import torch
from conftest import FAMILIES, tiny_model, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from running import LEAN

import decodedrift as dd
from decodedrift.core.records import InputError, Key, Reading, Variant
from decodedrift.decoding.preferences import prefer
from decodedrift.decoding.strategies import parse_strategies
from decodedrift.experiments.compare import screening
from decodedrift.measure.metrics import TRACE_METRICS
from decodedrift.measure.passes import Pass, Passage

KEYS = ["strategy", "seed", "prompt_id"]
PROMPTS = ["w1 w2 w3", "w7", "w9 w11 w13 w15 w17", "w20 w21", "w33 w5 w60 w2"]
STRATEGIES = ["greedy", "top-k:k=5", "top-p:p=0.95,temperature=1.3", "min-p:p=0.1"]


# coarser weights under float64 arithmetic, where a reading is as exact as generating
run = functools.partial(
    running.run, reference="fp64", candidates=["int8"], prompts=PROMPTS, strategies=STRATEGIES, seeds=[0, 1],
    batch_size=3, max_new_tokens=24,
)  # fmt: skip


def of_candidate(frame: pd.DataFrame) -> pd.DataFrame:
    """A candidate's rows in one order, whatever order they were made in."""
    keys = [k for k in (*KEYS, "position") if k in frame]
    return frame[frame["role"] == "candidate"].sort_values(keys, ignore_index=True)


def close(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """The same rows, floats to 1e-6."""
    pd.testing.assert_frame_equal(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_predicted_and_continued_is_what_is_generated(family: str) -> None:
    asked: dict[str, Any] = {} if family == "llama" else {"seeds": [0]}
    exact, screened = run(family, **asked), run(family, mode="screen", continued=True, **asked)
    rows = of_candidate(exact.divergences)
    assert 0 < rows["diverged"].sum() < len(rows)
    predicted = of_candidate(screened.divergences)
    assert set(predicted["layout"]) == {"forced"}
    close(predicted.drop(columns="layout"), rows.drop(columns="layout"))
    close(of_candidate(screened.traces), of_candidate(exact.traces))
    close(of_candidate(screened.positions), of_candidate(exact.positions))
    assert (screened.divergences["role"] == "floor").sum() == len(rows)
    assert "behind it, it wrote on" in " ".join(screened.verdict)


def test_without_going_on_nothing_is_said_of_what_was_not_written() -> None:
    exact, screened = run("llama"), run("llama", mode="screen")
    a, b = of_candidate(exact.divergences), of_candidate(screened.divergences)
    assert b["diverged"].any()
    whole = [name for name, metric in TRACE_METRICS.items() if metric.whole]
    close(b.drop(columns=[*whole, "layout"]), a.drop(columns=[*whole, "layout"]))
    assert b[whole].isna().all(axis=None)
    close(of_candidate(screened.positions), of_candidate(exact.positions))
    traces = of_candidate(screened.traces)
    assert set(traces["finish"]) == {"screened"}
    assert traces[["logprob_sum", "perplexity_self", "perplexity_judge"]].isna().all(axis=None)
    ends = b.set_index(KEYS)["first_divergence"].astype(float)
    lengths = traces.set_index(KEYS)["n_tokens"][ends.index]
    assert (lengths[ends.notna()] == ends.dropna() + 1).all()
    summary = screened.summary.set_index("role")
    assert summary.loc["candidate", "agreement_after"].isna().all()
    assert (summary.loc["self", "kl_max"] == 0).all()
    assert f"reading, leaves its own text in 0 of {len(b)} traces" in " ".join(screened.verdict)
    assert screened.after.empty
    assert not screened.failed


def test_a_prediction_off_its_own_text_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor must be able to rise: a reference that is shown other choices of its own is found out."""
    honest = screening.predict

    def turned(into: Pass, passage: Any, logits: Any, found: Any) -> None:
        if into.role == "floor":
            found.takes[0] = (found.takes[0] + 1) % 96
        honest(into, passage, logits, found)

    monkeypatch.setattr(screening, "predict", turned)
    study = run("llama", mode="screen")
    floor = study.divergences[study.divergences["role"] == "floor"]
    assert (floor["first_divergence"] == 0).all()
    assert f"leaves its own text in {len(floor)} of {len(floor)} traces" in " ".join(study.verdict)


def test_reading_and_generating_may_part_at_a_tie_and_only_there() -> None:
    """In bf16 the two layouts round apart: where prediction and generation differ, the two tokens are close."""
    asked: dict[str, Any] = {"candidates": ["bf16"], "strategies": ["greedy"], "limit": 16, "max_new_tokens": 48}
    exact, screened = dd.compare("demo", **asked, **LEAN), dd.compare("demo", **asked, mode="screen", **LEAN)
    a, b = (of_candidate(s.divergences).set_index("prompt_id") for s in (exact, screened))
    same = a["first_divergence"].eq(b["first_divergence"]) | (a["diverged"].eq(0) & b["diverged"].eq(0))
    assert same.mean() >= 0.5
    assert a["diverged"].any()
    gaps = pd.concat([a, b])[["candidate_gap"]][~pd.concat([same, same])].dropna()
    assert (gaps["candidate_gap"] <= 0.25).all()  # a unit in the last place of a bf16 logit between 32 and 64


@given(st.data())
def test_a_prediction_is_the_first_other_choice(data: st.DataObject) -> None:
    vocab, length = 7, data.draw(st.integers(1, 6))
    numbers = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 3.0, math.nan]), min_size=vocab, max_size=vocab)
    logits = torch.tensor(data.draw(st.lists(numbers, min_size=length, max_size=length)))
    text = tuple(data.draw(st.lists(st.integers(0, vocab - 1), min_size=length, max_size=length)))
    (greedy,) = parse_strategies("greedy")
    into = Pass("x", Variant("x", "fp32"), "candidate")
    passage = Passage(Key("greedy", 0, "p"), Reading((1,), text), greedy)
    preferences = prefer(greedy, 0, "p", logits, text)
    assert preferences is not None
    screening.predict(into, passage, logits, preferences)
    expected: list[int] = []
    finish = "screened"
    for row, token in zip(logits.tolist(), text, strict=True):
        if any(map(math.isnan, row)):
            finish = "nonfinite"
            break
        expected.append(row.index(max(row)))
        if expected[-1] != token:
            break
    trace = into.traces[passage.key]
    assert (list(trace.token_ids), trace.finish) == (expected, finish)
    chosen, watched = into.generated.scores[passage.key]
    assert chosen == [logits[t, token].item() for t, token in enumerate(expected)]
    assert watched == [logits[t, text[t]].item() for t in range(len(expected))]


def test_nan_ends_a_screened_trace_and_is_a_failure(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = math.nan
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    study = run("llama", candidates=[f"other={tmp_path}"], mode="screen", continued=True)
    rows = of_candidate(study.divergences)
    assert set(rows["cause"]) == {"nonfinite"}
    assert set(of_candidate(study.traces)["finish"]) == {"nonfinite"}
    assert set(study.failures["status"]) == {"nonfinite"}
    assert study.failed


def test_beams_are_left_out_where_nothing_was_named() -> None:
    study = dd.compare("demo", candidates=["fp16"], limit=1, max_new_tokens=3, mode="screen", **LEAN)
    assert [s["name"] for s in study.plan["strategies"]] == ["greedy", "top-k", "top-p"]
    assert (study.plan["mode"], study.plan["continued"]) == ("screen", False)
    with pytest.raises(InputError, match="beam"):
        dd.compare("demo", strategies=["beam"], mode="screen", **LEAN)


def test_a_screening_is_told_apart_when_it_is_resumed(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"candidates": ["bf16"], "strategies": ["greedy"], "limit": 1, "max_new_tokens": 3}
    dd.compare("demo", **asked, mode="screen", out=tmp_path / "run", **LEAN)
    with pytest.raises(InputError, match="mode"):
        dd.compare("demo", **asked, out=tmp_path / "run", resume=True, **LEAN)
    np.testing.assert_array_equal(dd.open_study(tmp_path / "run").plan["mode"], "screen")
