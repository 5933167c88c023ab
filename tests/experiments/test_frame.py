"""What the frame refuses, of every experiment: what would be ignored without a word."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import forking
import pandas as pd
import pytest
import yaml
from running import LEAN

import decodedrift as dd

SHORT: dict[str, Any] = {"limit": 1, "max_new_tokens": 3, "strategies": ["greedy"]}


def command(*words: str, cwd: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "decodedrift", *words], cwd=cwd, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compare", "--fail-on-interval"], "--fail-on-interval: there is no gate"),
        (["compare", "--out", ""], "--out: name a folder"),
        (["compare", "--resume", ""], "--resume: name a folder"),
        (["inject", "--config", "other.yaml"], "this asks for a compare, not for inject"),
        (["inject", "--config", "candidates.yaml"], "unknown setting 'candidates'"),
        (["compare", "--config", "strategy.yaml"], "unknown strategy 'nosuch'"),
        (["compare", "--config", "field.yaml"], "a strategy is written NAME:KEY=VALUE"),
        (["compare", "--config", "label.yaml"], "its name and parameters are others: top-k, {'k': 1"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_nothing_is_ignored_without_a_word(words: list[str], says: str, tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "other": {"experiment": "compare"},
        "candidates": {"candidates": ["bf16"]},
        "strategy": {"strategies": [{"name": "nosuch", "label": "greedy", "params": {}}]},
        "field": {"strategies": [{"name": "greedy", "label": "greedy", "params": {}, "foo": 1}]},
        "label": {"strategies": [{"name": "top-k", "label": "top-k", "params": {"k": 1}}]},
    }
    for name, values in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    code, err = command(*words, cwd=tmp_path)
    assert code == 2
    assert says in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (dd.Variant("q", "int8", options={"headd": True}), "unknown parameter 'headd'"),
        (dd.Variant("q", "int8", options={"head": "perhaps"}), "head"),
        (dd.Variant("q", "bf16", batch_size=0), "batch_size must be a whole number >= 1"),
        (dd.Variant("q", "bf16", use_cache="perhaps"), "use_cache"),  # type: ignore[arg-type]
        (dd.Variant("q", "bf16", revision="x"), "revision= belongs to another checkpoint"),
        (dd.Variant("q", "fp32", compute="fp16"), "fp32 computes in itself"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_variant_as_an_object_is_checked_as_one_in_words(candidate: dd.Variant, says: str) -> None:
    with pytest.raises(dd.InputError, match=says):
        dd.compare(candidates=[candidate], **SHORT, **LEAN)


def test_wrong_keywords_are_input_errors() -> None:
    for call in (
        lambda: dd.inject(at=None),  # type: ignore[arg-type]
        lambda: dd.inject(at=1.5),  # type: ignore[arg-type]
        lambda: dd.compare(object(), tokenizer="x", **LEAN),
        lambda: dd.compare(resume=True, **LEAN),
        lambda: dd.compare(strategies=[dd.Strategy("greedy", "top-k:k=1")], candidates=["bf16"], **LEAN),
        lambda: dd.compare(strategies=[dd.Strategy("top-k", "t", {"k": 2}, "none")], candidates=["bf16"], **LEAN),
    ):
        with pytest.raises(dd.InputError):
            call()


def test_seeds_are_written_as_on_the_command_line() -> None:
    study = dd.compare(candidates=["bf16"], limit=1, max_new_tokens=2, strategies="top-k:k=5", seeds="0,2", **LEAN)
    assert study.plan["seeds"] == [0, 2]


def test_a_knob_that_does_nothing_is_said_to(tmp_path: Path) -> None:
    study = dd.compare(candidates=["fp32:attention=sdpa", "bf16:attention=sdpa"], **SHORT, **LEAN)
    assert any(s.startswith("fp32:attention=sdpa is the reference's own execution") for s in study.verdict)
    assert any(
        s.startswith("Did not engage") and s.endswith("attention of bf16:attention=sdpa.") for s in study.verdict
    )


def test_rows_of_a_table_that_is_not_listed_are_an_error() -> None:
    with pytest.raises(ValueError, match="inject lists no table 'steps', and there are 1 rows of it"):
        dd.Study({"steps": pd.DataFrame({"e0": [1.0]})}, {"experiment": "inject"})


def test_runs_that_cannot_be_held_beside_each_other_are_refused(tmp_path: Path) -> None:
    dd.inject(at=1, out=tmp_path / "i", **SHORT)
    code, err = command("report", "i", "i", cwd=tmp_path)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "a run of inject cannot be held beside another" in err
    with pytest.raises(dd.InputError, match="a run of inject has no figures"):
        _ = dd.open_study(tmp_path / "i").plot


OLD = Path(__file__).parents[1] / "fixtures" / "run-0.1.0"


@pytest.mark.parametrize("again", [lambda study: pickle.loads(pickle.dumps(study)), copy.deepcopy])
@pytest.mark.parametrize("folder", [OLD, OLD.with_name("inject-0.1.0")], ids=lambda folder: folder.name)
def test_a_study_is_pickled_and_copied(folder: Path, again: Any) -> None:
    study = dd.open_study(folder)
    summary = study.summary  # folded, with what the fold keeps beside it
    other = again(study)
    assert other is not study
    assert other.experiment is study.experiment
    assert other.verdict == study.verdict
    pd.testing.assert_frame_equal(other.summary, summary)
    other.summary.loc[0, "strategy"] = "changed"
    assert study.summary.loc[0, "strategy"] != "changed"


@pytest.mark.parametrize(("folder", "name"), [(OLD, "inject"), (OLD.with_name("inject-0.1.0"), "compare")])
def test_a_plan_whose_experiment_was_edited(folder: Path, name: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    plan = json.loads((folder / "plan.json").read_text("utf-8"))
    own = {"at", "rank"} if name == "inject" else {"context", "stride", "decompose", "inject", "mode", "continued",
                                                   "noise_floor", "near_tie_below", "default_text"}  # fmt: skip
    edited = {key: value for key, value in plan.items() if key not in own} | {"experiment": name}
    (tmp_path / "run/plan.json").write_text(json.dumps(edited))
    with pytest.raises(dd.InputError, match=f"plan.json: its experiment is {name}, and it has none"):
        dd.open_study(tmp_path / "run")


def test_a_dry_run_that_would_go_on_refuses_another_plan(tmp_path: Path) -> None:
    dd.inject("demo", at=[2], limit=1, max_new_tokens=4, strategies=["greedy"], out=tmp_path / "run")
    asked = [
        "inject",
        "--limit",
        "1",
        "--max-new-tokens",
        "4",
        "--strategies",
        "greedy",
        "--resume",
        "run",
        "--dry-run",
    ]
    for at, code in (("2", 0), ("3", 2)):
        done = forking.command(*asked, "--at", at, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        said = done.stderr if code else done.stdout
        assert ("run holds another run: at 2 only there" in said) == bool(code)
    assert "positions" not in done.stdout and "candidates" not in done.stdout
