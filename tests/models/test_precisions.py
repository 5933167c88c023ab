"""Precisions: what was asked for is what is there, rounded as said, and no further than said."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, FITTING, tiny_config, tiny_model, tiny_tokenizer
from running import LEAN

import decodedrift as dd
from decodedrift.models import load
from decodedrift.models.arithmetic import pinned
from decodedrift.models.load import loaded
from decodedrift.models.precisions import PRECISIONS, beware
from decodedrift.models.precisions.floating import DTYPES
from decodedrift.models.sources.checkpoints import Checkpoint, find, in_memory
from decodedrift.models.variants import parse_variants

IDS = torch.tensor([[5, 17, 3, 80, 41, 9, 9, 22, 63, 1, 30, 2]])
AVAILABLE = [n for n, p in PRECISIONS.items() if p.unavailable("cpu") is None]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def variant(text: str, reference: str = "fp32") -> Any:
    """One candidate against a reference, as a run would resolve it."""
    (base,) = parse_variants(reference)
    return parse_variants(text, base)[0]


def checkpoint(family: str) -> Checkpoint:
    return in_memory(tiny_model(family), tiny_tokenizer())


def logits(source: Checkpoint, text: str, reference: str = "fp32") -> torch.Tensor:
    with loaded(source, variant(text, reference)) as model, model.running():
        return model.model(IDS).logits[0].clone()


# Every registered precision.


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_gives_what_it_says_or_why_it_cannot(name: str, saved: Any) -> None:
    reason = PRECISIONS[name].unavailable("cpu")
    if reason is not None:
        assert name in reason
        pytest.skip(reason)
    with loaded(find(str(saved("llama"))), variant(FITTING.get(name, name))) as model, model.running():
        out = model.model(IDS).logits
        facts = model.facts
        assert torch.isfinite(out).all()
        assert facts["precision"] == name
        assert facts["parameters"] == sum(p.numel() for p in model.model.parameters())
        assert not model.model.training
        if name != "int8-bnb":
            assert {p.dtype for p in model.model.parameters()} == {DTYPES[facts["compute"]]}
            assert facts["weight_dtypes"] == {facts["compute"]: facts["parameters"]}
            assert out.dtype == DTYPES[facts["compute"]]
        if PRECISIONS[name].own:  # of plain weights
            assert facts["quantized_parameters"] == 0
        elif PRECISIONS[name].compute is None:
            assert facts["quantized_share"] > 0.5
            assert facts["quantized_modules"] == 14
        else:
            assert facts["compute"] == name
            assert facts["quantized_parameters"] == 0


@pytest.mark.parametrize("compute", DTYPES)
def test_a_quantized_precision_computes_in_the_references_type_unless_told(compute: str) -> None:
    assert variant("int8", compute).compute == compute
    assert variant("int8:compute=fp32", compute).compute == "fp32"
    with loaded(checkpoint("llama"), variant("int8", compute)) as model:
        assert set(model.facts["weight_dtypes"]) == {compute}


def test_weights_that_are_not_of_the_type_asked_for_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "cast", lambda model, dtype: None)
    with (
        pytest.raises(load.VariantError, match=r"asked for bf16 weights, got \{'fp32'"),
        loaded(checkpoint("llama"), variant("bf16")),
    ):
        pass


# Floating types.


def numpy_llama(model: Any, ids: list[int]) -> np.ndarray:
    """A Llama's logits in numpy float64, from its weights and the rotary frequencies that it stores."""
    w = {k: v.detach().double().numpy() for k, v in model.state_dict().items()}
    config = model.config
    heads, groups, eps = config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps
    size = config.hidden_size // heads
    angles = np.outer(np.arange(len(ids)), model.model.rotary_emb.inv_freq.double().numpy())
    cos, sin = (np.concatenate([f(angles)] * 2, -1) for f in (np.cos, np.sin))

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w[name]

    def turned(x: np.ndarray) -> np.ndarray:
        return x * cos + np.concatenate([-x[..., size // 2 :], x[..., : size // 2]], -1) * sin

    x = w["model.embed_tokens.weight"][ids]
    future = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for i in range(config.num_hidden_layers):
        at = f"model.layers.{i}."
        h = norm(x, at + "input_layernorm.weight")
        q, k, v = (
            (h @ w[f"{at}self_attn.{n}_proj.weight"].T).reshape(len(ids), -1, size).transpose(1, 0, 2) for n in "qkv"
        )
        q, k, v = turned(q), np.repeat(turned(k), heads // groups, 0), np.repeat(v, heads // groups, 0)
        score = q @ k.transpose(0, 2, 1) / math.sqrt(size) + future
        p = np.exp(score - score.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = x + (p @ v).transpose(1, 0, 2).reshape(len(ids), -1) @ w[at + "self_attn.o_proj.weight"].T
        h = norm(x, at + "post_attention_layernorm.weight")
        gate, up = h @ w[at + "mlp.gate_proj.weight"].T, h @ w[at + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[at + "mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ w["lm_head.weight"].T


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_fp64_is_float64_all_the_way_through(attention: str) -> None:
    model = tiny_model("llama")
    expected = numpy_llama(model, IDS[0].tolist())
    found = logits(in_memory(model, tiny_tokenizer()), f"fp64:attention={attention}", "fp32")
    assert found.dtype == torch.float64
    assert relative(found.numpy(), expected) < 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_no_operation_of_an_fp64_model_gives_a_narrower_number(family: str) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: dict[torch.dtype, set[str]] = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    seen.setdefault(tensor.dtype, set()).add(str(func))
            return out

    with loaded(checkpoint(family), variant("fp64")) as model, model.running(), Watch():
        model.model(IDS)
    assert len(seen[torch.float64]) > 5
    assert set(seen) == {torch.float64}, seen


def test_without_keeping_double_float64_logits_have_float32_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "KeepDouble", nullcontext)
    model = tiny_model("llama")
    found = logits(in_memory(model, tiny_tokenizer()), "fp64")
    assert found.dtype == torch.float64
    assert 1e-9 < relative(found.numpy(), numpy_llama(model, IDS[0].tolist())) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_fp64_agrees_with_fp32_to_fp32s_rounding_and_not_to_the_bit(family: str) -> None:
    source = checkpoint(family)
    wide, narrow = logits(source, "fp64"), logits(source, "fp32")
    assert wide.dtype == torch.float64
    error = relative(narrow.double().numpy(), wide.numpy())
    assert 1e-9 < error < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_floating_variants_are_from_pretraineds_to_the_bit(family: str, name: str, saved: Any) -> None:
    from transformers import AutoModelForCausalLM

    folder = saved(family)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[name]).eval()
    with torch.inference_mode():
        expected = theirs(IDS).logits[0]
    for source in (find(str(folder)), checkpoint(family)):
        found = logits(source, name)
        assert found.dtype == DTYPES[name]
        if family == "gpt2" and name != "fp32":
            # Conv1D adds its bias inside another kernel: the same numbers, rounded to 16 bits in another order
            torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
        else:
            assert torch.equal(found, expected)


def test_fp64_of_a_mixture_of_experts_is_from_pretraineds(saved: Any) -> None:
    from transformers import AutoModelForCausalLM

    folder = saved("mixtral")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, experts_implementation="eager").eval()
    with torch.inference_mode():
        expected = theirs(IDS).logits[0]  # float64 with float32 inside
    found = logits(find(str(folder)), "fp64")
    assert 0 < relative(found.numpy(), expected.numpy()) < 1e-5


def test_16_bit_models_keep_their_rotary_frequencies_in_float32() -> None:
    for name in ("bf16", "fp16"):
        with loaded(checkpoint("llama"), variant(name)) as model:
            assert model.model.model.rotary_emb.inv_freq.dtype == torch.float32
    with loaded(checkpoint("llama"), variant("fp64")) as model:
        assert model.model.model.rotary_emb.inv_freq.dtype == torch.float64


def test_a_16_bit_model_in_memory_is_the_one_on_disk(saved: Any) -> None:
    from transformers import AutoModelForCausalLM

    folder = saved("llama", dtype="bfloat16")
    there = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    assert torch.equal(logits(in_memory(there, tiny_tokenizer()), "fp32"), logits(find(str(folder)), "fp32"))


def test_conv1d_as_linear_is_bit_exact_in_fp32() -> None:
    from transformers.pytorch_utils import Conv1D

    model = tiny_model("gpt2")
    assert any(isinstance(m, Conv1D) for m in model.modules())
    with torch.inference_mode():
        expected = model(IDS).logits[0]
    with loaded(in_memory(model, tiny_tokenizer()), variant("fp32")) as made:
        assert not any(isinstance(m, Conv1D) for m in made.model.modules())
        with made.running():
            assert torch.equal(made.model(IDS).logits[0], expected)


# int8.


def rounded(weight: np.ndarray, axis: int) -> np.ndarray:
    """Symmetric, per output channel, absmax, half to even: float32 throughout."""
    scale = np.abs(weight).max(axis, keepdims=True) / np.float32(127)
    return np.clip(np.rint(weight / np.where(scale > 0, scale, 1)), -127, 127) * scale


def pairs(family: str, text: str = "int8") -> Any:
    """(name, weight before, weight after) of every parameter; Conv1D's turned as Linear has them."""
    source = checkpoint(family)
    with loaded(source, variant("fp32")) as plain, loaded(source, variant(text)) as model:
        old = dict(plain.model.named_parameters())
        found = [(n, old[n].detach().numpy(), p.detach().numpy().copy()) for n, p in model.model.named_parameters()]
        return found, model.facts


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_rounds_every_linear_and_expert_weight_per_output_channel_and_nothing_else(family: str) -> None:
    found, facts = pairs(family)
    changed = {name for name, old, new in found if not np.array_equal(old, new)}
    named = ("proj", "c_attn", "c_fc", "query_key_value", ".dense", "dense_h_to_4h", "dense_4h_to_h")
    expected = {n for n, old, _ in found if any(k in n for k in named) and not n.endswith("bias")}
    assert changed == expected
    assert facts["quantized_parameters"] == sum(old.size for n, old, _ in found if n in changed)
    assert facts["quantized_modules"] == len(changed)
    assert facts["quantized_share"] > 0.5
    for name, old, new in found:
        if name in changed:
            np.testing.assert_array_equal(new, rounded(old, -1), err_msg=name)
            assert np.abs(new - old).max() > 0
            steps = new / (np.abs(old).max(-1, keepdims=True) / np.float32(127))
            assert np.abs(steps - np.rint(steps)).max() < 1e-3
            assert np.abs(np.rint(steps)).max() == 127


def test_experts_are_rounded_over_their_input_dimension() -> None:
    found, _ = pairs("mixtral")
    experts = [(n, old, new) for n, old, new in found if old.ndim == 3]
    assert {old.shape for _, old, _ in experts} == {(4, 96, 32), (4, 32, 48)}  # [experts, out, in]
    for name, old, new in experts:
        np.testing.assert_array_equal(new, rounded(old, 2), err_msg=name)
        assert not np.array_equal(new, rounded(old, 1))


def test_half_steps_round_to_even_and_a_row_of_zeros_stays() -> None:
    from decodedrift.models.precisions.int8 import absmax_int8

    weight = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5], [0.0] * 6])
    expected = torch.tensor([[127.0, 0.0, 2.0, 2.0, -0.0, -2.0], [0.0] * 6])
    assert torch.equal(absmax_int8(weight), expected)


def test_the_head_is_rounded_only_on_request_and_only_untied() -> None:
    heads = {text: {n: (old, new) for n, old, new in pairs("llama", text)[0]} for text in ("int8", "int8:head=true")}
    old, new = heads["int8"]["lm_head.weight"]
    assert np.array_equal(old, new)
    old, new = heads["int8:head=true"]["lm_head.weight"]
    assert np.array_equal(new, rounded(old, -1))
    for family in ("gpt2", "qwen2"):
        with pytest.raises(dd.InputError, match="tied"), loaded(checkpoint(family), variant("int8:head=true")):
            pass


def test_int8_in_bf16_rounds_the_fp32_weights_first_and_casts_after() -> None:
    source = checkpoint("llama")
    with loaded(source, variant("int8", "bf16")) as model:
        for (name, new), old in zip(model.model.named_parameters(), source.module.parameters()):
            if "proj" in name:
                expected = torch.from_numpy(rounded(old.detach().numpy(), -1)).bfloat16()
                assert torch.equal(new, expected), name


def test_a_convolution_is_not_taken_for_experts() -> None:
    """Mamba's weight is three-dimensional too, and its last dimension is the kernel, not the input."""
    from transformers import MambaConfig, MambaForCausalLM

    with torch.random.fork_rng():
        model = MambaForCausalLM(MambaConfig(vocab_size=96, hidden_size=32, state_size=4, num_hidden_layers=1)).eval()
    with loaded(in_memory(model, tiny_tokenizer()), variant("int8")) as made:
        changed = {
            name
            for (name, new), old in zip(made.model.named_parameters(), model.parameters())
            if not torch.equal(new, old)
        }
    assert {name.split(".")[-2] for name in changed} == {"in_proj", "x_proj", "dt_proj", "out_proj"}


@pytest.mark.parametrize("name", ["int8", "fp8-e4m3", "fp8-e5m2", "int4", "nf4", "q8_0", "q4_0"])
def test_a_model_without_anything_to_quantize_is_refused(name: str) -> None:
    model = tiny_model("llama")
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(dd.InputError, match="nothing would be rounded"):
        PRECISIONS[name].apply(
            model, {"round": "weights", "head": False, "scale": "channel", "overflow": "", "group": 16, "zero": False}
        )  # type: ignore[misc]


# What was rounded, read back.


@pytest.mark.parametrize(
    ("stored", "name", "low", "high"),
    [("bfloat16", "bf16", 0, 0), ("bfloat16", "fp32", 0, 0), ("float32", "fp32", 0, 0), ("float32", "fp64", 0, 0),
     ("float32", "bf16", 0.9, 1), ("float32", "fp16", 0.9, 1), ("bfloat16", "fp16", 0, 0.2)],
)  # fmt: skip
def test_rounded_share_says_how_many_weights_a_type_changes(
    saved: Any, stored: str, name: str, low: float, high: float
) -> None:
    from transformers import AutoModelForCausalLM

    folder = saved("llama", dtype=stored)
    held = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, stored))
    for source in (find(str(folder)), in_memory(held, tiny_tokenizer())):
        with loaded(source, variant(name)) as model:
            assert low <= model.facts["rounded_share"] <= high
            assert set(model.facts["stored_dtypes"]) == {{"bfloat16": "BF16", "float32": "F32"}[stored]}


def test_rounded_share_counts_elements_one_by_one() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
        model.lm_head.weight[0, :3] = 1 + 2.0**-12
    total = sum(p.numel() for p in model.parameters())
    with loaded(in_memory(model, tiny_tokenizer()), variant("bf16")) as made:
        assert made.facts["rounded_share"] == 3 / total
    with loaded(in_memory(model, tiny_tokenizer()), variant("int8")) as made:
        before = dict(model.named_parameters())
        changed = sum(int((p != before[name]).sum()) for name, p in made.model.named_parameters())
        assert made.facts["rounded_share"] == changed / total > 0.5


# Refusals.


def spoiled(folder: Path, how: str) -> Path:
    """A saved tiny Llama with one thing wrong in its weights."""
    from safetensors.torch import load_file, save_file

    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    if how == "missing":
        del weights["model.layers.1.mlp.up_proj.weight"]
    elif how == "unexpected":
        weights["model.layers.7.mlp.up_proj.weight"] = torch.zeros(48, 32)
    elif how == "mismatched":
        weights["model.layers.1.mlp.up_proj.weight"] = torch.zeros(40, 32)
    save_file(weights, file, metadata={"format": "pt"})
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    return folder


@pytest.mark.parametrize("name", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("how", "named"),
    [("missing", r"missing.*model\.layers\.1\.mlp\.up_proj\.weight"),
     ("unexpected", r"unexpected.*model\.layers\.7\.mlp\.up_proj\.weight"),
     ("mismatched", r"model\.layers\.1\.mlp\.up_proj\.weight"),
     ("truncated", r"model\.safetensors is not a readable")],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, how: str, named: str, name: str) -> None:
    spoiled(tmp_path, how)
    with pytest.raises(dd.InputError, match=named) as error:
        dd.compare(str(tmp_path), reference=name, candidates=["bf16"], prompts=["w3"], max_new_tokens=2, **LEAN)
    assert "\n" not in str(error.value)


def test_an_unknown_precision_lists_the_choices() -> None:
    with pytest.raises(
        dd.InputError,
        match=r"unknown precision 'fp8'; choices: fp64, fp32, bf16, fp16, int8, fp8-e4m3, .*q4_0, int8-bnb",
    ):
        dd.compare("demo", candidates=["fp8"], **LEAN)
    with pytest.raises(dd.InputError, match="did you mean 'bf16'"):
        dd.compare("demo", candidates=["bf-16"], **LEAN)
    with pytest.raises(dd.InputError, match="unknown precision 'float32'"):
        dd.compare("demo", reference="float32", **LEAN)
    with pytest.raises(dd.InputError, match="unknown precision 'fp33'"):
        dd.compare("demo", candidates=[replace(variant("bf16"), precision="fp33")], **LEAN)


# The caller's world.


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
def test_the_callers_model_and_torchs_global_state_are_left_as_they_were(family: str) -> None:
    model, tokenizer = tiny_model(family).train(), tiny_tokenizer()
    tokenizer.padding_side = "right"
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    config, generation = copy.deepcopy(model.config.to_dict()), copy.deepcopy(model.generation_config.to_dict())
    kinds = [type(m) for m in model.modules()]
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    torch.set_float32_matmul_precision("high")
    try:
        dd.compare(
            model, tokenizer=tokenizer, reference="fp32", candidates=["fp64", "int8", "fp32:threads=2"],
            strategies=["greedy", "beam:num_beams=2", "top-p"], coupling="none", max_new_tokens=2,
            prompts=["w4 w5", "w6"], texts=[dd.Text("text", "w4 w5 w6")], **LEAN,
        )  # fmt: skip
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == 1
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert tokenizer.padding_side == "right"
    assert model.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    assert [type(m) for m in model.modules()] == kinds
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert model.config.to_dict() == config
    assert model.generation_config.to_dict() == generation


def test_a_model_handed_over_in_training_mode_is_measured_in_evaluation_mode() -> None:
    from transformers import AutoModelForCausalLM

    config = tiny_config("gpt2")
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.5
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).train()
    study = dd.compare(model, tokenizer=tiny_tokenizer(), candidates=["bf16"], strategies=["greedy"], prompts=["w4 w5"],
                       max_new_tokens=4, **LEAN)  # fmt: skip
    assert not study.failed
    assert (study.positions[study.positions["role"] == "candidate"]["logit_gap_max"] < 0.1).all()


@pytest.mark.parametrize(("dtype", "wide"), [("bf16", {"norm"}), ("fp16", {"norm", "down_proj"}), ("fp64", set())])
def test_what_transformers_keeps_in_float32_stays_so_in_memory(dtype: str, wide: set[str]) -> None:
    from decodedrift.models.precisions.floating import DTYPES, cast

    model = tiny_model("llama")
    model._keep_in_fp32_modules_strict, model._keep_in_fp32_modules = {"norm"}, {"down_proj"}
    cast(model, DTYPES[dtype])
    for name, parameter in model.named_parameters():
        kept = wide & set(name.split("."))
        assert parameter.dtype == (torch.float32 if kept else DTYPES[dtype]), name


def test_a_name_that_promises_more_says_so() -> None:
    text = "weights rounded, arithmetic {}; not what a serving engine's int8 kernels do"
    assert beware([("fp32", "fp32", {}), ("int8", "bf16", {})]) == {"int8": text.format("bf16")}
    both = beware([("int8", "fp32", {}), ("int8", "bf16", {}), ("int8", "bf16", {})])
    assert both == {"int8": f"{text.format('fp32')}; {text.format('bf16')}"}
    assert beware([("bf16", "bf16", {}), ("int8-bnb", "fp16", {})]) == {}, (
        "bitsandbytes' kernels are a serving engine's"
    )
    from decodedrift.core.settings import make_settings
    from decodedrift.experiments.compare.settings import CompareSettings
    from decodedrift.runs.prepare import prepare

    head = prepare(make_settings(CompareSettings, {"candidates": ["int8", "bf16"], "limit": 1})).announcement()
    assert head.endswith(f"; int8: {text.format('fp32')}")


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (torch.backends.cuda.matmul, "allow_tf32", True),
        (torch.backends.cuda.matmul, "fp32_precision", "tf32"),
        (torch.backends, "fp32_precision", "tf32"),
        (torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    ],
)
@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch 2.9 and later")
def test_float32_is_float32_whatever_the_caller_lets_kernels_do(place: Any, name: str, value: Any) -> None:
    def told() -> list[Any]:
        places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul)
        return [p.fp32_precision for p in places] + [torch.backends.cuda.cudnn_sdp_enabled()]

    default = getattr(place, name)
    try:
        setattr(place, name, value)
        before = told()
        with pinned():
            assert told() == ["ieee", "ieee", "ieee", False]
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
        assert told() == before
        assert not dd.compare(
            tiny_model("gpt2"), tokenizer=tiny_tokenizer(), candidates=["bf16"], strategies=["greedy"], prompts=["w1"],
            max_new_tokens=2,
        ).failed  # fmt: skip
    finally:
        setattr(place, name, default)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out_of_memory"),
        ("CUDA error: out of memory", "out_of_memory"),
        ("DefaultCPUAllocator: can't allocate memory", "out_of_memory"),
        ("CUDA error: an illegal memory access was encountered", "failed"),
    ],
)
def test_what_says_that_memory_ran_out(message: str, status: str) -> None:
    assert load.status_and_reason(RuntimeError(message))[0] == status
