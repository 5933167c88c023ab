"""What a Watch sees of a step: against counts by hand, an overflow put in, and a model that runs unwatched."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import tiny_model

from decodedrift.models.training.watching import Overflow, Watch

FP16 = torch.float16


class Chain(torch.nn.Module):
    """Three factors in a row, so that every gradient can be written down."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.a, self.b, self.c = (torch.nn.Linear(1, 1, bias=False, dtype=kind) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x)))  # type: ignore[no-any-return]


def chain(kind: torch.dtype, a: float, b: float, c: float) -> Chain:
    model = Chain(kind)
    with torch.no_grad():
        for layer, factor in ((model.a, a), (model.b, b), (model.c, c)):
            layer.weight.fill_(factor)
    return model


def test_flushed_gradients_are_counted_against_the_reference() -> None:
    wide, narrow = chain(torch.float32, 1, 2**-13, 2**-13), chain(FP16, 1, 2**-13, 2**-13)
    reference, watch = Watch(wide), Watch(narrow)
    x = torch.tensor([[1.0], [0.0]])
    for factor, of_activations, of_weights in ((1.0, 2, 1), (2.0**10, 0, 0)):
        # into a: 2^-26, below half of fp16's smallest number 2^-24; into b: 2^-13; into c: 1
        reference.begin(), watch.begin(reference)
        (wide(x).sum() * factor).backward()
        (narrow(x.half()).sum() * factor).backward()
        expected = reference.weights(wide.named_parameters())
        assert expected.flushed == (0, 3) and reference.activations.flushed == (0, 6)
        assert watch.activations.flushed == (of_activations, 6) and watch.activations.overflowed == (0, 6)
        # weights: a's 2^-26; b's is 2^-13 x 1; c's 2^-13
        assert watch.weights(narrow.named_parameters()).flushed == (of_weights, 3)
        wide.zero_grad(), narrow.zero_grad()
    assert watch.types == dict.fromkeys("abc", FP16) and reference.types == dict.fromkeys("abc", torch.float32)


@pytest.mark.parametrize(
    ("factors", "scale", "expected"),
    [
        ((2.0**15, 4, 2**-15), 1.0, Overflow("b", "forward")),
        ((2**-10, 2.0**10, 2.0**10), 2.0**4, Overflow("a", "backward")),
        ((1, 1, 1), 2.0**17, Overflow("c", "backward")),
        ((1, 1, 1), 1.0, None),
    ],
)
def test_the_first_overflow_has_its_module(
    factors: tuple[float, float, float], scale: float, expected: Overflow | None
) -> None:
    model = chain(FP16, *factors)
    watch = Watch(model)
    watch.begin()
    (model(torch.ones(1, 1, dtype=FP16)).float().sum() * scale).backward()
    assert watch.overflow == expected
    watch.begin()
    assert watch.overflow is None and watch.activations.overflowed == (0, 0)
    assert math.isnan(watch.activations.overflowed.share)


def test_a_weights_gradient_overflows_where_no_activations_does() -> None:
    model = chain(FP16, 1, 1, 1)
    watch = Watch(model)
    watch.begin()
    (model(torch.full((1, 1), 2.0**10, dtype=FP16)).float().sum() * 2**8).backward()  # each weight's is 2^18
    assert watch.activations.overflowed.n == 0 and watch.overflow is None
    assert watch.weights(model.named_parameters()).overflowed == (3, 3)
    assert watch.overflow == Overflow("c", "backward")


def test_an_overflow_put_into_a_language_model_is_named() -> None:
    model = tiny_model("llama").half().train()
    ids = torch.arange(2, 18)[None]
    watch = Watch(model)
    for value, expected in ((1.0, None), (7e4, "model.layers.1.mlp.down_proj")):
        watch.begin()
        handle = model.model.layers[1].mlp.down_proj.register_forward_hook(
            lambda module, inputs, output, value=value: (output * 0 + 1).float().mul(value).half()
        )
        watch.close()
        watch = Watch(model)  # sees what the module gives out in the end
        model(input_ids=ids, labels=ids).loss.backward()
        handle.remove()
        assert (watch.overflow and watch.overflow.module) == expected
        model.zero_grad()


def test_watching_changes_no_bit() -> None:
    ids = torch.arange(2, 18)[None]
    gradients = []
    for watched in (False, True, True):
        model = tiny_model("llama").train()
        watch = Watch(model)
        if not watched:
            watch.close()
        for part in (ids, ids + 3):  # two micro-batches add up
            model(input_ids=part, labels=part).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
        assert bool(watch.types) is watched
    for plain, *others in zip(*gradients, strict=True):
        assert all(torch.equal(plain, other) for other in others)
    counted = watch.activations.flushed
    assert counted.n == 0 and counted.of > 2 * 15 * 128
