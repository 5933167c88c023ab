"""Penalties against transformers' own processors, and everywhere that a strategy's scores are made again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from decodedrift.core.records import InputError, Strategy, Trace, VariantError
from decodedrift.decoding import penalties
from decodedrift.decoding.choosers import Single
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


def plainly(row: torch.Tensor, history: Sequence[int], penalty: float, size: int) -> tuple[torch.Tensor, bool]:
    """One row of logits after the penalties, id by id, and whether every id is banned: then none is."""
    row, width = row.clone(), len(row)
    for token in {*history}:
        if token < width and penalty != 1:
            row[token] = row[token] * penalty if row[token] < 0 else row[token] / penalty
    prefix = tuple(history[len(history) + 1 - size :])
    starts = range(len(history) - size + 1) if size else ()
    banned = {history[i + size - 1] for i in starts if tuple(history[i : i + size - 1]) == prefix}
    banned = {token for token in banned if token < width}
    if len(banned) < width:
        row[sorted(banned)] = -math.inf
    return row, len(banned) == width


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=9), st.integers(0, 3)), min_size=1, max_size=4),
    st.sampled_from([0.7, 1.0, 1.3]),
    st.integers(0, 12),
    st.integers(2, 7),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_whole_tensors_have_the_bits_of_a_loop_over_rows_and_ids(
    rows: list[tuple[list[int], int]], penalty: float, size: int, width: int, dtype: torch.dtype
) -> None:
    """Empty histories, ids that the head lacks, n-grams longer than a history, columns before and behind it."""
    logits = torch.randn(len(rows), width, generator=torch.Generator().manual_seed(size), dtype=dtype)
    logits[0, :2] = torch.tensor([-0.0, -math.inf])
    said = penalties.histories([history for history, _ in rows], 3)
    for row, (_, later) in enumerate(rows):
        said[row] = said[row].roll(later)
    asked = strategy("greedy", repetition_penalty=penalty, no_repeat_ngram=size)
    ours, spent = penalties.changed(logits, asked, said, dtype)
    pairs = [plainly(row, history, penalty, size) for row, (history, _) in zip(logits, rows, strict=True)]
    expected, every = torch.stack([row for row, _ in pairs]), [banned for _, banned in pairs]
    assert torch.equal(ours.view(torch.uint8), expected.view(torch.uint8)), "signs of zero too"
    assert (every if spent is None else spent.tolist()) == every
    assert spent is not None or not any(every)


EOS = 7


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 8), min_size=1, max_size=5), st.lists(st.integers(0, 8), max_size=4)),
        min_size=1,
        max_size=3,
    ),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_a_row_has_said_its_prompt_its_prefix_and_what_it_took_until_it_ended(
    rows: list[tuple[list[int], list[int]]], size: int, seed: int
) -> None:
    """Ragged prompts and prefixes, rows that stop at 7 or break, token by token against lists."""
    names = [f"p{i}" for i in range(len(rows))]
    asked = strategy("greedy", repetition_penalty=1.5, no_repeat_ngram=size)
    prefixes = {
        p: Trace(p, asked.label, 0, tuple(ids), (0.0,) * len(ids), (0.0,) * len(ids), "length", 0, math.nan)
        for p, (_, ids) in zip(names, rows, strict=True)
        if ids
    }
    chooser = Single(
        asked, 0, names, eos=[EOS], pad=0, max_new_tokens=9, device=torch.device("cpu"), prefixes=prefixes,
        contexts={p: ids for p, (ids, _) in zip(names, rows, strict=True)},
    )  # fmt: skip
    said, over = [[*context, *ids] for context, ids in rows], [False] * len(rows)
    noise = torch.Generator().manual_seed(seed)
    for step in range(9 - min(len(ids) for _, ids in rows)):
        logits = torch.randn(len(rows), VOCAB, generator=noise)
        logits[:, : EOS + 1] += 3
        logits[(seed + step) % 13 :: 13, 1] = math.nan
        tokens = chooser.step(logits, step).tokens.tolist()
        for row, (_, ids) in enumerate(rows):
            over[row] |= bool(logits[row].isnan().any())
            if not over[row]:
                expected, _ = plainly(logits[row].double(), said[row], 1.5, size)
                assert tokens[row] == int(expected.argmax())
                assert float(chooser.notes.steps["chosen"][-1][row]) == float(expected.max())
                said[row].append(tokens[row])
                over[row] = tokens[row] == EOS or len(ids) + step + 1 >= 9
        assert [[i for i in row if i != penalties.NOTHING] for row in chooser.history().tolist()] == said
    texts = [trace.token_ids for trace in chooser.traces()]
    assert [[*context, *ids] for (context, _), ids in zip(rows, texts, strict=True)] == said


@pytest.mark.parametrize("name", ["greedy", "sample", "top-p", "min-p", "typical", "uncoupled"])
def test_a_row_without_a_token_left_is_told_at_the_next_look(name: str) -> None:
    """The first such row; one that has ended is none, whatever it said."""
    given_ = "sample" if name == "uncoupled" else name
    (asked,) = parse_strategies(f"{given_}:no_repeat_ngram=1", "none" if name == "uncoupled" else "gumbel")
    more: dict[str, Any] = {"pad": 0, "max_new_tokens": 8, "device": torch.device("cpu")}

    def chooser(eos: list[int]) -> Single:
        return Single(asked, 0, ["a", "b"], eos=eos, contexts={"a": [2, 1, 1], "b": [1, 2, 3]}, **more)

    ends, goes_on = chooser([0]), chooser([])
    for step in range(6):
        for each in (ends, goes_on):
            each.step(torch.tensor([[-9.0, 0.0, 0.0, 9.0]]).expand(2, -1), step)
    assert ends.done and [trace.token_ids for trace in ends.traces()][1] == (0,)
    assert all(len(trace.token_ids) <= 2 and trace.finish == "eos" for trace in ends.traces())
    for look in (lambda: goes_on.done, goes_on.traces, goes_on.scores):
        with pytest.raises(VariantError, match=f"{asked.label}: every token is banned after 4; use larger n-grams"):
            look()


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
    ours = penalties.penalised(logits, asked, penalties.histories([one, other]))
    theirs = [
        by_transformers(row[None], history, penalty, size) for row, history in zip(logits, (one, other), strict=True)
    ]
    assert torch.equal(ours, torch.cat(theirs))


def test_without_a_penalty_the_logits_are_those_that_came() -> None:
    logits = torch.randn(2, VOCAB).bfloat16()
    for kind in STRATEGIES:
        asked = strategy(kind)
        assert not asked.penalised
        assert penalties.scored(logits, asked, None) is logits
    assert not Strategy("greedy", "greedy").penalised, "of a run from before there were any"


def test_bf16_logits_are_not_rounded_again() -> None:
    logits = torch.tensor([[3.0, 1.0078125, -1.0078125]]).bfloat16()
    scored = penalties.scored(logits, strategy("greedy", repetition_penalty=1.3), torch.tensor([[1, 2]]))
    assert scored.tolist() == [[3.0, 1.0078125 / 1.3, -1.0078125 * 1.3]]


def test_the_raw_logit_comes_back_from_the_penalised() -> None:
    asked = strategy("greedy", repetition_penalty=1.7)
    for logit in (-3.2, 0.0, 4.1):
        for token in (1, 2):
            after = penalties.with_penalty(logit, token, asked, [1])
            row = torch.zeros(1, 3, dtype=torch.float64)
            row[0, token] = logit
            assert after == float(penalties.penalised(row, asked, torch.tensor([[1]]))[0, token])
            assert penalties.without_penalty(after, token, asked, [1]) == pytest.approx(logit, abs=1e-15)


def test_a_vocabulary_that_is_banned_whole_is_told() -> None:
    asked = strategy("greedy", no_repeat_ngram=1)
    with pytest.raises(
        VariantError, match="greedy:no_repeat_ngram=1: every token is banned after 3; use larger n-grams"
    ):
        penalties.penalised(torch.zeros(2, 3), asked, torch.tensor([[0, 1, penalties.NOTHING], [2, 0, 1]]))
    with pytest.raises(ValueError, match="1 rows and 0 histories"):
        warp(torch.zeros(1, 3), strategy("top-k", no_repeat_ngram=2))


def test_ids_that_a_head_does_not_have_are_passed_over() -> None:
    asked = strategy("greedy", repetition_penalty=2.0, no_repeat_ngram=1)
    assert penalties.penalised(torch.ones(1, 3), asked, torch.tensor([[9, 1]])).tolist() == [[1.0, -math.inf, 1.0]]


def test_an_n_gram_may_be_all_that_was_said() -> None:
    asked = strategy("greedy", no_repeat_ngram=2)
    assert penalties.penalised(torch.ones(1, 3), asked, torch.tensor([[1, 1]])).tolist() == [[1.0, -math.inf, 1.0]]


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
