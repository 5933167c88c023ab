"""Checkpoints that are quantized already run as they are, and what is told of them is what is in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config, tiny_model, tiny_tokenizer
from packing import bitsandbytes, compressed, kept, small, torchao
from running import LEAN

import decodedrift as dd
from decodedrift.core.records import InputError, VariantError
from decodedrift.models.load import loaded
from decodedrift.models.sources import checkpoints, quantized
from decodedrift.models.sources.packed import in_headers, packed
from decodedrift.models.sources.quantized import Quantization, quantization
from decodedrift.models.sources.stored import resolved, stored_type
from decodedrift.models.variants import parse_variants

FORMATS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "ct-int8": (lambda f: compressed(f, 8), {"format": "compressed-tensors", "bits": 8, "unpacked": True}),
    "ct-int4": (lambda f: compressed(f, 4, strategy="group", group_size=32),
                {"format": "compressed-tensors", "bits": 4, "group_size": 32, "unpacked": True}),
    "ct-fp8": (lambda f: compressed(f, 8, type="float"), {"format": "compressed-tensors", "bits": 8, "unpacked": True}),
    "bnb-4": (lambda f: bitsandbytes(f, 4), {"format": "bitsandbytes", "bits": 4, "group_size": 64, "unpacked": False}),
    "bnb-8": (lambda f: bitsandbytes(f, 8), {"format": "bitsandbytes", "bits": 8, "unpacked": False}),
    "torchao": (torchao, {"format": "torchao", "bits": 8, "unpacked": False}),
}  # fmt: skip
PROMPTS = ["w1 w2 w3 w4", "w9 w5 w7 w2"]
ASKED: dict[str, Any] = LEAN | {"prompts": PROMPTS, "strategies": ["greedy"], "max_new_tokens": 4}
MATRICES = sum(p.numel() for n, p in small().named_parameters() if "proj" in n)
ALL = sum(p.numel() for p in small().parameters())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            maker = FORMATS[name][0] if name in FORMATS else lambda f: kept(small(), f)
            made[name] = maker(tmp_path_factory.mktemp("q") / name)
        return made[name]

    return make


def plainly(path: Path, texts: list[list[int]]) -> torch.Tensor:
    """Log-probabilities [text, T, V] by transformers alone, each text read alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
    with torch.inference_mode():
        return torch.cat([model(torch.tensor([row])).logits for row in texts]).double().log_softmax(-1)


def texts_of(study: Any) -> list[list[int]]:
    """The ids of prompts and of what the reference wrote to them."""
    rows = study.positions[study.positions["role"] == "candidate"]
    texts = []
    for prompt in study.plan["prompts"]:
        own = rows[rows["prompt_id"] == prompt["id"]].sort_values("position")
        texts.append([*tiny_tokenizer()(prompt["text"])["input_ids"], *own["token_id"].tolist()])
    return texts


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_runs_as_it_is_stored(name: str, folder: Callable[[str], Path]) -> None:
    """Its KL is that of plain transformers on the same texts, and what is read back is what was put in."""
    path, plain = folder(name), folder("plain")
    study = dd.compare(plain, candidates=[f"q={path}"], **ASKED)
    assert not len(study.failures)
    facts = study.environment["variants"]["q"]
    assert {k: facts[k] for k in FORMATS[name][1]} == FORMATS[name][1]
    assert (facts["precision"], facts["compute"], facts["logits_dtype"]) == ("stored", "fp32", "fp32")
    assert (facts["quantized_parameters"], facts["quantized_modules"], facts["parameters"]) == (MATRICES, 14, ALL)
    assert facts["quantized_share"] == MATRICES / ALL
    assert facts["rounded_share"] is None
    assert any(s.startswith(f"q is quantized ({facts['format']}, {facts['bits']} bit") for s in study.verdict)
    texts = texts_of(study)
    p, q = (plainly(source, texts)[:, 3:7] for source in (plain, path))
    kl = float((p.exp() * (p - q)).sum(-1).mean())
    tolerance = 0.2 if name.startswith("bnb") else 1e-4  # bitsandbytes' kernels round what they multiply, by batch
    rows = study.positions[study.positions["role"] == "candidate"]
    assert rows["kl"].mean() == pytest.approx(kl, rel=tolerance)
    assert kl > 1e-7, "it is another model"


def test_fp8_in_blocks_is_expanded_by_its_definition(tmp_path: Path) -> None:
    """Written by hand, w = q s with a scale for each 32 x 32: every bit is that of a plain model of these weights."""
    pytest.importorskip("accelerate")
    if torch.cuda.is_available():
        pytest.skip("transformers expands it only where there is no GPU")
    from safetensors.torch import load_file, save_file

    folder, model = kept(small(), tmp_path / "fp8"), small()
    state, stored = model.state_dict(), load_file(folder / "model.safetensors")
    for name in [n for n in state if "proj" in n]:
        blocks = state[name].unflatten(1, (-1, 32)).unflatten(0, (-1, 32))
        scale = blocks.abs().amax((1, 3), keepdim=True) / 448
        packed8 = (blocks / scale).to(torch.float8_e4m3fn)
        state[name].copy_((packed8.float() * scale).view_as(state[name]))
        stored[name] = packed8.view_as(state[name])
        stored[name.replace("weight", "weight_scale_inv")] = scale[:, 0, :, 0].contiguous()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [32, 32], "activation_scheme": "dynamic",
        "modules_to_not_convert": ["lm_head"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    study = dd.compare(kept(model, tmp_path / "plain"), candidates=[f"q={folder}"], **ASKED)
    assert not len(study.failures)
    assert study.summary["kl_mean"].max() == 0
    facts = study.environment["variants"]["q"]
    assert (facts["format"], facts["bits"], facts["unpacked"]) == ("fp8", 8, True)
    assert (facts["quantized_parameters"], facts["parameters"], facts["quantized_modules"]) == (MATRICES, ALL, 0)


def test_as_the_model_it_is_its_own_reference(folder: Callable[[str], Path]) -> None:
    path = folder("ct-int4")
    for asked in ({}, {"candidates": ["int8"]}, {"candidates": ["fp64"]}):
        with pytest.raises(InputError, match=r"quantized .compressed-tensors, 4 bit.*NAME=SOURCE.*stored:batch_size=1"):
            dd.compare(path, **ASKED | asked)
    study = dd.compare(path, candidates=["stored:batch_size=1", f"plain={folder('plain')}", "bf16"], **ASKED)
    plan, facts = study.plan, study.environment["variants"]
    assert (plan["reference"]["name"], plan["reference"]["compute"]) == ("stored", "fp32")
    kl = study.summary.set_index("candidate")["kl_mean"]
    assert kl["stored:batch_size=1"] < 1e-9 < kl["plain"]
    assert (facts["plain"]["precision"], facts["bf16"]["precision"]) == ("fp32", "stored")
    assert (facts["bf16"]["compute"], facts["bf16"]["logits_dtype"]) == ("bf16", "bf16")
    assert facts["bf16"]["quantized_parameters"] == MATRICES
    again = dd.compare(path, candidates=[f"q={path}"], **ASKED)
    assert again.summary["kl_mean"].max() == 0
    assert any("q is the reference's own execution" in s for s in again.verdict)


@pytest.mark.parametrize("name", ["ct-int8", "bnb-8", "torchao"])
def test_in_memory_too(name: str, folder: Callable[[str], Path]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder(name), dtype="auto")
    study = dd.compare(
        model, tokenizer=tiny_tokenizer(), candidates=["stored:batch_size=1", f"q={folder(name)}"], **ASKED
    )
    facts = study.environment["variants"]["stored"]
    assert (facts["format"], facts["quantized_parameters"]) == (FORMATS[name][1]["format"], MATRICES)
    kl = study.summary.set_index("candidate")["kl_mean"]
    assert kl["q"] < 1e-9, "the same weights, from their files"
    assert facts["copy_control"]["moved"] > 0


def test_an_asked_type_is_that_of_the_arithmetic_or_refused(folder: Callable[[str], Path]) -> None:
    (reference,) = parse_variants("fp32")
    found = {name: checkpoints.find(str(folder(name))) for name in ("plain", "ct-int8", "bnb-8")}

    def made(text: str, name: str) -> Any:
        return resolved(parse_variants(f"q={folder(name)}{text}", reference)[0], found[name], reference)

    assert (made("", "ct-int8").precision, made("", "ct-int8").compute) == ("stored", "fp32")
    for text in (":precision=bf16", ":precision=stored,compute=bf16"):
        variant = made(text, "ct-int8")
        assert (variant.precision, variant.compute, dict(variant.options)) == ("stored", "bf16", {"compute": "bf16"})
    for text, name, word in ((":precision=bf16", "bnb-8", "computes in fp32"), (":precision=int8", "ct-int8", "int8"),
                             (":precision=fp64", "ct-int8", "fp64")):  # fmt: skip
        with pytest.raises(InputError, match=word):
            made(text, name)
    assert made("", "plain").precision == "fp32"
    bf16 = kept(small().to(torch.bfloat16), folder("plain").with_name("bf16"))
    found["plain"] = checkpoints.find(str(bf16))
    assert stored_type(found["plain"]) == "bf16"
    assert (made("", "plain").precision, made(":precision=stored", "plain").precision) == ("fp32", "bf16")


def test_no_cast_is_made_of_a_quantized_reference(folder: Callable[[str], Path]) -> None:
    asked = ASKED | {"noise_floor": True}
    study = dd.compare(folder("ct-int8"), candidates=["stored:compute=bf16"], **asked)
    assert not len(study.failures)
    assert set(study.summary["role"]) == {"candidate", "floor", "self"}
    assert study.certificate["sigma_ratio"].isna().all()


def test_a_missing_package_is_one_line_before_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kept(small(), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    monkeypatch.setattr(quantized, "_installed", lambda package: False)
    for method, command in (
        ("compressed-tensors", "compressed-tensors: pip install 'decodedrift[compressed]'"),
        ("gptq", "optimum and gptqmodel: pip install optimum gptqmodel"),
    ):
        quantized_config = {"quant_method": method, "bits": 4}
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantized_config}))
        with pytest.raises(InputError) as refused:
            dd.compare("demo", candidates=[f"q={folder}"], **ASKED)
        assert str(refused.value).endswith(f"a {method} checkpoint, which needs {command}")
        assert "\n" not in str(refused.value)


SAID = {
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True},
             Quantization("gptq", 4, 128, "desc_act")),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True},
            Quantization("awq", 4, 64, "gemm, zero_point")),
    "fp8": ({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}, Quantization("fp8", 8, None, "e4m3")),
    "mxfp4": ({"quant_method": "mxfp4"}, Quantization("mxfp4", 4, 32, "")),
    "hqq": ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 3, "group_size": 64}}},
            Quantization("hqq", 3, 64, "")),
    "torchao": ({"quant_method": "torchao", "quant_type": {"default": {
        "_type": "Int8DynamicActivationInt4WeightConfig", "_data": {"group_size": 32}}}},
        Quantization("torchao", 4, 32, "Int8DynamicActivationInt4WeightConfig")),
    "quanto": ({"quant_method": "quanto", "weights": "int2"}, Quantization("quanto", 2, None, "int2")),
    "unheard-of": ({"quant_method": "unheard-of", "w_bit": 5}, Quantization("unheard-of", 5, None, "")),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_what_a_configuration_says(name: str) -> None:
    config = tiny_config("llama")
    assert quantization(config) is None
    config.quantization_config, expected = SAID[name]
    assert quantization(config) == expected


def test_weights_are_counted_not_words() -> None:
    """Eight 4-bit weights to an int32; scales and zero points are none. A plain model has no quantized weight."""
    stored = [("a.qweight", "I32", [8, 64]), ("a.qzeros", "I32", [1, 8]), ("a.scales", "F16", [1, 64]),
              ("a.g_idx", "I32", [64]), ("norm.weight", "F16", [64])]  # fmt: skip
    assert in_headers(stored, 4) == (64 * 64, 64 * 64 + 64)
    plain = packed(small())
    assert (plain.parameters, plain.modules, plain.total, plain.bits) == (0, 0, ALL, None)
    linear = torch.nn.Module()
    linear.in_features, linear.out_features = 64, 64
    linear.register_buffer("qweight", torch.zeros(8, 64, dtype=torch.int32))
    linear.register_buffer("qzeros", torch.zeros(1, 8, dtype=torch.int32))
    found = packed(linear)
    assert (found.parameters, found.modules, found.total, found.bits) == (64 * 64, 1, 64 * 64, 4)


def test_why_a_weight_cannot_be_converted_is_said(tmp_path: Path) -> None:
    """transformers says it to a log, and in its error that it did."""
    from safetensors.torch import load_file, save_file

    pytest.importorskip("accelerate")
    if torch.cuda.is_available():
        pytest.skip("transformers expands it only where there is no GPU")
    folder = kept(small(), tmp_path / "fp8")
    stored = load_file(folder / "model.safetensors")
    for name in [n for n in stored if "proj" in n]:
        stored[name.replace("weight", "weight_scale_inv")] = torch.ones(3, 2)
        stored[name] = stored[name].to(torch.float8_e4m3fn)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [32, 32], "activation_scheme": "dynamic",
        "modules_to_not_convert": ["lm_head"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (variant,) = parse_variants(f"q={folder}")
    found = checkpoints.find(str(folder))
    with (
        pytest.raises(VariantError, match=r"not divisible by scale grid") as error,
        loaded(found, resolved(variant, found, parse_variants("fp32")[0])),
    ):
        pass
    assert "report" not in str(error.value)


def test_types_in_memory_are_spelt_as_in_files() -> None:
    model = tiny_model("llama")
    plain = checkpoints.in_memory(model, tiny_tokenizer()).stored
    assert list(plain) == ["F32"]
    projection = model.model.layers[0].self_attn.q_proj
    count, rows = projection.weight.numel(), projection.weight.to(torch.int8)
    del projection.weight
    projection.register_buffer("weight", rows)
    assert checkpoints.in_memory(model, tiny_tokenizer()).stored == {"F32": plain["F32"] - count, "I8": count}


def test_of_hqqs_own_modules_the_group_is_read() -> None:
    class HQQLinear(torch.nn.Module):  # as hqq 0.2 has it
        def __init__(self) -> None:
            super().__init__()
            self.W_q = torch.nn.Parameter(torch.zeros(32, 64, dtype=torch.uint8), requires_grad=False)
            self.in_features, self.out_features = 64, 64
            self.meta = {"nbits": 4, "group_size": 64, "shape": (64, 64)}

    here = packed(HQQLinear())
    assert (here.parameters, here.bits, here.group_size) == (4096, 4, 64)


@pytest.mark.parametrize(("name", "said"), [("fp8", "an fp8 checkpoint"), ("torchao", "a torchao checkpoint")])
def test_formats_have_their_article(name: str, said: str) -> None:
    assert Quantization(name).named == said


def test_quantized_by_torchaos_own_call_it_runs_in_memory(folder: Callable[[str], Path]) -> None:
    """The head is packed there too, of which no zero can be asked; its KL is that of plain transformers."""
    quantization = pytest.importorskip("torchao.quantization")
    model = small()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    study = dd.compare(small(), tokenizer=tiny_tokenizer(), candidates={"o": model}, **ASKED)
    assert not len(study.failures), study.failures.to_string()
    facts = study.environment["variants"]["o"]
    assert facts["quantized_parameters"] == MATRICES + small().lm_head.weight.numel()
    assert facts["copy_control"]["moved"] > 0 and facts["stored_dtypes"].keys() == {"F32", "I8"}
    texts = texts_of(study)
    with torch.inference_mode():
        p, q = (
            torch.cat([m(torch.tensor([row])).logits for row in texts]).double().log_softmax(-1)[:, 3:7]
            for m in (small(), model)
        )
    kl = float((p.exp() * (p - q)).sum(-1).mean())
    rows = study.positions[study.positions["role"] == "candidate"]
    assert rows["kl"].mean() == pytest.approx(kl, rel=1e-3) and kl > 1e-7


def test_weights_that_torch_packed_away_are_refused_by_name() -> None:
    class Packed(torch.nn.Module):  # as torch.ao's quantize_dynamic leaves a Linear
        def weight(self) -> torch.Tensor:
            return torch.zeros(2, 2)

    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj = Packed()
    with pytest.raises(InputError, match=r"layers\.0\.mlp\.up_proj holds weights .*; give it as it was before, or"):
        checkpoints.in_memory(model, tiny_tokenizer())
