"""The float64 arithmetic: closed forms, an independent 60-digit computation, and the cases at the edge of the range."""

from __future__ import annotations

import doctest
import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decodedrift.numerics import gumbel, roots, sequences
from decodedrift.numerics import logits as nm
from decodedrift.numerics.logits import INF, NAN
from decodedrift.numerics.ranks import rank_of

F64 = torch.float64


def f64(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=F64)


def logits(n: int = 8, vocab: int = 500, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(n, vocab, dtype=F64, generator=torch.Generator().manual_seed(seed))


def decimal_kl(z_r: list[float], z_c: list[float]) -> float:
    """KL of two softmaxes by the textbook definition, in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        weights = [[Decimal(x).exp() for x in z] for z in (z_r, z_c)]
        p, q = ([w / sum(side) for w in side] for side in weights)
        return float(sum(a * (a.ln() - b.ln()) for a, b in zip(p, q, strict=True)))


def kl_of_logits(z_r: torch.Tensor, z_c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    log_p, log_q = nm.log_softmax(z_r), nm.log_softmax(z_c)
    return nm.kl_both(log_p, log_q, nm.log_ratio(z_r, z_c, log_p, log_q, z_r.argmax(-1)))


@pytest.mark.parametrize("module", [nm, sequences, gumbel, roots], ids=lambda m: m.__name__.split(".")[-1])
def test_docstring_examples(module):
    failed, attempted = doctest.testmod(module)
    assert attempted > 0 and failed == 0


# --- divergences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_size", [1e-5, 1e-6, 3e-7, 1e-7])
def test_kl_equals_sixty_digits_down_to_1e_minus_14(noise_size):
    """Logits of fp32 size and precision; the difference of two log-probabilities alone would be off by 1e-10 of it."""
    z_r = logits(2, 200).float().double() - 40.0
    z_c = z_r + noise_size * logits(2, 200, seed=1, scale=1.0)
    forward, reverse = kl_of_logits(z_r, z_c)
    for row in range(2):
        truth = decimal_kl(z_r[row].tolist(), z_c[row].tolist())
        assert forward[row].item() == pytest.approx(truth, rel=1e-12, abs=0.0)
        assert reverse[row].item() == pytest.approx(decimal_kl(z_c[row].tolist(), z_r[row].tolist()), rel=1e-12, abs=0)
    if noise_size == 1e-7:
        assert truth < 1e-14


@pytest.mark.parametrize("noise_size", [1e-3, 0.1, 0.4, 1.0, 5.0, 30.0])
def test_kl_equals_sixty_digits_for_any_distance(noise_size):
    z_r = logits(1, 200)
    z_c = z_r + noise_size * logits(1, 200, seed=1, scale=1.0)
    forward, reverse = kl_of_logits(z_r, z_c)
    assert forward.item() == pytest.approx(decimal_kl(z_r[0].tolist(), z_c[0].tolist()), rel=1e-11)
    assert reverse.item() == pytest.approx(decimal_kl(z_c[0].tolist(), z_r[0].tolist()), rel=1e-11)


def test_kl_from_log_probabilities_alone_sums_the_generalised_terms():
    """Given only rounded logs, the function still evaluates sum q - p + p d of exactly those to 1e-12."""
    log_p = nm.log_softmax(logits(1, 200))
    log_q = nm.log_softmax(logits(1, 200) + 1e-6 * logits(1, 200, seed=1, scale=1.0))
    with localcontext() as context:
        context.prec = 60
        # d is rounded once, by the subtraction; the function can only be held to what it is given
        terms = [
            Decimal(a).exp() * ((-Decimal(d)).exp() - 1 + Decimal(d))
            for a, d in zip(log_p[0].tolist(), (log_p - log_q)[0].tolist(), strict=True)
        ]
        truth = float(sum(terms))
    assert truth < 1e-11
    assert nm.kl(log_p, log_q).item() == pytest.approx(truth, rel=1e-12, abs=0.0)


def test_kl_is_not_negative_where_naive_fp32_is():
    z_r = logits(48, 10_000).float()
    z_c = z_r + 1e-5 * logits(48, 10_000, seed=1, scale=1.0).float()
    log_p, log_q = z_r.log_softmax(-1), z_c.log_softmax(-1)
    naive = (log_p.exp() * (log_p - log_q)).sum(-1)
    assert (naive < 0).sum() >= 10, "the negative control: this is what the textbook sum in fp32 gives"
    forward, reverse = kl_of_logits(z_r.double(), z_c.double())
    assert (forward > 0).all() and (reverse > 0).all()
    assert (forward < 1e-9).all()


def test_kl_is_half_the_weighted_variance_of_a_tiny_change():
    z, change = logits(4), 1e-5 * logits(4, seed=1, scale=1.0)
    p = z.softmax(-1)
    variance = (p * (change - (p * change).sum(-1, keepdim=True)) ** 2).sum(-1)
    torch.testing.assert_close(kl_of_logits(z, z + change)[0], variance / 2, rtol=1e-4, atol=0)


@given(st.floats(1e-6, 1 - 1e-6), st.floats(1e-6, 1 - 1e-6))
def test_kl_of_bernoulli_by_formula(a, b):
    p, q = f64([a, 1 - a]), f64([b, 1 - b])
    truth = float(np.sum(scipy.special.rel_entr(p.numpy(), q.numpy())))
    forward, reverse = nm.kl_both(p.log(), q.log())
    assert forward.item() == pytest.approx(truth, rel=1e-9, abs=1e-14)
    assert reverse.item() == pytest.approx(
        float(np.sum(scipy.special.rel_entr(q.numpy(), p.numpy()))), rel=1e-9, abs=1e-14
    )
    assert forward.item() >= 0 and reverse.item() >= 0


def test_kl_to_uniform_is_log_vocabulary_minus_entropy():
    log_p = nm.log_softmax(logits(5))
    uniform = torch.full_like(log_p, -math.log(log_p.shape[-1]))
    expected = math.log(log_p.shape[-1]) - nm.entropy(log_p.exp(), log_p)
    torch.testing.assert_close(nm.kl(log_p, uniform), expected, rtol=1e-12, atol=0)


def test_identical_inputs_are_exactly_zero():
    z = logits(3)
    z[0, 5] = -INF
    forward, reverse = kl_of_logits(z, z.clone())
    assert forward.tolist() == [0.0] * 3 and reverse.tolist() == [0.0] * 3
    assert nm.total_variation(z.softmax(-1), z.softmax(-1)).tolist() == [0.0] * 3
    d, _ = nm.logit_error(z, z)
    assert d.eq(0).all()


@pytest.mark.parametrize("shift", [1.0, -37.5, 1e6])
def test_a_shift_of_the_logits_changes_nothing(shift):
    z_r = logits(3).float().double()
    z_c = z_r + 1e-3 * logits(3, seed=1, scale=1.0).float().double()
    for plain, shifted in zip(kl_of_logits(z_r, z_c), kl_of_logits(z_r, z_c + shift), strict=True):
        torch.testing.assert_close(plain, shifted, rtol=1e-11 * max(1.0, abs(shift)), atol=0)
    d, _ = nm.logit_error(z_r, z_c)
    torch.testing.assert_close(nm.logit_error(z_r, z_c + shift)[0], d, rtol=0, atol=1e-15 * max(10.0, abs(shift)))


HALF = math.log(0.5)


@pytest.mark.parametrize(
    ("log_p", "log_q", "forward", "reverse"),
    [
        pytest.param([HALF, HALF, -INF], [HALF, HALF, -INF], 0.0, 0.0, id="outside both"),
        pytest.param([HALF, HALF], [0.0, -INF], INF, math.log(2), id="zero in q"),
        pytest.param([0.0, -INF], [HALF, HALF], math.log(2), INF, id="zero in p"),
        pytest.param([0.0, -800.0], [HALF, HALF], math.log(2), 0.5 * (-math.log(2) + 800 + HALF), id="p underflows"),
        pytest.param([0.0, -800.0], [0.0, -INF], INF, 0.0, id="p underflows where q is zero"),
        pytest.param([0.0, -1e5], [-1e5, 0.0], 1e5, 1e5, id="huge ratio"),
        pytest.param([0.0, NAN], [HALF, HALF], NAN, NAN, id="nan"),
    ],
)
def test_kl_at_the_edge_of_the_range(log_p, log_q, forward, reverse):
    values = nm.kl_both(f64(log_p, [HALF] * len(log_p)), f64(log_q, [HALF] * len(log_q)))
    assert values[0][0].item() == pytest.approx(forward, rel=1e-12, abs=1e-300, nan_ok=True)
    assert values[1][0].item() == pytest.approx(reverse, rel=1e-12, abs=1e-300, nan_ok=True)
    assert values[0][1].item() == 0.0, "the row beside it does not notice"


def test_kl_total_variation_and_entropy_against_scipy():
    log_p, log_q = nm.log_softmax(logits(6)), nm.log_softmax(logits(6, seed=1))
    p, q = log_p.exp().numpy(), log_q.exp().numpy()
    np.testing.assert_allclose(nm.kl(log_p, log_q).numpy(), scipy.special.rel_entr(p, q).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(nm.kl(log_p, log_q).numpy(), scipy.stats.entropy(p, q, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(nm.entropy(log_p.exp(), log_p).numpy(), scipy.stats.entropy(p, axis=-1), rtol=1e-12)
    by_hand = 0.5 * np.abs(p - q).sum(-1)
    np.testing.assert_allclose(nm.total_variation(log_p.exp(), log_q.exp()).numpy(), by_hand, rtol=1e-12)


def test_entropy_counts_zero_probability_as_nothing():
    log_p = f64([HALF, HALF, -INF], [0.0, -INF, -INF])
    assert nm.entropy(log_p.exp(), log_p).tolist() == pytest.approx([math.log(2), 0.0], abs=1e-16)


def test_pinsker_and_the_bound_of_total_variation():
    log_p, log_q = nm.log_softmax(logits(50, 20)), nm.log_softmax(logits(50, 20, seed=1))
    tv = nm.total_variation(log_p.exp(), log_q.exp())
    assert ((tv >= 0) & (tv <= 1)).all()
    assert (tv <= (nm.kl(log_p, log_q) / 2).sqrt()).all()


@pytest.mark.parametrize("broken", [[0.0, NAN, 1.0], [0.0, INF, 1.0], [-INF, -INF, -INF]])
def test_log_softmax_of_a_broken_row_is_nan_throughout(broken):
    out = nm.log_softmax(f64(broken, [0.0, 0.0, -INF]))
    assert out[0].isnan().all()
    assert out[1].tolist() == [HALF, HALF, -INF]


# --- order -----------------------------------------------------------------------------------------------------------


def test_top2_ties_go_to_the_lower_id():
    values, ids = nm.top2(f64([1, 7, 7, 7], [9, 1, 2, 2], [0, 0, 0, 0], [-INF, 3, -INF, -INF], [3, -INF, -INF, -INF]))
    assert ids.tolist() == [[1, 2], [0, 2], [0, 1], [1, 0], [0, 1]]
    assert values.tolist() == [[7, 7], [9, 2], [0, 0], [3, -INF], [3, -INF]]


@settings(max_examples=50)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=40))
def test_top2_is_the_head_of_a_stable_sort(row):
    order = sorted(range(len(row)), key=lambda i: (-row[i], i))[:2]
    values, ids = nm.top2(torch.tensor([row], dtype=F64))
    assert ids[0].tolist() == order
    assert values[0].tolist() == [row[i] for i in order]


def test_top2_of_many_ties_in_a_wide_row():
    z = logits(4, 50_257).bfloat16().double().clamp(max=4.0)
    _, ids = nm.top2(z)
    for row in range(4):
        assert ids[row].tolist() == np.argsort(-z[row].numpy(), kind="stable")[:2].tolist()


def test_margin():
    rows = f64([1.0, 3.0, 2.5], [4.0, 4.0, 0.0], [1.0, -INF, -INF], [-INF, 2.0, 0.5], [NAN, 2.0, 0.5])
    assert nm.margin(rows).tolist() == pytest.approx([0.5, 0.0, NAN, 1.5, NAN], nan_ok=True)


def test_rank_counts_strictly_greater_logits():
    z = f64([5, 3, 3, 1], [5, 3, 3, 1], [5, 3, 3, 1], [-INF, 0, 1, 2])
    assert rank_of(z, torch.tensor([0, 2, 3, 0])).tolist() == [1, 2, 4, 4]


# --- logit errors ----------------------------------------------------------------------------------------------------


def test_logit_error_leaves_out_ids_that_are_not_finite_on_both_sides():
    d, count = nm.logit_error(f64([1, 2, 3, -INF, 7], [0, 0, 0, 0, 0]), f64([2, 2, 6, -INF, -INF], [1, 2, 3, 4, 5]))
    assert count.tolist() == [3, 5]
    assert d[0].tolist() == pytest.approx([1 - 4 / 3, -4 / 3, 3 - 4 / 3, 0, 0])
    assert d[1].tolist() == [-2, -1, 0, 1, 2]
    assert nm.row_rms(d, count)[0].item() == pytest.approx(math.sqrt(np.var([1, 0, 3])))
    assert nm.row_rms(d)[1].item() == pytest.approx(math.sqrt(2))


def test_centred_rms_is_the_population_deviation_of_the_finite_entries():
    z = logits(3, 100) + 50.0
    np.testing.assert_allclose(nm.centred_rms(z).numpy(), z.numpy().std(-1), rtol=1e-12)
    z[1, :40] = -INF
    assert nm.centred_rms(z)[1].item() == pytest.approx(z[1, 40:].numpy().std(), rel=1e-12)


def test_significant_digits():
    digits = nm.significant_digits(f64([1e-3, 0.0, 0.0, 1.0])[0], f64([1.0, 1.0, 0.0, 0.0])[0])
    assert digits.tolist() == pytest.approx([3.0, INF, INF, -INF])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp64", torch.float64), ("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)],
)
def test_ulp_is_the_distance_to_the_next_number_of_the_type(name, dtype):
    """Against the type's own bit pattern: one added to it is the next number."""
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]
    exponents = torch.linspace(-20, 15, 200, dtype=F64)
    x = torch.cat([2.0**exponents, torch.tensor([0.0, 1.0, 2.0, 1024.0, torch.finfo(dtype).tiny / 4], dtype=F64)]).to(
        dtype
    )
    following = (x.view(integer) + 1).view(dtype)
    expected = following.double() - x.double()
    assert torch.equal(nm.ulp(x.double(), name), expected)
    assert torch.equal(nm.ulp(-x.double(), name), expected)


def test_ulp_of_what_is_not_a_number():
    assert nm.ulp(f64([INF, NAN, -INF]), "fp32").isnan().all()


def test_nonfinite_count():
    z_r = f64([1, NAN, 2, 3], [INF, -INF, 0, 0], [-INF, -INF, 0, 0], [1, 2, 3, 4], [NAN, 1, 1, 1])
    z_c = f64([1, 2, INF, 3], [0, 0, 0, -INF], [-INF, 1, 1, 1], [1, 2, 3, 4], [NAN, 1, 1, -INF])
    assert nm.nonfinite_count(z_r, z_c).tolist() == [2, 3, 1, 0, 3]
    assert nm.nonfinite_count(z_r[3:4], z_c[3:4]).tolist() == [0]
    both_padded = f64([-INF, 0, 1])
    assert nm.nonfinite_count(both_padded, both_padded).tolist() == [0]
