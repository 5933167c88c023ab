"""Laws that hold for any correct measurement, whatever the model: what must be zero, equal, ordered, or left alone."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import running
import torch
from bigram import bigram_model, ids_of, saved_bigram, words
from conftest import tiny_model, tiny_tokenizer
from running import LEAN, same_rows, saved_as

import decodedrift as dd
from decodedrift.measure import bench

ALL = ["greedy", "beam:num_beams=3", "top-k:k=8", "top-p:p=0.8"]
PROMPTS = [
    dd.Prompt("a", "w5 w17 w3"), dd.Prompt("b", "w9"), dd.Prompt("c", "w30 w31 w32 w33 w34 w35 w36"),
    dd.Prompt("d", "w80 w2 w80 w2"),
]  # fmt: skip
KEYS = ["role", "strategy", "seed", "prompt_id"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


run = functools.partial(running.run, prompts=PROMPTS, candidates=["bf16"], strategies=["greedy"], max_new_tokens=12)


def of(frame: pd.DataFrame, role: str = "candidate", candidate: str | None = None) -> pd.DataFrame:
    """One role's rows, and one candidate's where named."""
    part = frame[frame["role"] == role]
    return part if candidate is None else part[part["candidate" if "candidate" in part else "variant"] == candidate]


def tokens(study: Any, role: str = "reference") -> dict[tuple[Any, ...], str]:
    rows = of(study.traces, role)
    return {(r.variant, r.strategy, r.seed, r.prompt_id): r.token_ids for r in rows.itertuples()}


# Zero.


@pytest.mark.parametrize(("family", "reference"), [("llama", "fp32"), ("gpt2", "bf16")])
def test_a_model_against_itself_is_exactly_zero(tmp_path: Path, family: str, reference: str) -> None:
    model = tiny_model(family)
    twin = saved_as(model, tmp_path / "twin")
    study = run(model=model, reference=reference, candidates=[f"twin={twin}"], strategies=ALL, batch_size=3)
    assert set(study.divergences["role"]) == {"self", "candidate"}
    assert set(study.positions["strategy"]) == set(ALL)
    assert (study.divergences["diverged"] == 0).all()
    for name in ("kl", "kl_reverse", "tv", "logit_gap_max", "logit_gap_rms", "delta_p"):
        assert (study.positions[name] == 0).all(), name
    assert (study.positions["nll_reference"] == study.positions["nll_candidate"]).all()
    assert (study.positions["significant_digits"] == math.inf).all()
    traces = study.traces
    assert (traces["perplexity_judge"].groupby([traces["strategy"], traces["prompt_id"]]).nunique() == 1).all()
    assert not study.failed


def test_one_changed_weight_shows(tmp_path: Path) -> None:
    model = tiny_model("llama")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight[3, 5] += 0.01
    study = run(model=model, candidates=[f"other={saved_as(other, tmp_path / 'other')}"])
    assert (of(study.positions)["kl"] > 0).all()
    assert (of(study.positions, "self")["kl"] == 0).all()


def test_powers_of_two_moved_between_weights_change_the_file_and_not_one_logit_bit(tmp_path: Path) -> None:
    model = tiny_model("llama")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for layer in other.model.layers:
            layer.mlp.up_proj.weight.mul_(2)
            layer.mlp.down_proj.weight.mul_(0.5)
    same, moved = saved_as(model, tmp_path / "same"), saved_as(other, tmp_path / "moved")
    for precision in ("fp32", "bf16"):
        study = dd.compare(
            same, reference=precision, candidates=[f"moved={moved}"], strategies=ALL[:2], prompts=PROMPTS,
            max_new_tokens=10, **LEAN,
        )  # fmt: skip
        assert study.environment["model"]["files"] != study.environment["checkpoints"]["moved"]["files"]
        assert (of(study.positions)["logit_gap_max"] == 0).all()
        assert (of(study.divergences)["diverged"] == 0).all()


def test_permuted_neurons_change_rounding_and_nothing_else(tmp_path: Path) -> None:
    model = tiny_model("llama")
    other = copy.deepcopy(model)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for layer in other.model.layers:
            for part in (layer.mlp.gate_proj, layer.mlp.up_proj):
                part.weight.copy_(part.weight[order])
            layer.mlp.down_proj.weight.copy_(layer.mlp.down_proj.weight[:, order])
    other = saved_as(other, tmp_path / "other")
    digits = {}
    for precision in ("fp64", "fp32"):
        study = run(model=model, reference=precision, candidates=[f"other={other}"])
        assert (of(study.divergences)["diverged"] == 0).all()
        digits[precision] = float(of(study.summary)["significant_digits"].iloc[0])
    assert 13 < digits["fp64"] < 17
    assert 5 < digits["fp32"] < 8


def test_a_zero_head_has_the_perplexity_of_the_vocabulary() -> None:
    study = run(
        model=bigram_model(np.zeros((16, 16)), torch.float32), prompts=["w3"], max_new_tokens=5,
        strategies=["greedy", "top-p:p=1.0"], texts=[dd.Text("text", words(range(1, 16)))], ignore_eos=True,
    )  # fmt: skip
    assert np.allclose(study.perplexity["perplexity"], 16, rtol=1e-12)
    assert np.allclose(study.traces["perplexity_self"], 16, rtol=1e-12)
    assert np.allclose(study.traces["perplexity_judge"], 16, rtol=1e-12)
    assert np.allclose(study.positions["entropy_reference"], math.log(16), rtol=1e-12)


# Order and size.


@pytest.fixture(scope="module")
def demo() -> Any:
    torch.set_num_threads(1)
    return running.run("demo", candidates=["bf16", "fp16", "int8"], strategies=["greedy"], limit=4, max_new_tokens=32)


def test_more_mantissa_less_drift_by_the_three_bits_between_fp16_and_bf16(demo: Any) -> None:
    rows = of(demo.positions).groupby("candidate")
    kl, error = rows["kl"].mean(), rows["logit_gap_rms"].mean()
    assert 0 < kl["fp16"] < kl["bf16"] < kl["int8"] * 100
    assert 64 / 4 < kl["bf16"] / kl["fp16"] < 64 * 4
    assert 8 / 2 < error["bf16"] / error["fp16"] < 8 * 2
    digits = of(demo.summary).set_index("candidate")["significant_digits"]
    assert 0.6 < digits["fp16"] - digits["bf16"] < 1.2  # log10 of 8 is 0.9


def test_a_choice_turns_only_where_the_error_reaches_half_the_margin(demo: Any) -> None:
    rows = of(demo.positions)
    safe = rows["logit_gap_max"] < rows["logit_margin_reference"] / 2
    assert safe.any()
    assert not safe.all()
    assert (rows[safe]["top1_agree"] == 1).all()


def test_a_greedy_divergence_needs_an_error_of_half_the_margin_there(demo: Any) -> None:
    parted = of(demo.divergences)
    parted = parted[parted["diverged"] == 1]
    assert len(parted) > 0
    assert (parted["swing"] >= parted["reference_gap"]).all()
    assert (parted["reference_gap"] >= parted["reference_margin"]).all()
    at = of(demo.positions).set_index(["candidate", "prompt_id", "position"])["logit_gap_max"]
    for row in parted.itertuples():
        # the forced pass, whose kernels differ from the generating pass by rounding
        error = at[row.candidate, row.prompt_id, row.first_divergence]
        assert error >= row.reference_margin / 2 * 0.9


def test_first_divergence_is_symmetric_and_kl_is_not(tmp_path: Path) -> None:
    model = tiny_model("llama")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.add_(
            torch.randn(other.lm_head.weight.shape, generator=torch.Generator().manual_seed(2)) / 9
        )
    one, two = saved_as(model, tmp_path / "one"), saved_as(other, tmp_path / "two")
    there, back = (
        dd.compare(a, candidates=[f"x={b}"], strategies=ALL[:3], prompts=PROMPTS, max_new_tokens=10, **LEAN)
        for a, b in ((one, two), (two, one))
    )
    a, b = (of(s.divergences).set_index(["strategy", "prompt_id"]) for s in (there, back))
    assert a["diverged"].any()
    for name in ("first_divergence", "compared", "prefix_fraction", "agreement_after", "edit_similarity"):
        pd.testing.assert_series_equal(a[name], b[name].loc[a.index])
    greedy = a.xs("greedy").dropna(subset="swing"), b.xs("greedy").dropna(subset="swing")
    pd.testing.assert_series_equal(greedy[0]["reference_gap"], greedy[1]["candidate_gap"], check_names=False)
    start = [
        of(s.positions).query("position == 0 and strategy == 'greedy'").set_index("prompt_id") for s in (there, back)
    ]
    assert np.allclose(start[0]["kl"], start[1]["kl_reverse"], rtol=1e-9)
    assert not np.allclose(start[0]["kl"], start[1]["kl"], rtol=1e-3)


# What must not depend on what.


def test_a_longer_run_keeps_the_greedy_prefix() -> None:
    short, long = tokens(run(max_new_tokens=6)), tokens(run(max_new_tokens=14))
    assert any(len(ids_of(v)) == 14 for v in long.values())
    for key, value in short.items():
        assert ids_of(long[key])[:6] == ids_of(value)


def test_another_candidate_changes_no_row() -> None:
    few, many = (
        run("gpt2", candidates=c, strategies=ALL, reference="bf16") for c in (["fp16"], ["int8", "fp16", "fp32"])
    )
    for table in ("divergences", "positions", "traces"):
        a, b = getattr(few, table), getattr(many, table)
        column = "variant" if table == "traces" else "candidate"
        same_rows(a, b[b[column].isin(["fp16", "bf16"])])


def test_another_prompt_or_strategy_changes_no_float64_token() -> None:
    settings = {"reference": "fp64", "candidates": ["fp32"], "seeds": [4]}
    small = tokens(run(strategies=ALL[1:3], prompts=PROMPTS[:2], **settings))
    large = tokens(run(strategies=ALL, prompts=PROMPTS, **settings))
    assert len(small) == 4
    assert {k: large[k] for k in small} == small


def test_alone_in_its_batch_another_prompt_or_strategy_changes_no_row_at_all() -> None:
    settings = {"batch_size": 1, "layout": "per-strategy", "candidates": ["bf16"]}
    small = run(strategies=ALL[1:3], prompts=PROMPTS[1:3], **settings)
    large = run(strategies=ALL, prompts=PROMPTS, **settings)
    for table in ("divergences", "positions", "traces"):
        a, b = getattr(small, table), getattr(large, table)
        kept = b["strategy"].isin(ALL[1:3]) & b["prompt_id"].isin(["b", "c"])
        # the self control repeats the first batch, which is another prompt in the two runs
        same_rows(a[a["role"] != "self"], b[kept & (b["role"] != "self")])


def test_a_batch_as_large_as_its_prompts_are_long_is_no_special_case() -> None:
    """A tensor over positions is not one over prompts because the two counts happen to be equal."""
    four = [dd.Prompt(str(i), words([7 * i + 1, 7 * i + 2, 7 * i + 3, 7 * i + 4])) for i in range(4)]
    settings = {"reference": "fp64", "candidates": ["fp32"], "strategies": ALL[:2]}
    assert tokens(run(prompts=four, batch_size=4, **settings)) == tokens(run(prompts=four, batch_size=3, **settings))


def test_one_prompt_a_batch_pads_nothing() -> None:
    model, masks = tiny_model("llama"), []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        masks.append(kwargs.get("attention_mask"))

    model.register_forward_pre_hook(look, with_kwargs=True)
    run(model=model, batch_size=1, strategies=ALL)
    assert len(masks) > 20
    assert all(m is None or bool((m == 1).all()) for m in masks)
    masks.clear()
    run(model=model, batch_size=4)
    assert any(m is not None and not bool((m == 1).all()) for m in masks)  # the hook would have seen it


# Things that go wrong.


def test_a_self_control_that_is_not_zero_fails_the_run_and_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = bench.force, []

    def unsteady(model: Any, *arguments: Any) -> Any:
        calls.append(model.variant.name)
        again = calls.count("fp32") == 2
        for index, logits in real(model, *arguments):
            yield index, logits + torch.eye(len(logits), logits.shape[-1]) * 1e-3 * again

    assert not run().failed
    monkeypatch.setattr(bench, "force", unsteady)
    study = run()
    assert len(study.failures) == 0
    assert study.failed
    assert study.verdict[0].startswith("The reference differs from itself")


def test_a_diverging_self_control_fails_the_run_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = bench.generate, []

    def unsteady(model: Any, *arguments: Any, **more: Any) -> Any:
        calls.append(model.variant.name)
        done = real(model, *arguments, **more)
        if calls.count("fp32") == 2:
            for trace in done.traces.values():
                trace.token_ids = (*trace.token_ids[:-1], (trace.token_ids[-1] + 1) % 96)
        return done

    monkeypatch.setattr(bench, "generate", unsteady)
    study = run()
    assert study.failed
    assert study.verdict[0].startswith("The reference differs from itself: 4 of 4 repeated traces diverged")


def finite_folds(study: Any) -> None:
    rows = study.summary
    for name in ("kl_mean", "kl_max", "logit_gap_max", "ln_ppl_ratio", "perplexity_candidate"):
        assert np.isfinite(rows[name].dropna()).all(), name


def test_nan_in_a_checkpoint_ends_its_traces_and_leaves_the_others_alone(tmp_path: Path) -> None:
    table = np.random.default_rng(3).normal(size=(16, 16))
    table[:, 0] -= 9
    for i in range(1, 16):
        table[i, i % 15 + 1] += 9  # 1 -> 2 -> ... -> 15 -> 1
    model = bigram_model(table, torch.float32)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.embed_tokens.weight[7] = math.nan  # reading a 7 breaks every logit
    bad, good = (
        saved_as(broken, tmp_path / "bad"),
        saved_bigram(table + 0.01 * table.T, tmp_path / "good", torch.float32),
    )
    study = run(
        model=model, candidates=[f"bad={bad}", f"good={good}"], strategies=["greedy", "beam:num_beams=2", "top-k:k=3"],
        prompts=[dd.Prompt("meets", "w4"), dd.Prompt("spared", "w9")], max_new_tokens=8,
    )  # fmt: skip
    traces = of(study.traces, candidate="bad").set_index(["strategy", "prompt_id"])
    assert traces.loc[("greedy", "meets"), "finish"] == "nonfinite"
    assert ids_of(traces.loc[("greedy", "meets"), "token_ids"]) == [5, 6, 7]
    assert traces.loc[("greedy", "meets"), "nonfinite"] == 16
    assert traces.loc[("greedy", "spared"), "finish"] == "length"
    assert traces.loc[("beam:num_beams=2", "meets"), "finish"] == "nonfinite"
    rows = of(study.divergences, candidate="bad").set_index(["strategy", "prompt_id"])
    assert rows.loc[("greedy", "meets"), ["first_divergence", "cause"]].tolist() == [3, "nonfinite"]
    positions = of(study.positions, candidate="bad").query("strategy == 'greedy' and prompt_id == 'meets'")
    after = positions["position"] >= 3
    assert (positions[~after]["nonfinite"] == 0).all()
    assert (positions[after]["nonfinite"] == 16).all()
    assert positions[after]["kl"].isna().all()
    assert set(study.failures["variant"]) == {"bad"}
    assert set(study.failures["status"]) == {"nonfinite"}
    assert set(study.failures["strategy"]) >= {"greedy", "beam:num_beams=2"}
    assert "nonfinite" not in set(of(study.traces, candidate="good")["finish"])
    assert study.failed
    assert any("bad" in s for s in study.verdict[:2]), study.verdict
    finite_folds(study)


def test_an_overflow_to_infinity_in_fp16_is_found_where_it_happens() -> None:
    table = np.zeros((16, 16))
    for i in range(1, 16):
        table[i, i % 15 + 1] = 4.0
    table[7, 8] = 70000.0  # the head holds 17500, which fp16 has; the product it has not
    study = run(
        model=bigram_model(table, torch.float32), candidates=["fp16", "bf16"], prompts=["w4", "w9"], max_new_tokens=8
    )
    traces = of(study.traces)
    assert traces[traces["variant"] == "bf16"]["finish"].tolist() == ["length"] * 2
    (bad, fine) = traces[traces["variant"] == "fp16"].itertuples()
    assert (bad.finish, bad.nonfinite, ids_of(bad.token_ids)) == ("nonfinite", 1, [5, 6, 7])
    assert fine.finish == "length"
    assert study.failures[["variant", "status"]].drop_duplicates().to_numpy().tolist() == [["fp16", "nonfinite"]]
    finite_folds(study)


def test_a_finished_hypothesis_is_not_undone_by_what_its_dead_beams_read(tmp_path: Path) -> None:
    """Rows of a batch never depend on their neighbours: a search that is over does not meet a NaN any more."""
    table = np.full((16, 16), -20.0)
    table[3, [0, 4, 5]] = 5.0, 4.9, 4.5
    table[4, [0, 7]] = 5.0, 4.9  # two hypotheses have ended by now; those still running read a 7, and everything is NaN
    table[5, 7] = 5.0
    for i in (9, 10, 11, 12, 13):
        table[i, i + 1] = 5.0
    model = bigram_model(table, torch.float32)
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = math.nan
    bad = saved_as(model, tmp_path / "bad")
    settings = {
        "model": bigram_model(table, torch.float32), "candidates": [f"bad={bad}"], "max_new_tokens": 4,
        "strategies": ["beam:early_stopping=true,num_beams=2"], "prompts": [dd.Prompt("a", "w3"), dd.Prompt("b", "w9")],
    }  # fmt: skip
    alone, together = (of(run(batch_size=size, **settings).traces).set_index("prompt_id") for size in (1, 2))
    assert alone.loc["b", "finish"] == together.loc["b", "finish"] == "length"
    assert alone.loc["a", "finish"] == together.loc["a", "finish"] == "eos"


def test_a_candidate_that_cannot_load_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_model("llama")
    bad, good = saved_as(model, tmp_path / "bad"), saved_as(model, tmp_path / "good")
    weights = load_file(tmp_path / "bad" / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "bad" / "model.safetensors", metadata={"format": "pt"})
    study = run(model=model, candidates=[f"bad={bad}", f"good={good}"])
    assert set(of(study.divergences)["candidate"]) == {"good"}
    (failure,) = study.failures.itertuples()
    assert (failure.variant, failure.stage, failure.status) == ("bad", "load", "failed")
    assert "model.layers.1.mlp.up_proj.weight" in failure.error
    assert study.failed


def test_a_candidate_with_a_shorter_window_is_told_before_anything_runs(tmp_path: Path) -> None:
    """GPT-2 raises an IndexError beyond its positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = tiny_model("gpt2")
    torch.manual_seed(0)
    short = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_positions=8, n_embd=32, n_layer=1, n_head=2, bos_token_id=0,
                                       eos_token_id=0))  # fmt: skip
    with pytest.raises(dd.InputError, match=r"no prompt can run; a: .* exceed candidate short's window of 8"):
        run(model=model, candidates=[f"short={saved_as(short, tmp_path / 'short')}", "bf16"])


@pytest.mark.parametrize("wider", ["reference", "candidate"])
def test_heads_of_two_widths_are_compared_over_what_they_share(tmp_path: Path, wider: str) -> None:
    """A padded head: one side has ids that no tokenizer entry stands for, and here it even chooses one."""
    small = np.zeros((16, 16))
    for i in range(1, 16):
        small[i, i % 15 + 1] = 4.0
    large = np.zeros((64, 64))
    large[:16, :16] = small
    large[7, 40] = 9.0
    (r, c) = (large, small) if wider == "reference" else (small, large)
    other = bigram_model(c, torch.float32)
    other.save_pretrained(tmp_path / "c")
    tiny_tokenizer(16).save_pretrained(tmp_path / "c")
    study = dd.compare(
        bigram_model(r, torch.float32), tokenizer=tiny_tokenizer(16), candidates=[f"c={tmp_path / 'c'}", "bf16"],
        strategies=["greedy"], prompts=["w4", "w9"], max_new_tokens=5, **LEAN,
    )  # fmt: skip
    assert set(of(study.divergences)["candidate"]) == {"c", "bf16"}
    row = of(study.divergences, candidate="c").iloc[0]
    assert (row["diverged"], row["first_divergence"]) == (1, 3)
    assert of(study.positions, candidate="c")["kl"].iloc[0] == 0


# Folds, and the folder.


@pytest.fixture(scope="module")
def reopened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    study = run("gpt2", strategies=ALL, candidates=["bf16", "int8"], seeds=[0, 1], max_new_tokens=16, noise_floor=True,
                texts=[dd.Text("text.txt", words([(7 * i) % 95 + 1 for i in range(60)]))], context=16)  # fmt: skip
    folder = study.save(tmp_path_factory.mktemp("run") / "here")
    return study, dd.open_study(folder)


def test_a_folder_gives_back_every_table_type_and_null(reopened: Any) -> None:
    before, after = reopened
    for name, frame in before.frames.items():
        pd.testing.assert_frame_equal(frame, after.frames[name], check_exact=True, obj=name)
    assert after.plan == before.plan
    assert after.verdict == before.verdict


def test_summary_is_recomputed_from_the_tables_in_a_few_lines(reopened: Any) -> None:
    study = reopened[1]
    keys = ["model", "reference", "candidate", "role", "strategy"]
    table = study.summary.set_index(keys)
    d = study.divergences.groupby(keys)
    p = study.positions[study.positions["strategy"] != "text"].groupby(keys)
    parted = study.divergences[study.divergences["diverged"] == 1].groupby(keys)
    expected = {
        "traces": d.size(), "prompts": d["prompt_id"].nunique(), "diverged": d["diverged"].sum(),
        "divergence_rate": d["diverged"].mean(), "first_divergence_median": parted["first_divergence"].median(),
        "reference_gap_median": parted["reference_gap"].median(), "swing_median": parted["swing"].median(),
        "near_tie_share": parted["cause"].apply(lambda c: (c[~c.isin(["search", "uncoupled"])] == "near_tie").mean()),
        "kl_mean": p["kl"].mean(), "kl_median": p["kl"].median(), "kl_p99": p["kl"].quantile(0.99),
        "kl_max": p["kl"].max(), "logit_gap_max": p["logit_gap_max"].max(), "top1_agreement": p["top1_agree"].mean(),
        "perplexity_reference": np.exp(p["nll_reference"].mean()),
        "perplexity_candidate": np.exp(p["nll_candidate"].mean()),
        "ln_ppl_ratio": p["nll_candidate"].mean() - p["nll_reference"].mean(),
        "significant_digits": p["significant_digits"].apply(lambda s: -0.5 * np.log10(np.mean(10.0 ** (-2 * s)))),
        "kl_se": p[["kl", "prompt_id"]].apply(lambda f: clustered(f["kl"], f["prompt_id"])),
    }  # fmt: skip
    assert set(table.reset_index()["role"]) == {"self", "candidate", "floor"}
    for name, values in expected.items():
        left = table[name].astype(float)
        right = values.astype(float).reindex(table.index)
        np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-15, err_msg=name)


def clustered(values: pd.Series, clusters: pd.Series) -> float:
    sums, groups = (values - values.mean()).groupby(clusters).sum(), clusters.nunique()
    return math.sqrt(groups / (groups - 1) * (sums**2).sum()) / len(values)


def test_pooled_agreement_is_recomputed_from_the_token_ids(reopened: Any) -> None:
    study = reopened[1]
    rows = {
        (r.variant, r.role, r.strategy, r.seed, r.prompt_id): ids_of(r.token_ids) for r in study.traces.itertuples()
    }
    for row in study.summary[study.summary["role"] == "candidate"].itertuples():
        cells = study.divergences[
            (study.divergences["candidate"] == row.candidate) & (study.divergences["role"] == "candidate")
            & (study.divergences["strategy"] == row.strategy) & (study.divergences["diverged"] == 1)
        ]  # fmt: skip
        pairs = [
            pair
            for c in cells.itertuples()
            for pair in list(zip(
                rows[row.reference, "reference", c.strategy, c.seed, c.prompt_id],
                rows[row.candidate, "candidate", c.strategy, c.seed, c.prompt_id],
            ))[int(c.first_divergence) + 1 :]
        ]  # fmt: skip
        expected = np.mean([a == b for a, b in pairs]) if pairs else math.nan
        np.testing.assert_allclose(row.agreement_after, expected, rtol=1e-12)


def test_distribution_is_recomputed_from_positions(reopened: Any) -> None:
    study = reopened[1]
    keys = ["reference", "candidate", "role", "strategy"]
    table = study.distribution.set_index([*keys, "bucket"])
    edges = {"[0,0.25)": (0, 0.25), "[0.25,0.5)": (0.25, 0.5), "[0.5,0.75)": (0.5, 0.75), "[0.75,0.95)": (0.75, 0.95),
             "[0.95,1]": (0.95, 1.1), "all": (0, 1.1)}  # fmt: skip
    assert (study.distribution["strategy"] == "text").any()
    for key, cell in study.positions.groupby(keys):
        for bucket, (low, high) in edges.items():
            part, row = (
                cell[(cell["p_top_reference"] >= low) & (cell["p_top_reference"] < high)],
                table.loc[(*key, bucket)],
            )
            assert row["n"] == len(part)
            if not len(part):
                assert math.isnan(row["kl_mean"])
                continue
            for name in ("kl", "delta_p"):
                x = part[name]
                found = [row[f"{name}_{s}"] for s in ("mean", "min", "p1", "p50", "p99.9", "max")]
                expected = [x.mean(), x.min(), x.quantile(0.01), x.median(), x.quantile(0.999), x.max()]
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
            np.testing.assert_allclose(row["same_top1"], part["top1_agree"].mean(), rtol=1e-12)
            ratio = part["nll_candidate"] - part["nll_reference"]
            np.testing.assert_allclose(row["ln_ppl_ratio"], ratio.mean(), rtol=1e-12, atol=1e-15)


def test_perplexity_is_recomputed_from_positions(reopened: Any) -> None:
    study = reopened[1]
    rows = study.positions[(study.positions["strategy"] == "text") & (study.positions["role"] == "candidate")]
    table = study.perplexity.set_index("variant")
    assert table.index.tolist() == ["fp32", "bf16", "int8"]
    for name, part in rows.groupby("candidate"):
        np.testing.assert_allclose(table.loc[name, "perplexity"], np.exp(part["nll_candidate"].mean()), rtol=1e-12)
        np.testing.assert_allclose(table.loc["fp32", "perplexity"], np.exp(part["nll_reference"].mean()), rtol=1e-12)
        assert table.loc[name, "tokens"] == len(part) == 59
        assert sorted(part["position"]) == list(range(1, 60))


ODD = [
    "NA",
    "null",
    "",
    "nan",
    "None",
    "\\ud800",
    "\\",
    "a\r\nb",
    "\x00\x1b[2J",
    "\u2028",
    '"quoted", cell',
    "=1+1",
    "  ",
]


def with_tables(study: dd.Study, **frames: pd.DataFrame) -> dd.Study:
    """The study with other rows; its folds are made of them anew."""
    rows = {name: getattr(study, name) for name in study.experiment.tables}
    return dd.Study(rows | frames, study.plan, study.environment)


def test_tokens_that_read_like_missing_values_survive_the_folder(reopened: Any, tmp_path: Path) -> None:
    study = reopened[0]
    frames = {t: getattr(study, t).copy() for t in ("traces", "divergences", "positions")}
    for table, column in (("traces", "text"), ("positions", "token"), ("divergences", "reference_token")):
        values = list(frames[table][column])
        values[: len(ODD)] = ODD
        frames[table][column] = pd.Series(values, dtype=frames[table][column].dtype)
    altered = with_tables(study, **frames)
    again = dd.open_study(altered.save(tmp_path / "odd"))
    for table, column in (("traces", "text"), ("positions", "token"), ("divergences", "reference_token")):
        pd.testing.assert_series_equal(getattr(again, table)[column], frames[table][column])
        assert getattr(again, table)[column].head(len(ODD)).tolist() == ODD


def test_a_lone_surrogate_survives_the_folder(reopened: Any, tmp_path: Path) -> None:
    study = reopened[0]
    traces = study.traces.copy()
    traces["text"] = pd.Series(["a\ud800b", *traces["text"][1:]], dtype=traces["text"].dtype)
    altered = with_tables(study, traces=traces)
    again = dd.open_study(altered.save(tmp_path / "odd"))
    assert again.traces["text"][0] == "a\ud800b"


def test_a_prompt_that_is_no_text_is_refused_by_name_and_the_others_run() -> None:
    study = run(prompts=[dd.Prompt("bad", "w4 \ud800"), dd.Prompt("good", "w5")])
    assert set(of(study.divergences)["prompt_id"]) == {"good"}
    (failure,) = study.failures.itertuples()
    assert (failure.prompt_id, failure.stage, failure.status) == ("bad", "prompt", "refused")


def test_texts_and_ids_of_any_kind_pass_through(tmp_path: Path) -> None:
    """`typed` tables take a text such as NA as a text and an absent one as missing."""
    prompts = [dd.Prompt("NA", "w4", ("null",)), dd.Prompt("null", "w5")]
    study = run(prompts=prompts, out=tmp_path / "run", strategies=ALL[:1])
    again = dd.open_study(tmp_path / "run")
    assert again.divergences["prompt_id"].tolist() == study.divergences["prompt_id"].tolist()
    assert set(again.traces["prompt_id"]) == {"NA", "null"}
    assert set(again.traces["tags"]) == {"null", ""}


def test_columns_without_a_number_and_names_that_are_numbers_keep_their_type(tmp_path: Path) -> None:
    """One window has no clustered error: that column is empty from top to bottom. A text may be called 1984."""
    study = run(texts=[dd.Text("1984", words([4, 5, 6]))], out=tmp_path / "run")
    again = dd.open_study(tmp_path / "run")
    assert study.perplexity["ln_ppl_ratio_se"].isna().all()
    pd.testing.assert_frame_equal(again.perplexity, study.perplexity, check_exact=True)
