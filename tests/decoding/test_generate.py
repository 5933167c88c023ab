"""Free running: in fp32 the tokens are `model.generate`'s, over families, strategies and padded batches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import FAMILIES, tiny_model, tiny_tokenizer

from decodedrift.decoding.loop import generate
from decodedrift.decoding.strategies import parse_strategies
from decodedrift.models.load import loaded
from decodedrift.models.probe import needed
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.steps import PATHS
from decodedrift.models.text.vocabulary import vocabulary
from decodedrift.models.variants import parse_variants

PROMPTS = {"a": [5, 17, 3], "b": [9], "c": [30, 31, 32, 33, 34, 35, 36], "d": [80, 2, 80, 2]}
NEW = 24


def free_run(
    family: str,
    strategies: str,
    precision: str = "fp32",
    coupling: str = "none",
    seeds: tuple[int, ...] = (0,),
    prompts: dict[str, list[int]] = PROMPTS,
    ignore_eos: bool = False,
    new: int = NEW,
    path: str | None = None,
    **more: Any,
) -> Any:
    checkpoint = in_memory(tiny_model(family), tiny_tokenizer())
    vocab = vocabulary(checkpoint, ignore_eos)
    (variant,) = parse_variants(precision)
    cells = [(s, seed) for s in parse_strategies(strategies, coupling) for seed in (seeds if s.samples else (0,))]
    with loaded(checkpoint, variant) as model:
        model.path = path or needed(model, vocab, PATHS[0])[0]
        return generate(model, vocab, prompts, cells, new, **more)


def by_transformers(
    family: str, seed: int | None = None, prompts: dict[str, list[int]] = PROMPTS, **settings: Any
) -> dict[str, tuple[int, ...]]:
    model = tiny_model(family)
    width = max(map(len, prompts.values()))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts.values()])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts.values()])
    if seed is not None:
        torch.manual_seed(seed)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, pad_token_id=0, eos_token_id=0, **settings)
    found = {}
    for name, row in zip(prompts, out[:, width:].tolist(), strict=True):
        stop = row.index(0) + 1 if 0 in row else len(row)
        found[name] = tuple(row[:stop])
    return found


DETERMINISTIC = {
    "greedy": {"do_sample": False},
    "beam:num_beams=4": {"num_beams": 4, "do_sample": False},
    "beam:length_penalty=2.0,num_beams=3": {"num_beams": 3, "length_penalty": 2.0, "do_sample": False},
    "beam:early_stopping=true,num_beams=3": {"num_beams": 3, "early_stopping": True, "do_sample": False},
    "beam:early_stopping=never,num_beams=3": {"num_beams": 3, "early_stopping": "never", "do_sample": False},
    "beam:num_beams=1": {"do_sample": False},
}
SAMPLED = {
    "top-k:k=20,temperature=0.8": {"do_sample": True, "top_k": 20, "temperature": 0.8, "top_p": 1.0},
    "top-p:p=0.9": {"do_sample": True, "top_k": 0, "top_p": 0.9},
    "top-p:p=1.0,temperature=1.5": {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.5},
    "min-p:p=0.1,temperature=0.8": {"do_sample": True, "top_k": 0, "min_p": 0.1, "temperature": 0.8},
    "typical:mass=0.9": {"do_sample": True, "top_k": 0, "typical_p": 0.9},
    "typical:mass=0.3,temperature=1.3": {"do_sample": True, "top_k": 0, "typical_p": 0.3, "temperature": 1.3},
    "sample": {"do_sample": True, "top_k": 0},
    "sample:temperature=0.7": {"do_sample": True, "top_k": 0, "temperature": 0.7},
    "sample:k=20,p=0.8,temperature=0.7": {"do_sample": True, "top_k": 20, "top_p": 0.8, "temperature": 0.7},
    "sample:k=30,min_p=0.02,p=0.95": {"do_sample": True, "top_k": 30, "top_p": 0.95, "min_p": 0.02},
}
PENALISED = {  # without padding, which generate counts as said
    "greedy:repetition_penalty=1.3": {"do_sample": False, "repetition_penalty": 1.3},
    "greedy:no_repeat_ngram=2": {"do_sample": False, "no_repeat_ngram_size": 2},
    "greedy:no_repeat_ngram=1,repetition_penalty=0.8": {
        "do_sample": False, "repetition_penalty": 0.8, "no_repeat_ngram_size": 1,
    },
    "top-k:k=20,repetition_penalty=1.2": {"do_sample": True, "top_k": 20, "repetition_penalty": 1.2},
    "typical:mass=0.9,no_repeat_ngram=2": {
        "do_sample": True, "top_k": 0, "typical_p": 0.9, "no_repeat_ngram_size": 2,
    },
    "sample:k=20,p=0.8,repetition_penalty=1.5,temperature=0.7": {
        "do_sample": True, "top_k": 20, "top_p": 0.8, "temperature": 0.7, "repetition_penalty": 1.5,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_deterministic_strategies_equal_generate_in_one_mixed_batch(family: str) -> None:
    result = free_run(family, ",".join(DETERMINISTIC))
    for label, settings in DETERMINISTIC.items():
        expected = by_transformers(family, **settings)
        got = {p: result.traces[(label, 0, p)].token_ids for p in PROMPTS}
        assert got == expected, label


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("seed", [0, 7])
def test_uncoupled_sampling_equals_generate_seeded_once_per_batch(family: str, seed: int) -> None:
    result = free_run(family, ",".join(SAMPLED), seeds=(seed,))
    for label, settings in SAMPLED.items():
        got = {p: result.traces[(label, seed, p)].token_ids for p in PROMPTS}
        assert got == by_transformers(family, seed, **settings), label


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_under_a_penalty_the_tokens_are_those_of_generate(family: str) -> None:
    even = {"a": [5, 17, 3, 5], "b": [9, 30, 31, 9], "c": [80, 2, 80, 2]}
    result = free_run(family, ",".join([*PENALISED, "greedy"]), seeds=(3,), prompts=even)
    for label, settings in PENALISED.items():
        seed = 3 if settings["do_sample"] else 0
        got = {p: result.traces[(label, seed, p)].token_ids for p in even}
        assert got == by_transformers(family, seed, even, **settings), label
        assert not settings.get("do_sample") == got == {p: result.traces["greedy", 0, p].token_ids for p in even}, label


def test_padding_is_no_part_of_what_was_said() -> None:
    """The rows of a ragged batch are those that `generate` writes one by one, and not those of its padded batch."""
    penalties: dict[str, dict[str, Any]] = {
        "greedy:repetition_penalty=3.0": {"repetition_penalty": 3.0},
        "greedy:no_repeat_ngram=1": {"no_repeat_ngram_size": 1},
    }
    for label, settings in penalties.items():
        ours = {p: t.token_ids for (_, _, p), t in free_run("gpt2", label).traces.items()}
        alone = {p: by_transformers("gpt2", prompts={p: i}, do_sample=False, **settings)[p] for p, i in PROMPTS.items()}
        assert ours == alone, label
    assert ours != by_transformers("gpt2", do_sample=False, **settings), "it bans the filler, which is the stop token"


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "mixtral"])
def test_beam_logprobs_rebuild_the_sequence_scores(family: str) -> None:
    label = "beam:length_penalty=0.7,num_beams=3"
    result = free_run(family, label)
    width = max(map(len, PROMPTS.values()))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS.values()])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS.values()])
    out = tiny_model(family).generate(
        ids, attention_mask=mask, max_new_tokens=NEW, pad_token_id=0, eos_token_id=0, num_beams=3, length_penalty=0.7,
        do_sample=False, output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    for prompt, score in zip(PROMPTS, out.sequences_scores.tolist(), strict=True):
        trace = result.traces[(label, 0, prompt)]
        rebuilt = sum(trace.logprobs) / len(trace.token_ids) ** 0.7
        assert rebuilt == pytest.approx(score, rel=1e-5)
        assert trace.score == pytest.approx(score, rel=1e-6)
        assert trace.min_margin >= 0


def test_coupled_draws_do_not_depend_on_batch_order_or_company() -> None:
    label = "top-p:p=0.95"
    together = free_run("gpt2", f"greedy,{label}", "fp64", "gumbel")
    alone = free_run("gpt2", label, "fp64", "gumbel", prompts={"c": PROMPTS["c"]})
    reordered = free_run("gpt2", label, "fp64", "gumbel", prompts=dict(reversed(PROMPTS.items())))
    for prompt in PROMPTS:
        key = (label, 0, prompt)
        assert reordered.traces[key].token_ids == together.traces[key].token_ids
    assert alone.traces[(label, 0, "c")].token_ids == together.traces[(label, 0, "c")].token_ids
    other = free_run("gpt2", label, "fp64", "gumbel", seeds=(1,))
    assert any(other.traces[(label, 1, p)].token_ids != together.traces[(label, 0, p)].token_ids for p in PROMPTS)


def test_longer_runs_keep_the_greedy_prefix_and_ignored_stops_fill_the_horizon() -> None:
    short, long = (
        free_run("llama", "greedy", ignore_eos=True, new=8),
        free_run("llama", "greedy", ignore_eos=True, new=20),
    )
    for prompt in PROMPTS:
        ids = long.traces[("greedy", 0, prompt)].token_ids
        assert len(ids) == 20
        assert ids[:8] == short.traces[("greedy", 0, prompt)].token_ids
        assert long.traces[("greedy", 0, prompt)].finish == "length"


def test_margins_and_watched_scores_are_those_of_the_choice() -> None:
    reference = free_run("gpt2", "greedy,top-k:k=5", coupling="gumbel", keep_scores=True)
    watch = {key: trace.token_ids for key, trace in reference.traces.items()}
    again = free_run("gpt2", "greedy,top-k:k=5", coupling="gumbel", watch=watch)
    for key, trace in reference.traces.items():
        chosen, watched = again.scores[key]
        assert watched == chosen  # the same model watches its own tokens
        assert len(chosen) == len(trace.token_ids) == len(trace.margins)
        assert all(m >= 0 for m in trace.margins)
        log = reference.logs[key]
        assert [log.at(t, token) for t, token in enumerate(trace.token_ids)] == chosen
    assert math.isnan(reference.logs[("greedy", 0, "a")].at(NEW + 1, 3))


def test_top_k_of_one_is_greedy() -> None:
    result = free_run("llama", "greedy,top-k:k=1,top-p:p=0.000001,min-p:p=1.0", coupling="gumbel")
    for prompt in PROMPTS:
        greedy = result.traces[("greedy", 0, prompt)].token_ids
        assert result.traces[("top-k:k=1", 0, prompt)].token_ids == greedy
        assert result.traces[("top-p:p=0.000001", 0, prompt)].token_ids == greedy
        assert result.traces[("min-p:p=1.0", 0, prompt)].token_ids == greedy
    assert all(math.isnan(m) for m in result.traces[("top-k:k=1", 0, "a")].margins)


def test_without_a_cache_the_tokens_are_the_same() -> None:
    strategies = "greedy,beam:num_beams=3"
    cached, uncached = free_run("gpt2", strategies), free_run("gpt2", strategies, "fp32:use_cache=false")
    assert {k: t.token_ids for k, t in cached.traces.items()} == {k: t.token_ids for k, t in uncached.traces.items()}


@pytest.mark.parametrize("path", ["stock", "plain"])
def test_the_paths_agree(path: str) -> None:
    strategies = "greedy,beam:num_beams=4,top-p:p=0.9"
    roomy = free_run("llama", strategies, "fp64", "gumbel", path="shared")
    growing = free_run("llama", strategies, "fp64", "gumbel", path=path)
    assert roomy.traces.keys() == growing.traces.keys()
    for key, trace in growing.traces.items():
        assert roomy.traces[key].token_ids == trace.token_ids
        assert roomy.traces[key].logprobs == pytest.approx(trace.logprobs, abs=1e-12)
