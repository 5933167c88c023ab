"""A draft model: the texts are those of transformers' assisted generation, and what was kept of the draft is told."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from running import run, saved_as
from tokenizers import Tokenizer, models
from transformers import GenerationConfig, PreTrainedTokenizerFast

import decodedrift as dd
from decodedrift.core.settings import make_settings
from decodedrift.decoding.loop import generate
from decodedrift.decoding.strategies import parse_strategies
from decodedrift.experiments.compare.settings import CompareSettings
from decodedrift.models import budget, workload
from decodedrift.models.drafting import PROPOSED, drafted
from decodedrift.models.knobs import check
from decodedrift.models.load import loaded
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.text.vocabulary import vocabulary
from decodedrift.models.variants import parse_variants
from decodedrift.runs.prepare import prepare

PROMPTS = {"a": [5, 17, 3], "b": [9], "c": [30, 31, 32, 33, 34, 35, 36], "d": [80, 2, 80, 2]}
NEW = 20
LABELS = ["greedy", "greedy:repetition_penalty=1.4", "greedy:no_repeat_ngram=2"]
WORDS = ["w1 w2 w3", "w7", "w9 w11 w13"]


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another model over the same vocabulary."""
    return saved_as(tiny_model("gpt2"), tmp_path_factory.mktemp("draft"))


@pytest.fixture(scope="module")
def itself(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_as(tiny_model("llama"), tmp_path_factory.mktemp("itself"))


def written(variant: str, label: str, precision: str = "fp32") -> tuple[dict[str, Any], dict[str, Any]]:
    """(traces by prompt, facts) of a variant, prompt by prompt."""
    checkpoint = in_memory(tiny_model("llama"), tiny_tokenizer())
    vocab, cells = vocabulary(checkpoint, True), [(s, 0) for s in parse_strategies(label)]
    with loaded(checkpoint, parse_variants(variant)[0]) as model, drafted(model):
        made = {p: generate(model, vocab, {p: ids}, cells, NEW, keep_scores=True) for p, ids in PROMPTS.items()}
        return {p: result.traces[label, 0, p] for p, result in made.items()}, dict(model.facts)


def by_transformers(target: str, folder: str, dtype: torch.dtype, **settings: Any) -> dict[str, tuple[int, ...]]:
    from transformers import AutoModelForCausalLM

    model, other = (AutoModelForCausalLM.from_pretrained(one, dtype=dtype) for one in (target, folder))
    for one in (model, other):
        one.generation_config = GenerationConfig()
    other.generation_config.update(  # in 16 bits a reading of another width may say otherwise
        num_assistant_tokens=PROPOSED, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
    )
    out = {}
    for name, ids in PROMPTS.items():
        given = torch.tensor([ids])
        asked = GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=0, **settings)
        text = model.generate(
            given, attention_mask=torch.ones_like(given), generation_config=asked, assistant_model=other
        )
        out[name] = tuple(text[0, len(ids) :].tolist())
    return out


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_tokens_are_those_of_transformers_assisted_generation(draft: str, itself: str, precision: str) -> None:
    traces, _ = written(f"{precision}:assisted={draft}", "greedy")
    theirs = by_transformers(itself, draft, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision])
    assert {p: t.token_ids for p, t in traces.items()} == theirs


@pytest.mark.parametrize("label", LABELS)
def test_in_fp32_the_text_and_what_is_noted_of_it_are_those_of_greedy(draft: str, label: str) -> None:
    ours, facts = written(f"fp32:assisted={draft}", label)
    plain, _ = written("fp32", label)
    for name, trace in ours.items():
        assert trace.token_ids == plain[name].token_ids
        assert trace.logprobs == pytest.approx(plain[name].logprobs, abs=1e-5)
        assert trace.margins == pytest.approx(plain[name].margins, abs=1e-5)
        assert trace.finish == plain[name].finish == "length"
    told = facts["assisted"]
    assert told["tokens"] == NEW * len(PROMPTS)
    assert told["accepted"] == told["tokens"] - told["calls"] < told["proposed"]


def test_a_draft_that_is_the_model_is_kept_whole(itself: str) -> None:
    _, facts = written(f"fp32:assisted={itself}", "greedy")
    calls = -(-NEW // (PROPOSED + 1)) * len(PROMPTS)
    assert facts["assisted"] == {
        "proposed": NEW * len(PROMPTS) - calls, "accepted": NEW * len(PROMPTS) - calls, "calls": calls,
        "tokens": NEW * len(PROMPTS),
    }  # fmt: skip


def test_the_logits_keep_the_models_own_type(draft: str) -> None:
    _, facts = written(f"bf16:assisted={draft}", "greedy")
    assert (facts["logits_dtype"], facts["batch_size"]) == ("bf16", 1)


def test_a_run_has_texts_and_no_distances_of_it(draft: str) -> None:
    name = f"fp32:assisted={draft}"
    study = run(candidates=[name, f"bf16:assisted={draft}", "bf16"], strategies=["greedy"], prompts=WORDS,
                max_new_tokens=12, noise_floor=True, decompose=True)  # fmt: skip
    rows = study.divergences[study.divergences["candidate"] == name]
    assert rows["diverged"].tolist() == [0, 0, 0]
    assert set(study.positions["candidate"]) >= {"bf16"}
    assert not study.positions["candidate"].str.contains("assisted").any(), "an error of 0 would say nothing"
    assert not (study.divergences["role"].eq("floor") & study.divergences["candidate"].str.contains("assisted")).any()
    notes = study.answer.set_index("candidate")["quality_note"]
    assert notes[name].startswith("in reading a given text its draft proposes nothing") and "--text" not in notes[name]
    assert "--text" in notes["bf16"], "the control: no text was given"
    told = study.environment["variants"][name]["assisted"]
    assert f"{told['accepted']} of {told['proposed']} proposed tokens" in str(study.verdict)
    assert study.environment["variants"][name]["idle_knobs"] == []


def test_the_drafts_files_are_part_of_the_run(draft: str, itself: str, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(draft, tmp_path / "draft"))
    asked = {"candidates": [f"fp32:assisted={mine}"], "strategies": ["greedy"], "prompts": ["w1"], "max_new_tokens": 2,
             "noise_floor": False, "default_text": False, "out": tmp_path / "run"}  # fmt: skip
    first = dd.compare(itself, **asked)
    told = first.environment["checkpoints"][f"fp32:assisted={mine} (draft)"]
    weights = (mine / "model.safetensors").read_bytes()
    assert told["files"] == {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    assert dd.compare(itself, **asked, resume=True).divergences.equals(first.divergences), "the control: the same draft"
    (mine / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(
        dd.InputError, match=r"holds another run: checkpoints .*\(draft\) files model.safetensors differs"
    ):
        dd.compare(itself, **asked, resume=True)


def test_a_run_with_a_draft_is_forecast_with_it(draft: str, itself: str) -> None:
    asked = {"model": itself, "strategies": ["greedy"], "prompts": ["w1", "w2"], "max_new_tokens": 8}
    plain, with_draft = (
        prepare(make_settings(CompareSettings, {**asked, "candidates": [c]})).world
        for c in ("bf16:use_cache=false", f"bf16:assisted={draft}")
    )
    ours, its = plain.checkpoint.parameters, with_draft.drafts[f"bf16:assisted={draft}"].parameters
    assert its not in (0, ours)
    assert budget.weight_bytes(with_draft, with_draft.plan.candidates[0]) == 2 * (ours + its)
    assert budget.weight_bytes(plain, plain.plan.candidates[0]) == 2 * ours
    assert with_draft.plan.effort.reading == 1 + len(with_draft.plan.casts), "the candidate reads nothing"
    assert (with_draft.plan.effort.stepwise, with_draft.plan.effort.floors) == (0, ())
    assert (plain.plan.effort.stepwise, len(plain.plan.effort.floors)) == (2, 1), "the control: one that is read"
    work = workload.flops(with_draft, 2)
    with_draft.drafts.clear()
    assert work - workload.flops(with_draft, 2) == 2 * its * 2 * 8


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"strategies": ["greedy", "top-k"]}, "a draft is followed greedily, not by top-k; use"),
        ({"strategies": ["beam"]}, "a draft is followed greedily, not by beam"),
        ({"strategies": ["greedy"], "mode": "screen"}, "mode.*turns assisted"),
    ],
)
def test_what_is_not_greedy_is_refused(draft: str, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(dd.InputError, match=said):
        run(candidates=[f"fp32:assisted={draft}"], prompts=WORDS, max_new_tokens=4, **asked)


def test_a_reference_has_no_draft(draft: str) -> None:
    with pytest.raises(dd.InputError, match="the reference has no draft; give it to a candidate"):
        run(reference=f"fp32:assisted={draft}", candidates=["bf16"], strategies=["greedy"], prompts=WORDS)


def test_another_vocabulary_is_refused_before_weights_load(tmp_path: Path, draft: str) -> None:
    folder = saved_as(tiny_model("gpt2"), tmp_path)
    words = {f"v{i}": i for i in range(96)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="v1"))).save_pretrained(folder)
    checkpoint = in_memory(tiny_model("llama"), tiny_tokenizer())
    with pytest.raises(dd.InputError, match="its vocabulary is another; give a draft over the same tokens"):
        check(parse_variants(f"fp32:assisted={folder}")[0], checkpoint)
    with pytest.raises(dd.InputError, match="leave one of them out"):
        check(parse_variants(f"fp32:assisted={draft},use_cache=false")[0], checkpoint)
    check(parse_variants(f"fp32:assisted={draft}")[0], checkpoint)
