"""Rotary factors that change with the length: generated as transformers does, read again only where that is the same."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_tokenizer
from running import LEAN

import decodedrift as dd
from decodedrift.core.records import VariantError
from decodedrift.decoding.loop import generate
from decodedrift.decoding.strategies import parse_strategies
from decodedrift.models.load import loaded
from decodedrift.models.longrope import Switch, readable_tokens, switch
from decodedrift.models.probe import needed
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.text.vocabulary import vocabulary
from decodedrift.models.variants import parse_variants

CHANGES = 16
PROMPTS = {"a": [5, 17, 3], "b": [9], "c": [30, 31, 32, 33, 34, 35, 36], "d": [80, 2, 80, 2]}
NEW = 20


def model(window: int | None = None) -> Any:
    from transformers import AutoModelForCausalLM, Phi3Config

    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 1.0, "factor": 4.0,
        "original_max_position_embeddings": CHANGES, "short_factor": [1.0] * 4, "long_factor": [3.0, 5.0, 7.0, 9.0],
    }  # fmt: skip
    config = Phi3Config(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, original_max_position_embeddings=CHANGES,
        rope_parameters=rope, bos_token_id=0, eos_token_id=0, pad_token_id=0, sliding_window=window,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.dim() >= 2:
                    parameter.mul_(4.0)
    return made.eval()


def reads_one_token_there() -> bool:
    """Early releases drop the cache and read the last token alone: their own `generate` is wrong, and refused."""
    from transformers import Phi3ForCausalLM

    return "next_sequence_length" not in inspect.getsource(Phi3ForCausalLM.prepare_inputs_for_generation)


REFUSED = "Phi3ForCausalLM does not cache every token that it reads"


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("window", [None, 64])
def test_past_the_length_the_tokens_are_those_of_generate(beams: int, window: int | None) -> None:
    """transformers drops its cache there and begins another: beams that go on in the old one are silently wrong."""
    phi = model(window)
    width = max(map(len, PROMPTS.values()))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS.values()])
    mask = (torch.arange(width)[None] >= torch.tensor([[width - len(p)] for p in PROMPTS.values()])).long()
    rows = phi.generate(
        ids, attention_mask=mask, max_new_tokens=NEW, num_beams=beams, do_sample=False, eos_token_id=None
    )
    name = "greedy" if beams == 1 else f"beam:num_beams={beams}"
    checkpoint = in_memory(phi, tiny_tokenizer())
    vocab = vocabulary(checkpoint, True)
    cells = [(s, 0) for s in parse_strategies(name, "none")]
    with loaded(checkpoint, parse_variants("fp32")[0]) as ready:
        ready.path = needed(ready, vocab, "shared")[0]
        assert ready.path == ("shared" if window is None else "stock")
        if reads_one_token_there():
            with pytest.raises(VariantError, match=REFUSED):
                generate(ready, vocab, PROMPTS, cells, NEW)
            return
        done = generate(ready, vocab, PROMPTS, cells, NEW)
    got = [list(done.traces[name, 0, p].token_ids) for p in PROMPTS]
    assert got == rows[:, width:].tolist()


@pytest.mark.parametrize("batch_size", [1, 8])
def test_what_is_read_again_is_what_was_generated(batch_size: int) -> None:
    """The losses of the forced positions are the log-probabilities of the generating pass, and none lies beyond."""
    prompts = [{"id": name, "text": " ".join(f"w{i}" for i in ids)} for name, ids in PROMPTS.items()]
    asked: dict[str, Any] = {
        "candidates": ["fp64"], "prompts": [dd.Prompt(**p) for p in prompts], "max_new_tokens": NEW,
        "strategies": ["greedy", "beam:num_beams=2"], "batch_size": batch_size, "ignore_eos": True,
    }  # fmt: skip
    if reads_one_token_there():
        with pytest.raises(dd.InputError, match=REFUSED):
            dd.compare(model(), tokenizer=tiny_tokenizer(), **asked, **LEAN)
        return
    study = dd.compare(model(), tokenizer=tiny_tokenizer(), **asked, **LEAN)
    longest = max(map(len, PROMPTS.values()))
    rows = study.positions.query("role == 'candidate'")
    for (strategy, prompt), frame in rows.groupby(["strategy", "prompt_id"]):
        width = longest if batch_size == 8 else len(PROMPTS[prompt])
        assert frame["position"].tolist() == list(range(CHANGES - width + 1)), (strategy, prompt)
    greedy = rows.query("strategy == 'greedy'")
    assert greedy["nll_reference"].notna().all()
    assert (greedy["kl"] < 1e-9).all(), "fp32 and fp64 are one function here"
    skipped = study.failures.query("status == 'skipped'")
    assert skipped["error"].str.contains("^texts pass the length at which").all()
    assert set(skipped["strategy"]) == {"greedy", "beam:num_beams=2"}
    assert study.traces.query("strategy == 'greedy'")["perplexity_judge"].isna().all(), "no text was judged whole"
    summed = study.traces.query("variant == 'fp32' and role == 'reference' and strategy == 'greedy'")
    assert np.isfinite(summed["logprob_sum"]).all()


def test_one_reading_of_the_whole_text_would_be_another_function() -> None:
    """The control: where nothing is left out, the first tokens are read with the second factors."""
    phi = model()
    text = torch.tensor([[*PROMPTS["c"], *range(40, 40 + NEW)]])
    with torch.inference_mode():
        prefix, whole = phi(text[:, :10]).logits[0, -1], phi(text).logits[0, 9]
    assert float((prefix - whole).abs().max()) > 0.1


def test_where_the_factors_change() -> None:
    import transformers as t

    assert switch(model().config) == Switch(CHANGES, False)
    assert switch(t.LlamaConfig()) is None
    stretched = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 32}
    assert switch(t.LlamaConfig(rope_parameters=stretched, max_position_embeddings=64)) == Switch(32, True)


def test_how_much_can_be_read_again() -> None:
    lengths = {"a": 3, "b": 7, "c": 16, "d": 20}
    assert readable_tokens(lengths, 1, Switch(16, False)) == {"a": 14, "b": 10, "c": 1}
    assert readable_tokens(lengths, 2, Switch(16, False)) == {"a": 10, "b": 10, "c": 0}
    assert readable_tokens(lengths, 1, Switch(16, True)) == {"a": 14, "b": 10, "c": 1, "d": 0}
    assert readable_tokens(lengths, 4, None) == {}
