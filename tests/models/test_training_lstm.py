"""The LSTM's task by hand, its training against a plain loop, and what two trainings have in common."""

from __future__ import annotations

import math

import pytest
import torch

from decodedrift.models.training import lstm


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs of three batches."""
    monkeypatch.setattr(lstm, "EPOCHS", 2)
    monkeypatch.setattr(lstm, "SEQUENCES", 70)


def test_a_label_turns_where_the_sum_passes_a_quarter_of_the_length() -> None:
    x, y = lstm.data(3, 50)
    assert x.shape == y.shape == (50, 10) and x.min() >= 0 and x.max() < 1
    for numbers, labels in zip(x.tolist(), y.tolist(), strict=True):
        assert labels == [float(sum(numbers[: n + 1]) > 2.5) for n in range(10)]
    assert torch.equal(x, x.float().double())  # float32 reads the same numbers


def test_it_trains_as_a_plain_loop_does(small: None) -> None:
    learnt, held = lstm.data(0, 70), lstm.data(1, 20)
    ours = list(lstm.training(lstm.drawn(4, torch.float32), learnt, held, seed=6))
    torch.manual_seed(4)
    net, head = torch.nn.LSTM(1, 20, batch_first=True), torch.nn.Linear(20, 1)
    weights = [*net.parameters(), *head.parameters()]
    order = torch.Generator().manual_seed(6)
    for _ in range(2):
        for rows in torch.randperm(70, generator=order).split(32):
            told = torch.sigmoid(head(net(learnt.x[rows].float()[..., None])[0]).squeeze(-1))
            loss = torch.nn.functional.binary_cross_entropy(told, learnt.y[rows].float())
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.data.add_(gradient, alpha=-0.001)
    told = torch.sigmoid(head(net(held.x.float()[..., None])[0]).squeeze(-1))
    assert torch.equal(told, ours[-1][0]) and not torch.equal(told, ours[0][0])
    assert ours[-1][1] < ours[0][1]


def test_digits_fall_with_other_weights_and_not_with_the_type(small: None) -> None:
    rows = {(row["pair"], row["epoch"]): row for row in lstm.digits([0])}
    assert len(rows) == len(lstm.PAIRS) * 3
    first, last = ({name: rows[name, epoch] for name in lstm.PAIRS} for epoch in (0, 2))
    assert first[lstm.EQUAL]["digits_weights"] == math.inf and last[lstm.EQUAL]["significant_digits_p5"] > 6
    assert first[lstm.DRAWN]["digits_weights"] < 0.5 and first[lstm.DRAWN]["significant_digits"] < 2
    assert last[lstm.DRAWN]["significant_digits"] < 2
    assert 6.5 < first[lstm.ULP]["digits_weights"] < 7.5
    assert first[lstm.ORDER]["significant_digits"] == math.inf > last[lstm.ORDER]["significant_digits"]
