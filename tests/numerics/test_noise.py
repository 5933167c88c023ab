"""The keyed noise: one frozen stream, the right law, and the coupling it exists for."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import scipy.stats

from decodedrift.numerics import gumbel

POSITIONS = 20_000
EULER = 0.5772156649015329


def test_the_stream_is_frozen():
    """A change here changes every coupled sample ever recorded: raise gumbel.STREAM's number and these with it."""
    assert [hex(x) for x in gumbel.gumbel_bits(0, "p", 0, 4).tolist()] == [
        "0xfc5469ffb5bc8ae8", "0x8c77c413650a022f", "0x8e31c5a7b114233c", "0x51bae48a3990c3b7",
    ]  # fmt: skip
    assert gumbel.gumbel_bits(17, "täst", 5, 6).tolist() == [
        16647407689833981298, 1010145462991434197, 5987344696405328504,
        795314595753822587, 8370446155221921759, 8531939720543956826,
    ]  # fmt: skip
    np.testing.assert_allclose(gumbel.gumbel(0, "p", 0, 3), [4.23770393, 0.51049416, 0.53105868], rtol=1e-8)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 as published (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""
    word = 2**64
    c, k = list(counter), list(key)
    for _ in range(10):
        low, high = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = [(high // word) ^ c[1] ^ k[0], high % word, (low // word) ^ c[3] ^ k[1], low % word]
        k = [(k[0] + 0x9E3779B97F4A7C15) % word, (k[1] + 0xBB67AE8584CAA73B) % word]
    return c


@pytest.mark.parametrize(("seed", "prompt_id", "position"), [(0, "p", 0), (17, "täst", 5), (2**63 - 1, "", 10**6)])
def test_the_bits_are_the_published_generator(seed, prompt_id, position):
    """So that the stream belongs to no numpy version: key from SHA-256, counter (block + 1, position, 0, 0)."""
    digest = hashlib.sha256(b"decodedrift gumbel 1\0" + str(seed).encode() + b"\0" + prompt_id.encode()).digest()
    key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
    expected = [x for block in range(3) for x in philox([block + 1, position, 0, 0], key)]
    assert gumbel.gumbel_bits(seed, prompt_id, position, 12).tolist() == expected


def test_a_token_does_not_depend_on_the_vocabulary():
    wide = gumbel.gumbel_bits(3, "a", 9, 5000)
    for vocab in (0, 1, 2, 3, 4, 5, 63, 4999):
        assert (gumbel.gumbel_bits(3, "a", 9, vocab) == wide[:vocab]).all()


def test_ids_pick_the_values_of_the_whole_array():
    whole = gumbel.gumbel(3, "a", 9, 5000)
    ids = np.array([4999, 0, 17, 17, 256])
    assert (gumbel.gumbel(3, "a", 9, 5000, ids=ids) == whole[ids]).all()
    assert (gumbel.gumbel(3, "a", 9, 5000) == whole).all(), "nothing is carried from one call to the next"


@pytest.mark.parametrize(
    "other", [(1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a", 2**40), (10, "a", 0), (0, "0\0a", 0)]
)
def test_every_coordinate_matters(other):
    assert not np.isin(gumbel.gumbel_bits(*other, 1000), gumbel.gumbel_bits(0, "a", 0, 1000)).any()


def test_seed_and_prompt_id_do_not_run_into_each_other():
    assert (gumbel.gumbel_bits(1, "2x", 0, 8) != gumbel.gumbel_bits(12, "x", 0, 8)).all()
    assert gumbel.gumbel_bits(0, "\ud800", 0, 2).shape == (2,), "a lone surrogate is an id like any other"


@pytest.mark.parametrize(("position", "vocab"), [(-1, 5), (0, -1), (0, 2**32 + 1)])
def test_coordinates_out_of_range_are_refused(position, vocab):
    with pytest.raises(ValueError, match=r"2\*\*32"):
        gumbel.gumbel_bits(0, "p", position, vocab)


def test_uniform_is_exact_and_never_reaches_its_ends():
    bits = np.array([0, 2**12 - 1, 2**12, 2**63, 2**64 - 1], dtype=np.uint64)
    assert gumbel.uniform(bits).tolist() == [2.0**-53, 2.0**-53, 3 * 2.0**-53, 0.5 + 2.0**-53, 1 - 2.0**-53]
    ends = -np.log(-np.log(gumbel.uniform(bits)))
    assert np.isfinite(ends).all()
    assert ends[0] == pytest.approx(-math.log(53 * math.log(2))) and ends[-1] == pytest.approx(53 * math.log(2))
    # the negative control: one bit more would round up to 1, whose noise is infinite
    assert (float(2**53 - 1) + 0.5) * 2.0**-53 == 1.0


def test_the_law_is_standard_gumbel():
    bits = np.concatenate([gumbel.gumbel_bits(0, "law", t, 2000) for t in range(100)])
    assert scipy.stats.kstest(gumbel.uniform(bits), "uniform").pvalue > 1e-3
    g = -np.log(-np.log(gumbel.uniform(bits)))
    deviation, kurtosis = math.pi / math.sqrt(6), 12 / 5
    assert abs(g.mean() - EULER) < 5 * deviation / math.sqrt(g.size)
    assert abs(g.var() - deviation**2) < 5 * deviation**2 * math.sqrt((kurtosis + 2) / g.size)


def test_neighbouring_positions_and_tokens_are_uncorrelated():
    u = np.stack([gumbel.uniform(gumbel.gumbel_bits(0, "grid", t, 500)) for t in range(200)])
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / math.sqrt(a.size)


def _noise(vocab: int) -> np.ndarray:
    """[POSITIONS, vocab] noise of as many positions."""
    return np.stack([gumbel.gumbel(1, "coupled", t, vocab) for t in range(POSITIONS)])


def test_the_argmax_is_an_exact_sample():
    p = np.array([0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
    counts = np.bincount((np.log(p) + _noise(p.size)).argmax(-1), minlength=p.size)
    assert scipy.stats.chisquare(counts, POSITIONS * p).pvalue > 1e-3


def test_the_coupling_law():
    """TV <= P(disagree) <= 2 TV / (1 + TV), where independent draws would disagree most of the time."""
    p = np.array([0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
    q = np.array([0.35, 0.28, 0.12, 0.13, 0.09, 0.03])
    g = _noise(p.size)
    disagree = ((np.log(p) + g).argmax(-1) != (np.log(q) + g).argmax(-1)).mean()
    tv = 0.5 * np.abs(p - q).sum()
    error = 4 * math.sqrt(disagree * (1 - disagree) / POSITIONS)
    assert tv - error <= disagree <= 2 * tv / (1 + tv) + error
    assert 1 - p @ q > 5 * disagree, "the control: what independent draws do"
