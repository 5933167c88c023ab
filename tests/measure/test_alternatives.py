"""alternatives/: the top tokens of both sides, around every divergence and elsewhere within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import run

import decodedrift as dd
from decodedrift.decoding.notes import Notes
from decodedrift.decoding.tops import COUNT, Tops, tops
from decodedrift.measure import passes
from decodedrift.measure.alternatives import AROUND, Ledger


@pytest.fixture(scope="module")
def study() -> dd.Study:
    return run("demo", candidates=["bf16"], strategies=["greedy", "beam", "top-p"], limit=6, max_new_tokens=40)


def test_forced_tops_are_the_positions_own_figures(study: dd.Study) -> None:
    keys = ["strategy", "prompt_id", "position"]
    rows = study.alternatives
    first = rows[(rows["pass"] == "forced") & (rows["variant"] == "fp32") & (rows["rank"] == 1)].set_index(keys)
    forced = study.positions[study.positions["role"] == "candidate"].set_index(keys)
    joined = forced.join(first[["logprob"]], how="inner")
    assert len(joined) == len(first) == len(forced)
    assert np.allclose(np.exp(joined["logprob"]), joined["p_top_reference"], rtol=1e-12)
    chosen = rows[(rows["pass"] == "forced") & (rows["variant"] == "bf16")].set_index([*keys, "token_id"])["logprob"]
    own = forced.set_index("token_id", append=True)["nll_candidate"]
    both = chosen.to_frame().join(own, how="inner")
    assert len(both) > len(forced) / 2
    assert np.allclose(-both["logprob"], both["nll_candidate"], rtol=1e-9, atol=1e-12)


def test_generated_tops_follow_each_sides_own_text(study: dd.Study) -> None:
    rows = study.alternatives[study.alternatives["pass"] == "generated"]
    assert set(rows["strategy"]) == {"greedy", "top-p"}, "beams have no single text while they run"
    greedy = rows[(rows["strategy"] == "greedy") & (rows["rank"] == 1)]
    traces = study.traces.query("strategy == 'greedy' and role != 'self'").set_index(["variant", "prompt_id"])[
        "token_ids"
    ]
    for (variant, prompt), part in greedy.groupby(["variant", "prompt_id"]):
        assert part["token_id"].tolist() == [int(t) for t in traces[variant, prompt].split()]


def test_every_position_has_its_ranks_in_order(study: dd.Study) -> None:
    rows = study.alternatives
    groups = rows.groupby(["strategy", "prompt_id", "variant", "pass", "position"])
    assert (groups.size() == COUNT).all()
    assert (groups["logprob"].diff().dropna() <= 0).all()
    assert rows["rank"].tolist() == list(range(1, COUNT + 1)) * (len(rows) // COUNT)


def test_beyond_the_budget_only_what_surrounds_a_divergence_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "BUDGET", 0)
    study = run("demo", candidates=["bf16"], strategies=["greedy"], limit=6, max_new_tokens=40)
    at = study.divergences.query("diverged == 1 and role == 'candidate'").set_index("prompt_id")["first_divergence"]
    assert len(at)
    assert set(study.alternatives["prompt_id"]) == set(at.index)
    for prompt, part in study.alternatives.groupby("prompt_id"):
        assert part["position"].between(at[prompt] - AROUND, at[prompt] + AROUND).all()
        assert int(at[prompt]) in set(part["position"])


def test_a_ledger_never_exceeds_its_budget() -> None:
    found = Tops(np.zeros((50, COUNT), dtype=int), np.zeros((50, COUNT)))
    ledger = Ledger(COUNT * 7)
    kept = [
        len(columns["rank"])
        for _ in range(3)
        for _, columns in ledger.rows({"model": "m"}, {("v", "forced"): found}, None)
    ]
    assert kept == [COUNT * 7]


def test_tops_are_exact_log_probabilities_of_any_dtype() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        logits = torch.randn(40, 300).to(dtype)
        made = tops(logits)
        exact = logits.double().log_softmax(-1).gather(-1, torch.from_numpy(made.ids)).numpy()
        assert np.allclose(made.log_p, exact, atol=1e-13)
    assert len(Notes().tops([0])[0]) == 0, "nothing was noted"
    assert tops(torch.randn(3, 2)).ids.shape == (3, 2), "a vocabulary smaller than COUNT"


def test_of_a_folder_they_are_read_when_asked_for(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"candidates": ["bf16"], "strategies": ["greedy"], "max_new_tokens": 8}
    asked["prompts"] = ["w1 w2", "w3", "w9 w8 w7"]
    in_memory, on_disk = run("gpt2", **asked), run("gpt2", prompts_per_job=1, out=tmp_path / "run", **asked)
    pair = (on_disk, dd.open_study(in_memory.save(tmp_path / "saved")))
    ids = sorted(set(in_memory.alternatives["prompt_id"]))
    assert ids, "something diverged"
    for study in pair:
        assert "alternatives" not in study.__dict__
        few = study.alternatives_of(ids[:1])
        assert "alternatives" not in study.__dict__
        assert set(few["prompt_id"]) == set(ids[:1])
        assert study.alternatives_of(ids).equals(study.alternatives)
    again, few = in_memory.alternatives_of(ids[:1]), pair[1].alternatives_of(ids[:1])
    assert again.reset_index(drop=True).equals(few.reset_index(drop=True))
