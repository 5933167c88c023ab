"""Survival: against hand tables with censoring, closed forms, independent fits, and simulated truth."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from decodedrift.numerics import survival as sv
from decodedrift.numerics import weibull
from decodedrift.numerics.incidence import incidence
from decodedrift.numerics.intervals import sign_test
from decodedrift.numerics.roots import root


def seen(tokens: Any, event: Any, clusters: Any = None) -> sv.CensoredTimes:
    return sv.CensoredTimes.of(
        np.array(tokens), np.array(event), np.arange(len(tokens)) if clusters is None else clusters
    )


# Ten traces: divergences at positions 2, 2, 4, 7, 7, censored after 3, 5, 8, 8, 8 tokens. By hand:
#   t  at risk  events  S
#   2  10       2       8/10
#   4  7        1       8/10 * 6/7      (one left at token 3, censored)
#   7  5        2       8/10 * 6/7 * 3/5 (one left at token 5; those censored after token 8 were at risk at 7)
HAND = seen([3, 3, 5, 8, 8, 3, 5, 8, 8, 8], [1, 1, 1, 1, 1, 0, 0, 0, 0, 0])


def test_kaplan_meier_by_hand_with_censoring_and_ties() -> None:
    curve = sv.kaplan_meier(HAND)
    assert curve.at_risk.tolist() == [10, 10, 10, 7, 7, 5, 5, 5]
    assert curve.events.tolist() == [0, 0, 2, 0, 1, 0, 0, 2]
    expected = [1, 1, 0.8, 0.8, 0.8 * 6 / 7, 0.8 * 6 / 7, 0.8 * 6 / 7, 0.8 * 6 / 7 * 3 / 5]
    np.testing.assert_allclose(curve.survival, expected, rtol=1e-12)
    np.testing.assert_allclose(curve.hazard, curve.events / curve.at_risk)
    assert curve.restricted_mean(8) == pytest.approx(sum(expected))
    assert curve.restricted_mean(10) == pytest.approx(sum(expected) + 2 * expected[-1])
    # Greenwood on the log-log scale, from its own formula
    greenwood = 2 / (10 * 8) + 1 / (7 * 6) + 2 / (5 * 3)
    half = 2.2621571627409915 * math.sqrt(greenwood) / abs(math.log(expected[-1]))  # t of 9 degrees of freedom
    assert curve.low[7] == pytest.approx(expected[-1] ** math.exp(half))
    assert curve.high[7] == pytest.approx(expected[-1] ** math.exp(-half))


def test_a_censored_trace_was_at_risk_at_its_last_token_and_is_not_a_divergence() -> None:
    """The control: taking the censored ends for divergences, or leaving them out, moves the curve."""
    right = sv.kaplan_meier(HAND).survival
    as_events = sv.kaplan_meier(seen(HAND.tokens, np.ones(10))).survival
    without = sv.kaplan_meier(seen(HAND.tokens[HAND.event], np.ones(5))).survival
    assert as_events[-1] == without[-1] == 0 < right[-1]


def test_where_the_band_has_no_formula_it_is_what_the_traces_allow() -> None:
    curve = sv.kaplan_meier(seen([10] * 20, [0] * 20))
    np.testing.assert_allclose(curve.low, 0.025 ** (1 / 20))
    assert set(curve.high) == {1.0} and set(curve.survival) == {1.0}
    assert stats.binom.pmf(20, 20, curve.low[0]) == pytest.approx(0.025), "Clopper-Pearson"
    gone = sv.kaplan_meier(seen([1] * 20, [1] * 20))
    assert (gone.survival[0], gone.low[0]) == (0, 0)
    assert gone.high[0] == pytest.approx(1 - 0.025 ** (1 / 20))
    later = sv.kaplan_meier(seen([2, 3, 3], [1, 1, 1]))
    assert later.survival.tolist() == [1.0, pytest.approx(2 / 3), 0.0]
    assert (np.diff(later.high) <= 0).all()


def test_one_prompt_with_several_seeds_has_a_curve_and_no_interval() -> None:
    one = seen([4, 6, 6], [1, 1, 0], np.zeros(3))
    curve = sv.kaplan_meier(one)
    assert curve.survival[-1] == pytest.approx(1 / 3) and np.isnan(curve.low).all() and np.isnan(curve.high).all()
    rate, low, high = sv.hazard_rate(one)
    assert rate == 2 / 16 and math.isnan(low) and math.isnan(high)
    assert weibull.fit(one).why == "one prompt with several seeds: no interval"


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.integers(0, 4)), min_size=1, max_size=25))
@settings(max_examples=60)
def test_any_traces_give_numbers_or_a_reason(rows: list[tuple[int, bool, int]]) -> None:
    found = seen(*map(list, zip(*rows, strict=True)))
    curve, shape = sv.kaplan_meier(found), weibull.fit(found)
    assert ((curve.survival >= 0) & (curve.survival <= 1)).all() and (np.diff(curve.survival) <= 1e-12).all()
    if found.clusters == len(found.tokens) or found.clusters >= 10:
        assert (curve.low <= curve.survival + 1e-9).all() and (curve.survival <= curve.high + 1e-9).all()
    assert math.isnan(shape.value) is bool(shape.why)
    if not shape.why:
        assert 0 <= shape.low <= shape.value <= shape.high and 0 <= shape.p_value <= 1
        assert (shape.low > 1 or shape.high < 1) == (shape.p_value < 0.05)


@pytest.mark.parametrize(
    ("tokens", "event", "why"),
    [
        ([9] * 5, [0] * 5, "nothing diverged"),
        ([1] * 5, [1] * 5, "all diverged at position 0"),
        ([6] * 5, [1] * 5, "all diverged at position 5"),
        ([1, 1, 9, 9], [1, 1, 0, 0], "the risk lies in the first token alone (k runs to 0)"),
        ([9, 9, 9], [1, 0, 0], "the risk lies at one length alone (k has no bound)"),
        ([0, 0], [0, 0], "nothing was compared"),
    ],
)
def test_a_shape_that_cannot_be_told_says_why(tokens: list[int], event: list[int], why: str) -> None:
    shape = weibull.fit(seen(tokens, event))
    assert shape.why == why and math.isnan(shape.value) and math.isnan(shape.low)


def test_the_shape_is_the_maximum_of_the_stated_likelihood() -> None:
    """Against scipy's fit of interval-censored data, and the likelihood written out from its definition."""
    traces = simulate().simulated(np.random.default_rng(3), 1.4, 120)
    best = library_fit(traces)
    shape = weibull.fit(traces)
    assert (shape.value, shape.scale) == pytest.approx(tuple(np.exp(best)), rel=1e-5)
    top = terms(best, traces).sum()
    for end in (shape.low, shape.high):
        at = max(terms(np.array([math.log(end), u]), traces).sum() for u in np.linspace(4, 6, 4001))
        assert 2 * (top - at) == pytest.approx(stats.chi2.ppf(0.95, 1), abs=1e-3)
    assert shape.p_value == pytest.approx(stats.chi2.sf(2 * (top - geometric(traces)), 1), rel=1e-4)


def test_with_seeds_the_likelihood_ratio_is_divided_by_the_design_effect_of_the_shape() -> None:
    """The clustered over the plain variance of ln k at the maximum, from numerical derivatives of every trace's term."""
    traces = simulate().simulated(np.random.default_rng(8), 1.3, 150, prompts=30, seeds=4, alike=0.7)
    best = library_fit(traces)

    def scores(x: np.ndarray) -> np.ndarray:
        return np.stack([terms(x + h, traces) - terms(x - h, traces) for h in np.eye(2) * 1e-4], axis=1) / 2e-4

    hessian = np.stack([(scores(best + h) - scores(best - h)).sum(0) for h in np.eye(2) * 1e-3]) / 2e-3
    plain = np.linalg.inv(-hessian)
    by_prompt = np.stack([scores(best)[traces.cluster == c].sum(0) for c in range(30)])
    effect = (plain @ (30 / 29 * by_prompt.T @ by_prompt) @ plain)[0, 0] / plain[0, 0]
    assert effect > 1.3, "or the division would not show"
    ratio = 2 * (terms(best, traces).sum() - geometric(traces))
    assert weibull.fit(traces).p_value == pytest.approx(stats.f.sf(ratio / effect, 1, 29), rel=1e-3)


def library_fit(traces: sv.CensoredTimes) -> np.ndarray:
    """(ln k, ln scale) by scipy: an event at token t is known to lie between t - 1 and t."""
    tokens, event = traces.tokens.astype(float), traces.event
    ends = np.stack([tokens - 1, tokens], axis=1)
    shape, _, scale = stats.weibull_min.fit(stats.CensoredData(right=tokens[~event], interval=ends[event]), floc=0)
    return np.log([shape, scale])


def terms(x: np.ndarray, traces: sv.CensoredTimes) -> np.ndarray:
    """Each trace's log-likelihood at (ln k, ln scale), from the definition of S."""
    k, scale = np.exp(x)
    before, after = (np.exp(-(((traces.tokens - back) / scale) ** k)) for back in (1, 0))
    return np.asarray(np.where(traces.event, np.log(before - after), np.log(after)))


def geometric(traces: sv.CensoredTimes) -> float:
    """The best log-likelihood of a constant risk, which is k = 1."""
    events, stays = traces.event.sum(), traces.exposure - traces.event.sum()
    return float(events * np.log(events / traces.exposure) + stays * np.log(stays / traces.exposure))


def test_the_hazards_interval_is_students_on_the_log_scale() -> None:
    """Four prompts, one with two seeds: 4 events in 100 tokens."""
    traces = seen([10, 20, 30, 25, 15], [1, 1, 0, 1, 1], np.array([0, 1, 2, 3, 3]))
    off = np.array([3 / 90 - 0.04, 3 / 80 - 0.04, 4 / 70 - 0.04, 2 / 60 - 0.04])  # without each prompt
    equal = 100**2 / (10**2 + 20**2 + 30**2 + 40**2)  # prompts that would weigh equally, 3.33
    half = stats.t.ppf(0.975, equal - 1) * math.sqrt(3 / 4 * off @ off) / 0.04
    assert sv.hazard_rate(traces) == pytest.approx((0.04, 0.04 * math.exp(-half), 0.04 * math.exp(half)))


def test_a_hazard_of_prompts_that_do_not_differ_has_no_interval() -> None:
    for tokens in (2, 49):  # 49 x (1/49) is not 1 in float64
        assert sv.hazard_rate(seen([tokens] * 3, [1] * 3)) == pytest.approx(
            (1 / tokens, math.nan, math.nan), nan_ok=True
        )


def simulate() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "interval_coverage.py"
    spec = importlib.util.spec_from_file_location("interval_coverage", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("shape", "more"),
    [(1.0, {}), (1.5, {"prompts": 50}), (0.7, {"prompts": 30, "seeds": 3, "alike": 0.6})],
    ids=["constant", "growing", "seeds"],
)
def test_intervals_of_the_shape_hold_the_truth_as_often_as_they_say(shape: float, more: dict[str, Any]) -> None:
    """A fast version of benchmarks/interval_coverage.py; 95 % of 100 is 95, and 87 or fewer has a chance of 0.2 %."""
    bench = simulate()
    fits = [weibull.fit(bench.simulated(np.random.default_rng([5, n]), shape, 150, **more)) for n in range(100)]
    held = sum(f.low <= shape <= f.high for f in fits)
    assert 88 <= held <= 99


def test_seeds_do_not_pass_for_prompts() -> None:
    """Four copies of each trace say nothing new: every interval must be as wide as before, or nearly."""
    once = simulate().simulated(np.random.default_rng(1), 1.0, 150, prompts=60)
    copies = sv.CensoredTimes.of(np.repeat(once.tokens, 4), np.repeat(once.event, 4), np.repeat(once.cluster, 4))
    one, four = weibull.fit(once), weibull.fit(copies)
    assert four.value == pytest.approx(one.value)
    assert four.high - four.low > 0.8 * (one.high - one.low)
    naive = weibull.fit(sv.CensoredTimes.of(copies.tokens, copies.event, np.arange(240)))
    assert naive.high - naive.low < 0.6 * (one.high - one.low), "the control: as if they were prompts"
    (_, low1, high1), (_, low4, high4) = sv.hazard_rate(once), sv.hazard_rate(copies)
    assert (low4, high4) == pytest.approx((low1, high1))
    band = [sv.kaplan_meier(s) for s in (once, copies)]
    assert band[1].high[100] - band[1].low[100] > 0.85 * (band[0].high[100] - band[0].low[100])


def test_the_ratio_of_two_risks_by_hand() -> None:
    """Three prompts: first 3 events in 60 tokens, then 2 in 20. Off by (event - risk x tokens) / events of the kind."""
    event, tokens = np.array([1, 1, 1, 1, 1, 0.0]), np.array([10, 20, 30, 5, 5, 10.0])
    second, prompts = np.arange(6) > 2, np.array([0, 1, 2, 0, 1, 2])
    off = [(1 - 0.1 * own) / 2 - (1 - 0.05 * before) / 3 for own, before in ((5, 10), (5, 20))]
    off.append((0 - 0.1 * 10) / 2 - (1 - 0.05 * 30) / 3)
    t = stats.t.ppf(0.975, 60**2 / (10**2 + 20**2 + 30**2) - 1)  # of the first: the second weighs as 2.67 prompts
    half = t * math.sqrt(3 / 2 * float(np.square(off).sum()))
    found = sv.hazard_ratio(event, tokens, second, prompts)
    assert found == pytest.approx((2.0, 2 * math.exp(-half), 2 * math.exp(half)))
    none = sv.hazard_ratio(event * ~second, tokens, second, prompts)
    least = sv.hazard_rate(seen([10, 20, 30], [1, 1, 1]))[1]
    assert none == pytest.approx((0.0, 0.0, 3 / 20 / least))
    assert np.isnan(sv.hazard_ratio(event[:3], tokens[:3], second[:3], prompts[:3])).all()
    assert np.isnan(sv.hazard_ratio(event, tokens, second, np.zeros(6))[1:]).all(), "one prompt"


def second_splits(rng: np.random.Generator, factor: float) -> tuple[np.ndarray, ...]:
    """60 prompts of 200 tokens, a first split at 1 % a token, then a second at `factor` times that within what is left."""
    first = np.minimum(rng.geometric(0.01, 60), 201)
    left = 200 - first
    went_on = left > 0
    again = rng.geometric(0.01 * factor, 60)
    event = np.concatenate([first <= 200, (again <= left)[went_on]]).astype(float)
    tokens = np.concatenate([np.minimum(first, 200), np.minimum(again, left)[went_on]]).astype(float)
    second = np.arange(len(event)) >= 60
    return event, tokens, second, np.concatenate([np.arange(60), np.arange(60)[went_on]])


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_the_ratio_of_two_risks_holds_the_truth(factor: float) -> None:
    found = [sv.hazard_ratio(*second_splits(np.random.default_rng([3, n]), factor)) for n in range(100)]
    assert 88 <= sum(low <= factor <= high for _, low, high in found) <= 99
    told = np.mean([low > 1 for _, low, _ in found])
    assert told > 0.9 if factor > 1 else told < 0.1, "three times the risk is found, none is not invented"


def test_holms_p_by_hand() -> None:
    adjusted = sv.holm(np.array([0.01, math.nan, 0.04, 0.03]))
    np.testing.assert_allclose(adjusted, [0.03, math.nan, 0.06, 0.06])
    assert sv.holm(np.array([0.4, 0.9])).tolist() == [0.8, 0.9]
    assert len(sv.holm(np.empty(0))) == 0


def test_nothing_diverged_is_certified_by_what_would_have_shown_itself() -> None:
    found = seen([50, 100, 150], [0, 0, 0])
    assert sv.certified(found) == (3 / 300, pytest.approx(1 - 0.05 ** (1 / 3)))
    for n in (1, 2, 4, 64):
        exact = stats.binomtest(0, n, alternative="less").proportion_ci(0.95, "exact").high
        assert sv.certified(seen([8] * n, [0] * n))[1] == pytest.approx(exact)
    assert sv.hazard_rate(found) == (0.0, 0.0, 3 / 300)
    assert (1 - 3 / 300) ** 300 < 0.05, "a greater risk would have shown itself in 95 % of runs"
    assert np.isnan(sv.certified(seen([5, 6], [1, 0]))).all()


@pytest.mark.parametrize("tokens", [(4, 24), (3, 64), (3, 5, 64), (2, 2, 2, 64)])
def test_prompts_of_which_one_has_almost_all_tokens_have_no_interval(tokens: tuple[int, ...]) -> None:
    """The factor of Student has no bound towards none of its degrees of freedom; exp of it was no float64."""
    rate, low, high = sv.hazard_rate(seen(tokens, [1] * (len(tokens) - 1) + [0]))
    assert rate == (len(tokens) - 1) / sum(tokens) and math.isnan(low) and math.isnan(high)
    assert np.isfinite(sv.hazard_rate(seen([4, 24, 24, 24], [1, 0, 1, 1]))).all(), "3.5 of them have one"


SKEWED = st.lists(
    st.tuples(st.integers(1, 10) | st.integers(1, 10**5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=12
)


@pytest.mark.parametrize("tokens", [(1181, 4, 6, 3), (2, 3, 4, 3772), (9, 3, 2, 15, 2, 2, 15600, 7)])
def test_a_text_a_thousand_times_as_long_as_others_has_a_shape_or_a_reason(tokens: tuple[int, ...]) -> None:
    """e to 50 ln 1000 is no float64: the fit met infinity less infinity."""
    shape = weibull.fit(seen(tokens, [1, 0, *[1] * (len(tokens) - 2)]))
    assert shape.why or shape.low < shape.value < shape.high


@settings(max_examples=25)
@given(SKEWED)
def test_no_exposure_is_too_skewed_for_a_figure(rows: list[tuple[int, bool, int]]) -> None:
    """Nothing overflows; an interval holds its value and is finite, or it is empty."""
    tokens, event, prompt = map(np.array, zip(*rows, strict=True))
    traces = seen(np.minimum(tokens, 300), event, prompt)
    shape = weibull.fit(seen(tokens, event, prompt))
    figures = {
        "hazard": sv.hazard_rate(seen(tokens, event, prompt)),
        "ratio": sv.hazard_ratio(event.astype(float), tokens.astype(float), prompt > 1, np.arange(len(rows)) % 3),
        "half-life": incidence(traces).half_life(),
        "shape": (shape.value, shape.low, shape.high),
    }
    curve = sv.kaplan_meier(traces)
    assert len(curve.low) == traces.horizon
    for name, (value, low, high) in figures.items():
        assert math.isnan(low) or low <= value <= high, (name, value, low, high)
    by_prompt = np.bincount(prompt, tokens)
    if event.any() and by_prompt.sum() ** 2 < 2 * by_prompt @ by_prompt:
        assert np.isnan(figures["hazard"][1:]).all()
    assert not np.isinf(figures["hazard"]).any() and not np.isinf(figures["ratio"]).any()


def test_paired_candidates_by_the_sign_of_who_left_first() -> None:
    #      a leaves first x3, both at once, b leaves first, neither leaves, b leaves where a was censored before
    a = seen([2, 3, 4, 5, 9, 9, 4], [1, 1, 1, 1, 0, 0, 0])
    b = seen([9, 7, 4, 5, 6, 9, 8], [0, 1, 0, 1, 1, 0, 1])
    found = sv.paired_test(a, b)
    assert (found.pairs, found.first_earlier, found.second_earlier) == (7, 3, 1)
    assert found.p_value == 0.625
    assert sv.paired_test(b, a).p_value == found.p_value
    assert math.isnan(sv.paired_test(a, a).p_value)
    with pytest.raises(ValueError, match="same"):
        sv.paired_test(a, seen([1, 2], [1, 1]))


def test_the_sign_test_is_the_exact_one() -> None:
    for tosses in (1, 2, 7, 60, 501):
        for heads in range(0, tosses + 1, 1 + tosses // 9):
            assert sign_test(heads, tosses) == pytest.approx(stats.binomtest(heads, tosses).pvalue, rel=1e-12)


def test_paired_seeds_are_flipped_by_prompt() -> None:
    """All 5 prompts agree 4 seeds over: 2 of 32 sign flips are as far out, whatever the number of seeds."""
    prompts = np.repeat(np.arange(5), 4)
    a, b = seen([3] * 20, [1] * 20, prompts), seen([9] * 20, [0] * 20, prompts)
    assert sv.paired_test(a, b).p_value == pytest.approx(2 / 32)
    apart = [seen(s.tokens, s.event) for s in (a, b)]
    assert sv.paired_test(*apart).p_value < 1e-5, "the control: seeds as if they were prompts"


def test_one_prompt_alone_tells_nothing_whatever_its_seeds() -> None:
    """Both sign flips of a single prompt are as far out."""
    for told, prompts in (([3, 3], [0, 0]), ([3, 3, 9], [0, 0, 1])):
        a, b = (
            seen(told, [1, 1, 0][: len(told)], np.array(prompts)),
            seen([9] * len(told), [0] * len(told), np.array(prompts)),
        )
        assert sv.paired_test(a, b) == sv.Paired(len(told), 2, 0, 1.0)


def test_log_rank_by_hand() -> None:
    """Two groups of two: at position 0 a leaves (E = 1/2), at 1 a leaves (E = 1/3), then b's (E = 0)."""
    p = sv.log_rank(seen([1, 2], [1, 1]), seen([3, 4], [1, 1]))
    z = (2 - 5 / 6) / math.sqrt(1 / 4 + 2 / 9)
    assert p == pytest.approx(2 * stats.norm.sf(z))
    with pytest.raises(ValueError, match="one seed"):
        sv.log_rank(seen([1, 2], [1, 1], np.zeros(2)), seen([3, 4], [1, 1]))
    with pytest.raises(ValueError, match="nothing diverged"):
        sv.log_rank(seen([1], [0]), seen([3], [0]))


def test_the_slope_is_within_traces_and_clustered() -> None:
    x = np.tile([0.0, 1.0, 2.0], 4)
    trace = np.repeat(np.arange(4), 3)
    y = 0.5 * x + trace * 10.0  # later traces lie higher, and that is no growth
    exact = sv.slope_within(x, y, trace, trace)
    assert (exact.value, exact.low, exact.high, exact.length) == pytest.approx((0.5, 0.5, 0.5, 2.0))
    own = np.array([0.4, 0.5, 0.6, 0.9])
    spread = sv.slope_within(x, own[trace] * x, trace, trace)
    half = stats.t.ppf(0.975, 3) * own.std(ddof=1) / 2  # equal traces: the jackknife is the error of their mean
    assert (spread.value, spread.low, spread.high) == pytest.approx((own.mean(), own.mean() - half, own.mean() + half))
    one = sv.slope_within(x, y, trace, np.zeros(12))
    assert one.value == pytest.approx(0.5) and math.isnan(one.low) and one.why == "one prompt: no interval"
    assert sv.slope_within(x[:0], y[:0], trace[:0], trace[:0]).why == "no position has an error above 0"
    assert sv.slope_within(x[:1], y[:1], trace[:1], trace[:1]).why == "no trace has two positions"
    short = sv.slope_within(x[:4], y[:4], trace[:4], trace[:4])
    assert short.value == pytest.approx(0.5) and "fewer than two" in short.why


@settings(deadline=None)
@given(
    where=st.floats(-50, 50), steep=st.floats(1e-3, 30), below=st.floats(1e-6, 60), above=st.floats(1e-6, 60),
    bend=st.sampled_from([np.tanh, lambda x: x**3, lambda x: np.expm1(-x), lambda x: x]),
)  # fmt: skip
def test_roots_are_those_of_scipy(where: float, steep: float, below: float, above: float, bend: Any) -> None:
    def function(x: float) -> float:
        return float(bend(np.clip(steep * (x - where), -300, 300)))

    low, high = where - below, where + above
    found = root(function, low, high)
    assert abs(found - where) <= 1e-9 or abs(function(found)) < 1e-25  # flat around it: a cube in the small
    if abs(function(found)) > 1e-25:
        assert found == pytest.approx(optimize.brentq(function, low, high, xtol=1e-12), abs=1e-9)
    with pytest.raises(ValueError, match="no change of sign"):
        root(function, high, high + 1)
    with pytest.raises(ValueError, match="no root between"):
        root(lambda x: x - 3, -1e300, 1e300)


@settings(deadline=None)
@given(
    tokens=st.lists(st.integers(1, 400), min_size=2, max_size=60), u=st.floats(-3.9, 3.9), data=st.data()
)  # fmt: skip
def test_the_level_is_where_the_gradient_changes_sign(tokens: list[int], u: float, data: Any) -> None:
    event = data.draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)))
    event[0] = True
    if min(t for t, parted in zip(tokens, event, strict=True) if parted) == 1:
        tokens = [t + 1 for t in tokens]
    likelihood = weibull._Likelihood(seen(tokens, event))
    level = likelihood.level(u)
    left, right = (likelihood._scores(level + step, u, by_u=False).sum() for step in (-1e-7, 1e-7))
    assert left > 0 > right
