"""Positions without sound logits: whose fault they are, and what is left out of which figure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import synthetic

from decodedrift.experiments.compare.gating import faults, gating
from decodedrift.experiments.compare.verdict.nonfinite import sentences
from decodedrift.measure import nonfinite
from decodedrift.measure.heads import note_cut
from decodedrift.measure.metrics.token import LogitPair, token_metrics
from decodedrift.measure.tables import Gathered
from decodedrift.runs.gates import parse_gate


def forced(reference: torch.Tensor, candidate: torch.Tensor) -> pd.DataFrame:
    """Rows of positions/ for a candidate `c`."""
    frame = pd.DataFrame(
        token_metrics(LogitPair(reference, candidate, torch.zeros(len(reference), dtype=torch.long), "fp32"))
    )
    keys = {"model": "m", "reference": "fp32", "candidate": "c", "role": "candidate", "strategy": "greedy", "seed": 0}
    return frame.assign(**keys, prompt_id="p", position=range(len(frame)))


def masked(rows: list[int], value: float = -math.inf) -> torch.Tensor:
    logits = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    logits[rows, 5] = value
    return logits


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_the_side_that_forbids_an_id_is_the_one_that_is_named(side: str) -> None:
    plain, some = masked([]), masked([1, 4])
    frame = forced(some, plain) if side == "reference" else forced(plain, some)
    found = nonfinite.reasons("fp32", "c", [], [("greedy", frame)])
    (((name, _), reason),) = found.items()
    assert name == ("fp32" if side == "reference" else "c")
    assert ("left out of its means" in reason) is (side == "candidate")
    assert np.isinf(frame["kl"]).sum() == (2 if side == "candidate" else 0), "only then is anything left out of the KL"
    marked = nonfinite.sides(frame)
    assert marked["position"].tolist() == [1, 4]
    assert marked[f"{side}_forbids"].all()
    assert not marked[["reference_breaks", "candidate_breaks"]].any(axis=None)
    study = synthetic(prompts=1, tokens=2, candidates=1)
    study.positions = frame
    (said,) = sentences(study)
    assert said.startswith(
        "c gives -inf to ids that fp32 allows, at 2 of 6" if side == "candidate" else "The reference fp32"
    )
    assert ("left out of its means" in said) is (side == "candidate")
    assert nonfinite.infinite(frame) == ({("c", "greedy"): 2} if side == "candidate" else {})


@pytest.mark.parametrize("side", ["reference", "candidate"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_side_that_breaks_in_a_reading_is_the_one_that_is_named(side: str, value: float) -> None:
    plain, some = masked([]), masked([2], value)
    frame = forced(some, plain) if side == "reference" else forced(plain, some)
    ((name, _),) = nonfinite.reasons("fp32", "c", [], [("greedy", frame)])
    assert name == ("fp32" if side == "reference" else "c")
    study = synthetic(prompts=1, tokens=2, candidates=1)
    study.positions = frame
    (said,) = sentences(study)
    assert said.startswith("c breaks: NaN" if side == "candidate" else "The reference fp32 breaks")
    assert "position 2 (prompt p, greedy)" in said
    assert set(nonfinite.faults(study.traces, frame)) == ({("c", "greedy")} if side == "candidate" else set())


def test_a_gate_on_a_kl_that_is_infinite_somewhere_fails() -> None:
    study = synthetic(prompts=4, tokens=6, candidates=2)
    study.positions.loc[study.positions.query("candidate == 'v0'").index[0], ["kl", "nonfinite"]] = [math.inf, 1]
    study.positions["p_top_reference"] = 0.5
    known = faults(study)
    (said,) = parse_gate("kl_mean>5", False, gating(study.plan)).exceeded(study.summary, gating(study.plan), known)
    assert "v0" in said
    assert "infinite at 1 positions" in said
    assert not parse_gate("top1_agreement<0.5", False, gating(study.plan)).exceeded(
        study.summary, gating(study.plan), known
    )


def test_a_token_that_the_candidate_forbids_is_in_no_perplexity_and_no_gate_on_it_passes() -> None:
    plain = masked([])
    forbidding = plain.clone()
    forbidding[[1, 4], 0] = -math.inf  # the token that is read
    frame = forced(plain, forbidding)
    study = synthetic(prompts=1, tokens=2, candidates=1)
    study.positions = frame
    assert sentences(study)[0].endswith(
        "; at 2 it is the reference's own token, which its perplexity there leaves out."
    )
    assert nonfinite.impossible(frame) == {("c", "greedy"): 2}
    fault = faults(study)["c", "greedy"]
    assert [fault.spoils(c) for c in ("kl_mean", "ln_ppl_ratio", "perplexity_candidate", "divergence_rate")] == [
        True, True, True, False,
    ]  # fmt: skip
    study.positions = forced(plain, masked([1, 4]))  # an id that is not read
    assert nonfinite.impossible(study.positions) == {}
    assert not faults(study)["c", "greedy"].spoils("ln_ppl_ratio")


def test_positions_where_the_reference_broke_leave_the_distributions_n() -> None:
    from decodedrift.experiments.compare.folds.summary import distribution

    frame = forced(masked([2], math.nan), masked([]))
    row = distribution(frame.assign(layout="forced")).query("bucket == 'all'").iloc[0]
    assert row["n"] == 5
    assert np.isclose(row["kl_mean"], frame["kl"].mean())


def test_ids_cut_from_a_wider_head_are_said_with_their_probability() -> None:
    wide, narrow = torch.zeros(3, 8), torch.zeros(3, 6)
    wide[1, 7] = math.nan
    facts: dict[str, Any] = {}
    note_cut(facts, wide, narrow)
    assert facts == {"cut_ids": 2, "cut_reference_mass": pytest.approx(0.25), "cut_candidate_mass": 0.0}
    note_cut(facts, narrow, wide)
    assert facts["cut_candidate_mass"] == pytest.approx(0.25)
    gathered = Gathered({})
    gathered.note("1", {"v0": facts}, None, {}, 0)
    gathered.note("2", {"v0": {"cut_ids": 2, "cut_reference_mass": 0.1, "cut_candidate_mass": 0.0}}, None, {}, 0)
    assert gathered.facts["v0"]["cut_reference_mass"] == pytest.approx(0.25), "the largest of all jobs"
    study = synthetic(prompts=2, tokens=4, candidates=2)
    assert "heads" not in " ".join(study.verdict)
    study = synthetic(prompts=2, tokens=4, candidates=2)
    study.environment = {"variants": {"v0": {"cut_ids": 2, "cut_reference_mass": 0.12}}}
    assert (
        "The heads of v0 and fp32 differ by 2 ids, which are cut from every distance; fp32 gives them up to 12 % of the "
        "probability at a position."
    ) in study.verdict
