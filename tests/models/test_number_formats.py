"""fp8, int4, nf4, q8_0, q4_0: their definitions by numpy and by the packages that they come from, and what is rounded."""

from __future__ import annotations

import copy
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from running import LEAN

import decodedrift as dd
from decodedrift.models import probe
from decodedrift.models.load import loaded
from decodedrift.models.precisions import beware
from decodedrift.models.precisions.fp8 import scaled
from decodedrift.models.precisions.ggml import q4_0, q8_0
from decodedrift.models.precisions.inputs import RoundedInputs, called, hooked, unrounded
from decodedrift.models.precisions.int4 import grouped_int4
from decodedrift.models.precisions.int8 import absmax_int8
from decodedrift.models.precisions.nf4 import VALUES, nf4
from decodedrift.models.sources.checkpoints import Checkpoint, find, in_memory
from decodedrift.models.text.vocabulary import vocabulary
from decodedrift.models.variants import parse_variants
from decodedrift.numerics.formats import FORMATS

IDS = torch.tensor([[5, 17, 3, 80, 41, 9, 9, 22, 63, 1, 30, 2]])
FP8 = {name: partial(scaled, form=FORMATS[name], dims=(-1,)) for name in ("fp8-e4m3", "fp8-e5m2")}
LADDERED = ("bf16", "fp16", "int8", "fp8-e4m3", "fp8-e5m2", "int4:group=16", "q8_0", "q4_0")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def weights() -> torch.Tensor:
    """[48, 256]: ordinary rows, tiny and huge ones, one of zeros, an outlier, whole steps and halves, blocks of zeros."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(48, 256, generator=generator)
    rows[10:20] *= 10.0 ** torch.linspace(-9, 4, 10)[:, None]
    rows[3], rows[5, :40], rows[7, 0] = 0.0, 0.0, 1000.0
    rows[9] = torch.arange(256) / 2 - 64
    rows[11] = rows[11].abs()
    return rows


def variant(text: str, reference: str = "fp32") -> Any:
    return parse_variants(text, parse_variants(reference)[0])[0]


def checkpoint(family: str = "llama") -> Checkpoint:
    return in_memory(tiny_model(family), tiny_tokenizer())


def logits(source: Checkpoint, text: str, reference: str = "fp32") -> torch.Tensor:
    with loaded(source, variant(text, reference)) as model, model.running():
        return model.model(IDS).logits[0].clone()


def facts(source: Checkpoint, text: str) -> dict[str, Any]:
    with loaded(source, variant(text)) as model:
        return model.facts


# The definitions, by numpy. Each is told from its neighbours: another rounding, scale or block gives other numbers.


def numpy_blocks(rows: np.ndarray, size: int) -> np.ndarray:
    return rows.reshape(rows.shape[0], -1, size)


def quotient(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return values / np.where(scale == 0, 1, scale)


def numpy_q8_0(rows: np.ndarray, half: bool = True) -> np.ndarray:
    blocks = numpy_blocks(rows, 32)
    scale = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0, dtype=np.float32)
    size = np.abs(blocks * inverse).astype(np.float64)
    steps = np.sign(blocks) * np.floor(size + 0.5)
    return (steps * (scale.astype(np.float16) if half else scale)).astype(np.float32).reshape(rows.shape)


def numpy_q4_0(rows: np.ndarray) -> np.ndarray:
    blocks = numpy_blocks(rows, 32)
    scale = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1) / np.float32(-8)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0, dtype=np.float32)
    steps = np.minimum(15, np.floor(blocks * inverse + np.float32(8.5))) - 8
    return (steps * scale.astype(np.float16)).astype(np.float32).reshape(rows.shape)


def numpy_int4(rows: np.ndarray, group: int, zero: bool) -> np.ndarray:
    blocks = numpy_blocks(rows, group)
    if zero:
        low = np.minimum(blocks.min(-1, keepdims=True), 0)
        wide = (np.maximum(blocks.max(-1, keepdims=True), 0) - low) / np.float32(15)
        point = np.rint(np.clip(-8 - quotient(low, wide), -8, 7))
    else:
        wide, point = np.abs(blocks).max(-1, keepdims=True) / np.float32(7.5), np.float32(0)
    scale = wide.astype(np.float16).astype(np.float32)
    steps = np.rint(np.clip(quotient(blocks, scale) + point, -8, 7))
    return ((steps - point) * scale).reshape(rows.shape)


def numpy_nf4(rows: np.ndarray) -> np.ndarray:
    blocks = rows.reshape(-1, 64)
    absmax, values = np.abs(blocks).max(-1, keepdims=True), np.array(VALUES, np.float32)
    unit = (blocks * quotient(np.ones_like(absmax), absmax)).astype(np.float64)
    return (values[np.abs(unit[..., None] - values.astype(np.float64)).argmin(-1)] * absmax).reshape(rows.shape)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (q8_0, numpy_q8_0),
        (q4_0, numpy_q4_0),
        (nf4, numpy_nf4),
        *(
            (partial(grouped_int4, group=g, zero=z), partial(numpy_int4, group=g, zero=z))
            for g in (32, 128)
            for z in (False, True)
        ),
    ],
)
def test_a_definition_is_numpys(ours: Any, theirs: Any) -> None:
    rows = weights()
    with np.errstate(over="ignore"):
        expected = theirs(rows.numpy())
    found = ours(rows)
    np.testing.assert_array_equal(found.numpy(), expected)
    shifted = ours(rows.roll(1, -1)).roll(-1, -1)
    assert not torch.equal(found, shifted), "blocks begin where the row does"


def test_the_scales_of_blocks_are_rounded_to_float16_and_halves_go_away_from_zero() -> None:
    rows = weights()
    assert not np.array_equal(q8_0(rows).numpy(), numpy_q8_0(rows.numpy(), half=False))
    block = torch.zeros(1, 32)
    block[0, :4] = torch.tensor([127.0, 0.5, -2.5, 1.5])
    assert q8_0(block)[0, :4].tolist() == [127.0, 1.0, -3.0, 2.0]
    assert absmax_int8(block)[0, :4].tolist() == [127.0, 0.0, -2.0, 2.0], "to even there"
    assert q4_0(torch.full((1, 32), 2e-7)).eq(0).all(), "a float16 scale of 0"


def test_fp8_scales_the_largest_to_its_largest_and_no_scale_does_not() -> None:
    rows = weights()
    for name, rounding in FP8.items():
        form = FORMATS[name]
        found = rounding(rows)
        scale = np.abs(rows.numpy()).max(-1, keepdims=True) / np.float32(form.largest)
        unit = torch.from_numpy(quotient(rows.numpy(), scale))
        dtype = {"fp8-e4m3": torch.float8_e4m3fn, "fp8-e5m2": torch.float8_e5m2}[name]
        assert torch.equal(found, unit.clamp(-form.largest, form.largest).to(dtype).float() * torch.from_numpy(scale))
        assert torch.equal(found[7, 0], rows[7, 0])
        assert torch.equal(found[3], rows[3])
        assert not torch.equal(form.round(rows), found)


# The packages that the definitions come from.


@pytest.mark.parametrize(("name", "ours"), [("Q8_0", q8_0), ("Q4_0", q4_0)])
def test_llama_cpps_blocks_are_the_gguf_packages_to_the_bit(name: str, ours: Any) -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[name]
    for rows in (weights(), weights().half().float()):
        theirs = gguf.quants.dequantize(gguf.quants.quantize(rows.numpy(), kind), kind)
        np.testing.assert_array_equal(ours(rows).numpy(), theirs)


@pytest.mark.filterwarnings("ignore")
def test_nf4_is_bitsandbytes_to_the_bit() -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    for rows in (weights(), weights()[:5, :50].contiguous()):  # the second ends in a short block
        quantized, state = functional.quantize_4bit(rows, blocksize=64, quant_type="nf4")
        assert torch.equal(nf4(rows), functional.dequantize_4bit(quantized, state))


@pytest.mark.parametrize(
    ("name", "ours"),
    [("qint8", absmax_int8), ("qfloat8_e4m3fn", FP8["fp8-e4m3"]), ("qfloat8_e5m2", FP8["fp8-e5m2"])],
)
def test_scales_per_channel_are_optimum_quantos_to_the_bit(name: str, ours: Any) -> None:
    quanto = pytest.importorskip("optimum.quanto")
    kind, rows = getattr(quanto, name), weights()
    rows = rows[(rows != 0).any(-1)]  # it divides by the scale of a row of zeros
    scale = quanto.AbsmaxOptimizer()(rows, kind, 0)
    theirs = quanto.quantize_weight(rows, kind, 0, scale, optimized=False).dequantize()
    assert torch.equal(ours(rows), theirs)


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("zero", [False, True])
def test_int4_is_compressed_tensors_to_the_bit(group: int, zero: bool) -> None:
    package = pytest.importorskip("compressed_tensors.quantization")
    rows = weights()
    args = package.QuantizationArgs(
        num_bits=4, group_size=group, strategy="group", symmetric=not zero, scale_dtype=torch.float16
    )
    blocks = rows.view(len(rows), -1, group)
    scale, point = package.utils.calculate_qparams(blocks.amin(-1), blocks.amax(-1), args)
    assert torch.equal(
        grouped_int4(rows, group, zero), package.lifecycle.forward.fake_quantize(rows, scale, point, args)
    )


# What of a model is rounded, counted and read back.


@cache
def rounded_by(text: str, family: str = "llama") -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], dict[str, Any]]:
    """Name -> (before, after) of every parameter that changed, and the facts."""
    source = checkpoint(family)
    with loaded(source, variant("fp32")) as plain, loaded(source, variant(text)) as model:
        old = dict(plain.model.named_parameters())
        pairs = {n: (old[n].detach(), p.detach().clone()) for n, p in model.model.named_parameters()}
        return {n: pair for n, pair in pairs.items() if not torch.equal(*pair)}, model.facts


@pytest.mark.parametrize("text", ["fp8-e4m3", "fp8-e5m2:scale=tensor", "int4:group=16", "nf4"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral"])
def test_what_int8_rounds_is_rounded_and_nothing_else(text: str, family: str) -> None:
    changed, told = rounded_by(text, family)
    other, of_int8 = rounded_by("int8", family)
    assert set(changed) == set(other)
    for key in ("quantized_parameters", "quantized_modules", "quantized_share"):
        assert told[key] == of_int8[key] > 0
    total = sum(int((old != new).sum()) for old, new in changed.values())
    assert told["rounded_share"] == total / told["parameters"]
    assert told["flushed"] == sum(int(((old != 0) & (new == 0)).sum()) for old, new in changed.values())
    assert told["overflowed"] == 0
    for name, (old, new) in changed.items():
        form, expected = FORMATS["fp8-e5m2"], None
        if text == "int4:group=16":
            expected = grouped_int4(old, 16)
        elif text == "fp8-e4m3":
            expected = FP8[text](old)
        elif text == "nf4":
            expected = nf4(old)
        else:
            scale = old.abs().amax((-2, -1), keepdim=True) / form.largest  # of each expert's matrix
            expected = form.round(old / scale, saturate=True) * scale
        assert torch.equal(new, expected), name


@pytest.mark.parametrize(
    ("text", "bits"),
    [("int8", 8 + 32 * 512 / 21504 * 1.5), ("int4:group=16", 5.0), ("int4:group=16,zero=true", 5.25), ("nf4", 4.5),
     ("q8_0", 8.5), ("fp8-e4m3:scale=tensor", 8.0)],
)  # fmt: skip
def test_bits_per_weight_hold_the_scales(text: str, bits: float) -> None:
    told = facts(checkpoint(), text)
    if text == "int8":  # a float32 for each output channel
        rows = 2 * (32 + 16 + 16 + 32 + 48 + 48 + 32)
        bits = 8 + 32 * rows / told["quantized_parameters"]
    assert told["bits_per_weight"] == pytest.approx(bits, rel=1e-12)


def test_fused_experts_are_grouped_along_their_inputs() -> None:
    changed, _ = rounded_by("int4:group=16", "mixtral")
    (name,) = [n for n in changed if n.endswith("layers.0.mlp.experts.down_proj")]
    old, new = changed[name]
    assert old.shape == (4, 32, 48)
    assert torch.equal(new, grouped_int4(old, 16))
    assert not torch.equal(new, grouped_int4(old.transpose(1, 2), 16).transpose(1, 2))


def test_modules_whose_rows_the_groups_do_not_divide_stay_and_are_named() -> None:
    changed, told = rounded_by("int4:group=32")
    assert len(changed) == told["quantized_modules"] == 12
    assert not [n for n in changed if "down_proj" in n]
    assert told["left_out"] == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    assert (told["left_out_modules"], told["left_out_parameters"]) == (2, 2 * 32 * 48)
    assert told["left_out_as"] is None
    assert "left_out" not in facts(checkpoint(), "int4:group=16")
    with pytest.raises(
        dd.InputError,
        match=r"int4: 128 divides no row of this model \(of 32, 48 inputs\); group= takes what divides one: 2, 3, 4, 6, 8, 12, 16, 24, 32, 48$",
    ):
        facts(checkpoint(), "int4")


def test_llama_cpp_rounds_embedding_and_head_and_makes_float16_of_what_32_does_not_divide() -> None:
    changed, told = rounded_by("q4_0")
    for name, (old, new) in changed.items():
        if "down_proj" in name:
            assert torch.equal(new, old.half().float()), name
        else:
            assert torch.equal(new, (q8_0 if name == "lm_head.weight" else q4_0)(old)), name
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(changed)
    assert (told["quantized_modules"], told["left_out_modules"], told["left_out_as"]) == (14, 2, "float16")
    assert told["scheme"] == "q4_0 in blocks of 32, float16 scales; q8_0 in blocks of 32, float16 scales, weights only"
    tied, told = rounded_by("q4_0", "qwen2")
    assert torch.equal(tied["model.embed_tokens.weight"][1], q8_0(tied["model.embed_tokens.weight"][0]))
    assert told["quantized_modules"] == 13
    alone, _ = rounded_by("q4_0:head=false")
    assert set(changed) - set(alone) == {"lm_head.weight", "model.embed_tokens.weight"}


def test_without_a_scale_fp8_overflows_to_nan_unless_it_saturates() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, :3] = torch.tensor([448.0, 464.5, -1e4])
    source = in_memory(model, tiny_tokenizer())
    row = "model.layers.0.mlp.up_proj.weight"
    with loaded(source, variant("fp8-e4m3:scale=none,overflow=saturate")) as kept:
        assert kept.model.get_parameter(row)[0, :3].tolist() == [448, 448, -448]
        assert kept.facts["overflowed"] == 0
    with loaded(source, variant("fp8-e5m2:scale=none")) as wide:
        assert wide.model.get_parameter(row)[0, :3].tolist() == [448, 448, -10240]
    study = dd.compare(
        model, tokenizer=tiny_tokenizer(), candidates=["fp8-e4m3:scale=none"], strategies=["greedy"], prompts=["w1 w2"],
        max_new_tokens=2, **LEAN,
    )  # fmt: skip
    told = study.environment["variants"]["fp8-e4m3:scale=none"]
    assert told["overflowed"] == 2
    assert any("2 weights of fp8-e4m3:scale=none lie beyond the largest value" in s for s in study.verdict)


# The ladder: weights, inputs, or both, and the reference's arithmetic.


def by_hand(text: str, ladder: str, model: Any) -> torch.Tensor:
    """Logits of a Llama whose Linears are run by hand, as [rounded weight] x [rounded input]."""
    of_inputs = {"bf16": lambda x: x.bfloat16().float(), "fp16": lambda x: x.half().float(), "int8": absmax_int8,
                 "int4:group=16": absmax_int8, "q8_0": q8_0, "q4_0": q8_0, **FP8}[text]  # fmt: skip
    of_weights = {
        **FP8,
        "int8": absmax_int8,
        "q8_0": q8_0,
        "q4_0": q4_0,
        "int4:group=16": partial(grouped_int4, group=16),
    }
    model = copy.deepcopy(model)
    floating, ggml = text in ("bf16", "fp16"), text in ("q8_0", "q4_0")
    if ladder != "inputs" and floating:
        for parameter in model.parameters():
            parameter.data = of_inputs(parameter.data)
    if ladder != "inputs" and ggml:
        model.model.embed_tokens.weight.data = of_weights[text](model.model.embed_tokens.weight.data)
    for module in model.modules():
        head = module is model.lm_head
        if not isinstance(module, torch.nn.Linear) or (head and not (floating or ggml)):
            continue
        rounding, weight = of_inputs, None if floating else of_weights[text]
        if ggml and (head or module.in_features % 32):
            weight = q8_0 if head else lambda w: w.half().float()
            rounding = q8_0 if head else lambda x: x.half().float()
        if ladder != "inputs" and weight is not None:
            module.weight.data = weight(module.weight.data)
        if ladder != "weights":
            module.forward = lambda x, m=module, r=rounding: torch.nn.functional.linear(r(x), m.weight)
    with torch.inference_mode():
        return model(IDS).logits[0]


@pytest.mark.parametrize("ladder", ["weights", "inputs", "all"])
@pytest.mark.parametrize("text", LADDERED)
def test_each_rung_is_what_is_computed_by_hand_to_the_bit(text: str, ladder: str) -> None:
    model = tiny_model("llama")
    source = in_memory(model, tiny_tokenizer())
    name = f"{text},round={ladder}" if ":" in text else f"{text}:round={ladder}"
    with loaded(source, variant(name)) as rounded, rounded.running():
        found = rounded.model(IDS).logits[0]
        told = rounded.facts
        assert torch.equal(found, by_hand(text, ladder, model))
        assert not torch.equal(found, by_hand(text, "all" if ladder != "all" else "weights", model))
        assert told["compute"] == "fp32"
        assert told["weight_dtypes"] == {"fp32": told["parameters"]}
        assert told["round"] == ladder
        modules = 15 if text in ("bf16", "fp16", "q8_0", "q4_0") else 14
        assert told.get("rounded_inputs") == (None if ladder == "weights" else {"modules": modules, "called": modules})
        assert (told["rounded_share"] > 0) == (ladder != "inputs")
    assert not hooked(model), "the given model has no hook"
    assert torch.equal(logits(source, "fp32"), model(IDS).logits[0])


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_round_weights_is_a_16_bit_model_widened(name: str, saved: Any) -> None:
    from transformers import AutoModelForCausalLM

    folder, dtype = saved("llama"), {"bf16": torch.bfloat16, "fp16": torch.float16}[name]
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).float().eval()
    with torch.inference_mode():
        expected = theirs(IDS).logits[0]
    text = f"{name}:round=weights"
    assert torch.equal(logits(find(str(folder)), text), expected)
    assert torch.equal(logits(checkpoint(), text), expected)
    with loaded(checkpoint(), variant("fp32")) as donor, loaded(checkpoint(), variant(text), donor) as lent:
        assert torch.equal(lent.model(IDS).logits[0], expected)
        assert lent.facts["rounded_share"] > 0.9
    assert not torch.equal(logits(checkpoint(), "fp32"), expected)
    assert logits(checkpoint(), text, "fp64").dtype == torch.float64


def test_the_arithmetic_of_a_rung_is_the_references() -> None:
    assert variant("bf16").compute == "bf16"
    assert variant("bf16").options == {}, "a plain cast"
    assert variant("bf16:round=all").compute == "fp32"
    assert variant("bf16:round=all", "fp64").compute == "fp64"
    assert variant("fp8-e4m3:compute=bf16").compute == "bf16"
    told = beware([("bf16", "bf16", {}), ("bf16", "fp32", {"round": "all"}), ("q8_0", "fp32", {"round": "inputs"})])
    assert told == {
        "bf16:round=all": "weights and inputs of products rounded, arithmetic fp32",
        "q8_0:round=inputs": "inputs of products rounded, arithmetic fp32; llama.cpp's kernels add up otherwise",
    }


def test_fused_experts_are_refused_where_inputs_are_asked_for() -> None:
    for text in ("int8:round=inputs", "bf16:round=all"):
        with pytest.raises(dd.InputError, match=r"experts.*within itself.*use round=weights"):
            facts(checkpoint("mixtral"), text)
    assert facts(checkpoint("mixtral"), "bf16:round=weights")["rounded_share"] > 0.9
    with pytest.raises(dd.InputError, match="round must be one of weights, not 'all'"):
        variant("nf4:round=all")


def test_a_projection_that_is_not_called_as_a_module_is_found_out() -> None:
    model = tiny_model("llama")
    for module in model.modules():
        if type(module).__name__ == "LlamaMLP":
            module.forward = partial(by_weight, module)
    told = facts(in_memory(model, tiny_tokenizer()), "int8:round=all")
    assert told["rounded_inputs"] == {"modules": 14, "called": 8}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(RoundedInputs(absmax_int8))
    assert called(model, lambda: None) == 0


def by_weight(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    linear = torch.nn.functional.linear
    return linear(mlp.act_fn(linear(x, mlp.gate_proj.weight)) * linear(x, mlp.up_proj.weight), mlp.down_proj.weight)


def test_rounded_inputs_survive_a_copy_and_can_be_put_aside() -> None:
    with loaded(checkpoint(), variant("fp8-e5m2:round=all")) as model, model.running():
        first = model.model(IDS).logits
        twin = copy.deepcopy(model.model)
        assert len(hooked(twin)) == 14
        assert torch.equal(twin(IDS).logits, first)
        with unrounded(twin):
            assert not hooked(twin)
            plain = twin(IDS).logits
        assert torch.equal(plain[0], logits(checkpoint(), "fp8-e5m2"))
        assert torch.equal(twin(IDS).logits, first)


def test_a_compiled_model_rounds_its_inputs_too() -> None:
    model = tiny_model("llama")
    expected = logits(in_memory(model, tiny_tokenizer()), "int8:round=all")
    compiled = in_memory(torch.compile(model, backend="eager"), tiny_tokenizer())
    assert torch.equal(logits(compiled, "int8:round=all"), expected)
    assert not torch.equal(logits(compiled, "int8"), expected)


def test_rounded_inputs_do_not_make_a_cache_look_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    source, inside = checkpoint(), []
    real = probe._needed

    def watched(model: Any, *args: Any) -> Any:
        inside.append(len(hooked(model.model)))
        return real(model, *args)

    monkeypatch.setattr(probe, "_needed", watched)
    with loaded(source, variant("fp8-e5m2:round=all")) as model:
        assert probe.needed(model, vocabulary(source), "shared") == ("shared", [])
        assert (inside, len(hooked(model.model))) == ([0], 14)


def test_a_rung_is_probed_with_the_spacing_of_its_arithmetic() -> None:
    """bf16's would let a fault of 1 % pass in a model whose arithmetic is float32."""
    source = checkpoint()
    with loaded(source, variant("bf16:round=weights")) as model:
        truth = {(1, 2): torch.tensor([100.0, -50.0])}
        pairs = [((1, 2), torch.tensor([101.0, -50.0]))]
        assert "off by 1" in str(probe._off(model, pairs, truth, "x"))
    with loaded(source, variant("bf16")) as model:
        assert probe._off(model, pairs, truth, "x") is None


def test_the_order_of_distances_is_a_law() -> None:
    """On the bundled model, along one text: finer grids are nearer, and rounding inputs too is further."""
    source = find("demo")
    ids = torch.arange(0, 128).view(2, 64) * 37 % 2048

    def run(model: Any) -> torch.Tensor:
        with model.running():
            return model.model(ids).logits.double().log_softmax(-1)

    def kl(text: str) -> float:
        with loaded(source, variant(text), reference) as model:
            return float((truth.exp() * (truth - run(model))).sum(-1).mean())

    with loaded(source, variant("fp32")) as reference:
        truth = run(reference)
        order = ["fp16:round=weights", "bf16:round=weights", "q8_0:head=false", "int8", "fp8-e4m3", "fp8-e5m2",
                 "int4:group=32", "int4:group=64"]  # fmt: skip
        distances = [kl(text) for text in order]
        assert distances == sorted(distances), dict(zip(order, distances))
        for low, high in pairwise(distances):
            assert high > 1.05 * low
        for text in ("bf16", "q8_0", "fp8-e4m3"):
            assert kl(f"{text}:round=weights") < kl(f"{text}:round=all")


def test_a_run_says_what_a_precision_left_out_or_did_not_change() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    study = dd.compare(
        model, tokenizer=tiny_tokenizer(), candidates=["bf16:round=weights", "int4:group=32", "q8_0", "bf16:round=all"],
        strategies=["greedy"], prompts=["w1 w2 w3", "w7"], max_new_tokens=4, **LEAN,
    )  # fmt: skip
    said = " ".join(study.verdict)
    assert not study.failed
    assert "Rounding changed no weight of bf16:round=weights: they are on its grid already." in said
    assert "int4:group=32 does not quantize 2 modules (" in said
    assert "they stay as they are: model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj." in said
    assert "q8_0 does not quantize 2 modules (" in said
    assert "they are float16: model.layers.0.mlp.down_proj" in said
    forced = study.positions.groupby("candidate")["kl"].max()
    assert forced["bf16:round=weights"] == 0 < forced["bf16:round=all"]
    alone = dd.compare(
        model, tokenizer=tiny_tokenizer(), candidates=["bf16"], strategies=["greedy"], prompts=["w1 w2 w3", "w7"],
        max_new_tokens=4, **LEAN,
    )  # fmt: skip
    texts = [s.traces.query("role == 'reference'")["token_ids"].tolist() for s in (study, alone)]
    assert texts[0] == texts[1], "the reference is not rounded with its candidates"
