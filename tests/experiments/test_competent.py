"""The script that the benchmark is held against measures the same things."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import tiny_model
from running import avx512, run, saved_as

PROMPTS = {"a": "w1 w2", "b": "w9 w4 w3", "c": "w7"}


def test_its_figures_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved_as(tiny_model("llama"), tmp_path / "model")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    script = importlib.import_module("compare_vs_naive")
    monkeypatch.setattr(script, "STRATEGIES", {name: script.STRATEGIES[name] for name in ("greedy", "beam")})
    theirs = script.competent(folder, list(PROMPTS.values()), 6, ["bf16"])["texts"]
    ours = run(folder, prompts=PROMPTS, candidates=["bf16"], strategies=["greedy", "beam"], max_new_tokens=6)
    rows = ours.positions[ours.positions["role"] == "candidate"].set_index(["strategy", "prompt_id"])
    parted = ours.divergences[ours.divergences["role"] == "candidate"].set_index(["strategy", "prompt_id"])
    names = ("kl", "tv", "entropy_reference", "logit_margin_reference", "top1_agree", "nll_reference", "nll_candidate",
             "logit_gap_max", "logit_gap_rms")  # fmt: skip
    assert len(theirs) == 6
    for strategy, number, first, figures in theirs:
        key = (strategy, list(PROMPTS)[number])
        at = parted.loc[key, "first_divergence"]
        assert first == (None if pd.isna(at) else at), key
        np.testing.assert_allclose(figures, rows.loc[[key], list(names)], rtol=1e-6 if avx512() else 1e-4, atol=1e-9)
    assert rows["kl"].gt(0).all()
