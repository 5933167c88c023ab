"""Logits that are no numbers: whose fault they are, which pairs they leave, what is said first, and which gates fail."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import running
import torch
from bigram import bigram_model, saved_bigram
from conftest import tiny_model
from running import saved_as

import decodedrift as dd
from decodedrift.experiments.compare.gating import faults, gating
from decodedrift.experiments.compare.verdict.assembly import folded
from decodedrift.report.terminal import summary_table
from decodedrift.runs.gates import parse_gate

PLACES = ["first_divergence", "compared", "cause"]


def chain() -> np.ndarray:
    """1 -> 2 -> ... -> 15 -> 1, each step far ahead of the rest."""
    table = np.random.default_rng(3).normal(size=(16, 16))
    table[:, 0] -= 9
    for i in range(1, 16):
        table[i, i % 15 + 1] += 9
    return table


def breaking(table: np.ndarray, token: int, value: float = math.nan) -> Any:
    """A model that has no logits once it has read a token."""
    model = bigram_model(table, torch.float32)
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = value
    return model


run = functools.partial(running.run, max_new_tokens=8, strategies=["greedy"])


@pytest.fixture(scope="module")
def broken_reference(tmp_path_factory: pytest.TempPathFactory) -> dd.Study:
    """The reference reads a 7 and breaks: after three tokens, never, at once; `parts` has left it before, `breaks` too."""
    folder = tmp_path_factory.mktemp("broken")
    parts = chain()
    parts[5, 9] += 20
    good = saved_bigram(chain(), folder / "good", torch.float32)
    early = saved_bigram(parts, folder / "parts", torch.float32)
    breaks = saved_as(breaking(chain(), 6), folder / "breaks")
    return run(
        breaking(chain(), 7), candidates=["fp64", f"good={good}", f"parts={early}", f"breaks={breaks}"],
        prompts={"meets": "w4", "spared": "w9", "at once": "w7"}, strategies=["greedy", "beam:num_beams=2"],
    )  # fmt: skip


def pairs(study: dd.Study, candidate: str, strategy: str = "greedy") -> pd.DataFrame:
    rows = study.divergences
    return rows[(rows["candidate"] == candidate) & (rows["strategy"] == strategy)].set_index("prompt_id")


def test_a_reference_that_breaks_censors_the_pair_there(broken_reference: dd.Study) -> None:
    for name in ("good", "fp64"):  # the one writes on, the other breaks at the same place: neither has diverged
        rows = pairs(broken_reference, name)
        assert rows.loc["meets", ["diverged", "compared", "prefix_fraction"]].tolist() == [0, 3, 1.0]
        assert rows.loc["meets", ["first_divergence", "cause"]].isna().all()
        assert rows.loc["spared", ["diverged", "compared"]].tolist() == [0, 8]


def test_what_parted_before_the_reference_broke_has_parted(broken_reference: dd.Study) -> None:
    rows = pairs(broken_reference, "parts")
    assert rows.loc["meets", PLACES].tolist() == [1, 2, "shift"]
    assert rows.loc["meets", "edit_similarity"] == 0.0, "a remainder of one token each, not of one and of six"
    rows = pairs(broken_reference, "breaks")
    assert rows.loc["meets", PLACES].tolist() == [2, 3, "nonfinite"]


def test_a_pair_whose_reference_broke_at_once_is_no_pair(broken_reference: dd.Study) -> None:
    for name in ("good", "fp64", "parts", "breaks"):
        row = pairs(broken_reference, name).loc["at once"]
        assert row["compared"] == 0
        assert row[["diverged", "first_divergence", "prefix_fraction", "cause"]].isna().all()
    table = broken_reference.summary.query("strategy == 'greedy' and role == 'candidate'").set_index("candidate")
    assert (table[["prompts", "traces"]] == 2).all(axis=None)
    assert table["divergence_rate"].to_dict() == {"fp64": 0.0, "good": 0.0, "parts": 0.5, "breaks": 0.5}
    assert (table["divergence_rate_high"] < 1).all()
    risk = broken_reference.risk.query("strategy == 'greedy' and candidate == 'good'").iloc[0]
    assert risk[["prompts", "traces", "exposure", "diverged"]].tolist() == [2, 2, 11, 0]
    curve = broken_reference.survival.query("strategy == 'greedy' and candidate == 'good'")
    assert curve["at_risk"].tolist() == [2, 2, 2, 1, 1, 1, 1, 1]
    assert (curve["survival"] == 1).all()
    both = broken_reference.comparisons.query("strategy == 'greedy'")
    assert (both["pairs"] == 2).all()


def test_a_search_that_broke_in_the_reference_is_not_compared(broken_reference: dd.Study) -> None:
    rows = pairs(broken_reference, "good", "beam:num_beams=2")
    assert (rows.loc[["meets", "at once"], "compared"] == 0).all(), "what led when it broke need not have won"
    own = broken_reference.traces.query("role == 'reference' and strategy == 'beam:num_beams=2'")
    expected = int((own["finish"] != "nonfinite").sum())
    assert (broken_reference.summary.query("candidate == 'good' and strategy != 'greedy'")["traces"] == expected).all()


def test_what_broke_is_said_first_with_its_place_and_in_no_fold(broken_reference: dd.Study) -> None:
    first, second = broken_reference.verdict[:2]
    assert first == (
        "breaks breaks in 2 of 3 prompts, first at position 2 (prompt meets, greedy): NaN or infinite logits ended 3 of "
        "its 6 traces, which have diverged; inside, first in embedding, which holds weights that are no numbers. No gate "
        "passes where it did."
    )
    assert second.startswith("The reference fp32 breaks: NaN or infinite logits ended")
    assert "the earliest at position 0 (prompt at once, greedy)" in second
    assert "could not be compared at all and count nowhere" in second
    assert not any(s.startswith(("fp64 breaks", "good breaks")) for s in broken_reference.verdict)
    assert {first, second} <= set(folded(broken_reference)[0])
    assert "good (0 of 2)" in " ".join(broken_reference.verdict)
    assert "ended where the reference broke" in " ".join(broken_reference.verdict)
    assert "could not be compared at all and count nowhere" in broken_reference.to_html()


def test_gates_of_what_broke_fail_and_those_of_the_others_do_not(broken_reference: dd.Study) -> None:
    study, known = broken_reference, faults(broken_reference)

    def fails(gate: str) -> set[str]:
        found = parse_gate(gate, False, gating(study.plan)).exceeded(study.summary, gating(study.plan), known)
        return {line.split(": ")[1] for line in found}

    assert {"breaks greedy"} <= fails("kl_mean>100:greedy")
    assert not {"good greedy", "fp64 greedy", "parts greedy"} & fails("kl_mean>100:greedy")
    assert {"parts greedy", "breaks greedy"} == fails("divergence_rate>0.1:greedy")
    reason = parse_gate("kl_mean>100:breaks", False, gating(study.plan)).exceeded(
        study.summary, gating(study.plan), known
    )[0]
    assert "NaN or infinite logits ended" in reason


def test_no_pair_at_all_gives_empty_rates_and_gates_that_fail() -> None:
    study = run(breaking(chain(), 7, math.inf), candidates=["fp64"], prompts={"a": "w7", "b": "w2 w7"})
    row = study.summary.query("role == 'candidate'").iloc[0]
    assert row[["prompts", "traces", "diverged"]].tolist() == [0, 0, 0]
    assert row[["divergence_rate", "divergence_rate_low", "half_life", "kl_mean"]].isna().all()
    assert study.risk["compounding_note"].iloc[-1] == "nothing was compared"
    for gate in ("divergence_rate>0.1", "divergence_rate<0.1", "half_life<5", "first_divergence_median<5"):
        assert (
            len(parse_gate(gate, False, gating(study.plan)).exceeded(study.summary, gating(study.plan), faults(study)))
            == 1
        ), gate
    assert any(s.endswith("nothing could be compared.") for s in study.verdict)
    assert "nothing diverged" not in " ".join(study.verdict)
    assert "0/0" in summary_table(study)
    assert "count nowhere" in study.to_html()


def test_screening_a_reference_that_broke_at_once() -> None:
    study = run(breaking(chain(), 7), candidates=["fp64"], prompts={"a": "w7"}, mode="screen")
    assert not (study.summary["role"] == "candidate").any()
    assert "1 of these could not be compared at all" in study.verdict[0]
    assert study.verdict[-1] == "Nothing was compared: the reference broke before its first token in every trace."


@pytest.mark.parametrize("size", [1, 3])
def test_positions_before_a_nan_keep_their_figures(tmp_path: Path, size: int) -> None:
    """A masked attention weight of 0 times NaN is NaN: read in one pass, all of the row would be broken."""
    model = tiny_model("llama", 16)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.embed_tokens.weight[13] = math.nan
    study = run(
        model, candidates=[f"broken={saved_as(broken, tmp_path / 'm')}"], prompts={"p": "w3", "q": "w5", "r": "w2 w6"},
        batch_size=size, strategies=["greedy", "top-k:k=3"],
    )  # fmt: skip
    reference = study.traces.query("role == 'reference'").set_index(["strategy", "prompt_id"])["token_ids"]
    met = 0
    for key, rows in study.positions.query("role == 'candidate'").groupby(["strategy", "prompt_id"]):
        text = [int(i) for i in reference[key].split()]
        end = text.index(13) + 1 if 13 in text else len(text)
        met += 0 < end < len(text)
        sound = rows["position"] < end
        assert (rows[sound]["nonfinite"] == 0).all(), key
        assert (rows[sound][["kl", "logit_gap_max"]] == 0).all(axis=None), "the same weights in the same layout"
        assert (rows[~sound]["nonfinite"] == 16).all(), key
        assert rows[~sound]["kl"].isna().all()
    assert met


def test_a_type_that_overflows_is_said_to_and_another_checkpoint_only_to_break(tmp_path: Path) -> None:
    """A logit of 160,000 is beyond fp16's 65,504 and no matter to bf16."""
    table = chain()
    table[7, 8] = 160_000
    model = bigram_model(table, torch.float32)
    other = saved_as(model, tmp_path / "other")
    study = run(
        model, candidates=["fp16", "bf16", f"other={other},precision=fp16"],
        prompts={"meets": "w4", "spared": "w9", "at once": "w7"},
    )  # fmt: skip
    place = "in 2 of 3 prompts, first at position 0 (prompt at once, greedy): NaN or infinite logits ended 2 of its 3 traces"
    assert study.verdict[0].startswith(f"fp16 overflows {place}, which have diverged")
    assert study.verdict[1].startswith(f"other breaks {place}")
    assert not any(s.startswith("bf16 ") for s in study.verdict)
    assert pairs(study, "fp16")["cause"].to_dict()["meets"] == "nonfinite"
