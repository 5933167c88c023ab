"""Knobs that act on the KV cache, in runs: their real distances, their controls, and what is said of them."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import running
import torch
from bigram import log_softmax, saved_bigram
from conftest import tiny_model, tiny_tokenizer
from families import TABLE, config
from test_oracle import LAST, NEW, PROMPTS, C, R, walk
from test_stepping import by_groups, rounded
from transformers import AutoModelForCausalLM

import decodedrift as dd
from decodedrift.core.records import InputError
from decodedrift.decoding.spool import Spool
from decodedrift.decoding.strategies import parse_strategies
from decodedrift.experiments.compare.handover import Handover
from decodedrift.experiments.compare.settings import CompareSettings
from decodedrift.models.load import loaded
from decodedrift.models.precisions.floating import KeepDouble
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.text.vocabulary import vocabulary
from decodedrift.models.variants import parse_variants

KNOBS = ["fp32:kv=int4", "fp32:kv=int8", "fp32:cache=static", "fp32:use_cache=false"]
TEXT = dd.Text("text", " ".join(f"w{i}" for i in range(1, 40)))
run = functools.partial(
    running.run, "llama", prompts=["w1 w2", "w3", "w9 w8 w7", "w20 w21"], strategies=["greedy", "top-p"],
    max_new_tokens=10, candidates=[*KNOBS, "bf16", "bf16:kv=int8"], noise_floor=True, inject=True, texts=[TEXT],
    context=16,
)  # fmt: skip


def of(frame: pd.DataFrame, candidate: str, role: str = "candidate") -> pd.DataFrame:
    return frame[(frame["role"] == role) & (frame["candidate"] == candidate)]


def test_distances_are_real_and_the_controls_are_exactly_nothing() -> None:
    study = run()
    assert not study.failed, study.failures.to_string()
    kl = {
        name: of(study.summary, name).set_index("strategy")["kl_mean"]["greedy"] for name in study.answer["candidate"]
    }
    assert kl["fp32:kv=int4"] > 30 * kl["fp32:kv=int8"] > 1e-6
    assert 0 < kl["fp32:cache=static"] < 1e-12 and 0 < kl["fp32:use_cache=false"] < 1e-12
    again = of(study.positions, "fp32 (stepped)", "self")
    assert len(again) == len(of(study.positions, "fp32", "self")) > 0
    assert set(again["layout"]) == {"stepped"}
    assert (again[["kl", "kl_reverse", "tv", "logit_gap_max", "logit_gap_rms", "directional_error"]] == 0).all(
        axis=None
    )
    floors = study.positions[study.positions["role"] == "floor"]
    layouts = floors.groupby("reference")["layout"].unique().map(list).to_dict()
    assert layouts == {name: ["forced" if name == "bf16" else "stepped"] for name in kl}
    assert (floors[floors["reference"] == "fp32:kv=int8"]["kl"] < 1e-7).all()


def test_the_reference_reads_what_it_wrote_from_the_logits_that_it_wrote_it_from() -> None:
    """Step by step in its own batches: every bit of its likelihoods; read at once they are others."""
    study = run()
    told = study.traces.query("role == 'reference'").set_index(["strategy", "prompt_id"])["logprob_sum"]
    losses = {}
    for name in ("fp32:kv=int8", "bf16"):
        rows = of(study.positions, name)
        rows = rows[rows["strategy"] != "text"]
        losses[name] = -rows.groupby(["strategy", "prompt_id"])["nll_reference"].sum().loc[told.index]
    assert np.abs(losses["fp32:kv=int8"] - told).max() < 1e-13
    assert np.abs(losses["bf16"] - told).max() > 1e-9


def test_folds_are_of_one_layout_and_hold_no_reading_against_another() -> None:
    study = run()
    stepped = {name for name in study.answer["candidate"] if name != "bf16"}
    for frame in (study.summary, study.certificate, study.distribution, study.perplexity.iloc[1:]):
        names = frame["variant"] if "variant" in frame else frame["candidate"]
        known = frame[names.isin(stepped) | (names == "bf16")]
        assert (known["layout"] == np.where(names[known.index] == "bf16", "forced", "stepped")).all()
    certificate = study.certificate.set_index(["candidate", "strategy"])
    rounded, plain = certificate.loc["bf16:kv=int8"], certificate.loc["fp32:kv=int8"]
    assert rounded[["sigma_ratio", "cast_positions"]].isna().all(axis=None), "bf16 was read at once"
    assert (rounded["floor_positions"] > 0).all() and (plain["noise_ratio"] > 100).all()
    law = study.flip_law.query("law == 'empirical'").set_index(["candidate", "strategy"])
    assert law["flips_predicted"].notna().all()
    assert study.risk.query("role == 'candidate'")["growth_slope"].notna().any()
    assert len(study.injection) > 0, "a token put into the reference's text asks nothing of a reading"


def test_a_text_is_read_token_by_token_unless_every_token_would_be_a_reading_of_all() -> None:
    study = run()
    table = study.perplexity.set_index("variant")
    assert list(table.index) == ["fp32", *(k for k in KNOBS if "use_cache" not in k), "bf16", "bf16:kv=int8"]
    assert table.loc["fp32", "layout"] == "forced", "where any candidate is held against that"
    rows = of(study.positions, "fp32:kv=int8").query("strategy == 'text'")
    assert set(rows["position"]) == set(range(1, 39)) and (rows["kl"] > 0).any()
    bf16 = of(study.positions, "bf16").query("strategy == 'text'")
    assert rows["nll_reference"].to_numpy() == pytest.approx(bf16["nll_reference"].to_numpy(), abs=1e-5)
    answers = study.answer.set_index("candidate")
    assert answers.loc["fp32:kv=int8", "quality"] != "not measured"
    assert answers.loc["fp32:use_cache=false", "quality"] == "not measured"


def test_what_is_read_back_of_a_cache() -> None:
    told = run().environment["variants"]
    assert told["fp32"]["cache_layers"] == {"RoomyLayer fp32": 2} and told["fp32"]["kv"] == ""
    assert told["fp32:cache=static"]["cache_layers"] == {"StaticLayer fp32": 2}
    assert told["bf16:kv=int8"]["cache_layers"] == {"RoomyLayer bf16": 2}
    assert told["fp32:use_cache=false"]["cache_layers"] == {}
    assert told["fp32:kv=int4"]["kv"].startswith("int4: keys and values, symmetric, a scale for each 8 values")
    assert (
        0.8 * told["fp32:kv=int4"]["kv_values"] < told["fp32:kv=int4"]["kv_changed"] < told["fp32:kv=int4"]["kv_values"]
    )
    assert all(told[name]["idle_knobs"] == [] for name in KNOBS)


def test_a_static_cache_writes_the_tokens_of_a_dynamic_one_and_of_generate() -> None:
    study = run()
    rows = study.traces[study.traces["role"].isin(["reference", "candidate"])]
    texts = {name: cell["token_ids"].tolist() for name, cell in rows.groupby("variant")}
    assert texts["fp32"] == texts["fp32:cache=static"] == texts["fp32:use_cache=false"]
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    for row in rows.query("variant == 'fp32:cache=static' and strategy == 'greedy'").itertuples():
        ids = tokenizer(row.prompt, return_tensors="pt").input_ids
        theirs = model.generate(ids, max_new_tokens=10, do_sample=False, cache_implementation="static",
                                disable_compile=True, pad_token_id=0)  # fmt: skip
        assert row.token_ids == " ".join(map(str, theirs[0, ids.shape[1] :].tolist()))


def test_what_did_not_engage_and_what_changed_no_bit_is_said(tmp_path: Path) -> None:
    """Attention that adds nothing to the bigram oracle: rounded keys and values move no logit."""
    study = dd.compare(
        saved_bigram(R, tmp_path / "model"), reference="fp64", prompts=PROMPTS, max_new_tokens=NEW,
        candidates=["fp64:kv=int8", f"other={saved_bigram(C, tmp_path / 'other')}:kv=int8"], strategies=["greedy"],
        **running.LEAN,
    )  # fmt: skip
    (said,) = (s for s in study.verdict if s.startswith("Engaged"))
    assert said == "Engaged, and changed no bit of any figure: kv of fp64:kv=int8."
    assert study.environment["variants"]["fp64:kv=int8"]["kv_changed"] > 0
    kl = (np.exp(log_softmax(R)) * (log_softmax(R) - log_softmax(C))).sum(1)
    for prompt, rows in of(study.positions, "other").groupby("prompt_id"):
        text = walk(R, "greedy", 0, str(prompt))
        assert rows["kl"].to_numpy() == pytest.approx(kl[[LAST[str(prompt)], *text[:-1]]], rel=1e-9)
        assert set(rows["layout"]) == {"stepped"}
    idle = running.run("mistral", candidates=["fp32:cache=dynamic", "fp32:cache=static"], max_new_tokens=4,
                       prompts=["w1 w2"], strategies=["greedy"])  # fmt: skip
    assert idle.environment["generation"]["path"] == "stock", "which is the model's own kind of cache already"
    assert any(s.startswith("fp32:cache=dynamic is the reference's own execution") for s in idle.verdict)
    assert idle.environment["variants"]["fp32:cache=static"]["decoding_cache"] == "StaticSlidingWindowLayer"
    assert not idle.failed


@pytest.mark.filterwarnings("ignore:.past_key_values.:FutureWarning")
def test_the_local_error_is_of_the_references_keys_and_values_as_the_format_holds_them() -> None:
    """The reference's cache, rounded by numpy and handed over by hand."""
    model, (prompt, text) = tiny_model("llama").double(), ((5, 17, 3), (30, 31, 9, 33, 80))
    checkpoint = in_memory(model, tiny_tokenizer())
    plain, int8 = parse_variants("fp64,fp64:kv=int8")
    cells = [(s, 0) for s in parse_strategies("greedy")]
    with Spool(2**30) as spool, loaded(checkpoint, plain) as one, loaded(checkpoint, int8) as other:
        key = ("greedy", 0, "p")
        handover = Handover(spool, vocabulary(checkpoint, True), {"p": prompt}, [cells], {key: text}, 1)  # type: ignore[dict-item]
        handover.record(one)
        errors, refusal = handover.errors(other)
    assert refusal == ""
    ids = torch.tensor([prompt + text])
    with torch.no_grad(), KeepDouble():
        z_r = model(ids).logits[0, len(prompt) - 1 : -1]
        for t in range(len(text)):
            end = len(prompt) + t - 1
            handed = rounded(lambda states: by_groups(states, 127, 8))(model.config)
            for layer, theirs in zip(handed.layers, model(ids[:, :end]).past_key_values.layers, strict=True):
                layer.update(handed.rounds(theirs.keys), handed.rounds(theirs.values))
            d = model(ids[:, end : end + 1], past_key_values=handed).logits[0, 0] - z_r[t]
            assert errors[key]["e0"][t] == pytest.approx(float((d - d.mean()).pow(2).mean().sqrt()), rel=1e-7)  # type: ignore[index]
    assert (errors[key]["e1"] != errors[key]["e0"])[1:].all()  # type: ignore[index]


def test_a_reference_with_a_cache_of_its_own_is_held_to_it() -> None:
    study = running.run(
        "llama", reference="fp32:cache=static", candidates=["fp32", "bf16:cache=static"], prompts=["w1 w2", "w3"],
        strategies=["greedy"], max_new_tokens=6, decompose=True, noise_floor=True,
    )  # fmt: skip
    assert not study.failed
    cast = study.positions.query("role == 'cast'")
    assert (set(cast["candidate"]), set(cast["layout"])) == ({"bf16"}, {"forced"})
    assert study.certificate.set_index("candidate").loc["bf16:cache=static", "sigma_ratio"] == 1, "the same rounding"
    layouts = study.positions.query("role == 'candidate'").groupby("candidate")["layout"].unique().map(list).to_dict()
    assert layouts == {"fp32": ["stepped"], "bf16:cache=static": ["forced"]}
    assert study.steps["e0"].notna().all()


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        (
            "fp32:cache=offloaded",
            "cache=offloaded: it moves keys and values between a CUDA device and the host, and thi",
        ),
        ("fp32:kv=int8,use_cache=false", "kv=int8:0: it is of the KV cache, which use_cache=false leaves out"),
        ("fp32:cache=static,use_cache=false", "cache=static: it is of the KV cache, which use_cache=false leaves out"),
        ("fp32:cache=quantized:fp8,kv=int8", "cache=quantized:fp8: it rounds what is cached, and so does kv="),
        ("fp32:cache=quantized:hqq", r"it needs hqq: pip install 'decodedrift\[cache\]'"),
        ("fp32:cache=quantized", r"it needs optimum-quanto: pip install 'decodedrift\[cache\]'"),
    ],
)
def test_what_cannot_be_is_refused_before_weights_load(
    candidate: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def missing(name: str, *args: Any) -> Any:
        if name.startswith("optimum"):
            raise ModuleNotFoundError(name)
        return None if name == "hqq" else real(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(InputError, match=said) as error:
        run(candidates=[candidate])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("candidate", ["fp32:kv=int8", "fp32:cache=static"])
def test_it_cannot_be_screened(candidate: str) -> None:
    with pytest.raises(InputError, match=f"{candidate} turns (kv|cache), which acts while tokens are generated"):
        running.run("llama", candidates=[candidate], mode="screen", prompts=["w1"])


def test_readings_token_by_token_are_in_the_estimate() -> None:
    def effort(*candidates: str) -> Any:
        reference = parse_variants("fp32")[0]
        asked = CompareSettings(reference=reference, candidates=parse_variants(candidates, reference))
        return asked.having(strategies=parse_strategies("greedy")).effort

    plain, both = effort("bf16"), effort("bf16", "fp32:kv=int8", "fp32:use_cache=false")
    assert (plain.stepwise, both.stepwise) == (0, 3), "each of the two, and the reference"
    assert (plain.reading, both.reading) == (2, 2)
    floors = 2  # more, of one strategy
    assert both.logits == plain.logits + floors + 1


def test_where_nothing_is_cached_that_could_be_rounded_the_knob_did_not_engage() -> None:
    mamba = AutoModelForCausalLM.from_config(config(next(one for one in TABLE if one.name == "mamba")))
    study = running.run(mamba, candidates=["fp32:kv=int8"], prompts=["w1 w2"], strategies=["greedy"], max_new_tokens=3)
    assert study.environment["variants"]["fp32:kv=int8"]["idle_knobs"] == ["kv"]
    assert any(s.startswith("fp32:kv=int8 is the reference's own execution") for s in study.verdict)
