"""What a row keeps, counted from shapes: equal to what the real cache holds, for caches of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FAMILIES, tiny_config, tiny_model, tiny_tokenizer
from families import TABLE, config

from decodedrift.models.footprint import Footprint, _tensors, footprint
from decodedrift.models.sources.checkpoints import Checkpoint, in_memory


def checkpoint(config: Any) -> Checkpoint:
    return Checkpoint("m", "m", "memory", config)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_what_the_real_cache_holds(family: str) -> None:
    counted = footprint(checkpoint(tiny_config(family)))
    ids = torch.arange(1, 13)[None]
    with torch.inference_mode():
        cache = tiny_model(family)(input_ids=ids, use_cache=True).past_key_values
    real = sum(t.numel() for layer in cache.layers for t in (layer.keys, layer.values))
    assert counted.elements(12) - real in (0, 1, 2), "a sliding layer also keeps its length in a tensor"
    by_hand = {"gpt2": 2 * 2 * 32, "gpt_neox": 2 * 2 * 32}.get(family, 2 * 2 * 2 * 8)
    assert counted.per_token == by_hand


@pytest.mark.parametrize("name", ["gemma4_text", "mamba", "jamba", "recurrent_gemma", "deepseek_v3", "gpt_oss"])
def test_families_without_the_usual_names_are_counted(name: str) -> None:
    (one,) = (f for f in TABLE if f.name == name)
    try:
        made = config(one)
    except KeyError:
        pytest.skip(f"this transformers has no {name}")
    counted = footprint(checkpoint(made))
    assert counted.fixed + counted.per_token > 0
    assert (counted.per_token == 0) == (name == "mamba"), counted


def test_where_shapes_do_not_run_the_model_the_bound_is_its_full_width(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def look(*args: Any, **kwargs: Any) -> None:
        torch.zeros(1, device="meta").item()

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", look)
    assert footprint(checkpoint(tiny_config("llama"))) == Footprint(0, 2 * 2 * 32)


def test_it_leaves_the_config_and_a_model_in_memory_as_they_were() -> None:
    model = tiny_model("mixtral")
    before = model.config.to_dict()
    footprint(in_memory(model, tiny_tokenizer()))
    assert model.config.to_dict() == before


def test_tensors_are_found_wherever_they_are_kept() -> None:
    class Layer:
        def __init__(self) -> None:
            self.keys, self.name = torch.zeros(2), "keys"

    kept = {"a": [Layer(), (torch.zeros(3), None)], "b": 1}
    assert sorted(t.numel() for t in _tensors(kept)) == [2, 3]
