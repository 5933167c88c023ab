"""The main job over every model family and every precision, with and without BOS and pad, and as chat turns."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import running
from conftest import FAMILIES, tiny_model, tiny_tokenizer
from transformers import AutoTokenizer

import decodedrift as dd
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.text.vocabulary import vocabulary

PROMPTS = ["w1 w2 w3", "w9", "w30 w31 w32 w33 w34"]


run = functools.partial(running.run, candidates=["bf16", "fp16", "int8", "fp64"], prompts=PROMPTS, max_new_tokens=6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_in_every_precision_under_every_strategy(family: str) -> None:
    study = run(family, texts=[dd.Text("t", " ".join(f"w{i % 90 + 1}" for i in range(150)))])
    assert not study.failed, study.failures.to_string()
    cells = study.summary[study.summary["role"] == "candidate"]
    assert cells.groupby("candidate").size().to_dict() == {"bf16": 4, "fp16": 4, "fp64": 4, "int8": 4}
    assert (study.positions.query("role == 'self'")["kl"] == 0).all()
    kl = cells.groupby("candidate")["kl_mean"].mean()
    assert kl["fp64"] < kl["fp16"] < kl["bf16"]
    facts = study.environment["variants"]
    assert facts["int8"]["quantized_share"] > 0.5
    assert {v: next(iter(f["weight_dtypes"])) for v, f in facts.items() if v != "int8"} == {
        "fp32": "fp32", "bf16": "bf16", "fp16": "fp16", "fp64": "fp64",
    }  # fmt: skip
    kind = "DynamicSlidingWindowLayer" if family == "mistral" else "DynamicLayer"
    assert {f["cache"] for f in facts.values()} == {kind}
    assert set(study.perplexity["variant"]) == {"fp32", "bf16", "fp16", "int8", "fp64"}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_another_attention_kernel_is_a_variant(attention: str) -> None:
    study = run("llama", candidates=[f"fp32:attention={attention}"], strategies=["greedy"])
    assert study.environment["variants"][f"fp32:attention={attention}"]["attention"] == attention
    gap = study.summary.query("role == 'candidate'")["logit_gap_max"].max()
    assert (gap == 0) if attention == "sdpa" else (0 < gap < 1e-3)


def test_a_tokenizer_with_bos_reads_it_once_and_a_chat_template_is_not_given_a_second() -> None:
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %} w5 {{ m['content'] }} w6{% endfor %}{% if add_generation_prompt %} w7{% endif %}"
    vocab = vocabulary(in_memory(tiny_model("gpt2"), tokenizer))
    assert vocab.encode("w1 w2") == [0, 1, 2]
    assert vocab.encode("w1 w2", chat=True) == [0, 5, 1, 2, 6, 7]
    turn = [{"role": "user", "content": "w1 w2"}]
    by_transformers = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert vocab.encode("w1 w2", chat=True) == list(by_transformers)
    asked: dict[str, Any] = {"tokenizer": tokenizer, "candidates": ["fp16"], "strategies": ["greedy"]}
    plain, turned = run("gpt2", **asked), run("gpt2", chat_template=True, **asked)
    assert plain.traces["prompt"].tolist() == turned.traces["prompt"].tolist(), "the prompt as given"
    assert plain.traces["token_ids"].tolist() != turned.traces["token_ids"].tolist()


def test_a_models_own_generation_settings_do_not_change_what_greedy_means() -> None:
    model = tiny_model("gpt2")
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    model.generation_config.top_k = 2
    plain, odd = (run(m, candidates=["fp16"], max_new_tokens=12) for m in ("gpt2", model))
    assert plain.traces["token_ids"].tolist() == odd.traces["token_ids"].tolist()


ODD = {
    "stop_strings": {"stop_strings": ["w5"]},
    "several sequences": {"num_return_sequences": 2, "num_beams": 2},
    "token healing": {"token_healing": True},
    "quantized cache": {"cache_implementation": "quantized"},
    "offloaded cache": {"cache_implementation": "offloaded"},
    "static cache": {"cache_implementation": "static"},
    "penalty": {"repetition_penalty": 5.0, "no_repeat_ngram_size": 2, "suppress_tokens": [3], "min_new_tokens": 9},
    "guidance": {"guidance_scale": 3.0},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_models_own_generation_settings_reach_nothing(odd: dict[str, Any]) -> None:
    model = tiny_model("llama")
    for name, value in odd.items():
        setattr(model.generation_config, name, value)
    plain, study = (run(m, candidates=["fp16"]) for m in ("llama", model))
    assert study.traces["token_ids"].tolist() == plain.traces["token_ids"].tolist()
    assert study.environment["generation"]["path"] == "shared"
    assert not study.failed
    assert {k: getattr(model.generation_config, k) for k in odd} == odd, "the given model keeps them"


def test_a_tokenizer_of_another_class_than_the_models_is_named(saved: Callable[..., Path]) -> None:
    folder = str(saved("qwen2"))
    named = run("qwen2", candidates=["fp16"], strategies=["greedy"])
    assert named.failures.empty, "the mend that is named"
    if len(AutoTokenizer.from_pretrained(folder)("w1 w2")["input_ids"]) == 2:  # older transformers: as it was saved
        read = run(folder, candidates=["fp16"], strategies=["greedy"])
        assert read.traces["token_ids"].tolist() == named.traces["token_ids"].tolist()
        return
    with pytest.raises(
        dd.InputError, match="read as a Qwen2Tokenizer, which makes no token of 'hello world'; save one of"
    ):
        run(folder, candidates=["fp16"])


@pytest.mark.parametrize(
    "odd", ['{"early_stopping": "perhaps"}', '{"num_beams": 0}', '{"temperature": -1, "top_p": 7}', "{"]
)
def test_settings_that_transformers_refuses_keep_no_folder_from_loading(
    odd: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(saved("gpt2"), folder)
    (folder / "generation_config.json").write_text(odd)
    asked: dict[str, Any] = {"candidates": ["fp16"], "max_new_tokens": 4, "strategies": ["greedy"]}
    if odd == "{":
        with pytest.raises(dd.InputError, match=r"generation_config\.json"):
            run(folder, **asked)
    else:
        assert not run(folder, **asked).failed


@pytest.mark.parametrize("words", ["w1 w2 ", "w7 "])
def test_a_periodic_text_at_the_models_whole_window(words: str) -> None:
    """Its windows have one context; read over one prefill of it, filler would pass the window."""
    text = dd.Text("periodic", words * 300)
    study = run("gpt2", candidates=["fp64"], strategies=["greedy"], texts=[text], context=128, stride=32)
    assert not study.failed, study.failures.to_string()
    assert study.perplexity["tokens"].nunique() == 1
