"""`--reference-run`: a run that takes its reference from an earlier one has the rows of one that makes it itself."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model
from running import LEAN, content, saved_as

import decodedrift as dd
from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError
from decodedrift.experiments import running
from decodedrift.measure import bench
from decodedrift.measure.kept import sum_of
from decodedrift.models import load

ASKED: dict[str, Any] = LEAN | {
    "strategies": ["greedy", "beam:num_beams=2", "top-k:k=5", "top-p", "greedy:repetition_penalty=1.3"], "seeds": [3],
    "max_new_tokens": 8, "prompts_per_job": 2, "batch_size": 2, "prompts": ["w1 w2", "w3", "w4 w5 w6", "w7"],
}  # fmt: skip
WHOLE = {"noise_floor": True, "texts": [dd.Text("book", "w1 w2 w3 w4 w5 w6 w7 w8 w9 " * 5)], "context": 16}
TABLES = ("traces", "divergences", "positions", "alternatives", "judged", "failures")
SPACING = 2.0**-23


@pytest.fixture(scope="module")
def model(saved: Callable[..., Path]) -> str:
    return str(saved("llama"))


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A candidate that parts from the reference nearly everywhere."""
    other = tiny_model("llama")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3 * parameter.abs().mean())
    return f"mine={saved_as(other, tmp_path_factory.mktemp('mine'))}"


@pytest.fixture(scope="module")
def kept(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An earlier run with other candidates, in several jobs, that kept its reference."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    dd.compare(model, candidates=["fp16"], keep_logits=True, out=folder, **ASKED | WHOLE)
    return folder


@pytest.fixture(scope="module")
def texts_only(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts") / "run"
    dd.compare(model, candidates=["fp16"], out=folder, **ASKED)
    return folder


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "copied"))


def same(ours: dd.Study, theirs: dd.Study) -> None:
    for table in TABLES:
        pd.testing.assert_frame_equal(getattr(ours, table), getattr(theirs, table), check_exact=True)


def edited(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "data" / name
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


# ---- kept logits: the same rows, bit for bit


@pytest.mark.parametrize("candidate", ["bf16", "bf16:use_cache=false"])
def test_every_row_is_that_of_one_run(model: str, kept: Path, mine: str, candidate: str) -> None:
    candidates = [candidate, mine]
    again = dd.compare(model, candidates=candidates, reference_run=kept, **ASKED | WHOLE)
    one = dd.compare(model, candidates=candidates, **ASKED | WHOLE)
    assert {"self", "floor", "candidate"} <= set(one.divergences["role"])
    assert one.divergences["diverged"].sum() > 5
    assert {"text", "greedy", "top-p"} <= set(one.positions["strategy"])
    same(again, one)
    assert again.environment["variants"]["fp32"]["logits_dtype"] == "fp32"
    assert "with the logits that were kept there, bit for bit" in " ".join(again.verdict)
    assert again.environment["reference_run"] == {"run": str(kept), "logits": "kept"}


def test_screening_takes_it_too(model: str, kept: Path) -> None:
    asked = ASKED | {"strategies": ["greedy", "top-k:k=5"], "mode": "screen"}
    with pytest.raises(InputError, match="strategies beam:num_beams=2 only there"):
        dd.compare(model, candidates=["bf16"], reference_run=kept, **asked)


def test_decompose_inject_and_where_go_on_from_it(model: str, mine: str, tmp_path: Path) -> None:
    asked = ASKED | {"strategies": ["greedy"], "inject": True, "decompose": True, "where": True, "candidates": [mine]}
    first = dd.compare(model, out=tmp_path / "first", keep_logits=True, **asked)
    again = dd.compare(model, reference_run=tmp_path / "first", **asked)
    same(again, first)
    for table in ("injection", "steps", "layers"):
        assert len(getattr(first, table)) > 0
        pd.testing.assert_frame_equal(getattr(again, table), getattr(first, table), check_exact=True)


def test_the_reference_writes_and_reads_nothing_but_its_control(
    model: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote: list[tuple[str, str]] = []
    real = bench.Bench.free_run

    def free_run(self: Any, loaded: Any, into: Any, **more: Any) -> None:
        wrote.append((into.name, into.role))
        real(self, loaded, into, **more)

    monkeypatch.setattr(bench.Bench, "free_run", free_run)
    study = dd.compare(model, candidates=["bf16"], reference_run=kept, **ASKED)
    assert wrote == [("fp32", "self"), ("bf16", "candidate"), ("bf16", "candidate")]
    phases = study.timings[study.timings["variant"] == "fp32"]
    assert list(phases[phases["phase"] == "generate"]["job"].unique()) == [study.timings["job"].min()]


def test_what_is_kept_is_what_is_used(model: str, copied: Path) -> None:
    """A bit turned in the kept logits is in the rows, and another run's file is not taken for this one's."""
    before = dd.compare(model, candidates=["bf16"], reference_run=copied, **ASKED)
    file = min((copied / "data" / "reference").glob("0*.safetensors"))
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    number = next(i for i, t in enumerate(json.loads(about["texts"])) if t["key"][0] == "greedy")
    tensors[f"{number}.logits"][0, 0] += 1.0
    save_file(tensors, file, about)
    with pytest.raises(InputError, match=r"safetensors: damaged \(its SHA-256 is another"):
        dd.compare(model, candidates=["bf16"], reference_run=copied, **ASKED)
    sum_of(file).write_text(hashlib.sha256(file.read_bytes()).hexdigest())
    after = dd.compare(model, candidates=["bf16"], reference_run=copied, **ASKED)
    changed = (before.positions["logit_gap_max"] != after.positions["logit_gap_max"]).sum()
    assert changed in (1, 2)  # the candidate's row, and the self control's
    file.unlink()
    with pytest.raises(InputError, match=r"safetensors: missing; put it back, or make that run again"):
        dd.compare(model, candidates=["bf16"], reference_run=copied, **ASKED)
    file.write_bytes(b"no such file")
    with pytest.raises(InputError, match="safetensors: damaged"):
        dd.compare(model, candidates=["bf16"], reference_run=copied, **ASKED)


def test_a_later_job_whose_file_is_damaged_costs_no_other_job(model: str, kept: Path, copied: Path) -> None:
    """ASKED has two jobs of prompts."""
    whole = dd.compare(model, candidates=["bf16"], reference_run=kept, **ASKED)
    file = sorted((copied / "data" / "reference").glob("0*.safetensors"))[1]
    file.write_bytes(b"no such file")
    study = dd.compare(model, candidates=["bf16"], reference_run=copied, **ASKED)
    lost = study.failures["prompt_id"].tolist()
    assert len(lost) == 2 == len(set(lost)) and set(study.failures["variant"]) == {"fp32"}
    (reason,) = set(study.failures["error"])
    assert reason.startswith(f"{file}: ") and "put it back, or make that run again" in reason and "\n" not in reason
    left = whole.divergences[~whole.divergences["prompt_id"].isin(lost)]
    pd.testing.assert_frame_equal(study.divergences, left.reset_index(drop=True), check_exact=True)
    assert study.failed and file.name in " ".join(study.verdict)


@pytest.mark.parametrize(("reference", "dtype"), [("bf16", torch.bfloat16), ("fp64", torch.float64)])
def test_logits_are_kept_in_their_own_type(model: str, tmp_path: Path, reference: str, dtype: torch.dtype) -> None:
    from safetensors.torch import load_file

    asked = LEAN | {"reference": reference, "strategies": ["greedy"], "max_new_tokens": 3, "prompts": ["w1"]}
    dd.compare(model, candidates=["fp16"], keep_logits=True, out=tmp_path / "run", **asked)
    (file,) = (tmp_path / "run" / "data" / "reference").glob("*.safetensors")
    tensors = load_file(file)
    assert tensors["0.logits"].dtype == tensors["0.scores"].dtype == dtype
    assert tensors["0.logits"].shape == tensors["0.scores"].shape == (3, 96)
    assert "reference/" in (tmp_path / "run" / "README.txt").read_text()


def test_what_it_costs_is_said_before(model: str, kept: Path, tmp_path: Path) -> None:
    ready = running.prepare(
        running.make_settings(
            running.experiment("compare").settings, {"model": model, "keep_logits": True} | ASKED | WHOLE
        )
    )
    words = ready.announcement()
    assert "the reference's logits stay in the run folder, up to " in words
    told = float(words.split("up to ")[1].split(" MiB")[0]) * 2**20
    size = sum(f.stat().st_size for f in (kept / "data" / "reference").glob("*.safetensors"))
    assert size <= told + 2**16
    assert told < 2 * size


# ---- without them: one reading


def test_read_again_it_is_close_and_says_so(model: str, texts_only: Path, mine: str) -> None:
    again = dd.compare(model, candidates=[mine], reference_run=texts_only, **ASKED)
    one = dd.compare(model, candidates=[mine], **ASKED)
    for table in ("traces", "positions", "judged", "failures"):
        pd.testing.assert_frame_equal(getattr(again, table), getattr(one, table), check_exact=True)
    ours, theirs = again.divergences, one.divergences
    assert theirs["diverged"].sum() > 5
    assert set(ours["layout"]) == {"forced"}
    gaps = ["reference_margin", "reference_gap", "swing", "logprob_gap"]
    for name in gaps:
        assert (ours[name].isna() == theirs[name].isna()).all()
        assert np.nanmax((ours[name] - theirs[name]).abs()) < 64 * SPACING
    rest = ours.columns.difference([*gaps, "layout", "gap_over_error", "gap_ulps"])
    pd.testing.assert_frame_equal(ours[rest], theirs[rest], check_exact=True)
    seen = again.alternatives[again.alternatives["variant"] == "fp32"]
    assert set(seen["pass"]) == {"forced"}  # nobody has what was seen while it wrote
    assert "one reading, and so are its scores where texts part" in " ".join(again.verdict)


# ---- what is another reference


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_new_tokens": 6}, "max_new_tokens 8 there, 6 here"),
        ({"strategies": ["greedy"]}, "strategies beam:num_beams=2 only there"),
        ({"prompts": ["w1 w2", "w3", "w4 w5 w6", "w8"]}, "only there"),
        ({"prompts": [dd.Prompt("a", "w1")]}, "and 2 more; ask for the same"),
        ({"seeds": [3, 2]}, "seeds 2 only here"),
        ({"batch_size": 4}, "batch_size 2 there, 4 here"),
        ({"prompts_per_job": 4}, "prompts_per_job 2 there, 4 here"),
        ({"reference": "fp64", "candidates": ["fp32"]}, "reference precision 'fp32' there, 'fp64' here"),
        ({"layout": "per-strategy"}, "layout 'mixed' there, 'per-strategy' here"),
        ({"coupling": "none"}, "coupling"),
        ({"ignore_eos": True}, "ignore_eos False there, True here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_differs_is_one_line_before_weights_load(
    model: str, kept: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(load, "_ready", lambda *a: pytest.fail("weights were loaded"))
    with pytest.raises(InputError) as error:
        dd.compare(model, **{"candidates": ["bf16"], "reference_run": kept} | ASKED | change)
    assert words in str(error.value)
    assert "reference_run=" in str(error.value) and "\n" not in str(error.value)


def test_other_weights_are_another_reference(kept: Path, tmp_path: Path) -> None:
    other = tiny_model("llama")
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.001)
    with pytest.raises(InputError, match=r"model files model\.safetensors differs"):
        dd.compare(saved_as(other, tmp_path / "other"), candidates=["bf16"], reference_run=kept, **ASKED)


def test_the_same_weights_elsewhere_are_the_same(model: str, kept: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(model, tmp_path / "moved")
    study = dd.compare(str(moved), candidates=["bf16"], reference_run=kept, **ASKED)
    assert study.environment["reference_run"]["logits"] == "kept"


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("plan.json", {"no_text": True}, "it kept no texts"),
        ("plan.json", {"reference_run": "earlier"}, "it took its reference from earlier; name that one"),
        ("plan.json", {"experiment": "inject"}, "a run of inject; name one of compare"),
        ("environment.json", {"metrics_version": 4}, "metrics_version 4 there, 5 here"),
        ("environment.json", {"tokenizer": "0" * 64}, "tokenizer differs"),
    ],
)
def test_runs_that_have_none_are_refused(model: str, copied: Path, file: str, change: Any, words: str) -> None:
    edited(copied, file, lambda values: values.update(change))
    with pytest.raises(InputError, match=words):
        dd.compare(model, candidates=["bf16"], reference_run=copied, **ASKED)


def test_a_batch_size_that_was_lowered_under_way_is_named(model: str, copied: Path) -> None:
    edited(copied, "environment.json", lambda values: values["generation"].update(lowered={"00000-a": 1}))
    with pytest.raises(InputError, match=r"its batches were lowered to 1 under way; make it again with batch_size=1"):
        dd.compare(model, candidates=["bf16"], reference_run=copied, **ASKED)


def test_another_machine_is_said_and_not_refused(model: str, copied: Path) -> None:
    edited(copied, "environment.json", lambda values: values["numerical"].update(torch="1.0", machine="abacus"))
    study = dd.compare(model, candidates=["bf16"], reference_run=copied, **ASKED)
    said = " ".join(study.environment["warnings"])
    assert "was made elsewhere: numerical torch '1.0' there" in said
    assert "numerical machine 'abacus' there" in said


def test_what_cannot_be_asked_together(model: str, kept: Path) -> None:
    for more, words in (
        ({"keep_logits": True, "no_text": True}, "texts can be read off logits"),
        ({"keep_logits": True, "reference_run": kept}, "the other run has the reference's"),
        ({"keep_logits": True}, "keeps them in the run's folder: name one with out="),
        ({"reference_run": kept.parent}, "not a run folder"),
    ):
        with pytest.raises(InputError, match=words):
            dd.compare(model, candidates=["bf16"], **ASKED | more)


def test_it_may_be_used_without_keeping_texts(model: str, kept: Path, tmp_path: Path) -> None:
    study = dd.compare(model, candidates=["bf16"], reference_run=kept, no_text=True, out=tmp_path / "run", **ASKED)
    assert len(study.divergences) and "token_ids" not in dd.open_study(tmp_path / "run").traces.dropna(axis=1)


def test_the_sizes_are_those_of_the_earlier_run(model: str, kept: Path) -> None:
    asked = {key: value for key, value in ASKED.items() if key != "prompts_per_job"}
    study = dd.compare(model, candidates=["bf16"], reference_run=kept, **asked)
    assert study.plan["prompts_per_job"] == 2
    assert study.timings["job"].nunique() == 2


# ---- killed and resumed


class Dying(Progress):
    """Dies when the candidate begins to write in the second job."""

    count = 0

    def start(self, variant: str, what: str, tokens: int) -> None:
        if what == "all strategies" and variant == "bf16":
            self.count += 1
            if self.count == 2:
                raise KeyboardInterrupt


@pytest.mark.parametrize("way", ["keep_logits", "reference_run"])
def test_resumed_it_is_what_it_would_have_been(model: str, kept: Path, tmp_path: Path, way: str) -> None:
    asked = ASKED | {"candidates": ["bf16"], way: True if way == "keep_logits" else kept}
    with pytest.raises(KeyboardInterrupt):
        dd.compare(model, out=tmp_path / "run", progress=Dying(), **asked)
    running.resume(tmp_path / "run")
    dd.compare(model, out=tmp_path / "whole", **asked)
    files = content(tmp_path / "run")
    assert files == content(tmp_path / "whole")
    assert any("reference" in name for name in files) == (way == "keep_logits")
    with pytest.raises(InputError, match=f"{way} .* there, (False|None) here"):
        dd.compare(model, out=tmp_path / "run", resume=True, **{k: v for k, v in asked.items() if k != way})


def test_a_batch_size_that_is_not_asked_for_is_the_earlier_runs(model: str, tmp_path: Path) -> None:
    asked = LEAN | {"strategies": ["greedy"], "max_new_tokens": 3, "prompts": ["w1", "w2 w3", "w4"]}
    dd.compare(model, candidates=["bf16"], batch_size=2, out=tmp_path / "first", **asked)
    study = dd.compare(model, candidates=["bf16"], reference_run=tmp_path / "first", **asked)
    assert study.environment["generation"]["batch_size"] == 2
    with pytest.raises(InputError, match="batch_size"):
        dd.compare(model, candidates=["bf16"], batch_size=4, reference_run=tmp_path / "first", **asked)
