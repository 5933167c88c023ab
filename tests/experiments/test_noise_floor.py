"""The noise floor's figures against closed forms: a model whose logits depend on the batch by a known constant."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bigram import EOS, bigram_model, ids_of, log_softmax, rolled
from running import run
from transformers import LlamaForCausalLM

import decodedrift as dd

VOCAB, NEW, FELT, EACH = 16, 8, 9, 0.125
HEIGHT = 2.0**16  # of all logits: within 64 float32 spacings of it, half a nat, batches may differ and a path be sound
VARIANT = "fp32:attention=eager"
LAST = {"three": 3, "nine": 9, "five": 5, "twelve": 12}


class Crowded(LlamaForCausalLM):
    """Each row that shares a forward pass adds `EACH` to the logit of one token; all is exact in float32."""

    each = EACH

    @functools.wraps(LlamaForCausalLM.forward)  # its signature is looked at
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        outputs.logits[..., FELT] += self.each * len(outputs.logits)
        return outputs


class Alone(Crowded):
    each = 0.0


def table() -> np.ndarray:
    """1 -> 2 -> ... -> 15 -> 1, but at 7 the felt token is a quarter of a nat behind."""
    logits = np.zeros((VOCAB, VOCAB))
    for i in range(1, VOCAB):
        logits[i, i % (VOCAB - 1) + 1] = 5.0
        if i != FELT - 1:
            logits[i, FELT] = i / 8
    logits[7, FELT] = 5.0 - 0.25
    logits[:, EOS] = -4.0
    return logits


def study(kind: type[Crowded], batch_size: int) -> dd.Study:
    model = bigram_model(table() + HEIGHT, torch.float32)
    model.__class__ = kind
    return run(
        model, candidates=[VARIANT], strategies=["greedy"], noise_floor=True, max_new_tokens=NEW, batch_size=batch_size,
        prompts={name: f"w1 w{last}" for name, last in LAST.items()},
    )  # fmt: skip


def felt(rows: int) -> np.ndarray:
    """The table as batches of so many rows see it."""
    logits = table()
    logits[:, FELT] += EACH * rows
    return logits


def of_floor(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["role"] == "floor"].reset_index(drop=True)


@pytest.mark.parametrize(("size", "other"), [(4, 1), (2, 1), (1, 4)])
def test_the_floor_is_what_the_other_layout_adds(size: int, other: int) -> None:
    result = study(Crowded, size)
    assert not result.failed, result.failures.to_string()
    assert result.environment["generation"]["path"] == "shared"
    walks = {
        rows: {
            p: rolled(lambda before, _, rows=rows: felt(rows)[before].argmax(), last, NEW) for p, last in LAST.items()
        }
        for rows in (size, other)
    }
    traces = result.traces.set_index(["role", "prompt_id"])["token_ids"]
    for role, rows in (("reference", size), ("candidate", size), ("floor", other)):
        assert {p: ids_of(traces[role, p]) for p in LAST} == walks[rows], role

    positions = of_floor(result.positions)
    added = EACH * (other - size)
    before = [b for p in positions["prompt_id"].unique() for b in [LAST[p], *walks[size][p][:-1]]]
    p = np.exp(log_softmax(felt(size)))[before, FELT]
    kl = -added * p + np.log1p(p * np.expm1(added))
    assert len(kl) == len(LAST) * NEW
    np.testing.assert_allclose(positions["kl"], kl, rtol=1e-9)
    np.testing.assert_allclose(positions["logit_gap_max"], abs(added) * (1 - 1 / VOCAB), rtol=1e-12)
    np.testing.assert_allclose(positions["logit_gap_rms"], abs(added) * np.sqrt((1 - 1 / VOCAB) / VOCAB), rtol=1e-12)

    (row,) = of_floor(result.summary).itertuples()
    assert (row.reference, row.candidate) == (VARIANT, f"{VARIANT},batch_size={other}")
    assert row.kl_mean == pytest.approx(kl.mean(), rel=1e-9)
    assert row.kl_max == pytest.approx(kl.max(), rel=1e-9)
    assert row.logit_gap_max == pytest.approx(abs(added) * (1 - 1 / VOCAB), rel=1e-12)
    parted = [name for name in LAST if walks[size][name] != walks[other][name]]
    assert (row.traces, row.diverged) == (len(LAST), len(parted))
    (said,) = (s for s in result.verdict if s.startswith("Noise floor"))
    assert f"leaves its own text in {len(parted)} of 4 traces (mean KL {kl.mean():.2g})" in said

    rows = of_floor(result.divergences).set_index("prompt_id").loc[parted]
    assert len(rows) == (2 if {size, other} == {1, 4} else 0), "the walks that meet the near tie"
    gap = np.diff(np.sort(felt(size)[7])[-2:])[0]
    assert (rows["reference_gap"] == gap).all()
    assert (rows["swing"] == abs(added)).all()
    candidates = result.positions[result.positions["role"] == "candidate"]
    assert (candidates["kl"] == 0).all(), "two kernels in one layout"


def test_without_the_constant_the_floor_is_exactly_nothing() -> None:
    result = study(Alone, 4)
    positions, (row,) = of_floor(result.positions), of_floor(result.summary).itertuples()
    assert len(positions) == len(LAST) * NEW
    assert (positions[["kl", "logit_gap_max", "logit_gap_rms"]] == 0).all(axis=None)
    assert (row.kl_mean, row.kl_max, row.logit_gap_max, row.diverged) == (0, 0, 0, 0)
    assert not [s for s in result.verdict if s.startswith("Noise floor")]
