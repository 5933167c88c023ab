"""The flip law on data made by it, on data made by other laws, and its scores by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from decodedrift.numerics import flips


def made(
    sigma: float = 0.05, prompts: int = 40, length: int = 200, forbid: float = 0.0, grow: bool = False, seed: int = 0
) -> flips.ForcedPositions:
    """Positions whose error is normal, of one size or of the logits' own, with a share where truncation forbids."""
    rng = np.random.default_rng(seed)
    n = prompts * length
    margin, scale = rng.exponential(1.0, n), rng.uniform(1, 6, n)
    error = rng.normal(0, sigma, n) * (scale if grow else 1)
    error[rng.random(n) < forbid] = -math.inf
    return flips.ForcedPositions(margin, error, scale, margin + error < 0, np.repeat(np.arange(prompts), length))


def scores(seen: flips.ForcedPositions) -> dict[str, float]:
    return {law: flips.log_score(flips.held_out(law, seen), seen.flipped) for law in flips.LAWS}


@pytest.mark.parametrize("law", ["normal", "empirical"])
def test_a_law_foretells_the_flips_of_prompts_it_has_not_seen(law: str) -> None:
    seen = made()
    chance = flips.held_out(law, seen)
    flipped = int(seen.flipped.sum())
    assert chance.sum() == pytest.approx(flipped, abs=3 * math.sqrt(flipped))
    true = stats.norm.cdf(-seen.margin / 0.05)
    assert np.abs(chance - true).mean() < 0.002
    assert flips.brier(chance, seen.flipped) < 0.8 * flips.brier(flips.held_out("constant", seen), seen.flipped)


def test_each_law_wins_on_the_world_it_describes() -> None:
    """And loses on the others: the scores tell laws apart."""
    one, logits, truncated = scores(made()), scores(made(0.02, grow=True)), scores(made(forbid=0.01))
    assert one["normal"] < one["scaled"] and one["normal"] < one["constant"]
    assert logits["scaled"] < logits["normal"] < logits["constant"]
    assert truncated["empirical"] < truncated["constant"] < truncated["normal"] == math.inf


def test_nothing_of_a_held_out_prompt_is_used_but_its_margins() -> None:
    seen = made(prompts=10, length=50)
    for law in flips.LAWS:
        before = flips.held_out(law, seen)
        own = seen.cluster == 3
        error, flipped = seen.error.copy(), seen.flipped.copy()
        error[own], flipped[own] = 99.0, True
        changed = flips.ForcedPositions(seen.margin, error, seen.scale, flipped, seen.cluster)
        after = flips.held_out(law, changed)
        np.testing.assert_array_equal(before[own], after[own])
        assert (before[~own] != after[~own]).any(), "the control: to the others that prompt does matter"


def test_laws_by_hand() -> None:
    seen = flips.ForcedPositions(
        np.array([0.1, 0.2, 0.3, 5.0]), np.array([-0.3, 0.1, -0.1, -math.inf]), np.array([1.0, 2.0, 1.0, 1.0]),
        np.array([True, False, False, True]), np.arange(4),
    )  # fmt: skip
    new = flips.ForcedPositions(
        np.array([0.0, 0.1, 0.2, math.inf]), np.full(4, math.nan), np.array([1.0, 1.0, 2.0, 1.0]), np.zeros(4, bool),
        np.full(4, 9),
    )  # fmt: skip
    sigma = math.sqrt((0.09 + 0.01 + 0.01) / 3)
    np.testing.assert_allclose(flips.normal(seen)(new), stats.norm.cdf([0, -0.1 / sigma, -0.2 / sigma, -np.inf]))
    factor = math.sqrt((0.09 + 0.0025 + 0.01) / 3)
    np.testing.assert_allclose(flips.scaled(seen)(new), stats.norm.cdf([0, -0.1 / factor, -0.1 / factor, -np.inf]))
    # half of the positions with a finite error: those with margins 0.1 and 0.2, errors -0.3 and 0.1; 1 of 4 forbidden
    forbidden = 1 / 4
    below = np.array([1 / 2, 1 / 2, 1 / 2, 0])
    np.testing.assert_allclose(flips.empirical(seen)(new), forbidden + (1 - forbidden) * below)
    np.testing.assert_allclose(flips.constant(seen)(new), 2 / 4)


def test_a_tie_is_an_even_chance_and_a_candidate_without_error_never_flips() -> None:
    exact = flips.ForcedPositions(np.array([0.0, 0.5]), np.zeros(2), np.ones(2), np.zeros(2, bool), np.arange(2))
    for law in ("normal", "scaled", "empirical"):
        assert flips.LAWS[law](exact)(exact).tolist() == [0.5, 0.0]


@pytest.mark.parametrize("length", [50, 500])
def test_rounding_of_float32_flips_nothing_however_long_the_texts(length: int) -> None:
    """Half a flip added to a count would be added at every position: 0.6 texts whatever their number."""
    seen = made(3e-7, prompts=8, length=length)
    assert not seen.flipped.any(), "the world itself"
    trace, position = seen.cluster, np.tile(np.arange(length), 8)
    for law in flips.LAWS:
        parted = flips.predicted_share(flips.held_out(law, seen), trace, position)[-1] * 8
        assert parted == pytest.approx(0, abs=1e-3), law
    truncated = made(3e-7, prompts=8, length=length, forbid=0.001)
    expected = 8 * (1 - (1 - np.isneginf(truncated.error).mean()) ** length)
    parted = flips.predicted_share(flips.held_out("empirical", truncated), trace, position)[-1] * 8
    assert parted == pytest.approx(expected, rel=0.2), "what truncation was seen to do counts"


def test_a_count_is_scored_as_far_as_it_can_tell() -> None:
    chance = flips.resolved(np.array([0.0, 0.3, 1.0]), 9)
    np.testing.assert_allclose(chance, [0.05, 0.3, 0.95])
    assert flips.log_score(chance, np.array([True, False, True])) == pytest.approx(
        -(math.log(0.05) + math.log(0.7) + math.log(0.95)) / 3
    )
    assert flips.resolved(np.zeros(1), 10**6)[0] < 1e-6, "the more was seen, the less is forgiven"


def test_one_prompt_cannot_be_held_out() -> None:
    with pytest.raises(ValueError, match="one prompt"):
        flips.held_out("normal", made(prompts=1))
    blind = made(prompts=2, length=5)
    unknown = flips.ForcedPositions(blind.margin, np.full(10, math.nan), blind.scale, blind.flipped, blind.cluster)
    assert np.isnan(flips.held_out("empirical", unknown)).all()


def test_the_predicted_curve_by_hand_and_as_kaplan_meier_counts() -> None:
    """Two traces, of three tokens and of one."""
    chance = np.array([0.5, 0.5, 0.0, 0.1])
    curve = flips.predicted_curve(chance, np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0]))
    np.testing.assert_allclose(curve, [0.7, 0.35, 0.35])
    assert len(flips.predicted_curve(np.empty(0), np.empty(0, int), np.empty(0, int))) == 0
    share = flips.predicted_share(chance, np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0]))
    np.testing.assert_allclose(share, [0.3, 0.425, 0.425])  # the text of one token keeps its chance of 0.9
    assert len(flips.predicted_share(np.empty(0), np.empty(0, int), np.empty(0, int))) == 0
    from decodedrift.numerics import survival as sv
    from decodedrift.numerics.incidence import incidence

    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 30, 200)
    trace = np.repeat(np.arange(200), lengths)
    position = np.concatenate([np.arange(n) for n in lengths])
    certain = (rng.random(len(trace)) < 0.05).astype(float)  # chances of 0 and 1 are the events themselves
    first = np.array([next((t for t in range(n) if certain[(trace == g)][t]), n) for g, n in enumerate(lengths)])
    events = first < lengths
    seen = sv.CensoredTimes.of(np.where(events, first + 1, lengths), events, np.arange(200), ~events)
    km = sv.kaplan_meier(seen).survival
    np.testing.assert_allclose(flips.predicted_curve(certain, trace, position)[: len(km)], km, atol=1e-12)
    parted = flips.predicted_share(certain, trace, position)[: len(km)]
    np.testing.assert_allclose(parted, incidence(seen).share, atol=1e-12)


def test_scores_by_hand() -> None:
    chance, happened = np.array([0.9, 0.2, 0.0]), np.array([True, False, False])
    assert flips.brier(chance, happened) == pytest.approx((0.01 + 0.04) / 3)
    assert flips.log_score(chance, happened) == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 3)
    assert flips.log_score(np.array([0.0]), np.array([True])) == math.inf
    assert math.isnan(flips.brier(np.empty(0), np.empty(0))) and math.isnan(flips.log_score(np.empty(0), np.empty(0)))
    assert flips.bins(np.array([0.0, 0.0009, 0.001, 0.3, 1.0])).tolist() == [0, 0, 1, 6, 8]
