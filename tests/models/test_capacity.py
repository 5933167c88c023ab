"""Experts of limited capacity: the rule of GShard and Switch, counted by hand, on every mixture that can be reached."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from families import TABLE
from hypothesis import given, settings
from hypothesis import strategies as st
from test_every_family import tiny

from decodedrift.core.records import VariantError
from decodedrift.models import experts, steps
from decodedrift.models.capacity import capacity, kept, limited
from decodedrift.models.load import Loaded, loaded
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.variants import parse_variants

TEXTS = ([5, 9, 17, 33, 2, 71, 40, 8], [11, 12, 13, 14, 15, 16, 17, 18], [90, 3, 90, 3, 90, 3])
UNREACHED = {"dbrx", "jetmoe", "llama4_text", "longcat_flash"}  # of TABLE, mixtures that are written another way
MIXTURES = (
    "afmoe", "aria_text", "axk1", "deepseek_v2", "deepseek_v3", "deepseek_v4", "ernie4_5_moe", "gpt_oss", "granitemoe",
    "hunyuan_v1_moe", "inkling_text", "minimax_m2", "mixtral", "nemotron_h", "olmoe", "phimoe", "qwen2_moe",
    "qwen3_moe", "qwen3_next",
)  # fmt: skip


def ready(model: Any, variant: str = "fp32") -> Any:
    """A context around a loaded copy of a model."""
    return loaded(in_memory(model, tiny_tokenizer(model.config.vocab_size)), parse_variants(variant)[0])


def family(name: str) -> Any:
    return tiny(next(one for one in TABLE if one.name == name))


def read(model: Loaded, texts: Any) -> list[torch.Tensor]:
    """The logits of whole texts, right-padded, in one batch."""
    with steps.reading(model):
        return steps.read_whole(model, texts, [(0, len(text)) for text in texts], pad=0)


def by_hand(indices: Any, weights: Any, competes: Any, most: int) -> list[list[bool]]:
    """The rule, choice after choice."""
    places: dict[int, int] = {}
    result = [[False] * len(row) for row in indices]
    for rank in range(len(indices[0])):
        for token, row in enumerate(indices):
            at = sorted(range(len(row)), key=lambda c: (-weights[token][c], c))[rank]
            if competes[token][at] and places.get(row[at], 0) < most:
                places[row[at]] = places.get(row[at], 0) + 1
                result[token][at] = True
    return result


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 3), st.integers(0, 7))
def test_places_are_given_as_by_hand(seed: int, tokens: int, k: int, most: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.rand(tokens, 4, generator=generator).argsort(-1)[:, :k]
    weights = torch.randint(1, 5, (tokens, k), generator=generator).float()  # with ties
    competes = torch.rand(tokens, k, generator=generator) > 0.2
    assert kept(indices, weights, competes, most).tolist() == by_hand(
        indices.tolist(), weights.tolist(), competes.tolist(), most
    )


def test_the_capacity_is_the_ceiling_of_the_decimal_product() -> None:
    two = torch.zeros(1, 2)
    assert [capacity(f, n, two, e) for f, n, e in ((1.0, 10, 4), (1.1, 100, 4), (0.3, 10, 4), (1.25, 8, 8))] == [
        5,
        55,
        2,
        3,
    ]
    assert math.ceil(1.1 * 100 * 2 / 4) == 56  # why it is not computed in floating point


@torch.no_grad()
def test_a_mixtral_layer_gives_what_is_computed_expert_by_expert() -> None:
    """Each layer's output, from its own inputs, weights and a count by hand: no code of the model's experts."""
    with ready(tiny_model("mixtral"), "fp64") as model:
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        blocks = [m for m in model.model.modules() if type(m).__name__ == "MixtralSparseMoeBlock"]
        handles = [b.register_forward_hook(lambda m, a, o: seen.append((a[0], o))) for b in blocks]
        with limited(model, 0.75) as dropped:
            read(model, TEXTS)
        for handle in handles:
            handle.remove()
    assert len(blocks) == len(seen) == 2 and 0 < dropped.share < 1
    mask = torch.arange(8)[None] < torch.tensor([len(text) for text in TEXTS])[:, None]
    lost = 0
    for block, (states, output) in zip(blocks, seen, strict=True):
        x = states.reshape(-1, states.shape[-1])
        weights, indices = (x @ block.gate.weight.T).softmax(-1).topk(2)
        weights = weights / weights.sum(-1, keepdim=True)
        competes = mask.reshape(-1, 1).expand(-1, 2)
        places = by_hand(indices.tolist(), weights.tolist(), competes.tolist(), math.ceil(0.75 * 22 * 2 / 4))
        expected = torch.zeros_like(x)
        for token, c in torch.argwhere(torch.tensor(places)).tolist():
            gate, up = (block.experts.gate_up_proj[indices[token, c]] @ x[token]).chunk(2)
            hidden = torch.nn.functional.silu(gate) * up
            expected[token] += weights[token, c] * (block.experts.down_proj[indices[token, c]] @ hidden)
        real = mask.reshape(-1)
        torch.testing.assert_close(output.reshape(x.shape)[real], expected[real], rtol=1e-11, atol=1e-11)
        lost += int(competes.sum()) - sum(map(sum, places))
    assert (dropped.choices, dropped.dropped) == (2 * 22 * 2, lost)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_limited_and_one_with_room_enough_keeps_every_bit(name: str) -> None:
    with ready(family(name)) as model:
        free = read(model, TEXTS)
        with limited(model, 1e6) as roomy:
            same = read(model, TEXTS)
        with limited(model, 0.5) as tight:
            other = read(model, TEXTS)
        again = read(model, TEXTS)
    assert roomy.dropped == 0 and roomy.choices == tight.choices > 0
    assert 0.3 < tight.share < 0.9
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(free, same, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(free, other, strict=True))


def test_filler_takes_no_place() -> None:
    """Ten fillers behind a text of six tokens: the limit, and what falls to it, are those of the six alone."""
    logits, counts = [], []
    for variant in ("fp32", "fp32:padding=multiple:16"):
        with ready(tiny_model("mixtral"), variant) as model, limited(model, 1.0) as dropped:
            logits += read(model, [TEXTS[2]])
        counts.append((dropped.choices, dropped.dropped))
    assert counts[0] == counts[1] and counts[0][0] == 2 * 2 * 6 and counts[0][1] > 0
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)


def test_a_texts_logits_follow_its_neighbours_at_order_one() -> None:
    """What the limit moves is thousands of times what rounding does, and only the mixture feels it."""
    with ready(tiny_model("mixtral")) as model:
        free = [read(model, [other, TEXTS[0]])[1] for other in (TEXTS[1], TEXTS[1][::-1])]
        with limited(model, 1.0):
            tight = [read(model, [other, TEXTS[0]])[1] for other in (TEXTS[1], TEXTS[1][::-1])]
    size = float(free[0].abs().max())
    assert float((free[0] - free[1]).abs().max()) < 1e-5 * size
    assert float((tight[0] - tight[1]).abs().max()) > 1e-2 * size


def test_a_step_alone_drops_nothing() -> None:
    with ready(tiny_model("mixtral")) as model, limited(model, 1.0) as dropped, steps.reading(model):
        state = steps.begin(model, [TEXTS[0]], torch.tensor([0]), room=4, pad=0)
        before = dropped.dropped
        assert before > 0
        for token in (4, 5, 6):
            state.advance(torch.tensor([token]))
        assert dropped.dropped == before and dropped.choices == 2 * 2 * (len(TEXTS[0]) + 3)


def test_left_padded_steps_know_their_filler() -> None:
    with ready(tiny_model("mixtral")) as model, limited(model, 1.0) as dropped, steps.reading(model):
        state = steps.begin(model, [TEXTS[0], TEXTS[0][:2]], torch.tensor([0, 1]), room=4, pad=0)
        state.advance(torch.tensor([4, 5]))
    assert dropped.choices == 2 * 2 * (8 + 2 + 2)


@pytest.mark.parametrize("name", sorted(UNREACHED))
def test_a_mixture_written_another_way_is_refused_by_name(name: str) -> None:
    model = family(name)
    checkpoint = in_memory(model, tiny_tokenizer(model.config.vocab_size))
    assert type(model).__name__ in str(experts.refused(checkpoint))
    with (
        ready(model) as made,
        pytest.raises(VariantError, match=f"{type(model).__name__} has no experts"),
        limited(made, 1),
    ):
        pass


def test_a_dense_model_is_refused() -> None:
    model = tiny_model("llama")
    assert "LlamaForCausalLM has no experts" in str(experts.refused(in_memory(model, tiny_tokenizer())))
    assert experts.refused(in_memory(tiny_model("mixtral"), tiny_tokenizer())) is None
    with ready(model) as made, pytest.raises(VariantError, match="LlamaForCausalLM has no experts"), limited(made, 1):
        pass


@pytest.mark.parametrize("kernel", ["eager", "batched_mm", "grouped_mm"])
def test_every_kernel_is_limited_alike(kernel: str) -> None:
    with ready(tiny_model("mixtral"), f"fp32:experts={kernel}") as model, limited(model, 0.75) as dropped:
        logits = read(model, TEXTS)
    with ready(tiny_model("mixtral"), "fp64") as model, limited(model, 0.75) as exact:
        truth = read(model, TEXTS)
    assert (dropped.choices, dropped.dropped) == (exact.choices, exact.dropped)
    for a, b in zip(logits, truth, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3)
