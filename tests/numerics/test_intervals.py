"""Intervals: closed forms, formulas written out row by row, and drawing by hand."""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from decodedrift.numerics import intervals as iv

PACKAGE = Path(__file__).parents[2] / "decodedrift"


def test_quantiles() -> None:
    assert stats.norm.ppf(0.975) == iv.Z95
    assert iv.t95(2) == pytest.approx(math.tan(0.475 * math.pi)), "one degree of freedom is Cauchy's"
    assert iv.t95(3) == pytest.approx(0.95 / math.sqrt(2 * 0.975 * 0.025)), "two have a closed form too"
    assert iv.t95(1e9) == pytest.approx(iv.Z95) and math.isnan(iv.t95(1))
    assert math.isnan(iv.t95(math.nextafter(2, 1))), "below one degree of freedom the factor grows without bound"


def test_what_weighs_as_fewer_than_two_clusters_has_no_interval() -> None:
    assert iv.equal_clusters(np.full(7, 3)) == 7 and iv.equal_clusters(np.full(2, 0.1)) == 2
    assert iv.equal_clusters(np.array([4, 24])) == pytest.approx(28**2 / (4**2 + 24**2))
    assert math.isnan(iv.equal_clusters(np.zeros(3)))
    for sizes, some in (([256, 5], False), ([256, 250], False), ([256, 256], True), ([256, 256, 5], True)):
        clusters = np.repeat(np.arange(len(sizes)), sizes)
        values = np.random.default_rng(1).uniform(0, 1, len(clusters))
        for interval in (
            iv.mean_interval(values, clusters),
            iv.ratio_interval(values, np.ones(len(values)), clusters),
            iv.token_share(values > 0.5, np.ones(len(values)), clusters),
        ):
            assert np.isfinite(interval[0]) and np.isfinite(interval[1:]).all() == some, sizes


@settings(max_examples=80)
@given(st.lists(st.tuples(st.floats(0, 1e6) | st.just(0.0), st.floats(0, 1e6) | st.floats(0, 1e-6)), max_size=9))
def test_ratios_of_any_weights_have_ends_around_them_or_none(pairs: list[tuple[float, float]]) -> None:
    top, bottom = np.array(pairs).reshape(-1, 2).T
    top = np.where(bottom > 0, top, 0.0)
    value, low, high = iv.ratio_interval(top, bottom, np.arange(len(top)))
    assert math.isnan(low) == math.isnan(high)
    assert math.isnan(low) or 0 < low <= value <= high < math.inf
    with np.errstate(all="ignore"):
        assert math.isnan(low) or float(bottom.sum()) ** 2 >= 2 * float(bottom @ bottom)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64])
def test_what_never_came_is_bounded_exactly(n: int) -> None:
    assert iv.none_of(n) == pytest.approx(stats.binomtest(0, n, alternative="less").proportion_ci(0.95, "exact").high)
    assert (1 - iv.none_of(n)) ** n == pytest.approx(0.05)


def test_a_share_of_tokens_is_bounded_by_tokens_and_not_by_prompts() -> None:
    """One of 1000 tokens out, in 16 prompts: the bound of a share of prompts, 19 %, is none of it."""
    tokens, prompts, out = np.full(16, 62.5), np.arange(16), np.zeros(16)
    out[3] = 1
    value, low, high = iv.token_share(out, tokens, prompts)
    assert (value, low, high) == pytest.approx((0.001, *iv.wilson(1, 1000, iv.t95(16))), rel=1e-3) and high < 0.01
    assert iv.token_share(out * 0, tokens, prompts) == (0, 0, iv.wilson(0, 1000)[1])
    assert iv.token_share(tokens, tokens, prompts) == (1, 1 - iv.wilson(0, 1000)[1], 1)
    together = iv.token_share(out * 40, tokens, prompts)  # 40 in one prompt are not 40 prompts' worth
    error = math.sqrt(16 / 15 * float(np.sum((out * 40 - 0.04 * tokens) ** 2))) / 1000
    n = 0.04 * 0.96 / error**2
    assert together == pytest.approx((0.04, *iv.wilson(0.04 * n, n, iv.t95(16))))
    assert together[2] > 3 * iv.wilson(40, 1000)[1], "the control: as if tokens were independent"
    rows = np.arange(32) // 2  # the same by two traces a prompt
    halves = iv.token_share(np.repeat(out, 2) / 2, np.repeat(tokens, 2) / 2, rows)
    assert halves == pytest.approx((value, low, high))


def test_the_normal_quantile_is_spelt_once() -> None:
    spelt = {
        path.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and 1.95 < node.value < 1.97
    }
    assert spelt == {"intervals.py"}


def test_what_needs_no_t_starts_without_scipy() -> None:
    """Nor do tests of signs need the half second that scipy's module of tests takes to load."""
    code = (
        "import sys, decodedrift.numerics.intervals, decodedrift.experiments.compare.folds.summary as s, "
        "decodedrift.runs.gates; assert 'scipy' not in sys.modules; "
        "import decodedrift.experiments.compare.folds.comparisons; "
        "sys.exit('scipy.stats' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_error_over_clusters_written_out() -> None:
    rng = np.random.default_rng(0)
    clusters = np.repeat(["a", "b", "c", "d", "e"], [1, 2, 3, 4, 5])
    top, bottom = rng.normal(size=15), rng.uniform(1, 2, size=15)
    value, error = iv.ratio_se(top, bottom, clusters)
    assert value == pytest.approx(top.sum() / bottom.sum())
    squares = sum(sum(top[clusters == c] - value * bottom[clusters == c]) ** 2 for c in "abcde")
    assert error == pytest.approx(math.sqrt(5 / 4 * squares) / bottom.sum())
    squares = sum(sum(top[clusters == c] - top.mean()) ** 2 for c in "abcde")
    assert iv.clustered_se(top, clusters) == pytest.approx(math.sqrt(5 / 4 * squares) / 15)
    assert iv.clustered_se(top, np.arange(15)) == pytest.approx(stats.sem(top)), "a row each: nothing is shared"
    assert iv.iid_se(top) == pytest.approx(stats.sem(top)) and math.isnan(iv.iid_se(top[:1]))
    assert iv.clustered_se(np.repeat(top, 3), np.repeat(np.arange(15), 3)) == pytest.approx(stats.sem(top)), "copies"
    assert iv.clustered_se(np.zeros(15), clusters) == 0
    assert iv.ratio_se(top[3:6], bottom[3:6], clusters[3:6])[0] and math.isnan(
        iv.ratio_se(top[3:6], bottom[3:6], clusters[3:6])[1]
    )
    assert np.isnan(iv.ratio_se(top[:0], bottom[:0], clusters[:0])).all()


def test_half_an_interval_is_students_and_no_difference_is_no_certainty() -> None:
    top, bottom = np.array([1, 4, 2]), np.array([10, 20, 10])
    off = np.array([6 / 30, 3 / 20, 5 / 30]) - 7 / 40  # without each of the three
    t = stats.t.ppf(0.975, 40**2 / (10**2 + 20**2 + 10**2) - 1)
    value, half = iv.ratio_half_width(top, bottom, np.arange(3))
    assert (value, half) == pytest.approx((7 / 40, t * math.sqrt(2 / 3 * off @ off)))
    assert iv.ratio_interval(top, bottom, np.arange(3)) == pytest.approx(
        (value, value * math.exp(-half / value), value * math.exp(half / value))
    )
    assert iv.mean_interval(top, np.arange(3)) == pytest.approx(
        (7 / 3, *stats.t.interval(0.95, 2, 7 / 3, stats.sem(top)))
    ), "clusters of one size: Student's own"
    assert math.isnan(iv.ratio_half_width(top, np.array([5, 0, 0]), np.arange(3))[1]), "one alone has a bottom"
    for tokens in (2, 49):  # 49 x (1/49) is not 1 in float64
        assert math.isnan(iv.ratio_half_width(np.ones(3), np.full(3, tokens), np.arange(3))[1])
    assert math.isnan(iv.ratio_half_width(np.zeros(3), bottom, np.arange(3))[1])


def test_copies_of_a_prompt_are_one_prompt() -> None:
    """m copies in each of G: the effect is m G/(G-1), which leaves G - 1 of the m G rows."""
    flags = np.array([1.0, 0, 0, 1, 0, 0, 0, 1, 1, 0])
    for copies in (2, 5):
        rows = np.repeat(flags, copies), np.repeat(np.arange(10), copies)
        assert iv.effective_size(*rows) == pytest.approx(9)
    assert iv.effective_size(flags, np.arange(10)) == 10
    assert iv.effective_size(np.ones(6), np.repeat([0, 1, 2], 2)) == 3, "no spread: the prompts"
    assert iv.effective_size(np.array([1.0, 0]), np.zeros(2)) == 1
    assert iv.effective_size(flags[:0], flags[:0]) == 0


def test_seeds_that_differ_more_than_prompts_are_no_more_than_their_number() -> None:
    """Of two seeds one diverges in 8 of 10 prompts, both in one, none in one: the effect is 4/9 and counts as 1."""
    flags, prompts = np.array([1.0, 0] * 8 + [1, 1, 0, 0]), np.repeat(np.arange(10), 2)
    assert iv.clustered_se(flags, prompts) ** 2 / (0.25 / 20) == pytest.approx(4 / 9)
    assert iv.effective_size(flags, prompts) == 20
    assert iv.share_interval(flags, prompts) == (0.5, *iv.wilson(10, 20, iv.t95(20))), "the rows' own t"
    alike = np.repeat([1.0, 0, 1, 0, 1, 0, 1, 0, 1, 0], 2)
    assert iv.share_interval(alike, prompts) == (0.5, *iv.wilson(4.5, 9, iv.t95(10))), "the prompts'"
    assert math.isnan(iv.design_effect(1.0, 0.0)) and math.isnan(iv.design_effect(math.nan, 1.0))


@pytest.mark.parametrize(("successes", "n"), [(3, 10), (1, 2), (0, 7), (7, 7), (2.5, 6.1)])
def test_wilsons_ends_are_the_shares_that_z_would_just_refuse(successes: float, n: float) -> None:
    p = successes / n
    for end in iv.wilson(successes, n):
        assert (p - end) ** 2 == pytest.approx(iv.Z95**2 * end * (1 - end) / n, abs=1e-15)
    assert (iv.wilson(0, 7)[0], iv.wilson(7, 7)[1]) == (0, 1)
    assert np.isnan(iv.wilson(0, 0)).all() and np.isnan(iv.share_interval(np.empty(0), np.empty(0))).all()


def test_the_bootstrap_draws_clusters() -> None:
    rng = np.random.default_rng(5)
    prompts = np.repeat(np.arange(30), 7)
    effect = rng.normal(size=30)[prompts]
    bottom = rng.uniform(1, 2, size=210)
    top = 0.8 * bottom + 0.1 * effect
    value, low, high = np.ravel(iv.bootstrap_ratio(top, bottom, prompts.astype(str)))
    assert value == pytest.approx(top.sum() / bottom.sum())
    draws = []
    for _ in range(1500):  # the same by hand: whole prompts, with replacement
        rows = np.concatenate([np.flatnonzero(prompts == p) for p in rng.integers(0, 30, size=30)])
        draws.append(top[rows].sum() / bottom[rows].sum())
    spread = np.subtract(*np.percentile(draws, [97.5, 2.5]))
    assert high - low == pytest.approx(spread, rel=0.1)
    alone = np.ravel(iv.bootstrap_ratio(top, bottom, np.arange(210).astype(str)))
    assert alone[2] - alone[1] < 0.6 * spread  # as if every row were a prompt: far too sure
    assert np.ravel(iv.bootstrap_ratio(top, bottom, prompts.astype(str))).tolist() == [value, low, high]
    assert np.isnan(iv.bootstrap_ratio(top[:7], bottom[:7], prompts[:7])[1:]).all()
    assert np.isnan(iv.bootstrap_ratio(top * 0, bottom * 0, prompts)).all()


def test_groups_share_the_draws_and_below_ten_clusters_nothing_is_drawn() -> None:
    rng = np.random.default_rng(6)
    top, bottom = rng.uniform(1, 2, (2, 30))
    clusters, columns = np.tile(np.arange(10), 3), np.repeat([0, 1, 2], 10)
    bottom[20:] = 0
    value, low, high = iv.bootstrap_ratio(top, bottom, clusters, columns, 3)
    for group in (0, 1):
        rows = columns == group
        alone = np.ravel(iv.bootstrap_ratio(top[rows], bottom[rows], clusters[rows]))
        assert alone == pytest.approx([value[group], low[group], high[group]])
    assert np.isnan([value[2], low[2], high[2]]).all(), "a group without a bottom"
    nine = clusters < 9
    value, low, high = iv.bootstrap_ratio(top[nine], bottom[nine], clusters[nine], columns[nine], 3)
    assert np.isfinite(value[:2]).all() and np.isnan([low, high]).all()
    mean, half = iv.ratio_half_width(top[:10], np.ones(10), np.arange(10))
    ends = iv.bootstrap(lambda total: total / 10, top[:10, None])
    np.testing.assert_allclose(np.ravel(ends), [mean - half, mean + half], rtol=0.02)


def test_two_shares_of_the_same_rows() -> None:
    """Newcombe 1998, method 10, written out; and no difference among n prompts is no certainty."""
    first, second = np.array([1.0] * 6 + [0] * 6), np.array([1.0] * 4 + [0] * 7 + [1])
    prompts = np.arange(12)
    value, low, high = iv.paired_difference(first, second, prompts)
    assert value == pytest.approx(1 / 12)
    (p, l1, u1), (q, l2, u2) = iv.share_interval(first, prompts), iv.share_interval(second, prompts)
    phi = (4 * 5 - 2 * 1) / math.sqrt(6 * 6 * 5 * 7)
    assert low == pytest.approx(value - math.sqrt((p - l1) ** 2 + (u2 - q) ** 2 - 2 * phi * (p - l1) * (u2 - q)))
    assert high == pytest.approx(value + math.sqrt((u1 - p) ** 2 + (q - l2) ** 2 - 2 * phi * (u1 - p) * (q - l2)))
    unseen = iv.wilson(0, 12)[1]
    for rows in (np.zeros(12), first, np.ones(12)):
        assert iv.paired_difference(rows, rows, prompts) == pytest.approx((0, -unseen, unseen))
    swapped = iv.paired_difference(second, first, prompts)
    assert swapped == pytest.approx((-value, -high, -low))
    assert np.isnan(iv.paired_difference(first[:0], first[:0], prompts[:0])).all()
