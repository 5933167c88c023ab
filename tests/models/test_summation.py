"""The same function in another order of summation: shown in float64, refused where it is another function."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import tiny_config, tiny_model, tiny_tokenizer
from running import avx512

from decodedrift.core.records import VariantError
from decodedrift.models import steps, summation
from decodedrift.models.load import Loaded, loaded
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.summation import LEGAL, MAPS, legality, orders, reordered
from decodedrift.models.variants import parse_variants
from decodedrift.numerics.logits import logit_error, reorder_ratio

TEXTS = ([5, 9, 17, 33, 2, 71, 40, 8], [11, 12, 13, 14, 15, 16, 17, 18])


def model_of(kind: str) -> Any:
    if kind != "qwen3":
        return tiny_model(kind)
    import transformers as t

    given = {k: v for k, v in tiny_config("llama").to_dict().items() if k in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id")}  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = t.AutoModelForCausalLM.from_config(t.Qwen3Config(**given, head_dim=16))
        for parameter in model.parameters():  # norms of ones would hide that they stay
            parameter.mul_(4) if parameter.dim() > 1 else parameter.uniform_(0.5, 2)
    return model.eval()


def ready(model: Any, variant: str = "fp32") -> Any:
    """A context around a loaded copy, its norms and biases no longer all alike."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 2)
    return loaded(in_memory(model, tiny_tokenizer()), parse_variants(variant)[0])


def read(model: Loaded) -> torch.Tensor:
    with steps.reading(model):
        return torch.cat(steps.read_whole(model, TEXTS, [(0, 8)] * 2, pad=0)).double()


@pytest.mark.parametrize("variant", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("kind", sorted(MAPS))
def test_another_order_is_the_same_function_with_other_bits_and_is_put_back(kind: str, variant: str) -> None:
    with ready(model_of(kind), variant) as model:
        kept = {name: (p.data_ptr(), p.detach().clone()) for name, p in model.model.named_parameters()}
        plain = read(model)
        with reordered(model, 0):
            moved = read(model)
            elsewhere = {name for name, p in model.model.named_parameters() if not torch.equal(p, kept[name][1])}
        with reordered(model, 0):
            assert torch.equal(read(model), moved)
        with reordered(model, 1):
            other = read(model)
        assert torch.equal(read(model), plain)
        assert all(
            (p.data_ptr(), True) == (kept[n][0], torch.equal(p, kept[n][1])) for n, p in model.model.named_parameters()
        )
        assert elsewhere == {name for name in kept if not name.endswith(("q_norm.weight", "k_norm.weight"))}
        assert 0 < model.facts["summation"]["legality"] <= LEGAL
    most = (0.2 if variant == "bf16" else 1e-4) * float(plain.abs().max())
    assert all(float((sums - plain).abs().max()) < most for sums in (moved, other))
    if variant != "bf16":  # it accumulates in float32, and over rows this short no rounding need flip
        assert not torch.equal(moved, plain) and not torch.equal(moved, other)


BROKEN = {
    "the final norm stays": lambda places, o: places | {"model.norm.weight": (None,)},
    "a layer's norm stays": lambda places, o: places | {"model.layers.1.input_layernorm.weight": (None,)},
    "the keys stay": lambda places, o: places | {"model.layers.0.self_attn.k_proj.weight": (None, o.residual)},
    "the values stay": lambda places, o: places | {"model.layers.1.self_attn.v_proj.weight": (None, o.residual)},
    "the units stay": lambda places, o: places | {"model.layers.1.mlp.down_proj.weight": (o.residual, None)},
    "the head stays": lambda places, o: places | {"lm_head.weight": (None, None)},
}


@pytest.mark.parametrize("fault", sorted(BROKEN))
def test_what_is_another_function_is_refused(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {**MAPS, "llama": lambda config, o: BROKEN[fault](MAPS["llama"](config, o), o)}
    with ready(tiny_model("llama")) as model:
        monkeypatch.setattr(summation, "MAPS", broken)
        plain = read(model)
        with pytest.raises(VariantError, match="its sums cannot be reordered: in float64"), reordered(model, 3):
            pass
        assert torch.equal(read(model), plain) and "summation" not in model.facts


def test_query_heads_that_leave_their_group_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def across(config: Any, seed: int) -> Any:
        made = orders(config, seed)
        return replace(made, query=tuple(order.roll(8) for order in made.query))

    with ready(tiny_model("llama")) as model:
        monkeypatch.setattr(summation, "orders", across)
        with pytest.raises(VariantError, match="its sums cannot be reordered"):
            legality(model, 0)


@pytest.mark.parametrize("kind", ["gpt_neox", "mixtral"])
def test_a_family_without_a_map_is_refused_by_name(kind: str) -> None:
    assert kind in str(summation.refused(tiny_config(kind)))
    assert "choices: llama, mistral, qwen2, qwen3, gpt2" in str(summation.refused(tiny_config(kind)))
    with ready(tiny_model(kind)) as model, pytest.raises(VariantError, match=kind), reordered(model, 0):
        pass
    assert all(summation.refused(tiny_config(known)) is None for known in ("llama", "mistral", "qwen2", "gpt2"))


def test_a_weight_that_the_map_does_not_name_is_refused() -> None:
    model = tiny_model("llama")
    model.model.layers[1].register_parameter("gain", torch.nn.Parameter(torch.ones(32)))
    with ready(model) as made, pytest.raises(VariantError, match=r"layers\.1\.gain is no weight that llama has"):
        legality(made, 0)


def test_heads_move_whole_and_groups_with_their_keys() -> None:
    config = tiny_config("llama")  # 4 heads of 8 in 2 groups
    made = orders(config, 5)
    for query, keys in zip(made.query, made.keys, strict=True):
        heads, groups = query.reshape(4, 8), keys.reshape(2, 8)
        assert torch.equal(heads - heads[:, :1], torch.arange(8).expand(4, 8))
        assert sorted((heads[:, 0] // 8).tolist()) == [0, 1, 2, 3]
        assert (heads[:, 0] // 16).tolist() == (groups[:, 0] // 8).repeat_interleave(2).tolist()
    assert sorted(made.residual.tolist()) == list(range(32))


def test_the_error_of_bf16_is_near_eight_times_that_of_fp16() -> None:
    """Three bits of mantissa. Noise between two orders is not: what accumulates in float32 flips few roundings."""
    exact = read_in("fp64")[0]
    errors, ratios = [], []
    for name in ("bf16", "fp16", "fp32"):
        first, second = read_in(name)
        errors.append(float(logit_error(exact, first)[0].square().mean().sqrt()))
        ratios.append(reorder_ratio(first, second, exact))
    assert 5 < errors[0] / errors[1] < 12
    seen = ratios if avx512() else ratios[1:]  # bf16's rounding hides every other order with AVX2 alone
    assert all(ratio < 2 for ratio in ratios) and all(ratio > 0 for ratio in seen)


def read_in(variant: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a wider model as it is and in another order."""
    import transformers as t

    config = tiny_config("llama")
    config.hidden_size, config.intermediate_size, config.head_dim = 256, 512, 64
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide = t.LlamaForCausalLM(config).eval()
    with ready(wide, variant) as model:
        plain = read(model)
        with reordered(model, 0):
            return plain, read(model)


def test_the_ratio_of_independent_errors_is_one_and_of_shared_ones_nothing() -> None:
    noise = torch.randn(3, 400, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact, first, second = noise[0] * 10, noise[0] * 10 + noise[1], noise[0] * 10 + noise[2]
    assert reorder_ratio(first, second, exact) == pytest.approx(1, abs=0.02)
    assert reorder_ratio(first + 5, second - 7, exact) == pytest.approx(reorder_ratio(first, second, exact), rel=1e-9)
    assert reorder_ratio(first, first, exact) == 0
    assert math.isnan(reorder_ratio(exact, exact, exact))
