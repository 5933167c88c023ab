"""`--where`: the error after every layer, and the first module that differs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import FAMILIES, tiny_model, tiny_tokenizer
from running import run, saved_as
from transformers import AutoModelForCausalLM

import decodedrift as dd
from decodedrift.core.records import Variant, VariantError
from decodedrift.experiments.compare.folds.where import where
from decodedrift.experiments.compare.verdict.where import uneven
from decodedrift.models import inside
from decodedrift.models.load import Loaded

PROMPTS = {"a": "w1 w2 w3 w4", "b": "w5 w6 w7", "c": "w8 w9 w1 w2 w3 w4"}
ASKED = {"where": True, "strategies": "greedy", "prompts": PROMPTS, "max_new_tokens": 6}


def sides(study: dd.Study, candidate: str, role: str = "candidate"):
    """The rows of where.csv of one side."""
    table = study.where
    return table[(table["candidate"] == candidate) & (table["role"] == role)]


def test_the_reference_is_its_own_to_the_bit_and_a_rounded_one_is_not():
    study = run(candidates="bf16,fp32:threads=1", **ASKED)
    own, rounded = sides(study, "fp32", "self"), sides(study, "bf16")
    layers = tiny_model("llama").config.num_hidden_layers
    assert list(own["depth"]) == list(rounded["depth"]) == [-1, *range(layers), layers, layers + 1]
    assert (own["rms_ratio"] == 0).all() and (own["error_max"] == 0).all()
    assert (rounded["rms_ratio"] > 0).all()
    assert list(rounded["module"])[:2] == ["embedding", "layers.0"]
    assert own["first_module"].isna().all() and rounded["first_module"].isna().all()
    assert any(s.startswith("Inside bf16 (3 prompts) the error enters at embedding: ") for s in study.verdict)
    said = "Inside fp32:threads=1 (3 prompts) no hidden state and no logit differs from the reference's in any bit."
    assert torch.get_num_threads() != 1 or said in study.verdict


def test_the_figures_are_those_of_transformers_own_hidden_states(tmp_path):
    study = run(candidates="bf16", batch_size=1, **ASKED)
    reference = tiny_model("llama").eval()
    rounded = AutoModelForCausalLM.from_pretrained(saved_as(reference, tmp_path / "model"), dtype=torch.bfloat16)
    error = base = 0.0
    for trace in study.traces[study.traces["role"] == "reference"].itertuples():
        ids = tiny_tokenizer()(trace.prompt)["input_ids"] + [int(i) for i in trace.token_ids.split()]
        text = torch.tensor([ids])
        with torch.no_grad():
            ours = reference(text, output_hidden_states=True).hidden_states[1].double()
            theirs = rounded(text, output_hidden_states=True).hidden_states[1].double()
        error += float((theirs - ours).square().sum())
        base += float(ours.square().sum())
    row = sides(study, "bf16").iloc[1]
    assert row["module"] == "layers.0"
    assert row["rms_ratio"] == pytest.approx(np.sqrt(error / base), rel=1e-12)
    assert row["rms_ratio_low"] < row["rms_ratio"] < row["rms_ratio_high"]


@pytest.mark.parametrize(("layer", "matrix"), [(0, "self_attn.o_proj"), (1, "mlp.up_proj")])
def test_a_planted_error_is_found_at_its_layer_and_its_module(tmp_path, layer, matrix):
    model = tiny_model("llama")
    folder = saved_as(model, tmp_path / "right")
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong.get_submodule(f"model.layers.{layer}.{matrix}").weight.mul_(1.05)
    other = saved_as(wrong, tmp_path / "wrong")
    study = dd.compare(
        folder, candidates=f"wrong={other}", where=True, strategies="greedy", max_new_tokens=4,
        prompts=[dd.Prompt(k, v) for k, v in PROMPTS.items()], noise_floor=False, default_text=False,
    )  # fmt: skip
    rows = sides(study, "wrong")
    assert (rows[rows["depth"] < layer]["rms_ratio"] == 0).all()
    assert (rows[rows["depth"] >= layer]["rms_ratio"] > 0).all()
    assert set(rows["first_module"]) == {f"layers.{layer}.{matrix}"}
    assert set(rows["first_prompts"]) == {3}
    assert any(f"the error enters at layers.{layer}.{matrix} (in 3 of 3)" in s for s in study.verdict)


def test_another_kernel_is_found_where_it_runs():
    study = run(candidates="fp32:attention=eager", **ASKED)
    rows = sides(study, "fp32:attention=eager")
    if (rows["rms_ratio"] == 0).all():
        pytest.skip("both kernels give the same bits here")
    assert set(rows["first_module"]) <= {"layers.0.self_attn", "layers.1.self_attn"}


def test_what_a_reading_does_not_use_is_not_looked_into():
    study = run(candidates="bf16,fp32:use_cache=false", **ASKED)
    assert not len(sides(study, "fp32:use_cache=false"))
    assert "Not looked into: fp32:use_cache=false, whose knob acts only while text is generated." in study.verdict
    assert not len(study.failures)


def test_at_most_eight_prompts_are_read_and_none_without_being_asked():
    prompts = {f"p{i}": f"w{i + 1} w2" for i in range(10)}
    study = run(candidates="bf16", **ASKED | {"prompts": prompts})
    assert set(study.layers["prompt_id"]) == {f"p{i}" for i in range(8)}
    assert set(sides(study, "bf16")["prompts"]) == {8}
    assert not len(run(candidates="bf16", **ASKED | {"where": False}).where)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_of_every_family_are_found_and_no_hook_stays(family):
    model = tiny_model(family).eval()
    loaded = Loaded(model, Variant("fp32", "fp32", compute="fp32"), torch.device("cpu"))
    name, count = inside.layers(loaded)
    assert count == model.config.num_hidden_layers and len(model.get_submodule(name)) == count
    seen: dict[str, int | None] = {}
    with inside.watched(loaded, lambda name, depth, inputs, output: seen.setdefault(name, depth)), torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
    assert sorted(d for d in seen.values() if d is not None) == list(range(-1, count + 2))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_compiled_model_is_not_looked_into():
    model = tiny_model("llama")
    model.lm_head = torch.compile(model.lm_head)
    loaded = Loaded(model, Variant("fp32", "fp32", compute="fp32"), torch.device("cpu"))
    with pytest.raises(VariantError, match="a compiled model does not show"), inside.watched(loaded, print):
        pass


def test_a_layer_that_stands_out_is_named_and_even_growth_names_none():
    import pandas as pd

    keys = {"model": "m", "reference": "r", "candidate": "c", "role": "candidate", "prompt_id": "p", "tokens": 4}
    rows = [
        keys | {"depth": d, "module": f"layers.{d}", "error_square": e**2, "reference_square": 1.0, "error_max": e,
                "first_module": ""}
        for d, e in enumerate([0.01, 0.011, 0.11, 0.12])
    ]  # fmt: skip
    table = where(pd.DataFrame(rows))
    assert list(table["rms_ratio"]) == pytest.approx([0.01, 0.011, 0.11, 0.12])
    assert [row.module for row in uneven(table)] == ["layers.2"]
    assert uneven(table.assign(step=1.1)) == []


@pytest.mark.parametrize("padding", ["left", "multiple:8"])
def test_filler_on_the_left_or_more_of_it_shifts_no_token(padding):
    study = run(candidates=f"fp32:padding={padding}", **ASKED)
    there = sides(study, f"fp32:padding={padding}")
    assert len(there) == len(sides(study, "fp32", "self"))
    assert (there["rms_ratio"] < 1e-5).all()
