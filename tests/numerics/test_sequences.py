"""Where two sequences part and what they share afterwards: literal tables, and laws that hold for any two lists."""

from __future__ import annotations

import itertools
import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decodedrift.measure.metrics import TRACE_METRICS, TracePair
from decodedrift.numerics import sequences
from decodedrift.numerics.chrf import chrf

IDS = st.lists(st.integers(0, 3), max_size=12)


def trace_metrics(pair: TracePair):
    return {name: metric(pair) for name, metric in TRACE_METRICS.items()}


TABLE = [
    # reference, candidate, first_divergence, compared, prefix_fraction, agreement_after, edit_similarity
    ([], [], None, 0, 1.0, None, None),
    ([1, 2, 3], [1, 2, 3], None, 3, 1.0, None, None),
    ([], [1], 0, 1, 0.0, None, None),
    ([], [1, 2], 0, 1, 0.0, None, 0.0),
    ([1, 2], [1, 2, 3], 2, 3, 2 / 3, None, None),
    ([1, 2], [1, 2, 3, 4], 2, 3, 0.5, None, 0.0),
    ([1, 2, 3], [9, 2, 3], 0, 1, 0.0, 1.0, 1.0),
    ([1, 2, 3], [1, 2, 9], 2, 3, 2 / 3, None, None),
    ([1, 2, 3, 4], [1, 9, 3, 5], 1, 2, 0.25, 0.5, 0.5),
    ([1, 2, 3, 4, 5], [1, 9, 4, 5], 1, 2, 0.2, 0.0, 2 / 3),
    ([1, 0], [1, 5, 6, 7], 1, 2, 0.25, None, 0.0),  # the reference's EOS against a token
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}")
@pytest.mark.parametrize("kind", [list, tuple])
def test_literal_table(row, kind):
    reference, candidate = kind(row[0]), kind(row[1])
    assert sequences.first_divergence(reference, candidate) == row[2]
    assert sequences.compared_length(reference, candidate) == row[3]
    assert sequences.prefix_fraction(reference, candidate) == pytest.approx(row[4])
    assert sequences.agreement_after(reference, candidate) == row[5]
    assert sequences.edit_similarity(reference, candidate) == (None if row[6] is None else pytest.approx(row[6]))


@given(IDS, IDS)
def test_first_divergence_is_the_common_prefix(a, b):
    t = sequences.first_divergence(a, b)
    assert t == (None if a == b else len(os.path.commonprefix([a, b])))


@given(IDS, IDS)
def test_laws(a, b):
    assert sequences.first_divergence(a, b) == sequences.first_divergence(b, a)
    t = sequences.first_divergence(a, b)
    assert sequences.compared_length(a, b) == (len(a) if t is None else t + 1)
    assert 0.0 <= sequences.prefix_fraction(a, b) <= 1.0
    assert (sequences.prefix_fraction(a, b) == 1.0) == (a == b)
    for share in (sequences.agreement_after, sequences.edit_similarity):
        value = share(a, b)
        assert value == share(b, a)
        assert value is None or 0.0 <= value <= 1.0


@given(st.lists(st.integers(0, 2), max_size=10), st.lists(st.integers(0, 2), max_size=10))
def test_edit_similarity_against_the_textbook_recursion(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[:], i
        for j, y in enumerate(b, 1):
            row[j] = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (x != y))
    expected = None if not (a or b) else pytest.approx(1 - row[-1] / max(len(a), len(b)))
    assert sequences.edit_similarity([7, *a], [8, *b]) == expected


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        ("", "", None),
        ("abc", "abc", None),
        ("abc", "abd", 2),
        ("abc", "abcd", 3),
        ("", "x", 0),
        ("\U0001f600a", "\U0001f600b", 1),
    ],
)
def test_first_divergence_char_counts_code_points(reference, candidate, expected):
    assert sequences.first_divergence_char(reference, candidate) == expected


PASSAGE = list(range(100, 120))


def test_reconverged_with_its_lag():
    reference, candidate = [1, 2, 3, *PASSAGE, 4], [1, 9, 8, 7, 6, *PASSAGE]
    assert sequences.reconverged(reference, candidate) is True
    assert sequences.reconvergence_lag(reference, candidate) == 2
    assert sequences.reconvergence_lag(candidate, reference) == -2


def test_a_lag_of_zero_is_a_reconvergence():
    assert sequences.reconvergence_lag([1, *PASSAGE], [2, *PASSAGE]) == 0
    assert sequences.reconverged([1, *PASSAGE], [2, *PASSAGE]) is True


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        pytest.param([1, *PASSAGE], [1, *PASSAGE], None, id="identical"),
        pytest.param([1, *PASSAGE], [2, *PASSAGE[:15]], None, id="remainder under 16"),
        pytest.param([1, *PASSAGE], [2, *PASSAGE[:16]], True, id="16 shared"),
        pytest.param([1, *PASSAGE], [2, *PASSAGE[:15], 5], False, id="15 shared"),
        pytest.param([1, *[5, 6] * 20], [2, 3, *[5, 6] * 20], False, id="a loop of two"),
        pytest.param([1, *range(50)], [2, *range(100, 150)], False, id="nothing shared"),
    ],
)
def test_reconverged(reference, candidate, expected):
    assert sequences.reconverged(reference, candidate) is expected
    assert sequences.reconverged(candidate, reference) is expected
    assert (sequences.reconvergence_lag(reference, candidate) is not None) is bool(expected)


def test_of_equally_long_passages_any_will_do():
    loop, varied = [5, 6] * 8, list(range(10, 26))
    assert sequences.reconverged([1, *loop, 90, *varied], [2, *loop, 91, *varied]) is True


@given(IDS, IDS)
def test_longest_common_substring_against_brute_force(a, b):
    windows = {tuple(a[i:j]) for i in range(len(a)) for j in range(i + 1, len(a) + 1)}
    shared = [w for w in windows if any(tuple(b[k : k + len(w)]) == w for k in range(len(b)))]
    found = list(sequences._longest_common_substrings(a, b))
    assert {tuple(a[s : s + n]) for s, _, n in found} == {w for w in shared if len(w) == max(map(len, shared))}
    assert all(a[s : s + n] == b[o : o + n] for s, o, n in found)


def test_long_traces_are_cheap():
    rng = random.Random(0)
    a, b = ([rng.randrange(50_000) for _ in range(4000)] for _ in range(2))
    assert sequences.reconvergence_lag([1, *a, *PASSAGE], [2, *b, *PASSAGE, 3]) == 0


# --- the registry ----------------------------------------------------------------------------------------------------


def test_trace_metrics_of_identical_traces():
    values = trace_metrics(TracePair((1, 2, 0), (1, 2, 0), "ab", "ab"))
    assert values == {
        "diverged": 0, "first_divergence": None, "first_divergence_char": None, "compared": 3, "prefix_fraction": 1.0,
        "agreement_after": None, "edit_similarity": None, "chrf_after": None,
        "reconverged": None, "reconvergence_lag": None,
    }  # fmt: skip


def test_trace_metrics_of_diverged_traces():
    values = trace_metrics(TracePair((1, 2, 3, 4), (1, 9, 3, 5), "a tall", "a t"))
    assert values == {
        "diverged": 1, "first_divergence": 1, "first_divergence_char": 3, "compared": 2, "prefix_fraction": 0.25,
        "agreement_after": 0.5, "edit_similarity": 0.5, "chrf_after": None,
        "reconverged": None, "reconvergence_lag": None,
    }  # fmt: skip


def test_chrf_is_of_the_remainders_and_the_candidate_is_the_hypothesis():
    """Character 1-grams only, by hand: 3 of 4 in the candidate, 3 of 6 in the reference; beta = 2."""
    values = trace_metrics(TracePair((1, 2, 3), (1, 9, 3), "x", "y", "abcdef", "abcz"))
    orders = [(3, 4, 6), (2, 3, 5), (1, 2, 4), (0, 1, 3)]
    precision = np.mean([m / c for m, c, _ in orders])
    recall = np.mean([m / r for m, _, r in orders])
    assert values["chrf_after"] == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall))
    assert trace_metrics(TracePair((1, 2, 3), (1, 9, 3), "x", "y", "same", "same"))["chrf_after"] == 100
    assert trace_metrics(TracePair((1, 2), (1, 9), "x", "y", "", "more"))["chrf_after"] is None


@pytest.mark.parametrize(
    ("reference", "candidate", "by_sacrebleu"),
    [
        ("a tall tree", "a small tree", 66.58324830789084),
        ("The dog ran home.", "The dog ran home.", 100.0),
        ("abcdef", "abcz", 31.249999999999993),
        ("ab", "ba", 50.0),
        ("xy", "zz", 0.0),
        ("a", "a b c d e f g h", 41.66666666666667),
        ("der Bär aß 3 Äpfel 🙂", "der Bar aß drei Äpfel 🙂🙂", 43.01024001536876),
        ("no\u2003space\tat\u00a0all", "nospaceatall", 100.0),
        (
            "She saw a big, red ball in the park and ran to it.",
            "She saw a red balloon in the park. She ran to it and",
            58.01339588378733,
        ),
    ],
)
def test_chrf_is_sacrebleus_to_the_last_bit(reference, candidate, by_sacrebleu):
    assert chrf(reference, candidate) == by_sacrebleu


def test_ids_decide_and_never_the_text():
    values = trace_metrics(TracePair((7,), (8,), "\ufffd", "\ufffd"))
    assert (values["diverged"], values["first_divergence"], values["first_divergence_char"]) == (1, 0, None)


@pytest.mark.parametrize(
    ("a", "b"), [((1, 2, 2, 3), (2, 1, 2, 2)), ((5,), (5,)), ((5,), (6,)), ((), ()), ((1, 1, 4), (1, 1, 1))]
)
def test_matches_of_shuffled_texts_are_the_mean_over_every_order(a, b):
    orders = list(itertools.permutations(b))
    counted = np.mean([sum(x == y for x, y in zip(a, order)) for order in orders])
    assert sequences.shuffled_matches(a, b) == pytest.approx(counted, rel=1e-12)


@given(IDS, IDS)
def test_every_trace_metric_answers_plainly(a, b):
    pair = TracePair(tuple(a), tuple(b), "x", "y")
    for name, function in TRACE_METRICS.items():
        value = function(pair)
        assert value is None or type(value) in (int, float), name
    assert pair == TracePair(tuple(a), tuple(b), "x", "y")
