"""One contract over every registered per-position metric, then each by its definition on numbers one can follow."""

from __future__ import annotations

import math
import subprocess
import sys
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

from decodedrift.measure.metrics import TOKEN_METRICS, LogitPair, directional_error, token_metrics
from decodedrift.numerics import logits as nm

INF, NAN = math.inf, math.nan
COLUMNS = [
    "kl",
    "kl_reverse",
    "tv",
    "logit_gap_max",
    "logit_gap_rms",
    "significant_digits",
    "logit_margin_reference",
    "logit_margin_candidate",
    "logit_margin_ulps",
    "top1_agree",
    "directional_error",
    "choice_agree",
    "choice_margin",
    "choice_error",
    "rank",
    "delta_p",
    "nll_reference",
    "nll_candidate",
    "entropy_reference",
    "p_top_reference",
    "nonfinite",
]
# What a metric is where both sides are the same; None: it describes the reference, so it is what it is.
IDENTITY = dict.fromkeys(COLUMNS) | {
    "kl": 0.0, "kl_reverse": 0.0, "tv": 0.0, "logit_gap_max": 0.0, "logit_gap_rms": 0.0, "significant_digits": INF,
    "top1_agree": 1.0, "directional_error": 0.0, "choice_agree": 1.0, "choice_error": 0.0, "rank": 1.0, "delta_p": 0.0, "nonfinite": 0.0,
}  # fmt: skip
REFERENCE_ONLY = {
    "choice_margin",
    "logit_margin_reference",
    "logit_margin_ulps",
    "nll_reference",
    "entropy_reference",
    "p_top_reference",
}
CANDIDATE_ONLY = {"logit_margin_candidate", "nll_candidate", "rank"}
ALL = pytest.mark.parametrize("name", TOKEN_METRICS)


def pair_of(reference, candidate, tokens=None, dtype="fp32", choices=None) -> LogitPair:
    reference, candidate = (x if isinstance(x, torch.Tensor) else torch.tensor(x) for x in (reference, candidate))
    ids = reference.double().nan_to_num(nan=-9.0).argmax(-1) if tokens is None else torch.tensor(tokens)
    both = (None, None) if choices is None else (torch.tensor(choices[0]), torch.tensor(choices[1]))
    return LogitPair(reference, candidate, ids, dtype, *both, *(greedy_bests(reference, candidate) if choices else ()))


def greedy_bests(reference, candidate):
    """What greedy's two best score on both sides: their logits."""
    values, ids = nm.top2(reference.double().nan_to_num(0.0))
    return values, candidate.double().gather(-1, ids)


def random_pair(n=6, vocab=300, size=0.02, dtype=torch.float32, same=False) -> LogitPair:
    make = torch.Generator().manual_seed(3)
    z = 3 * torch.randn(n, vocab, generator=make)
    other = z if same else z + size * torch.randn(n, vocab, generator=make)
    tokens = z.to(dtype).argmax(-1)
    return LogitPair(
        z.to(dtype),
        other.to(dtype).clone(),
        tokens,
        "bf16",
        tokens,
        tokens.clone(),
        *greedy_bests(z.to(dtype), other.to(dtype)),
    )


def test_the_registry_is_the_documented_columns_in_order():
    assert list(TOKEN_METRICS) == COLUMNS


def test_importing_the_registries_does_not_import_torch():
    code = "import sys, decodedrift.measure.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_contract(name, dtype):
    pair = random_pair(dtype=dtype)
    before = (pair.reference.clone(), pair.candidate.clone(), pair.token_ids.clone())
    value = TOKEN_METRICS[name](pair)
    assert value.shape == (6,) and value.dtype == torch.float64
    assert value.isfinite().all()
    again = TOKEN_METRICS[name](pair)
    assert torch.equal(value, again), "a metric must leave what it shares with the others alone"
    token_metrics(pair)
    assert torch.equal(pair.reference, before[0]) and torch.equal(pair.candidate, before[1])
    assert torch.equal(pair.token_ids, before[2])


@ALL
def test_no_metric_disturbs_another(name):
    """Every metric after every other, on one pair: what they share is read, never written."""
    pair = random_pair()
    for function in TOKEN_METRICS.values():
        function(pair)
    assert torch.equal(TOKEN_METRICS[name](pair), TOKEN_METRICS[name](random_pair()))


@ALL
def test_identical_sides(name):
    value = TOKEN_METRICS[name](random_pair(same=True))
    if IDENTITY[name] is None:
        assert value.isfinite().all() and (value > 0).all()
    else:
        assert value.tolist() == [IDENTITY[name]] * 6


@ALL
@pytest.mark.parametrize("broken", [NAN, INF])
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_broken_row_is_nan_where_a_metric_reads_it(name, broken, side):
    pair = random_pair()
    clean = TOKEN_METRICS[name](random_pair())
    getattr(pair, side)[2, 17] = broken
    value = TOKEN_METRICS[name](pair)
    unread = name in (CANDIDATE_ONLY if side == "reference" else REFERENCE_ONLY)
    if name == "nonfinite":
        assert value.tolist() == [0, 0, 1, 0, 0, 0]
    else:
        assert value[2].isnan().item() is not unread
        rest = [0, 1, 3, 4, 5]
        torch.testing.assert_close(value[rest], clean[rest], rtol=1e-13, atol=0)


@pytest.mark.parametrize("size", [1e-6, 0.02, 5.0])
def test_sums_over_the_vocabulary_equal_sixty_digits(size):
    """Rows for the passes in place, one for the general ones (its id 3 is far away), of one block."""
    pair = random_pair(n=3, vocab=60, size=size, dtype=torch.float64)
    pair.candidate[1, 3] += 40.0
    values = token_metrics(pair)
    for row in range(3):
        with localcontext() as context:
            context.prec = 60
            weights = [[Decimal(x).exp() for x in side[row].tolist()] for side in (pair.reference, pair.candidate)]
            p, q = ([w / sum(side) for w in side] for side in weights)
            both = list(zip(p, q, strict=True))
            expected = {
                "kl": sum(a * (a / b).ln() for a, b in both), "kl_reverse": sum(b * (b / a).ln() for a, b in both),
                "tv": sum(abs(a - b) for a, b in both) / 2, "entropy_reference": -sum(a * a.ln() for a in p),
                "nll_reference": -p[int(pair.token_ids[row])].ln(), "nll_candidate": -q[int(pair.token_ids[row])].ln(),
            }  # fmt: skip
        for name, exact in expected.items():
            least = 1e-15 if name.startswith(("tv", "nll")) else 0.0  # what a difference or ln of nearly 1 leaves
            assert values[name][row] == pytest.approx(float(exact), rel=1e-11, abs=least), name


@ALL
def test_rows_without_any_finite_logit_are_nan(name):
    pair = random_pair()
    pair.reference[1] = pair.candidate[1] = -INF
    value = TOKEN_METRICS[name](pair)[1]
    assert value.item() == 0 if name == "nonfinite" else value.isnan()


def test_an_id_that_only_the_candidate_forbids():
    """-inf on one side is counted, and the metrics stay what their definitions give."""
    z_r, z_c = [[0.0, 0.0, 1.0, 2.0]], [[-INF, 0.0, 1.0, 2.0]]
    values = {k: v.item() for k, v in token_metrics(pair_of(z_r, z_c, tokens=[0])).items()}
    assert values["nonfinite"] == 1
    assert values["kl"] == INF and values["nll_candidate"] == INF
    p0 = 1 / (2 + math.e + math.e**2)
    assert values["kl_reverse"] == pytest.approx(-math.log(1 - p0), rel=1e-12)
    assert values["tv"] == pytest.approx(p0) and values["delta_p"] == pytest.approx(-p0)
    assert values["logit_gap_max"] == 0 and values["logit_gap_rms"] == 0, "over the ids finite on both sides"
    assert values["rank"] == 4 and values["top1_agree"] == 1


def test_a_best_id_that_only_the_candidate_forbids():
    """The reference's top-1 anchors the log ratio: where the candidate forbids it the reverse KL is still a number."""
    values = token_metrics(pair_of([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]], [[-INF, 1.5, 0.0], [3.0, 1.0, 0.0]]))
    z = np.exp([3.0, 1.0, 0.0])
    p, q = z / z.sum(), np.exp([1.5, 0.0]) / np.exp([1.5, 0.0]).sum()
    assert values["kl"].tolist() == [INF, 0.0]
    assert values["kl_reverse"].tolist() == pytest.approx([(q * np.log(q / p[1:])).sum(), 0.0], rel=1e-12)
    assert values["directional_error"].tolist() == [-INF, 0.0]


def test_ids_outside_both_vocabularies_change_nothing():
    plain = random_pair(vocab=40)
    wide = random_pair(vocab=40)
    padding = torch.full((6, 9), -INF)
    wide.reference, wide.candidate = (torch.cat([z, padding], -1) for z in (wide.reference, wide.candidate))
    expected = token_metrics(plain)
    for name, value in token_metrics(wide).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)


def test_a_vocabulary_of_one_has_no_second_best():
    """As if a second id were forbidden on both sides: certain of its token, and nothing to be apart from."""
    z_r, z_c = torch.tensor([[1.5], [NAN], [0.0]]), torch.tensor([[2.5], [1.0], [-INF]])
    one, wider = (pair_of(z_r, side, tokens=[0] * 3) for side in (z_c, torch.cat([z_c, torch.ones(3, 1)], -1)))
    forbidden = pair_of(*(torch.cat([z, torch.full((3, 1), -INF)], -1) for z in (z_r, z_c)), tokens=[0] * 3)
    values = token_metrics(one)
    assert {values[name][0] for name in ("kl", "kl_reverse", "tv", "logit_gap_max", "entropy_reference")} == {0.0}
    assert [values[name][0] for name in ("p_top_reference", "top1_agree", "rank")] == [1.0] * 3
    margins = ("logit_margin_reference", "logit_margin_candidate", "logit_margin_ulps", "directional_error")
    assert all(np.isnan(values[name]).all() for name in margins)
    assert values["nonfinite"].tolist() == [0, 1, 1] and np.isnan(values["kl"]).tolist() == [False, True, True]
    for other in (wider, forbidden):
        for name, value in token_metrics(other).items():
            np.testing.assert_array_equal(value, values[name], err_msg=name)


@pytest.mark.parametrize("wider", ["reference", "candidate"])
def test_widths_that_differ_are_compared_below_the_smaller_one(wider):
    pair = random_pair(vocab=40)
    expected = token_metrics(random_pair(vocab=40))
    setattr(pair, wider, torch.cat([getattr(pair, wider), torch.zeros(6, 3)], -1))
    for name, value in token_metrics(pair).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12, err_msg=name)
    assert pair.cut_ids == 3
    mass = pair.reference.double().softmax(-1)[:, 40:].sum(-1)
    torch.testing.assert_close(pair.cut_reference_mass, mass, rtol=1e-12, atol=0)
    assert (pair.cut_reference_mass > 0).all().item() is (wider == "reference")


def test_a_token_beyond_the_smaller_width_has_no_probability_to_compare():
    pair = pair_of([[1.0, 2.0, 9.0]], [[1.0, 2.5]], tokens=[2])
    values = token_metrics(pair)
    undefined = {"rank", "delta_p", "nll_reference", "nll_candidate", "choice_agree", "choice_margin", "choice_error"}
    assert {name for name, value in values.items() if np.isnan(value[0])} == undefined


def test_by_hand():
    """Two ids at odds 3:1 against 1:1, on logits that are exact."""
    pair = pair_of([[math.log(3), 0.0]], [[0.0, 0.0]], tokens=[1], choices=([0], [1]))
    values = {k: v.item() for k, v in token_metrics(pair).items()}
    expected = {
        "kl": 0.75 * math.log(1.5) + 0.25 * math.log(0.5),
        "kl_reverse": 0.5 * math.log(2 / 3) + 0.5 * math.log(2),
        "tv": 0.25,
        "logit_gap_max": math.log(3) / 2,
        "logit_gap_rms": math.log(3) / 2,
        "significant_digits": 0.0,
        "logit_margin_reference": math.log(3),
        "logit_margin_candidate": 0.0,
        "logit_margin_ulps": math.log(3) * 2**23,
        "top1_agree": 1.0,
        "choice_agree": 0.0,
        "rank": 1.0,
        "delta_p": 0.25,
        "nll_reference": math.log(4),
        "nll_candidate": math.log(2),
        "entropy_reference": 0.75 * math.log(4 / 3) + 0.25 * math.log(4),
        "p_top_reference": 0.75,
        "nonfinite": 0.0,
        "directional_error": -math.log(3),
        "choice_margin": math.log(3),
        "choice_error": -math.log(3),
    }
    assert values == pytest.approx(expected, rel=1e-6, abs=1e-7)  # log(3) is given in fp32


def test_margin_in_units_in_the_last_place():
    """bf16 holds 8 bits: at 100 its numbers are 0.5 apart, so 100.0 and 99.75 cannot both be told."""
    pair = pair_of([[100.0, 99.75, 0.0], [1.0, 0.0, -3.0]], [[0.0, 0.0, 0.0]] * 2, dtype="bf16")
    assert TOKEN_METRICS["logit_margin_ulps"](pair).tolist() == [0.5, 128.0]


def test_top1_ties_go_to_the_lower_id_on_both_sides():
    agree = TOKEN_METRICS["top1_agree"](pair_of([[1.0, 2.0, 2.0], [1.0, 2.0, 2.0]], [[0.0, 3.0, 3.0], [0.0, 1.0, 3.0]]))
    assert agree.tolist() == [1.0, 0.0]


def test_directional_error_is_what_moved_the_two_best_apart():
    value = directional_error(pair_of([[3.0, 2.0, 0.0], [3.0, -INF, -INF]], [[3.5, 2.25, 9.0], [3.0, -INF, -INF]]))
    assert value.tolist() == pytest.approx([0.25, NAN], nan_ok=True)


def test_a_flip_needs_an_error_of_at_least_the_margin():
    pair = random_pair(n=400, vocab=50, size=0.5)
    values = token_metrics(pair)
    flipped = values["top1_agree"] == 0
    assert 20 < flipped.sum() < 380
    assert (2 * values["logit_gap_max"][flipped] >= values["logit_margin_reference"][flipped]).all()


def test_a_mantissa_bit_is_a_factor_of_four_in_kl():
    """bf16 has three bits fewer than fp16: 64 in KL and 8 in the error, on logits rounded once."""
    z = 3 * torch.randn(100, 1000, generator=torch.Generator().manual_seed(0))
    found = {d: token_metrics(pair_of(z, z.to(d))) for d in (torch.bfloat16, torch.float16)}
    kl, gap = ([np.median(found[d][name]) for d in found] for name in ("kl", "logit_gap_rms"))
    assert kl[0] / kl[1] == pytest.approx(64, rel=0.15)
    assert gap[0] / gap[1] == pytest.approx(8, rel=0.05)
    digits = [found[d]["significant_digits"].mean() for d in found]
    assert digits[1] - digits[0] == pytest.approx(math.log10(8), abs=0.02)


@pytest.mark.parametrize("chunk", [1, 2, 5, 32, None])
def test_chunks_only_cut_the_work(chunk):
    pair = random_pair(n=11, size=0.5)
    pair.candidate[4, 7] = -INF
    pair.reference[9, 0] = NAN
    whole = token_metrics(pair, chunk=11)
    for name, value in token_metrics(pair, chunk=chunk).items():
        assert value.dtype == np.float64 and value.shape == (11,)
        np.testing.assert_allclose(value, whole[name], rtol=1e-13, err_msg=name)


def test_no_positions_at_all():
    pair = LogitPair(torch.zeros(0, 5), torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), "fp32")
    assert {v.shape for v in token_metrics(pair).values()} == {(0,)}


def test_logits_are_upcast_exactly_before_anything_is_computed():
    """fp16 logits give what the same numbers in float64 give."""
    half = random_pair(dtype=torch.float16)
    double = LogitPair(half.reference.double(), half.candidate.double(), half.token_ids, "bf16")
    for name, value in token_metrics(half).items():
        if not name.startswith("choice_"):
            np.testing.assert_array_equal(value, token_metrics(double)[name], err_msg=name)


def test_wrong_records_are_refused():
    z = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"'int8'.*fp64, fp32, fp16, bf16"):
        LogitPair(z, z, torch.tensor([0, 0]), "int8")
    with pytest.raises(ValueError, match="2, 2 and 1"):
        LogitPair(z, z, torch.tensor([0]), "fp32")
    assert list(nm.FLOAT_FORMATS) == ["fp64", "fp32", "fp16", "bf16"]


def test_a_choice_error_is_infinite_where_the_candidate_forbids_one_of_the_two():
    scores = torch.tensor([[2.0, 1.5], [2.0, 1.5], [2.0, 1.5], [2.0, -INF]], dtype=torch.float64)
    other = torch.tensor([[2.1, 1.4], [-INF, 1.4], [2.1, -INF], [2.1, -INF]], dtype=torch.float64)
    pair = LogitPair(
        torch.zeros(4, 5), torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64), "fp32", None, None, scores, other
    )
    values = token_metrics(pair)
    np.testing.assert_allclose(values["choice_margin"], [0.5, 0.5, 0.5, NAN])
    np.testing.assert_allclose(values["choice_error"], [0.2, -INF, INF, NAN])
    pair.best_candidate = torch.full((4, 2), -INF, dtype=torch.float64)
    assert token_metrics(pair)["choice_error"][:3].tolist() == [-INF] * 3, "neither is allowed: the choice turns"


@pytest.mark.parametrize("rows", [1, 4, 31, 96])
def test_of_equal_sides_no_metric_is_a_negative_zero(rows: int) -> None:
    z = torch.randn(rows, 2048)
    ids = torch.arange(rows)
    found = token_metrics(LogitPair(reference=z, candidate=z.clone(), token_ids=ids, candidate_dtype="fp32"))
    for name in ("kl", "kl_reverse", "tv", "logit_gap_max", "logit_gap_rms", "delta_p"):
        assert (found[name] == 0).all() and not np.signbit(found[name]).any(), name
