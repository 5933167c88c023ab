"""16-bit weights, their updates and the loss scale against closed forms and torch's own."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.amp import GradScaler
from torch.nn import Parameter

from decodedrift.models.training.rounding import compensated, stochastic
from decodedrift.models.training.scaling import LossScale, scaler
from decodedrift.models.training.updates import updates
from decodedrift.models.training.weights import Weights, weights

BF16, FP16 = torch.bfloat16, torch.float16


def stepped(held: Weights, optimizer: torch.optim.Optimizer, gradient: float) -> Any:
    """One step with the same gradient everywhere."""
    for parameter in held.narrow:
        parameter.grad = torch.full_like(parameter, gradient)
    held.gradients()
    held.begin(optimizer)
    optimizer.step()
    return held.finish()


def thousand(
    rounding: str | None, master: bool = False, count: int = 1, kind: torch.dtype = BF16
) -> tuple[Weights, Any]:
    """1.0 + 1000 x 0.001, so many times over."""
    held = weights([Parameter(torch.ones(count, dtype=kind))], master, rounding, seed=7)
    optimizer = torch.optim.SGD(held.seen, lr=0.001)
    arrivals = [stepped(held, optimizer, -1.0) for _ in range(1000)]
    return held, arrivals[0]


@pytest.mark.parametrize("rounding", [None, "nearest"])
def test_a_thousand_small_updates_leave_a_bf16_one_where_it_is(rounding: str | None) -> None:
    held, arrival = thousand(rounding)
    assert held.narrow[0].item() == 1.0
    assert arrival.cancelled == (1, 1) and arrival.arrived == 0.0


def test_rounded_at_random_they_arrive_in_the_mean() -> None:
    held, arrival = thousand("stochastic", count=4000)
    values = held.narrow[0].detach().double()
    # a step of 0.001 moves by one spacing of 2^-7 with p = 0.128: 1000 of them vary by sqrt(1000 p (1 - p)) spacings
    error = math.sqrt(1000 * 0.128 * 0.872) * 2**-7 / math.sqrt(4000)
    assert abs(values.mean().item() - 2.0) < 4 * error
    assert 0.5 < values.std().item() / (error * math.sqrt(4000)) < 1.5
    assert arrival.cancelled.n == 0 and abs(arrival.arrived - 1.0) < 0.2


@pytest.mark.parametrize(("rounding", "master", "bound"), [("kahan", False, 2**-7), (None, True, 2**-8)])
def test_what_was_lost_is_kept(rounding: str | None, master: bool, bound: float) -> None:
    held, arrival = thousand(rounding, master)
    assert abs(held.narrow[0].item() - 2.0) <= bound and abs(held.seen[0].item() - 2.0) < 0.004
    assert arrival.cancelled.n == 0 and abs(arrival.arrived - 1.0) < 0.02


def test_what_cancels_in_bf16_is_known() -> None:
    for sign, limit in ((1, 2**-8), (-1, 2**-9)):  # up to half a spacing, which is smaller below 1; ties to even
        for update, still in ((limit, True), (limit * 1.01, False)):
            held = weights([Parameter(torch.ones(1, dtype=BF16))], rounding="nearest")
            arrival = stepped(held, torch.optim.SGD(held.seen, lr=1.0), -sign * update)
            assert (arrival.cancelled.n == 1) is still


@pytest.mark.parametrize("kind", [BF16, FP16])
def test_a_random_rounding_gives_a_neighbour_with_the_right_chance(kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.tensor([1.0, -1.001, 3e-8, -2.1e-6, 0.0, 65504.0, -7.3])
    drawn = stochastic(values.expand(20000, -1), kind, generator).double()
    assert all(len(column.unique()) <= 2 for column in drawn.T)
    spread = (drawn.amax(0) - drawn.amin(0)).numpy()
    assert (np.abs(drawn.mean(0).numpy() - values.double().numpy()) <= 4 * spread / 2 / math.sqrt(20000)).all()
    exact = torch.randn(100).to(kind)
    assert (stochastic(exact.float(), kind, generator) == exact).all()


def test_a_random_rounding_hides_no_overflow() -> None:
    values = stochastic(torch.tensor([7e4, -7e4, float("inf"), float("nan")]), FP16)
    assert values[:3].tolist() == [math.inf, -math.inf, math.inf] and values[3].isnan()


def test_a_sum_of_two_holds_sixteen_bits() -> None:
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 1
    near, rest = compensated(values, BF16)
    assert (near == values.to(BF16)).all()
    error = (near.double() + rest.double() - values.double()).abs().max().item()
    assert 0 < error <= 2**-8 * 2**-9


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_the_update_is_what_torch_makes_of_it(optimizer: str) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(50, generator=generator, dtype=torch.float64)
    weight, unused = Parameter(start.clone()), Parameter(torch.ones(3, dtype=torch.float64))
    makers: dict[str, Any] = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1, momentum=0.9),
    }
    torch_own = makers[optimizer]([weight, unused])
    for _ in range(3):
        weight.grad = torch.randn(50, generator=generator, dtype=torch.float64)
        before, (update, none) = weight.detach().clone(), list(updates(torch_own))
        torch_own.step()
        assert torch.allclose(weight.detach() - before, update, rtol=1e-12, atol=1e-15)
        assert none.count_nonzero() == 0 and update.count_nonzero() == 50


def test_an_update_too_small_for_the_weights_is_seen() -> None:
    held = weights([Parameter(torch.ones(4, dtype=torch.float32))])
    arrival = stepped(held, torch.optim.SGD(held.seen, lr=1e-9), -1.0)
    assert arrival.cancelled == (4, 4)  # of float32 too
    still = stepped(held, torch.optim.SGD(held.seen, lr=1.0), 0.0)
    assert still.cancelled == (0, 0) and math.isnan(still.arrived)


@pytest.mark.parametrize("manner", [{"master": True}, {"rounding": "stochastic"}, {"rounding": "kahan"}])
def test_a_step_goes_on_from_what_was_stored(manner: Any) -> None:
    def begun() -> tuple[Weights, Any]:
        held = weights([Parameter(torch.linspace(0.5, 2, 64).to(BF16))], seed=5, **manner)
        return held, torch.optim.AdamW(held.seen, lr=1e-3)

    whole, optimizer = begun()
    for n in range(4):
        stepped(whole, optimizer, 1.0 + n)
        if n == 1:
            stored = (whole.narrow[0].detach().clone(), optimizer.state_dict(), whole.state_dict())
            stored = torch.load(_saved(stored), weights_only=True)
    again, other = begun()
    again.narrow[0].data.copy_(stored[0])
    again.load_state_dict(stored[2])
    other.load_state_dict(stored[1])
    for n in (2, 3):
        stepped(again, other, 1.0 + n)
    assert torch.equal(again.seen[0], whole.seen[0]) and torch.equal(again.narrow[0], whole.narrow[0])


def _saved(what: Any) -> Any:
    import io

    file = io.BytesIO()
    torch.save(what, file)
    file.seek(0)
    return file


def test_masters_begin_unrounded() -> None:
    exact = torch.rand(10, generator=torch.Generator().manual_seed(0))
    held = weights([Parameter(exact.to(BF16))], master=True, initial=[exact])
    assert torch.equal(held.seen[0], exact) and not torch.equal(held.narrow[0].float(), exact)


SCRIPT = [math.inf, math.nan, 1.0, 1.0, 1.0, -math.inf, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]  # steps' gradients


def test_the_schedule_is_gradscalers_own() -> None:
    def history(made: Any) -> list[tuple[float, float]]:
        weight = Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        seen = []
        for gradient in SCRIPT:
            made.scale(torch.zeros(()))
            weight.grad = torch.full((1,), gradient * made.get_scale())
            made.unscale_(optimizer)
            made.step(optimizer)
            made.update()
            seen.append((made.get_scale(), weight.item()))
        return seen

    theirs, ours = GradScaler("cpu", growth_interval=3), LossScale(interval=3)
    expected = history(theirs)
    assert history(ours) == expected
    scales = [2.0**16] + [scale for scale, _ in expected]
    fell = [after < before for before, after in pairwise(scales)]
    assert fell == [not math.isfinite(g) for g in SCRIPT]  # how a skipped step is told
    assert expected[0] == (2.0**15, 0.0) and max(scales[3:]) > scales[2]
    again = LossScale(interval=3)
    again.load_state_dict(ours.state_dict())
    assert history(again) == history(theirs)


def test_each_arm_has_the_scaler_that_can_scale_it() -> None:
    assert isinstance(scaler("dynamic", fp16_gradients=False), GradScaler)
    weight = Parameter(torch.zeros(2, dtype=FP16))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    plain = scaler("dynamic", fp16_gradients=True, start=4.0)
    weight.grad = torch.full_like(weight, 4.0)
    theirs = GradScaler("cpu")
    theirs.scale(torch.zeros(()))
    with pytest.raises(ValueError, match="FP16"):
        theirs.unscale_(optimizer)
    plain.unscale_(optimizer)
    plain.step(optimizer)
    assert weight.tolist() == [-1.0, -1.0]
    fixed, none = scaler(8, fp16_gradients=False), scaler(None, fp16_gradients=True)
    assert fixed.scale(torch.ones(())).item() == 8.0 and none.scale(torch.ones(())).item() == 1.0
    weight.grad = torch.full_like(weight, math.inf)
    fixed.unscale_(optimizer)
    fixed.step(optimizer)
    fixed.update()
    assert weight.isinf().all() and fixed.get_scale() == 8.0  # a fixed scale goes on, and what breaks is seen
