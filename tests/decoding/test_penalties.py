"""Penalties against transformers' own processors, and everywhere that a strategy's scores are made again."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from decodedrift.core.records import InputError, Strategy, VariantError
from decodedrift.decoding import penalties
from decodedrift.decoding.preferences import prefer
from decodedrift.decoding.strategies import STRATEGIES, parse_strategies, strategy
from decodedrift.decoding.warping import warp

VOCAB = 40
HISTORY = st.lists(st.integers(0, 5), min_size=1, max_size=12)


def by_transformers(logits: torch.Tensor, history: list[int], penalty: float, size: int) -> torch.Tensor:
    ids = torch.tensor([history])
    if penalty != 1:
        logits = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    return NoRepeatNGramLogitsProcessor(size)(ids, logits) if size else logits


@given(
    HISTORY,
    HISTORY,
    st.sampled_from([0.7, 1.0, 1.3]),
    st.integers(0, 4),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_equal_to_transformers_bit_for_bit_row_by_row(
    one: list[int], other: list[int], penalty: float, size: int, dtype: torch.dtype
) -> None:
    logits = torch.randn(2, VOCAB, generator=torch.Generator().manual_seed(len(one)), dtype=dtype)
    logits[0, 7] = -math.inf
    asked = strategy("greedy", repetition_penalty=penalty, no_repeat_ngram=size)
    ours = penalties.penalised(logits, asked, [one, other])
    theirs = [
        by_transformers(row[None], history, penalty, size) for row, history in zip(logits, (one, other), strict=True)
    ]
    assert torch.equal(ours, torch.cat(theirs))


def test_without_a_penalty_the_logits_are_those_that_came() -> None:
    logits = torch.randn(2, VOCAB).bfloat16()
    for kind in STRATEGIES:
        asked = strategy(kind)
        assert not asked.penalised
        assert penalties.scored(logits, asked, ()) is logits
    assert not Strategy("greedy", "greedy").penalised, "of a run from before there were any"


def test_bf16_logits_are_not_rounded_again() -> None:
    logits = torch.tensor([[3.0, 1.0078125, -1.0078125]]).bfloat16()
    scored = penalties.scored(logits, strategy("greedy", repetition_penalty=1.3), [[1, 2]])
    assert scored.tolist() == [[3.0, 1.0078125 / 1.3, -1.0078125 * 1.3]]


def test_the_raw_logit_comes_back_from_the_penalised() -> None:
    asked = strategy("greedy", repetition_penalty=1.7)
    for logit in (-3.2, 0.0, 4.1):
        for token in (1, 2):
            after = penalties.with_penalty(logit, token, asked, [1])
            row = torch.zeros(1, 3, dtype=torch.float64)
            row[0, token] = logit
            assert after == float(penalties.penalised(row, asked, [[1]])[0, token])
            assert penalties.without_penalty(after, token, asked, [1]) == pytest.approx(logit, abs=1e-15)


def test_a_vocabulary_that_is_banned_whole_is_told() -> None:
    asked = strategy("greedy", no_repeat_ngram=1)
    with pytest.raises(
        VariantError, match="greedy:no_repeat_ngram=1: every token is banned after 4; use larger n-grams"
    ):
        penalties.penalised(torch.zeros(1, 3), asked, [[0, 1, 2, 0]])
    with pytest.raises(ValueError, match="1 rows and 0 histories"):
        warp(torch.zeros(1, 3), strategy("top-k", no_repeat_ngram=2))


def test_ids_that_a_head_does_not_have_are_passed_over() -> None:
    asked = strategy("greedy", repetition_penalty=2.0, no_repeat_ngram=1)
    assert penalties.penalised(torch.ones(1, 3), asked, [[9, 1]]).tolist() == [[1.0, -math.inf, 1.0]]


def test_every_strategy_takes_them_but_a_search() -> None:
    for name, kind in STRATEGIES.items():
        if kind.chooser is None:
            assert strategy(name, repetition_penalty=1.2, no_repeat_ngram=3).penalised
            continue
        with pytest.raises(
            InputError, match=f"{name}: no_repeat_ngram is not for a search, which compares whole texts"
        ):
            parse_strategies(f"{name}:no_repeat_ngram=3")


@pytest.mark.parametrize(
    ("given_", "said"),
    [("repetition_penalty=0", "must be a number >= 0.01"), ("repetition_penalty=nan", "must be a number"),
     ("no_repeat_ngram=-1", "must be a whole number >= 0"), ("no_repeat_ngram=1.5", "must be a whole number")],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(given_: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_strategies(f"greedy:{given_}")


@pytest.mark.parametrize("label", ["sample", "sample:k=0,p=1.0", "top-p:p=1", "typical:mass=1"])
def test_plain_is_the_models_own_distribution_alone(label: str) -> None:
    (asked,) = parse_strategies(label)
    assert asked.plain
    for more in ("repetition_penalty=1.1", "no_repeat_ngram=3", "temperature=0.9"):
        assert not parse_strategies(f"{label}{',' if ':' in label else ':'}{more}")[0].plain


@pytest.mark.parametrize("label", ["sample:k=5", "sample:p=0.9", "sample:min_p=0.1", "typical:mass=0.9"])
def test_what_leaves_tokens_out_is_not_plain(label: str) -> None:
    assert not parse_strategies(label)[0].plain


@pytest.mark.parametrize("name", [name for name, kind in STRATEGIES.items() if kind.chooser is None])
def test_preferences_along_a_text_count_its_prompt_and_what_came_before(name: str) -> None:
    torch.manual_seed(0)
    logits, text, context = (
        torch.randn(12, VOCAB).bfloat16() + 4 * (torch.arange(VOCAB) < 10),
        [1, 2, 3, 1, 2, 3, 4, 1, 9, 9, 9, 1],
        [7, 1, 7, 1],
    )
    asked = strategy(name, repetition_penalty=1.6, no_repeat_ngram=2)
    ours = prefer(asked, 5, "p", logits, text, context=context)
    assert ours is not None
    for t, token in enumerate(text):
        changed = by_transformers(logits[t : t + 1].double(), [*context, *text[:t]], 1.6, 2)
        if STRATEGIES[name].allowed is None:
            scores = changed[0]
        else:
            allowed = warp(changed, strategy(name))
            noisy = allowed.scores(asked, [(5, "p", t)], VOCAB)
            scores = torch.full((VOCAB,), -math.inf, dtype=torch.float64).scatter(0, allowed.ids[0], noisy[0])
        assert ours.takes[t] == int(scores.argmax())
        assert float(ours.text_score[t]) == pytest.approx(float(scores[token]), abs=1e-12)
        assert ours.scores[t].tolist() == pytest.approx(scores.topk(2).values.tolist(), abs=1e-12)
    plain = prefer(strategy(name), 5, "p", logits, text)
    assert plain is not None
    assert not torch.equal(plain.takes, ours.takes)
