"""Gaps under a penalty, against the two models' own logits through transformers' processors, text by text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from running import run, saved_as
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from decodedrift.decoding.strategies import parse_strategies
from decodedrift.numerics.gumbel import gumbel

PENALTY, SIZE = 1.3, 2
PENALISED = f"repetition_penalty={PENALTY},no_repeat_ngram={SIZE}"
WORDS = {f"p{i}": " ".join(f"w{(7 * i + j * j) % 60 + 1}" for j in range(30 + i)) for i in range(12)}


def study_label(strategy: str) -> str:
    return parse_strategies(strategy)[0].label


def scores(model: torch.nn.Module, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(raw, penalised) logits behind some ids, float64 [vocab], of one uncached reading."""
    given = torch.tensor([ids])
    with torch.inference_mode():
        raw = model(input_ids=given, use_cache=False).logits[:, -1].double()
    changed = RepetitionPenaltyLogitsProcessor(PENALTY)(given, raw.clone())
    return raw[0], NoRepeatNGramLogitsProcessor(SIZE)(given, changed)[0]


STRATEGIES = [f"greedy:{PENALISED}", f"sample:{PENALISED},temperature=0.7"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(study, reference, candidate): a model against another whose weights are a little off, in bf16."""
    other = tiny_model("llama")
    torch.manual_seed(0)
    for parameter in other.parameters():
        parameter.data += 0.05 * parameter.data.abs().mean() * torch.randn_like(parameter)
    folder = saved_as(other, tmp_path_factory.mktemp("other"))
    study = run(candidates=[f"c={folder}:precision=bf16"], strategies=STRATEGIES, prompts=WORDS, max_new_tokens=12)
    return study, tiny_model("llama").eval(), other.to(torch.bfloat16).eval()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_gap_column_is_that_of_both_models_penalised_logits(strategy: str, compared: Any) -> None:
    study, *models = compared
    texts = study.traces[(study.traces["role"] == "reference") & (study.traces["strategy"] == study_label(strategy))]
    rows = study.divergences[(study.divergences["role"] == "candidate") & (study.divergences["swing"].notna())]
    rows = rows[rows["strategy"] == study_label(strategy)]
    assert len(rows) >= 3
    moved = 0
    for row in rows.itertuples():
        t, a, b = int(row.first_divergence), int(row.reference_token_id), int(row.candidate_token_id)
        (text,) = texts.loc[texts["prompt_id"] == row.prompt_id, "token_ids"]
        text = [int(token) for token in text.split()]
        assert text[t] == a
        ids = [*tiny_tokenizer()(WORDS[row.prompt_id])["input_ids"], *text[:t]]
        (raw, ours), (_, theirs) = (scores(model, ids) for model in models)
        heat, noise = 1.0, np.zeros(2)
        if strategy.startswith("sample"):
            heat, noise = 0.7, gumbel(0, row.prompt_id, t, max(a, b) + 1, np.array([a, b]))
        ahead = float(ours[a] - ours[b]) / heat
        at_reference = ahead + noise[0] - noise[1]
        at_candidate = float(theirs[b] - theirs[a]) / heat + noise[1] - noise[0]
        assert row.reference_gap == pytest.approx(at_reference, abs=2e-5)
        assert row.candidate_gap == pytest.approx(at_candidate, abs=0.03), "bf16 of another batch"
        assert row.swing == row.reference_gap + row.candidate_gap
        assert row.logprob_gap == pytest.approx(abs(ahead), abs=2e-5)
        largest = max(abs(float(raw[a])), abs(float(raw[b])))
        spacing = 2.0 ** (math.floor(math.log2(largest)) - 7)
        assert row.gap_ulps == pytest.approx(abs(float(raw[a] - raw[b])) / spacing, abs=2e-5 / spacing)
        moved += abs(float(raw[a] - raw[b]) / heat - ahead) > 1e-3
    assert moved, "the control: raw logits have other gaps"
