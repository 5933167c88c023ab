"""Cumulative incidence: the plain share, Aalen and Johansen's estimate computed another way, and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from test_survival import seen

from decodedrift.numerics import survival as sv
from decodedrift.numerics.incidence import incidence
from decodedrift.numerics.intervals import share_interval


def ends(parted: list[int], stopped: list[int], lost: list[int]) -> sv.CensoredTimes:
    """Traces by their tokens at risk: those that part at the last of them, those that end there together, the rest."""
    tokens = np.array([*parted, *stopped, *lost])
    kind = np.repeat([0, 1, 2], [len(parted), len(stopped), len(lost)])
    return sv.CensoredTimes.of(tokens, kind == 0, np.arange(len(tokens)), kind == 1)


def test_texts_that_end_together_have_not_parted() -> None:
    """24 texts, 13 of which stop together: 46 % part, but Kaplan-Meier falls below a half as if those were lost."""
    traces = ends([20, 40, 60, 80, 90, 100, 110, 112, 150, 180, 219], list(range(15, 80, 5)), [])
    found = incidence(traces)
    assert (found.share[-1], found.share[109], found.share[18]) == (11 / 24, 7 / 24, 0.0)
    assert all(math.isnan(v) for v in found.half_life()), "half of the texts never part"
    curve = sv.kaplan_meier(traces).survival
    assert curve[111] < 0.5 and curve[-1] == 0, "the control: what was told as a share of texts"


def test_at_the_end_it_is_the_divergence_rate_with_its_interval() -> None:
    rng = np.random.default_rng(4)
    prompts = np.repeat(np.arange(12), 3)
    tokens, event = rng.integers(1, 40, 36), rng.random(36) < 0.4
    found = incidence(sv.CensoredTimes.of(tokens, event, prompts, ~event))
    assert (found.share[-1], found.low[-1], found.high[-1]) == share_interval(event.astype(float), prompts)
    assert (np.diff(found.share) >= 0).all()
    by_hand = [(event & (tokens <= t + 1)).mean() for t in range(tokens.max())]
    assert found.share.tolist() == by_hand


def weighted(tokens: np.ndarray, parted: np.ndarray, stopped: np.ndarray) -> np.ndarray:
    """F by inverse weights: each trace that parted counts for those lost before it could (Satten and Datta 2001)."""
    lost = ~parted & ~stopped
    times = tokens + 0.5 * lost  # one that is lost at t was still at risk of parting at t
    seen_ = stats.ecdf(stats.CensoredData.right_censored(times, ~lost)).sf.evaluate(tokens - 0.25)
    return np.array([np.sum(parted[tokens <= t + 1] / seen_[tokens <= t + 1]) for t in range(tokens.max())]) / len(
        tokens
    )


def test_where_traces_are_lost_it_is_aalen_and_johansens() -> None:
    """By hand on the first, and against weighting by the chance of having been seen, which is the same in other words.

    Six texts: parted at token 2, ended at 2, lost at 2 and 3, parted at 4, one to the end of 5.
    """
    found = incidence(ends([2, 4], [2], [2, 3, 5]))
    np.testing.assert_allclose(found.share, [0, 1 / 6, 1 / 6, 1 / 6 + 4 / 6 * 1 / 2, 1 / 6 + 4 / 6 * 1 / 2])
    rng = np.random.default_rng(11)
    for _ in range(20):
        tokens, kind = rng.integers(1, 12, 30), rng.integers(0, 3, 30)
        traces = sv.CensoredTimes.of(tokens, kind == 0, np.arange(30), kind == 1)
        np.testing.assert_allclose(incidence(traces).share, weighted(tokens, kind == 0, kind == 1), atol=1e-12)
    control = sv.CensoredTimes.of(tokens, kind == 0, np.arange(30))  # ends taken for losses
    assert abs(incidence(control).share[-1] - incidence(traces).share[-1]) > 0.05


def test_who_is_lost_at_the_horizon_is_not_lost_before_it() -> None:
    """The two ways to F agree where both apply: a trace that is lost a token early changes next to nothing else."""
    plain = incidence(ends([3, 5, 9], [4, 7], [20] * 15))
    assert plain.share[-1] == 3 / 20
    lost = incidence(ends([3, 5, 9], [4, 7], [20] * 14 + [19]))
    np.testing.assert_allclose(lost.share, plain.share[:20], atol=1e-15)
    np.testing.assert_allclose(lost.low, plain.low[:20], atol=0.02)
    np.testing.assert_allclose(lost.high, plain.high[:20], atol=0.02)


def test_the_half_life_is_the_first_token_by_which_half_have_parted() -> None:
    found = incidence(ends([5] * 10 + [9] * 10 + [30] * 10, [12] * 10, []))
    assert found.share[8] == 0.5 and found.half_life()[0] == 8
    _, low, high = found.half_life()
    assert (low, high) == (np.argmax(found.high >= 0.5), np.argmax(found.low >= 0.5))
    assert incidence(ends([5] * 5, [12] * 5, [])).half_life()[2] == math.inf, "the lower end stays below a half"
    assert incidence(ends([1], [], [])).share.tolist() == [1.0]
    assert len(incidence(ends([], [], [])).share) == 0


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_band_holds_the_truth(seeds: int) -> None:
    """Parting at 1 % a token, ending at 1 %, lost at 0.5 %; 95 % of 100 is 95, and 87 or fewer has a chance of 0.2 %."""
    rates, t = np.array([0.01, 0.01, 0.005]), 79
    truth = rates[0] / rates[:2].sum() * (1 - (1 - rates[:2].sum()) ** (t + 1))
    held = 0
    for n in range(100):
        rng = np.random.default_rng([seeds, n])
        kind, tokens = rng.choice(3, (40, seeds), p=rates / rates.sum()), rng.geometric(rates.sum(), (40, seeds))
        alike = rng.random((40, seeds)) < (0.5 if seeds > 1 else 0)
        kind, tokens = np.where(alike, kind[:, :1], kind), np.where(alike, tokens[:, :1], tokens)
        tokens, kind = tokens.ravel(), np.where(tokens.ravel() > 120, 2, kind.ravel())
        traces = sv.CensoredTimes.of(np.minimum(tokens, 120), kind == 0, np.repeat(np.arange(40), seeds), kind == 1)
        found = incidence(traces)
        held += found.low[t] <= truth <= found.high[t]
    assert 88 <= held <= 99


def test_no_event_and_one_prompt() -> None:
    found = incidence(ends([], [4, 6], [9, 9]))
    assert set(found.share) == {0.0} and set(found.low) == {0.0} and (found.high < 1).all()
    alone = incidence(seen([4, 6, 6], [1, 1, 0], np.zeros(3)))
    assert alone.share[-1] == pytest.approx(2 / 3)
