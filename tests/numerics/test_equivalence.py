"""The score interval of paired shares: against a likelihood maximised by search, Student's at large n, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from decodedrift.numerics import equivalence as eq
from decodedrift.numerics.intervals import wilson

MARGIN = 0.02


def columns(both: int, more: int, fewer: int, neither: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of four kinds, each a cluster of its own."""
    first = np.repeat([1.0, 1.0, 0.0, 0.0], [both, more, fewer, neither])
    second = np.repeat([1.0, 0.0, 1.0, 0.0], [both, more, fewer, neither])
    return first, second, np.arange(len(first))


@pytest.mark.parametrize(
    ("more", "fewer", "difference"),
    [(0.1, 0.05, 0.02), (0.02, 0.03, 0.02), (0.05, 0.02, -0.02), (0.3, 0.2, -0.4), (0.01, 0.01, 0.3), (0.4, 0.4, 0.9)],
)
def test_the_variance_is_that_of_the_largest_likelihood_found_by_search(
    more: float, fewer: float, difference: float
) -> None:
    def loss(share: float) -> float:
        parts = (share + difference, share, 1 - 2 * share - difference)
        if min(parts) <= 0:
            return 1e9
        return -sum(n * math.log(p) for n, p in zip((more, fewer, 1 - more - fewer), parts, strict=True))

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    share = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    found = 2 * share + difference * (1 - difference)
    assert eq._variance(more, fewer, difference) == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_an_end_is_where_the_score_test_turns(confidence: float) -> None:
    first, second, names = columns(60, 9, 4, 27)
    value, low, high = eq.paired_score(first, second, names, confidence)
    assert value == pytest.approx(0.05)
    factor = stats.t.ppf((1 + confidence) / 2, 99)
    for end in (low, high):
        score = (value - end) / math.sqrt(eq._variance(0.09, 0.04, end) / 100)
        assert abs(score) == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize(("more", "fewer"), [(200, 200), (260, 200)])
def test_with_many_changes_it_is_students_interval_and_the_two_t_tests(more: int, fewer: int) -> None:
    """Clusters of one: scipy's paired t-tests against both margins, and its interval of the mean."""
    first, second, names = columns(1600, more, fewer, 2000)
    test = stats.ttest_1samp(first - second, 0.0)
    theirs = test.confidence_interval(0.90)
    value, low, high = eq.paired_score(first, second, names, 0.90)
    np.testing.assert_allclose((value, low, high), (np.mean(first - second), *theirs), atol=2e-4)
    p = max(stats.ttest_rel(first, second + MARGIN, alternative="less").pvalue,
            stats.ttest_rel(first, second - MARGIN, alternative="greater").pvalue)  # fmt: skip
    assert (p < 0.05) == (low > -MARGIN and high < MARGIN)


def test_closed_forms() -> None:
    """Nothing differs: the share of differences that so many clusters do not exclude, z^2 / (n + z^2), either way."""
    first, second, names = columns(30, 0, 0, 20)
    z2 = stats.norm.ppf(0.95) ** 2
    value, low, high = eq.paired_score(first, second, names, 0.90)
    assert (value, high) == (0.0, pytest.approx(z2 / (50 + z2))) and low == pytest.approx(-high)
    twice = [np.repeat(column, 2) for column in (first, second, names)]
    assert eq.paired_score(*twice, 0.90) == (value, low, high), "seeds that say the same are no further prompts"
    value, low, high = eq.paired_score(*columns(0, 50, 0, 0))
    t2 = stats.t.ppf(0.975, 49) ** 2
    assert (value, high) == (1.0, 1.0) and low == pytest.approx((50 - t2) / (50 + t2)), "Wilson's for a sign"
    one = np.array([1.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0]), np.zeros(3)
    assert eq.paired_score(*one)[0] == pytest.approx(1 / 3) and math.isnan(eq.paired_score(*one)[1])
    assert all(map(math.isnan, (*eq.paired_score(*(np.array([]),) * 3), eq.prompts_needed(*(np.array([]),) * 3, 0.02))))


def test_of_few_prompts_an_end_is_what_so_many_do_not_exclude() -> None:
    """Four texts of four prompts each: that share decides until what was seen reaches further, and never comes back."""
    ends = []
    for won in range(7):
        second = np.zeros((4, 4))
        second.T.flat[:won] = 1
        value, low, _ = eq.paired_score(np.zeros(16), second.ravel(), np.repeat(np.arange(4), 4))
        assert value == -won / 16
        ends.append(low)
    z2 = stats.norm.ppf(0.975) ** 2
    assert ends[0] == ends[1] == pytest.approx(-z2 / (4 + z2)) and round(ends[0], 4) == -0.4899
    assert round(ends[2], 4) == -0.5224 and all(np.diff(ends[1:]) < 0)


def test_seeds_that_are_alike_count_as_their_prompt() -> None:
    first, second, names = columns(30, 6, 2, 22)
    alone = eq.paired_score(first, second, names)
    tripled = eq.paired_score(*(np.repeat(column, 3) for column in (first, second, names)))
    np.testing.assert_allclose(tripled, alone, rtol=0.04)
    apart = eq.paired_score(*(np.repeat(column, 3) for column in (first, second)), np.arange(180))
    assert apart[2] - apart[1] < 0.7 * (alone[2] - alone[1]), "the control: as 180 prompts they would"


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 4)), max_size=30))
def test_sides_exchanged_the_interval_is_turned_around(rows: list[tuple[bool, bool, int]]) -> None:
    first, second, names = (np.array([row[n] for row in rows], float) for n in range(3))
    value, low, high = eq.paired_score(first, second, names)
    np.testing.assert_allclose(eq.paired_score(second, first, names), (-value, -high, -low), atol=1e-12)
    if not math.isnan(low):
        assert -1 <= low <= value <= high <= 1
        unseen = wilson(0, len(np.unique(names)))[1]
        assert high >= unseen - np.mean(first < second) - 1e-12 and low <= np.mean(first > second) - unseen + 1e-12


def draw(
    rng: np.random.Generator, prompts: int, seeds: int, drop: float, changing: float, alike: bool
) -> list[np.ndarray]:
    """Rows with this share changing and this difference; `alike`: all seeds of a prompt change the same way."""
    size = (prompts, 1 if alike else seeds)
    kind = rng.choice(3, size, p=[(changing + drop) / 2, (changing - drop) / 2, 1 - changing])
    kind = np.repeat(kind, seeds if alike else 1, axis=1)
    base = rng.random((prompts, seeds)) < 0.6
    first, second = (np.where(kind == n, 1.0, np.where(kind == 1 - n, 0.0, base)) for n in (0, 1))
    return [first.ravel(), second.ravel(), np.repeat(np.arange(prompts), seeds)]


@pytest.mark.parametrize(
    ("prompts", "seeds", "drop", "changing", "alike"),
    [(5, 4, 0.1, 0.3, True), (10, 1, 0.0, 0.2, False), (20, 1, 0.05, 0.1, False), (40, 3, 0.02, 0.06, True),
     (200, 1, 0.02, 0.05, False)],
)  # fmt: skip
def test_the_interval_holds_the_difference(prompts: int, seeds: int, drop: float, changing: float, alike: bool) -> None:
    rng = np.random.default_rng(20250609)
    ends = np.array([eq.paired_score(*draw(rng, prompts, seeds, drop, changing, alike))[1:] for _ in range(500)])
    assert ((ends[:, 0] <= drop) & (drop <= ends[:, 1])).mean() >= 0.93


@pytest.mark.parametrize(("prompts", "changing"), [(20, 0.02), (200, 0.02), (400, 0.05)])
def test_sides_that_differ_by_the_margin_are_rarely_called_equivalent(prompts: int, changing: float) -> None:
    """At the margin itself the error is at most 5 %; Student's interval of the mean difference is wrong more often."""
    rng = np.random.default_rng(1)
    wrong = by_t = 0
    runs = 800
    for _ in range(runs):
        first, second, names = draw(rng, prompts, 1, MARGIN, changing, False)
        _, low, high = eq.paired_score(first, second, names, 0.90)
        wrong += low > -MARGIN and high < MARGIN
        off = first - second
        half = stats.t.ppf(0.95, prompts - 1) * off.std(ddof=1) / math.sqrt(prompts)
        by_t += off.mean() - half > -MARGIN and off.mean() + half < MARGIN
    assert wrong / runs <= 0.055
    assert prompts == 400 or by_t / runs > 0.065, "the control: what a plain t-test would do"


@pytest.mark.parametrize(("more", "rows", "alike"), [(5, 250, 1), (25, 500, 1), (25, 500, 3)])
def test_so_many_prompts_show_it_in_four_runs_of_five(more: int, rows: int, alike: int) -> None:
    """A pilot in which answers change equally often either way, then runs of the size that it asks for."""
    pilot = [np.repeat(column, alike) for column in columns(rows // 2, more, more, rows - rows // 2 - 2 * more)]
    needed = int(eq.prompts_needed(*pilot, MARGIN))
    rng, shown, runs = np.random.default_rng(3), 0, 300
    for _ in range(runs):
        rows_ = draw(rng, needed, alike, 0.0, 2 * more / rows, alike > 1)
        _, low, high = eq.paired_score(*rows_, 0.90)
        shown += low > -MARGIN and high < MARGIN
    assert 0.74 <= shown / runs <= 0.88


def test_where_nothing_changes_the_number_of_prompts_is_a_closed_form() -> None:
    z2 = stats.norm.ppf(0.95) ** 2
    assert eq.prompts_needed(*columns(10, 0, 0, 10), MARGIN) == math.ceil(z2 * 0.98 / 0.02) == 133
    for count, equivalent in ((132, False), (133, True)):
        assert (eq.paired_score(*columns(count, 0, 0, 0), 0.90)[2] < MARGIN) == equivalent
