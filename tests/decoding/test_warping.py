"""The warped distributions against transformers' own warpers and a full sort, ties and all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from decodedrift.decoding import tops, warping
from decodedrift.decoding.strategies import strategy, top_p
from decodedrift.decoding.tops import log_totals


def dense(allowed: warping.Allowed, vocab: int) -> torch.Tensor:
    """The distribution over the whole vocabulary."""
    out = torch.zeros(len(allowed.ids), vocab, dtype=torch.float64)
    return out.scatter_add(-1, allowed.ids, allowed.log_p.exp())


def by_transformers(logits: torch.Tensor, name: str, params: dict[str, Any]) -> torch.Tensor:
    none = torch.empty(0, dtype=torch.long)
    z = TemperatureLogitsWarper(params.get("temperature", 1.0))(none, logits.double())
    kinds = {"top-k": (TopKLogitsWarper, "k"), "top-p": (TopPLogitsWarper, "p"), "min-p": (MinPLogitsWarper, "p"),
             "typical": (TypicalLogitsWarper, "mass")}  # fmt: skip
    sample = [(TopKLogitsWarper, "k"), (TopPLogitsWarper, "p"), (MinPLogitsWarper, "min_p")]
    for kind, param in [kinds[name]] if name in kinds else sample:
        z = kind(params[param])(none, z) if param in params else z
    return z.softmax(-1)


CASES = [("top-k", {"k": 5}), ("top-k", {"k": 50, "temperature": 0.7}), ("top-p", {"p": 0.9}),
         ("top-p", {"p": 0.3, "temperature": 2.0}), ("top-p", {"p": 0.999}), ("min-p", {"p": 0.05}),
         ("min-p", {"p": 0.5, "temperature": 3.0}), ("min-p", {"p": 1.0}), ("min-p", {"p": 0.001, "temperature": 0.6}),
         ("typical", {"mass": 0.9}), ("typical", {"mass": 0.2, "temperature": 0.5}), ("typical", {"mass": 0.001}),
         ("sample", {}), ("sample", {"temperature": 0.7}), ("sample", {"k": 20, "p": 0.8, "temperature": 0.7}),
         ("sample", {"k": 40, "p": 0.9, "min_p": 0.1}), ("sample", {"p": 0.6, "min_p": 0.2}), ("sample", {"min_p": 0.3}),
         ("sample", {"k": 1, "p": 0.01})]  # fmt: skip


@pytest.mark.parametrize(("name", "params"), CASES)
@pytest.mark.parametrize("scale", [0.1, 1.0, 6.0])
def test_equal_to_transformers_where_nothing_ties(name: str, params: dict[str, Any], scale: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(7, 3000, dtype=torch.float64) * scale
    ours = dense(warping.warp(logits, strategy(name, **params)), 3000)
    assert torch.allclose(ours, by_transformers(logits, name, params), atol=1e-12)


@pytest.mark.parametrize("p", [0.2, 0.9, 0.99])
def test_a_first_look_and_a_full_sort_agree(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    logits = (torch.randn(5, 2000) * 0.5).bfloat16()  # flat and full of ties
    quick = warping.warp(logits, strategy("top-p", p=p))
    monkeypatch.setattr(top_p, "LOOK", 2000)
    full = warping.warp(logits, strategy("top-p", p=p))
    assert torch.equal(dense(quick, 2000) > 0, dense(full, 2000) > 0)
    assert torch.allclose(dense(quick, 2000), dense(full, 2000), atol=1e-15)


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 5.0, 40.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_first_look_at_few_finds_the_nucleus_of_a_full_sort(
    scale: float, temperature: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    logits = (torch.randn(6, 1500, dtype=torch.float64) * scale + 20).to(dtype)
    logits[1, 700:] = -math.inf
    logits[2, 1:] = -math.inf
    for p in (0.1, 0.5, 0.9, 0.999, 1.0):
        asked = strategy("top-p", p=p, temperature=temperature)
        allowed = []
        for look in (1, 40, 1500):
            monkeypatch.setattr(top_p, "LOOK", look)
            allowed.append(dense(warping.warp(logits, asked), 1500))
        for quick in allowed[:2]:
            assert torch.equal(quick > 0, allowed[2] > 0)
            assert torch.allclose(quick, allowed[2], atol=1e-15)


def test_a_small_nucleus_needs_no_full_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    logits = torch.randn(4, 5000) * 5
    asked, real = [], tops.descending
    monkeypatch.setattr(tops, "descending", lambda z, count: asked.append(count) or real(z, count))
    allowed = warping.warp(logits, strategy("top-p", p=0.95))
    assert 10 < allowed.ids.shape[-1] < top_p.LOOK
    assert asked == [top_p.LOOK], "sorted everything"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_descending_is_a_stable_sort_and_its_beginning_the_largest(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    logits = (torch.randn(5, 700) * 3).to(dtype)
    logits[1, 50:90] = -math.inf
    logits[2, ::2], logits[2, 1::2] = 0.0, -0.0  # equal
    logits[3] = logits[3].round()
    logits[4] = torch.finfo(dtype).max * torch.linspace(-1, 1, 700).to(dtype)
    ids = tops.descending(logits, 700)
    assert dtype == torch.float64 or torch.equal(ids, logits.sort(dim=-1, descending=True, stable=True).indices)
    for count in (1, 7, 699, 700):
        first = tops.descending(logits, count)
        assert torch.equal(logits.gather(-1, first), logits.topk(count).values)
        assert all(len({*row}) == count for row in first.tolist())


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5]), min_size=3, max_size=40), st.floats(0.05, 1.0))
@settings(max_examples=60)
def test_ties_at_the_boundary_stay_in_whatever_their_order(values: list[float], p: float) -> None:
    logits = torch.tensor([values], dtype=torch.float64)
    kept = dense(warping.warp(logits, strategy("top-p", p=p)), len(values))[0] > 0
    lowest = logits[0][kept].min()
    assert torch.equal(kept, logits[0] >= lowest)
    probability = logits[0].softmax(-1)
    assert float(probability[kept].sum()) >= p - 1e-12
    assert float(probability[logits[0] > lowest].sum()) < p


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5]), min_size=3, max_size=40), st.integers(1, 45))
@settings(max_examples=60)
def test_all_that_tie_with_the_kth_stay_in(values: list[float], k: int) -> None:
    logits = torch.tensor([values, values[::-1], sorted(values)], dtype=torch.float64)
    kept = dense(warping.warp(logits, strategy("top-k", k=k)), len(values))
    kth = sorted(values, reverse=True)[min(k, len(values)) - 1]
    assert torch.equal(kept > 0, logits >= kth)
    assert torch.allclose(kept, by_transformers(logits, "top-k", {"k": k}), atol=1e-15)


@pytest.mark.parametrize(("ties", "allowed"), [((3.0, 2.0), 3), ((3.0, 3.0), 4), ((4.0, 3.0), 3)])
def test_one_tie_just_behind_k_is_seen_in_any_row(ties: tuple[float, float], allowed: int) -> None:
    """The look-ahead is a single token: no other row, and no second tie, helps to find it."""
    logits = torch.tensor([[5.0, 4.0, *ties, 1.0], [9.0, 8.0, 7.0, 6.0, 5.0]])
    kept = dense(warping.warp(logits, strategy("top-k", k=3)), 5) > 0
    assert kept.sum(-1).tolist() == [allowed, 3]


def test_a_nucleus_ends_with_the_token_whose_mass_reaches_p_exactly() -> None:
    logits = torch.tensor([[math.log(2), 0.0, 0.0]], dtype=torch.float64)  # 1/2, 1/4, 1/4
    assert float((logits[0, 0] - log_totals(logits, 1.0)[0]).exp()) == 0.5, "not one rounding"
    exactly, more = (warping.warp(logits, strategy("top-p", p=p)) for p in (0.5, math.nextafter(0.5, 1.0)))
    assert dense(exactly, 3).tolist() == [[1.0, 0.0, 0.0]] == by_transformers(logits, "top-p", {"p": 0.5}).tolist()
    assert int((dense(more, 3) > 0).sum()) == 3


def test_what_k_leaves_is_renormalised_before_p_is_taken_of_it() -> None:
    """k first, as generate does: of 0.4, 0.3, 0.2, 0.1 two are left, 4/7 and 3/7, and the first alone holds a half."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log()
    kept = [
        dense(warping.warp(logits, strategy("sample", **params)), 4)[0] for params in ({"k": 2, "p": 0.5}, {"p": 0.5})
    ]
    assert kept[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert kept[1].tolist() == pytest.approx([4 / 7, 3 / 7, 0.0, 0.0], abs=1e-15)


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5, -math.inf]), min_size=3, max_size=40),
    st.integers(1, 45),
    st.sampled_from([0.2, 0.5, 0.9]),
)
@settings(max_examples=80, deadline=None)
def test_ties_stay_in_through_k_and_p(values: list[float], k: int, p: float) -> None:
    logits = torch.tensor([[*values, 1.0], [*values[::-1], 1.0]], dtype=torch.float64)
    kept = dense(warping.warp(logits, strategy("sample", k=k, p=p)), len(values) + 1) > 0
    for row, inside in zip(logits, kept, strict=True):
        lowest = row[inside].min()
        assert torch.equal(inside, row >= lowest), "as many as tie, whatever their order"
        first = row[row >= sorted(row.tolist(), reverse=True)[min(k, len(row)) - 1]].exp()
        assert float(row[inside].exp().sum() / first.sum()) >= p - 1e-12
        assert float(row[row > lowest].exp().sum() / first.sum()) < p


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5, -math.inf]), min_size=3, max_size=40),
    st.sampled_from([0.2, 0.5, 0.9]),
)
@settings(max_examples=80, deadline=None)
def test_typical_allows_what_transformers_allows_with_ties_too(values: list[float], mass: float) -> None:
    logits = torch.tensor([[*values, 1.0], [*sorted(values), 1.0]], dtype=torch.float64)
    ours = dense(warping.warp(logits, strategy("typical", mass=mass)), len(values) + 1)
    theirs = by_transformers(logits, "typical", {"mass": mass})
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_the_most_probable_token_may_be_untypical() -> None:
    logits = torch.tensor([[0.5, *[0.005] * 100]], dtype=torch.float64).log()  # entropy 3.0; surprises 0.69 and 5.3
    allowed = warping.warp(logits, strategy("typical", mass=0.3))
    assert allowed.ids[0].tolist() == [0], "2.3 nats off, as the others are: the nearest"
    logits = torch.tensor([[0.4, *[0.06] * 10]], dtype=torch.float64).log()  # entropy 2.05; surprises 0.92 and 2.81
    allowed = warping.warp(logits, strategy("typical", mass=0.3))
    assert sorted(allowed.ids[0].tolist()) == list(range(1, 11))
    assert allowed.log_p[0].exp().tolist() == pytest.approx([0.1] * 10, abs=1e-15)


def test_a_temperature_near_zero_is_greedy_and_masked_tokens_stay_out() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.999, -math.inf]])
    cold = warping.warp(logits, strategy("top-p", p=0.9, temperature=1e-6))
    assert cold.ids[0, 0] == 1
    assert float(cold.log_p[0, 0]) == 0.0
    everything = dense(warping.warp(logits, strategy("top-k", k=4)), 4)[0]
    assert everything[3] == 0.0
    assert float(everything.sum()) == pytest.approx(1.0, abs=1e-15)


@given(
    st.lists(st.sampled_from([0.0, math.log(2), math.log(4), 2.0, -math.inf]), min_size=3, max_size=40),
    st.sampled_from([0.25, 0.5, 1.0, 0.3]),
)
@settings(max_examples=80)
def test_min_p_allows_what_transformers_allows_at_the_threshold_too(values: list[float], p: float) -> None:
    logits = torch.tensor([[*values, 1.0], [*sorted(values), 1.0]], dtype=torch.float64)
    ours = dense(warping.warp(logits, strategy("min-p", p=p)), len(values) + 1)
    theirs = by_transformers(logits, "min-p", {"p": p})
    assert torch.equal(ours > 0, theirs > 0)
    assert torch.allclose(ours, theirs, atol=1e-15)


def test_min_p_keeps_a_token_that_is_p_times_as_probable_exactly() -> None:
    logits = torch.tensor([[math.log(2), 0.0, 0.0]], dtype=torch.float64)  # 1/2, 1/4, 1/4
    exactly, more = (warping.warp(logits, strategy("min-p", p=p)) for p in (0.5, math.nextafter(0.5, 1.0)))
    assert [int((dense(a, 3) > 0).sum()) for a in (exactly, more)] == [3, 1]
    assert exactly.ids[0, 0] == 0
