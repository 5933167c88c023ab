"""A given text read token by token: bit for bit what a plain loop over the model and its cache gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import Cache, DynamicLayer

from decodedrift.core.records import Reading, VariantError
from decodedrift.decoding.spool import Spool
from decodedrift.decoding.stepping import batches, step
from decodedrift.models import kvcache
from decodedrift.models.load import loaded
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.variants import parse_variants

PROMPT, TEXT = (5, 17, 3), (30, 31, 9, 33, 80, 2, 7, 41)


def by_groups(states: torch.Tensor, largest: int, group: int) -> torch.Tensor:
    """Symmetric absmax by numpy alone, group by group."""
    flat = states.numpy().reshape(-1, group)
    scale = np.abs(flat).max(1, keepdims=True) / flat.dtype.type(largest)
    return torch.from_numpy((np.rint(flat / scale) * scale).reshape(states.shape)).to(states.dtype)


class RoundedCache(DynamicCache):
    """What is written is rounded, and that is all."""

    rounds: Callable[[torch.Tensor], torch.Tensor]

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> Any:
        return super().update(self.rounds(key_states), self.rounds(value_states), *args, **kwargs)


def rounded(rounds: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], Any]:
    def make(config: Any) -> Any:
        cache = RoundedCache(config=config)
        cache.rounds = rounds
        return cache

    return make


def looped(model: Any, cache: Any | None) -> torch.Tensor:
    """Logits after the prompt and after each token but the last, by calling the model as anybody would."""
    ids, rows = torch.tensor([PROMPT + TEXT[:-1]]), []
    with torch.inference_mode():
        for t in range(len(TEXT)):
            end = len(PROMPT) + t
            given = ids[:, :end] if cache is None else ids[:, 0 if t == 0 else end - 1 : end]
            arguments = {} if cache is None else {"past_key_values": cache}
            logits = model(input_ids=given, use_cache=cache is not None, logits_to_keep=1, **arguments).logits
            rows.append(logits[0, -1])
    return torch.stack(rows)


def both(variant: str, cache: Callable[[Any], Any | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours and the loop's over one loaded model: weights elsewhere in memory may have other last bits."""
    torch.set_num_threads(1)
    with loaded(in_memory(tiny_model("llama"), tiny_tokenizer()), parse_variants(variant)[0]) as one:
        with Spool(2**30) as spool:
            ((_, ours),) = step(one, [Reading(PROMPT, TEXT)], 1, 0, spool)
        return ours, looped(one.model, cache(one.model.config))


def stepped(variant: str, readings: Any, size: int = 4, budget: int = 2**30) -> list[torch.Tensor]:
    checkpoint = in_memory(tiny_model("llama"), tiny_tokenizer())
    with loaded(checkpoint, parse_variants(variant)[0]) as one, Spool(budget) as spool:
        found = dict(step(one, readings, size, 0, spool))
        assert bool(spool.spilled_bytes) == (budget == 0)
    return [found[i] for i in range(len(readings))]


@pytest.mark.filterwarnings("ignore:.past_key_values.:FutureWarning")
@pytest.mark.parametrize(
    ("variant", "cache"),
    [
        ("fp32:cache=dynamic", lambda config: DynamicCache(config=config)),
        ("fp32:cache=static", lambda config: StaticCache(config=config, max_cache_len=len(PROMPT + TEXT))),
        ("fp32:use_cache=false", lambda config: None),
        ("fp32:cache=dynamic,kv=int8", rounded(lambda states: by_groups(states, 127, 8))),
        ("fp32:cache=dynamic,kv=int4:4", rounded(lambda states: by_groups(states, 7, 4))),
    ],
)
def test_it_is_a_plain_loop_over_the_model_and_its_cache(variant: str, cache: Callable[[Any], Any]) -> None:
    ours, theirs = both(variant, cache)
    assert torch.equal(ours, theirs)
    if "kv=" in variant:
        plain = both("fp32", lambda config: DynamicCache(config=config))[1]
        assert (ours - plain).abs().max() > 1e-3, "rounding is more than nothing"


@pytest.mark.parametrize("name", ["quanto", "hqq"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_quantized_cache_is_transformers_own(name: str) -> None:
    pytest.importorskip({"quanto": "optimum.quanto", "hqq": "hqq"}[name])
    from transformers import QuantizedCache

    ours, theirs = both(
        f"fp32:cache=quantized:{name}:4:16:2",
        lambda config: QuantizedCache(backend=name, config=config, nbits=4, q_group_size=16, residual_length=2),
    )
    assert torch.equal(ours, theirs)
    assert (ours - both("fp32", lambda config: DynamicCache(config=config))[1]).abs().max() > 1e-3


def test_a_quantized_cache_whose_rows_cannot_be_exchanged_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of releases that exchanged the unrounded tokens alone."""

    class EarlyQuantizedLayer(DynamicLayer):  # type: ignore[misc]
        pass

    def early(backend: str, config: Any, **settings: Any) -> Any:
        return Cache(layers=[EarlyQuantizedLayer() for _ in range(config.num_hidden_layers)])

    monkeypatch.setattr(kvcache, "QuantizedCache", early)
    with pytest.raises(VariantError, match=r"transformers \S+ cannot exchange the rows of a quantized cache"):
        stepped("fp32:cache=quantized:fp8", [Reading(PROMPT, TEXT)])


@pytest.mark.parametrize("variant", ["fp64", "fp64:cache=static", "fp64:kv=int8", "fp64:use_cache=false"])
def test_rows_of_several_contexts_are_what_each_is_alone(variant: str) -> None:
    """Padded, in one batch, in batches of two contexts, and with logits that wait in files."""
    readings = [
        Reading(PROMPT, TEXT),
        Reading((9,), TEXT[:3]),
        Reading(PROMPT, TEXT[4:]),
        Reading((80, 2, 80, 2), (7,)),
    ]
    alone = [stepped(variant, [r])[0] for r in readings]
    for size, budget in ((4, 2**30), (2, 0)):
        for ours, expected, reading in zip(stepped(variant, readings, size, budget), alone, readings, strict=True):
            assert ours.shape == (len(reading.continuation), 96)
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


def test_batches_keep_the_order_of_generation_and_stay_within_the_window() -> None:
    cells = [Reading((i,), (1, 2)) for i in range(5)] + [Reading((i,), (3,)) for i in range(5)]
    assert list(batches(cells, 2)) == [[0, 1, 5, 6], [2, 3, 7, 8], [4, 9]]
    windows = [
        Reading((1,), (2,) * 15),
        Reading((1,) * 8, (2,) * 8),
        Reading((3,) * 8, (2,) * 8),
        Reading((4,) * 8, (2,)),
    ]
    assert list(batches(windows, 8)) == [[0, 1, 2, 3]]
    assert list(batches(windows, 8, window=16)) == [[0], [1, 2, 3]], "filler would take the second to 23 tokens"
