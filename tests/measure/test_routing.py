"""Who chooses which experts: sets counted by hand, replay by an independent forward, and what must be exactly nothing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from families import TABLE
from test_every_family import tiny

from decodedrift.core.records import VariantError
from decodedrift.measure.routing import Routed, read, rows
from decodedrift.models.load import loaded
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.variants import parse_variants

TEXTS = ([5, 9, 17, 33, 2, 71, 40, 8], [11, 12, 13, 14, 15, 16], [90, 3, 90, 3, 90, 3, 8])
SPANS = [(2, 8), (0, 6), (3, 7)]
MIXTURES = (
    "afmoe", "deepseek_v2", "deepseek_v3", "ernie4_5_moe", "gpt_oss", "granitemoe", "hunyuan_v1_moe", "inkling_text",
    "mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "qwen3_next",
)  # fmt: skip


def readings(model: Any, variant: str, replay: list[Routed] | None = None, size: int = 2) -> list[Routed]:
    checkpoint = in_memory(model, tiny_tokenizer(model.config.vocab_size))
    with loaded(checkpoint, parse_variants(variant)[0]) as made:
        return read(made, TEXTS, SPANS, size=size, pad=0, replay=replay)


def family(name: str) -> Any:
    return tiny(next(one for one in TABLE if one.name == name))


def routed(scores: Any, experts: Any, logits: Any) -> Routed:
    """A reading of one layer, from lists."""
    values = torch.tensor(scores, dtype=torch.float64)
    return Routed((0, len(scores)), torch.tensor(logits, dtype=torch.float64), {3: values}, {3: torch.tensor(experts)})


def test_the_rows_of_a_case_by_hand() -> None:
    """Four tokens, three experts, two chosen; one set differs, and the distances are those of two-token vocabularies."""
    logits = [[0.0, 0.0]] * 4
    ours = routed([[5, 3, 1], [5, 3, 2.5], [1, 2, 4], [1, 4, 2]], [[0, 1], [0, 1], [2, 1], [1, 2]], logits)
    moved = [[5, 3, 1], [5, 2.5, 3], [1, 2, 4], [1, 4, 2]]
    theirs = routed(moved, [[0, 1], [0, 2], [2, 1], [1, 2]], [[0.0, math.log(3)], *logits[1:]])
    again = routed(moved, [[0, 1], [0, 1], [2, 1], [1, 2]], [[0.0, math.log(1.5)], *logits[1:]])
    layer, whole = rows([ours], [theirs], [again])
    assert layer == pytest.approx({
        "layer": "3", "experts": 3, "chosen": 2, "tokens": 4, "changed": 1 / 4, "agreement": (3 + 1 / 2) / 4,
        "margin": 1.0, "margin_changed": 0.5, "error": math.sqrt((0.5**2 + 0.5**2) / 12), "within_error": 1 / 4,
    })  # fmt: skip
    kl = [0.5 * math.log(0.25 / (q * (1 - q))) / 4 for q in (1 / 4, 0.4)]  # of (1/2, 1/2) and (q, 1 - q)
    assert whole == pytest.approx({
        "layer": "all", "tokens": 4, "changed": 1 / 4, "kl": kl[0], "kl_replayed": kl[1],
        "routing_ratio": 1 - kl[1] / kl[0],
    })  # fmt: skip


def test_a_token_counts_once_whatever_many_layers_differ_for_it() -> None:
    scores, logits = [[2.0, 1.0], [2.0, 1.0]], [[0.0, 0.0]] * 2
    one = torch.tensor([[0], [0]]), torch.tensor([[1], [0]])
    values = torch.tensor(scores, dtype=torch.float64)
    sides = [
        Routed((0, 2), torch.tensor(logits).double(), {0: values, 4: values}, {0: chosen, 4: chosen}) for chosen in one
    ]
    made = rows([sides[0]], [sides[1]], [sides[0]])
    assert [(row["layer"], row["changed"]) for row in made] == [("0", 0.5), ("4", 0.5), ("all", 0.5)]
    assert math.isnan(made[-1]["routing_ratio"]), "no KL: there is no share of nothing"


def test_a_router_that_chooses_by_more_than_its_scores_has_no_margin() -> None:
    side = routed([[5.0, 3.0, 1.0]], [[0, 2]], [[0.0, 0.0]])
    layer, _ = rows([side], [side], [side])
    assert layer["changed"] == 0 and layer["agreement"] == 1
    assert all(math.isnan(layer[name]) for name in ("margin", "margin_changed", "error", "within_error"))


@pytest.mark.parametrize("name", MIXTURES)
def test_reading_is_the_models_own_and_replay_of_itself_moves_no_bit(name: str) -> None:
    """The control of everything else: seen, replayed onto itself, and unseen, the logits have the same bits."""
    from decodedrift.models import steps

    model = family(name)
    with loaded(in_memory(model, tiny_tokenizer()), parse_variants("fp32")[0]) as made:
        with steps.reading(made):
            plain = [
                logits for at in (0, 2)
                for logits in steps.read_whole(made, TEXTS[at : at + 2], SPANS[at : at + 2], pad=0)
            ]  # fmt: skip
        ours = read(made, TEXTS, SPANS, size=2, pad=0)
        again = read(made, TEXTS, SPANS, size=2, pad=0, replay=ours)
        with steps.reading(made):
            after = steps.read_whole(made, TEXTS[2:], SPANS[2:], pad=0)
    for bare, seen, replayed in zip(plain, ours, again, strict=True):
        assert torch.equal(bare, seen.logits) and torch.equal(bare, replayed.logits)
    assert torch.equal(after[0], plain[2])
    made_rows = rows(ours, again, again)
    assert all(row["changed"] == 0 for row in made_rows)
    assert made_rows[-1]["kl"] == 0 and math.isnan(made_rows[-1]["routing_ratio"])


@pytest.mark.parametrize("name", MIXTURES)
def test_any_experts_can_be_replayed(name: str) -> None:
    """Each token onto the next experts: those are taken, the logits follow, and no layer's set is the router's own."""
    model = family(name)
    own = readings(model, "fp32")
    wanted = [Routed(row.span, row.logits, row.scores, {n: (e + 1) % 4 for n, e in row.experts.items()}) for row in own]
    replayed = readings(model, "fp32", wanted)
    assert all(row["changed"] == 0 for row in rows(wanted, replayed, replayed))
    assert rows(own, replayed, own)[-1]["changed"] > 0.5
    assert all(row.logits.isfinite().all() for row in replayed)
    assert not any(torch.equal(a.logits, b.logits) for a, b in zip(own, replayed, strict=True))


@pytest.mark.parametrize("name", ["mixtral", "olmoe", "qwen3_moe", "gpt_oss"])
def test_only_small_margins_change_and_replay_takes_the_change_away(name: str) -> None:
    model = family(name)
    ours = readings(model, "fp32")
    theirs, replayed = (readings(model, "int4:group=16", replay) for replay in (None, ours))
    before, after = rows(ours, theirs, replayed), rows(ours, replayed, replayed)
    assert before[-1]["changed"] > 0 and all(row["changed"] == 0 for row in after)
    assert all(row["changed"] <= row["within_error"] < 1 and row["tokens"] == 16 for row in before[:-1])
    assert before[-1]["kl"] != before[-1]["kl_replayed"] > 0


@torch.no_grad()
def test_replayed_weights_are_the_routers_own_over_the_replayed_experts_renormalised() -> None:
    """A one-layer Mixtral in float64, replayed onto sets of our own; its logits by a forward written here."""
    model = tiny_model("mixtral").double()
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    checkpoint = in_memory(model, tiny_tokenizer())
    with loaded(checkpoint, parse_variants("fp64")[0]) as made:
        own = read(made, TEXTS[:1], SPANS[:1], size=1, pad=0)[0]
        wanted = (own.experts[0] + 1) % 4
        replayed = read(made, TEXTS[:1], SPANS[:1], size=1, pad=0, replay=[Routed((2, 8), experts={0: wanted})])[0]
        states: list[torch.Tensor] = []
        block = made.model.model.layers[0].mlp
        handles = [
            block.register_forward_pre_hook(lambda m, a: states.append(a[0])),
            made.model.model.layers[0].register_forward_hook(lambda m, a, o: states.append(o)),
        ]
        read(made, TEXTS[:1], SPANS[:1], size=1, pad=0)
        for handle in handles:
            handle.remove()
        x, end = states[-2][0].clone(), states[-1][0].clone()
        assert torch.equal(replayed.scores[0], own.scores[0])
        assert torch.equal(replayed.experts[0].sort(-1).values, wanted.sort(-1).values)

        def mixed(chosen: torch.Tensor) -> torch.Tensor:
            weights = (x @ block.gate.weight.T).softmax(-1).gather(-1, chosen)
            weights = weights / weights.sum(-1, keepdim=True)
            output = torch.zeros_like(x)
            for token, row in enumerate(chosen.tolist()):
                for c, expert in enumerate(row):
                    gate, up = (block.experts.gate_up_proj[expert] @ x[token]).chunk(2)
                    hidden = torch.nn.functional.silu(gate) * up
                    output[token] += weights[token, c] * (block.experts.down_proj[expert] @ hidden)
            return output

        last = end - mixed(own.experts[0]) + mixed(wanted)
        last = last * (last.square().mean(-1, keepdim=True) + model.config.rms_norm_eps).rsqrt()
        logits = (last * made.model.model.norm.weight) @ made.model.lm_head.weight.T
    torch.testing.assert_close(replayed.logits, logits[2:8], rtol=1e-9, atol=1e-9)
    assert float((replayed.logits - own.logits).abs().max()) > 1e-2


def test_a_batch_and_its_filler_change_nothing_of_what_is_kept() -> None:
    model = tiny_model("mixtral")
    alone, together = readings(model, "fp32", size=1), readings(model, "fp32", size=3)
    left = readings(model, "fp32:padding=left", size=3)
    for one, two, three, text in zip(alone, together, left, TEXTS, strict=True):
        for layer in (0, 1):
            assert one.experts[layer].shape == (len(text), 2)
            assert torch.equal(one.experts[layer], two.experts[layer])
            assert torch.equal(one.experts[layer], three.experts[layer])
            torch.testing.assert_close(one.scores[layer], three.scores[layer], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_replayed_is_refused_by_name() -> None:
    phi = family("phimoe")
    ours = readings(phi, "fp32")
    other = [Routed(row.span, row.logits, row.scores, {n: (e + 1) % 4 for n, e in row.experts.items()}) for row in ours]
    with pytest.raises(VariantError, match=r"Phimoe.*does not pick its highest scores"):
        readings(phi, "fp32", other)
    with pytest.raises(VariantError, match="ZayaForCausalLM has a router that does not give"):
        readings(family("zaya"), "fp32")
    with pytest.raises(VariantError, match="LlamaForCausalLM has no experts"):
        readings(tiny_model("llama"), "fp32")
    mixtral = tiny_model("mixtral")
    fewer = [
        Routed(row.span, experts={n: e[:, :1] for n, e in row.experts.items()}) for row in readings(mixtral, "fp32")
    ]
    with pytest.raises(VariantError, match="does not choose as many experts"):
        readings(mixtral, "fp32", fewer)
    with pytest.raises(VariantError, match="has experts in layer 0, where"):
        readings(mixtral, "fp32", [Routed(row.span) for row in fewer])


def test_groups_of_experts_are_replayed_where_their_router_weighs_them_and_refused_where_it_does_not() -> None:
    """DeepSeek-V3 takes weights from all scores; V2 from those that it has set to 0 outside the groups it chose."""
    for name, more in (("deepseek_v3", {}), ("deepseek_v2", {"topk_method": "group_limited_greedy"})):
        (one,) = [one for one in TABLE if one.name == name]
        eight = {"num_local_experts": 8, "n_routed_experts": 8, "n_group": 4, "topk_group": 2}
        model = tiny(dataclasses.replace(one, more=one.more | eight | more))
        own = readings(model, "fp32")
        (layer,) = own[0].experts
        wanted = [Routed(row.span, row.logits, row.scores, {layer: (row.experts[layer] + 4) % 8}) for row in own]
        if more:
            with pytest.raises(VariantError, match=r"DeepseekV2.*outside the groups"):
                readings(model, "fp32", wanted)
            continue
        replayed = readings(model, "fp32", wanted)
        assert all(row["changed"] == 0 for row in rows(wanted, replayed, replayed))
        again = readings(model, "fp32", own)
        assert all(torch.equal(a.logits, b.logits) for a, b in zip(own, again, strict=True))
