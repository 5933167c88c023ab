"""Local, state and path error: exact zeros, closed forms, an independent handing over of the cache, and refusals."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bigram import bigram_model, log_softmax, saved_bigram
from conftest import tiny_model, tiny_tokenizer
from running import LEAN
from test_generate import PROMPTS as IDS
from test_oracle import BEAM, LAST, NEW, PROMPTS, VOCAB, C, R, walk

import decodedrift as dd
from decodedrift.decoding.loop import generate
from decodedrift.decoding.spool import Spool
from decodedrift.decoding.strategies import parse_strategies
from decodedrift.experiments.compare.folds import decomposition
from decodedrift.experiments.compare.handover import Handover
from decodedrift.experiments.compare.verdict.decomposition import sentences
from decodedrift.measure.tables import typed
from decodedrift.models.load import loaded
from decodedrift.models.precisions.floating import KeepDouble
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.text.vocabulary import vocabulary
from decodedrift.models.variants import parse_variants

STEPS = 14


def errors(reference: Any, candidate: Any, precision: str, strategies: str = "greedy", budget: int = 2**30) -> Any:
    """(errors by key, the reference's traces) of two models in memory, in one precision."""
    checkpoints = [in_memory(model, tiny_tokenizer()) for model in (reference, candidate)]
    vocab = vocabulary(checkpoints[0], True)
    (variant,) = parse_variants(precision)
    cells = [(s, 0) for s in parse_strategies(strategies)]
    with loaded(checkpoints[0], variant) as one, Spool(budget) as spool:
        traces = generate(one, vocab, IDS, cells, STEPS).traces
        handover = Handover(spool, vocab, IDS, [cells], {k: t.token_ids for k, t in traces.items()}, 3)
        handover.record(one)
        assert bool(spool.spilled_bytes) == (budget == 0)
        with loaded(checkpoints[1], variant) as other:
            return handover.errors(other)[0], traces


def changed(model: Any, change: Callable[[str], bool], scale: float = 0.05) -> Any:
    """A copy with noise on the parameters whose name `change` picks."""
    other = copy.deepcopy(model)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        picked = [p for name, p in other.named_parameters() if change(name)]
        for parameter in picked:
            parameter.add_(torch.randn_like(parameter) * scale * parameter.abs().mean())
    assert picked
    return other


def both(found: Any) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.concatenate([e[name] for e in found.values()]) for name in ("e0", "e1"))  # type: ignore[return-value]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "mixtral"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_reference_itself_has_no_error_at_all(family: str, precision: str) -> None:
    model = tiny_model(family)
    found, traces = errors(model, model, precision, "greedy,beam:num_beams=3,top-p:p=0.9")
    assert {k: len(e["e0"]) for k, e in found.items()} == {k: len(t.token_ids) for k, t in traces.items()}
    e0, e1 = both(found)
    assert (e0 == 0).all()
    assert (e1 == 0).all()
    e0, e1 = both(errors(model, changed(model, lambda name: "weight" in name), precision)[0])
    assert (e0 > 0).all()
    assert (e1 > 0).all()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_against_transformers_handing_over_the_cache_itself(family: str) -> None:
    reference = tiny_model(family).double()
    candidate = changed(reference, lambda name: "weight" in name)
    found, traces = errors(reference, candidate, "fp64", budget=0)
    for (label, seed, prompt), trace in traces.items():
        ids = torch.tensor([IDS[prompt] + list(trace.token_ids)])
        start = len(IDS[prompt])
        with torch.no_grad(), KeepDouble():
            z_r, z_c = (m(ids).logits[0, start - 1 : -1] for m in (reference, candidate))
            own = found[label, seed, prompt]
            assert own["e1"] == pytest.approx(rms(z_c - z_r), rel=1e-9)
            for t in range(len(trace.token_ids)):
                past = reference(ids[:, : start + t - 1]).past_key_values if start + t > 1 else None
                alone = candidate(ids[:, start + t - 1 : start + t], past_key_values=past).logits[0]
                assert own["e0"][t] == pytest.approx(rms(alone - z_r[t])[0], rel=1e-9)
        assert not np.allclose(own["e0"][1:], own["e1"][1:], rtol=1e-3)
        assert prompt != "b" or own["e0"][0] == own["e1"][0]  # a prompt of one token: nothing was cached before it


def rms(d: torch.Tensor) -> np.ndarray:
    """Root mean square over the vocabulary, mean removed."""
    return np.asarray((d - d.mean(-1, keepdim=True)).pow(2).mean(-1).sqrt())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("head", lambda n: "lm_head" in n),
        ("last layer's MLP", lambda n: "layers.1.mlp" in n),
        ("last layer's queries", lambda n: "layers.1.self_attn.q_proj" in n),
    ],
)
def test_what_leaves_no_trace_in_the_cache_has_no_state_error(name: str, change: Callable[[str], bool]) -> None:
    model = tiny_model("llama")
    e0, e1 = both(errors(model, changed(model, change), "fp32")[0])
    assert (e0 == e1).all()
    assert (e0[STEPS + 1 : 2 * STEPS] > 0).all()  # the queries of a first token matter to nothing


def test_an_error_in_the_values_is_mostly_one_of_state() -> None:
    """With wrong values only, one position on a right cache is wrong by its own value alone."""
    model = tiny_model("llama")
    e0, e1 = both(errors(model, changed(model, lambda n: "v_proj" in n), "fp32")[0])
    assert (e0 == e1).sum() == 1  # the first token of the prompt of one
    assert e1.mean() > 1.5 * e0.mean()


def test_a_candidates_cache_type_is_part_of_the_local_error() -> None:
    """Handing an fp32 cache to bf16 rounds it: more than nothing even where the weights are bf16 to begin with."""
    model = tiny_model("llama").bfloat16().float()
    checkpoint = in_memory(model, tiny_tokenizer())
    vocab = vocabulary(checkpoint, True)
    fp32, bf16 = parse_variants("fp32,bf16")
    cells = [(s, 0) for s in parse_strategies("greedy")]
    with loaded(checkpoint, fp32) as one, loaded(checkpoint, bf16) as other, Spool(2**30) as spool:
        texts = {k: t.token_ids for k, t in generate(one, vocab, IDS, cells, STEPS).traces.items()}
        handover = Handover(spool, vocab, IDS, [cells], texts, 4)
        handover.record(one)
        e0, e1 = both(handover.errors(other)[0])
    assert (e0 > 0).all()
    assert 0.2 < e0.mean() / e1.mean() < 1.2


# ---- refusals


def compare(model: Any, candidates: Any, **settings: Any) -> Any:
    torch.set_num_threads(1)
    given: dict[str, Any] = {"strategies": ["greedy"], "max_new_tokens": 8, "decompose": True} | settings
    prompts = [dd.Prompt(name, " ".join(f"w{i}" for i in ids)) for name, ids in IDS.items()]
    return dd.compare(model, tokenizer=tiny_tokenizer(), candidates=candidates, prompts=prompts, **given, **LEAN)


def test_a_sliding_window_is_refused_and_the_path_measured_all_the_same() -> None:
    study = compare(tiny_model("mistral"), ["bf16"])
    assert study.failures[["variant", "stage", "status"]].values.tolist() == [["fp32", "decompose", "failed"]]
    assert "DynamicSlidingWindowLayer is not plain keys and values" in study.failures["error"].iloc[0]
    assert study.steps["e0"].isna().all()
    assert study.steps["kl_reference_text"].notna().any()
    assert study.decomposition["state_compounding"].isna().all()
    assert set(study.summary["role"]) == {"self", "candidate"}


def test_a_candidate_without_a_cache_or_with_another_shape_fails_alone(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig

    other = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    deeper = copy.deepcopy(other)
    deeper.num_hidden_layers, deeper.num_key_value_heads = 3, 2
    for name, config in (("heads", other), ("deep", deeper)):
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    sources = [f"{name}={tmp_path / name}" for name in ("heads", "deep")]
    study = compare(tiny_model("llama"), ["fp32:use_cache=false", *sources, "bf16", "fp32:cache=static"])
    said = study.failures.set_index("variant")["error"].to_dict()
    assert set(study.failures["stage"]) == {"decompose"}
    assert set(said) == {"heads", "deep"}
    (told,) = (s for s in study.verdict if "no error of a single step" in s)
    assert told == (
        "fp32:use_cache=false has no error of a single step (e0): there is no KV cache to hand over (use_cache=false, "
        "or a model without one)."
    )
    assert said["heads"] == "its KV cache is 4 x 8 (heads x size), the reference's 2 x 8"
    assert said["deep"] == "its KV cache has 3 layers, the reference's 2: no handing over"
    rows = study.steps
    handed = rows["candidate"].isin(["bf16", "fp32:cache=static"])
    assert rows[~handed]["e0"].isna().all()
    within = rows["kl_reference_text"].notna()
    assert rows[handed & within]["e0"].notna().all()
    assert rows[within]["e1"].notna().all(), "a text is read token by token whatever the cache is"
    assert (rows[rows["candidate"] == "heads"]["e1"].dropna() > 0.01).all()
    assert set(study.traces["variant"]) == {"fp32", *study.steps["candidate"]}
    assert study.steps["candidate"].nunique() == 5


def test_a_part_that_breaks_while_reading_loses_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from decodedrift.experiments.compare.decompose import Decomposition

    def broken(self: Any, model: Any, done: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(Decomposition, "read", broken)
    study = compare(tiny_model("llama"), ["bf16"], max_new_tokens=12)
    assert study.failures[["variant", "stage", "status"]].values.tolist() == [["bf16", "decompose", "out_of_memory"]]
    assert study.steps[["e0", "e1"]].isna().all(axis=None)
    assert (study.divergences["role"] == "candidate").any()
    assert study.traces.query("variant == 'bf16'")["perplexity_judge"].notna().all()


# ---- a run in closed form


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    other = saved_bigram(C, tmp_path_factory.mktemp("other"))
    return dd.compare(
        bigram_model(R), tokenizer=tiny_tokenizer(VOCAB), reference="fp64", candidates=[f"other={other}"],
        prompts=PROMPTS, max_new_tokens=NEW, decompose=True, strategies=["greedy", BEAM], **LEAN,
    )  # fmt: skip


def test_errors_and_paths_are_the_tables(study: Any) -> None:
    assert not len(study.failures)
    d = C - R
    gap = np.sqrt(((d - d.mean(1, keepdims=True)) ** 2).mean(1))
    kl = (np.exp(log_softmax(R)) * (log_softmax(R) - log_softmax(C))).sum(1)
    for prompt, rows in study.steps.query("strategy == 'greedy'").groupby("prompt_id"):
        ours, its = (walk(table, "greedy", 0, str(prompt)) for table in (R, C))
        before = [[LAST[str(prompt)], *text[:-1]] for text in (ours, its)]
        parted = next((t for t, (a, b) in enumerate(zip(ours, its, strict=False)) if a != b), NEW)
        assert rows["position"].tolist() == list(range(max(len(ours), len(its))))
        for name in ("e0", "e1"):
            assert rows[name].dropna().to_numpy() == pytest.approx(gap[before[0]], rel=1e-11)
        assert rows["kl_reference_text"].dropna().to_numpy() == pytest.approx(kl[before[0]], rel=1e-9)
        assert rows["kl_candidate_text"].dropna().to_numpy() == pytest.approx(kl[before[1]], rel=1e-9)
        assert rows["after"].tolist() == [int(t > parted) for t in range(len(rows))]


def test_the_fold_is_the_ratio_of_means(study: Any) -> None:
    rows = study.steps.query("strategy == 'greedy'")
    fold = study.decomposition.query("strategy == 'greedy'").set_index("position")
    assert fold.index.tolist() == sorted(rows["position"].unique())
    for position, at in rows.groupby("position"):
        row = fold.loc[position]
        assert row.e0_mean == pytest.approx(at["e0"].mean())
        assert row.state_compounding == pytest.approx(1, abs=1e-12)
        alive = at[at["kl_reference_text"].notna() & at["kl_candidate_text"].notna()]
        for name, part in (("before", alive[alive["after"] == 0]), ("after", alive[alive["after"] == 1])):
            assert row[f"n_{name}"] == len(part)
            own, shared = (part[c].mean() for c in ("kl_candidate_text", "kl_reference_text"))
            assert row[f"path_compounding_{name}"] == pytest.approx(own / shared, nan_ok=True)
        if row.n_before:
            assert row.path_compounding_before == pytest.approx(1, rel=1e-9)
        bounds = row.path_compounding_after_low, row.path_compounding_after_high
        if row.n_after < 10:  # prompts, of which fewer bear no bootstrap
            assert np.isnan(bounds).all()
        else:
            assert bounds[0] < row.path_compounding_after < bounds[1]
    assert fold["path_compounding_after"].dropna().sub(1).abs().max() > 0.1  # other contexts, other errors
    whole = study.summary.query("role == 'candidate' and strategy == 'greedy'").iloc[0]
    after = rows[rows["after"] == 1].dropna()
    assert whole.path_compounding == pytest.approx(after["kl_candidate_text"].sum() / after["kl_reference_text"].sum())
    assert any("Its own KV cache multiplies" in s for s in study.verdict)


def test_folds_of_little() -> None:
    keys = {"model": "m", "reference": "r", "candidate": "c", "role": "candidate", "strategy": "greedy", "seed": 0}
    one = {"prompt_id": "p", "position": 0, "e0": 0.0, "e1": 0.5, "kl_reference_text": math.inf, "after": 0}
    frame = typed(pd.DataFrame([keys | one]), "steps")
    row = decomposition.fold_positions(frame).iloc[0]
    assert (row.n, row.e1_mean, row.n_before, row.n_after) == (1, 0.5, 0, 0)
    assert row[["state_compounding", "path_compounding_before", "path_compounding_after"]].isna().all()
    two = typed(pd.DataFrame([keys | one | {"e0": 0.25}]), "steps")
    row = decomposition.fold_positions(two).iloc[0]
    assert row.state_compounding == 2
    assert math.isnan(row.state_compounding_low)  # one prompt has no interval
    assert list(decomposition.fold_positions(frame.iloc[:0]).columns) == decomposition.COLUMNS
    assert sentences(frame) == []


def test_a_saved_run_reads_the_same(study: Any, tmp_path: Path) -> None:
    again = dd.open_study(study.save(tmp_path / "run"))
    pd.testing.assert_frame_equal(again.steps, study.steps)
    pd.testing.assert_frame_equal(again.decomposition, study.decomposition)
    assert again.verdict == study.verdict
    written = pd.read_csv(tmp_path / "run" / "tables/decomposition.csv")
    assert list(written.columns) == decomposition.COLUMNS
    assert len(written) == len(study.decomposition)


def test_prompts_padded_to_another_width_are_handed_the_same_tokens() -> None:
    model = tiny_model("llama")
    alone, _ = errors(model, model, "fp32:padding=multiple:8")
    assert alone
    assert all(row["e0"].max() < 1e-5 and row["e1"].max() < 1e-5 for row in alone.values())


def test_its_batches_are_no_fact_of_a_candidate() -> None:
    asked = {"candidates": "fp32:batch_size=1/2", "batch_size": 3, "prompts": PROMPTS, "max_new_tokens": 4}
    study = dd.compare(tiny_model("llama"), tokenizer=tiny_tokenizer(), strategies="greedy", decompose=True, **asked)
    facts = study.environment["variants"]
    sizes = {"fp32:batch_size=1": 1, "fp32:batch_size=2": 2}
    assert {name: facts[name]["batch_size"] for name in sizes} == sizes
    assert not any(facts[name]["idle_knobs"] for name in sizes)
