"""A quantized cache whose rows end and are exchanged: the texts of transformers' generate, and of each prompt alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from transformers import GenerationConfig, QuantizedCache

from decodedrift.core.records import InputError
from decodedrift.decoding.loop import generate
from decodedrift.decoding.strategies import parse_strategies
from decodedrift.models.knobs import check
from decodedrift.models.load import loaded
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.text.vocabulary import vocabulary
from decodedrift.models.variants import parse_variants

PROMPTS = {"a": [5, 17, 3], "b": [9, 7, 8, 20, 21], "c": [30, 31, 32, 33, 34, 35, 36], "d": [80, 2, 80, 2]}
NEW = 14
MODULES = {"quanto": "optimum.quanto", "hqq": "hqq", "fp8": "transformers"}
INTEGERS = {"nbits": 4, "q_group_size": 8, "residual_length": 3}
SETTINGS: dict[str, dict[str, Any]] = {"fp8": {}, "quanto": INTEGERS, "hqq": INTEGERS}


def written(name: str, labels: str, prompts: dict[str, list[int]]) -> tuple[dict[tuple[str, str], Any], Any, Any]:
    """(traces by label and prompt, the model, its vocabulary), on transformers' own cache of a backend."""
    pytest.importorskip(MODULES[name])
    checkpoint = in_memory(tiny_model("llama"), tiny_tokenizer())
    vocab = vocabulary(checkpoint, False)
    asked = ":".join(["fp32:cache=quantized", name, *map(str, SETTINGS[name].values())])
    with loaded(checkpoint, parse_variants(asked)[0]) as one:
        one.path = "stock"
        traces = generate(one, vocab, prompts, [(s, 0) for s in parse_strategies(labels)], NEW).traces
        return {(key.strategy, key.prompt_id): trace for key, trace in traces.items()}, one.model, vocab


def by_transformers(name: str, model: Any, vocab: Any, **settings: Any) -> dict[str, tuple[int, ...]]:
    """Of all prompts in one left-padded batch."""
    width = max(map(len, PROMPTS.values()))
    rows = [
        ([vocab.pad] * (width - len(ids)) + ids, [0] * (width - len(ids)) + [1] * len(ids)) for ids in PROMPTS.values()
    ]
    ids, mask = (torch.tensor(part) for part in zip(*rows, strict=True))
    asked = GenerationConfig(
        max_new_tokens=NEW, do_sample=False, eos_token_id=list(vocab.eos), pad_token_id=vocab.pad, **settings
    )
    cache = QuantizedCache(backend=name, config=model.config, **SETTINGS[name])
    out = model.generate(ids, attention_mask=mask, past_key_values=cache, generation_config=asked)[:, width:].tolist()
    stops = [next((i + 1 for i, token in enumerate(row) if token in vocab.eos), NEW) for row in out]
    return {prompt: tuple(row[:stop]) for prompt, row, stop in zip(PROMPTS, out, stops, strict=True)}


@pytest.mark.parametrize(("label", "settings"), [("greedy", {}), ("beam:num_beams=3", {"num_beams": 3})])
@pytest.mark.parametrize("name", ["quanto", "hqq", "fp8"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_rows_that_end_and_beams_that_cross_are_those_of_generate(name: str, label: str, settings: Any) -> None:
    ours, model, vocab = written(name, label, PROMPTS)
    theirs = by_transformers(name, model, vocab, **settings)
    assert {prompt: trace.token_ids for (_, prompt), trace in ours.items()} == theirs
    if label == "greedy":
        assert [trace.finish for trace in ours.values()].count("eos") == 1, "a row goes on as filler"


def test_groups_that_do_not_divide_a_tokens_keys_are_refused() -> None:
    pytest.importorskip("optimum.quanto")
    checkpoint = in_memory(tiny_model("llama"), tiny_tokenizer())
    said = "quanto:4:7:128: groups of 7 do not divide the 16 keys of a token; choices: 1, 2, 4, 8, 16$"
    with pytest.raises(InputError, match=said):
        check(parse_variants("fp32:cache=quantized:quanto:4:7")[0], checkpoint)
    check(parse_variants("fp32:cache=quantized:quanto:4:16")[0], checkpoint)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_scales_of_quanto_are_a_rows_own_and_those_of_hqq_and_fp8_are_not() -> None:
    labels = "greedy,beam:num_beams=2"
    for name, own in (("quanto", True), ("hqq", False), ("fp8", False)):
        together = written(name, labels, PROMPTS)[0]
        away = []
        for key, alone in written(name, labels, {"a": PROMPTS["a"]})[0].items():
            same = together[key].token_ids == alone.token_ids
            away.append(max(abs(a - b) for a, b in zip(together[key].logprobs, alone.logprobs, strict=same)))
            assert same or not own, key
        assert (max(away) < 1e-4) == own, (name, away)
