"""What a run says of how its variants were executed: the reference under another name, knobs that no reading uses."""

from __future__ import annotations

import functools
from pathlib import Path

import pandas as pd
import pytest
import running
import torch
from conftest import tiny_model
from running import saved_as

import decodedrift as dd
from decodedrift.core.records import InputError
from decodedrift.experiments.compare.execution import same_execution
from decodedrift.measure.tables import LAYOUTS, of_one_layout

run = functools.partial(
    running.run, prompts=["w1 w2", "w3", "w9 w8 w7", "w20 w21"], strategies=["greedy"], max_new_tokens=10
)


def of(frame: pd.DataFrame, candidate: str) -> pd.DataFrame:
    return frame[(frame["role"] == "candidate") & (frame["candidate"] == candidate)]


def test_a_candidate_that_is_the_references_execution_is_named(tmp_path: Path) -> None:
    """sdpa where sdpa is the default, threads as there are: no finding; another kernel, other weights: one."""
    torch.set_num_threads(1)
    other = tiny_model("llama")
    with torch.no_grad():
        other.lm_head.weight[3] += 1
    folders = {
        name: saved_as(model, tmp_path / name)
        for name, model in (("mine", tiny_model("llama")), ("copy", tiny_model("llama")), ("changed", other))
    }
    study = dd.compare(
        folders["mine"],
        candidates=["fp32:attention=sdpa", "fp32:threads=1", "fp32:attention=eager", "bf16:attention=sdpa",
                    *(f"{name}={folders[name]}" for name in ("copy", "changed"))],
        prompts=["w1 w2", "w3"], strategies=["greedy"], max_new_tokens=4,
    )  # fmt: skip
    assert same_execution(study) == ["fp32:attention=sdpa", "fp32:threads=1", "copy"]
    (said,) = (s for s in study.verdict if "own execution" in s)
    assert said.startswith("fp32:attention=sdpa, fp32:threads=1 and copy are the reference's own execution")
    idle = next(s for s in study.verdict if s.startswith("Did not engage"))
    assert idle == "Did not engage, being what the reference does too: attention of bf16:attention=sdpa."
    del study.environment["variants"]["copy"]["idle_knobs"]  # what did not run, or was not noted
    assert same_execution(study) == ["fp32:attention=sdpa", "fp32:threads=1"]


@pytest.mark.filterwarnings("ignore")
def test_a_kernel_that_is_read_back_as_the_default_is_the_same_execution() -> None:
    assert same_execution(run("llama", candidates=["fp32:attention=paged|sdpa"])) == ["fp32:attention=paged|sdpa"]


def test_a_knob_that_acts_on_the_cache_has_its_real_distances_token_by_token() -> None:
    study = run(
        "llama", candidates=["fp32:use_cache=false", "bf16"], strategies=["greedy", "beam:num_beams=2"],
        texts=[dd.Text("text", " ".join(f"w{i}" for i in range(1, 30)))], noise_floor=True, decompose=True,
    )  # fmt: skip
    uncached, bf16 = (of(study.summary, name) for name in ("fp32:use_cache=false", "bf16"))
    assert (set(uncached["layout"]), set(bf16["layout"])) == ({"stepped"}, {"forced"})
    for rows in (uncached, bf16):
        assert (rows[["kl_mean", "logit_gap_max"]] > 0).all(axis=None)
        assert rows[["significant_digits", "top1_agreement", "ln_ppl_ratio"]].notna().all(axis=None)
    assert (uncached["logit_gap_max"] < 1e-5).all(), "two orders of summation in float32"
    assert study.perplexity["variant"].tolist() == ["fp32", "bf16"]
    answers = study.answer.set_index("candidate")
    assert answers.loc["fp32:use_cache=false", "quality_note"].startswith("it keeps no KV cache: token by token")
    steps = of(study.steps, "fp32:use_cache=false")
    assert steps["e0"].isna().all() and (steps["e1"].dropna() > 0).any()
    kl = of(study.positions, "fp32:use_cache=false").query("strategy == 'greedy'")["kl"]
    assert steps.query("strategy == 'greedy'")["kl_reference_text"].dropna().tolist() == kl.tolist()
    (said,) = (s for s in study.verdict if s.startswith("use_cache acts"))
    assert "for the distances of fp32:use_cache=false both sides read it token by token" in said
    (told,) = (s for s in study.verdict if s.startswith("Reading the reference's own text token by token"))
    assert "fp32:use_cache=false is at mean KL" in told and "bf16" not in told
    assert "fp32:use_cache=false" in study.to_html()


def test_beams_of_a_knob_that_no_reading_uses_have_no_gaps() -> None:
    study = run(
        "llama", candidates=["int8", "int8:use_cache=false"], strategies=["beam:num_beams=2"], max_new_tokens=24
    )
    for name, empty in (("int8", False), ("int8:use_cache=false", True)):
        parted = of(study.divergences, name).query("diverged == 1")
        assert len(parted) > 0
        assert (parted[["reference_gap", "candidate_gap", "swing"]].isna() == empty).all(axis=None), name


def test_a_knob_that_no_reading_uses_cannot_be_screened() -> None:
    with pytest.raises(InputError, match="fp32:use_cache=false turns use_cache, which acts while tokens are generated"):
        run("llama", candidates=["bf16", "fp32:use_cache=false"], mode="screen")


def test_every_row_says_its_layout_and_a_fold_takes_one() -> None:
    study = run("llama", candidates=["int8"], strategies=["greedy", "beam:num_beams=2"])
    assert set(study.positions["layout"]) == {"forced"}
    layouts = study.divergences.groupby("strategy")["layout"].unique().map(list).to_dict()
    assert layouts == {"greedy": ["decoded"], "beam:num_beams=2": ["forced"]}
    assert set(study.positions["layout"]) <= set(LAYOUTS)
    mixed = study.positions.copy()
    rows = (mixed["role"] == "candidate") & (mixed["strategy"] == "greedy")
    mixed.loc[rows, "layout"] = "stepped"
    assert of_one_layout(mixed) is mixed, "a candidate and strategy may have another than the next"
    mixed.loc[rows & (mixed["position"] > 3), "layout"] = None  # as of old: forced
    rows_of = {name: getattr(study, name) for name in study.experiment.tables}
    for name in ("growth", "summary", "distribution", "risk", "flip_law"):
        fresh = dd.Study({**rows_of, "positions": mixed}, study.plan)
        with pytest.raises(ValueError, match="int8 greedy: a fold is over one layout, not over stepped and forced"):
            getattr(fresh, name)


def test_the_distances_of_another_batch_size_say_where_they_show_nothing() -> None:
    """With one text for each prompt a text is read whole in any batch; with several over a prefill."""
    prompts = {"a": "w1 w2 w3 w4 w5", "b": "w7"}
    asked = {"candidates": "fp32:batch_size=1", "prompts": prompts, "max_new_tokens": 3}
    said = "With one text for each prompt, texts are read whole, to nearly the same bits in any batch: distances of "
    said += (
        "fp32:batch_size=1 do not show what the size of a batch does. A noise floor does, or a second strategy or seed."
    )
    assert said in run(strategies="greedy", **asked).verdict
    assert not any("With one text" in s for s in run(strategies="greedy,top-k", **asked).verdict)
    assert not any("With one text" in s for s in run(strategies="greedy", **asked | {"candidates": "bf16"}).verdict)
