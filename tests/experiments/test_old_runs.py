"""Runs of earlier versions stay readable: their tables, what is folded from them, and the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from forking import command

from decodedrift import open_study
from decodedrift.measure.trajectory import LEAST_PAIRS
from decodedrift.runs.tablefiles import read_csv

OLD = Path(__file__).parents[1] / "fixtures" / "run-0.1.0"
INJECT = Path(__file__).parents[1] / "fixtures" / "inject-0.1.0"
REDEFINED = ["flips_predicted", "agreement_chance", "certified_per_prompt", "survival_predicted"]  # see docs/metrics.md
SMOOTHED = ["empirical", "constant"]  # laws that added half a flip to what they had seen
FOLDS = ["summary", "distribution", "survival", "growth", "after", "risk", "comparisons", "flip_law", "decomposition"]


def without_small_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Agreement by lag of fewer than five pairs, which is told no more, left out of a table of an older version."""
    for name in (c for c in table if c.startswith("agreement_lag_") or ("lag" in table and c == "agreement")):
        table[name] = table[name].where(table["n" if "n" in table else "texts"] >= LEAST_PAIRS)
    return table


@pytest.mark.parametrize("table", FOLDS)
def test_the_folds_of_an_old_run_come_out_as_they_were_written(table: str) -> None:
    """But for intervals of few clusters, which were too narrow."""
    written = read_csv(OLD / f"{table}.csv", table)
    written = written[[c for c in written.columns if not c.endswith(("_low", "_high"))]]
    now = getattr(open_study(OLD), table)[list(written.columns)].drop(columns=REDEFINED, errors="ignore")
    written = without_small_shares(written.drop(columns=REDEFINED, errors="ignore"))
    if table == "flip_law":
        now, written = (frame[~frame["law"].isin(SMOOTHED)] for frame in (now, written))
    assert len(written) > 0
    pd.testing.assert_frame_equal(now, written, check_dtype=False, rtol=1e-6, atol=1e-9)


def test_the_rows_of_an_old_run_are_all_there() -> None:
    study = open_study(OLD)
    lengths = {"traces": 60, "divergences": 48, "positions": 1974, "alternatives": 16800, "injection": 5, "steps": 960,
               "tokens": 583, "perplexity": 3, "timings": 29, "failures": 0}  # fmt: skip
    assert {table: len(getattr(study, table)) for table in lengths} == lengths
    assert study.divergences["role"].value_counts().to_dict() == {"candidate": 24, "self": 12, "floor": 12}
    assert not study.positions["kl"].isna().any()


def test_an_old_run_is_rendered(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    done = command("report", run)
    assert (done.returncode, done.stdout.strip()) == (0, f"report: {run / 'report.html'}"), done.stderr
    page = (run / "report.html").read_text("utf-8")
    first = (OLD / "verdict.txt").read_text("utf-8").split(".")[0].removeprefix("- ")
    assert " ".join(first.split()) in page
    assert page.count("data-case=") > 0


def test_an_old_run_without_texts_lacks_columns_and_opens(tmp_path: Path) -> None:
    """Its folds are read, not made: what they do not have is empty, and what is said goes without."""
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan | {"no_text": True}))
    study = open_study(run)
    assert "incidence" not in study.survival and "ended" not in study.risk
    assert any(s.startswith("Risk of parting") for s in study.verdict)
    assert "Answers that differ" in study.to_html() and study.plot.survival is not None


@pytest.mark.parametrize(("gate", "code"), [("divergence_rate>1", 0), ("kl_mean>0", 4)])
def test_an_old_run_is_gated(gate: str, code: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    files = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    done = command("check", run, "--fail-on", gate, "--json")
    assert done.returncode == code, done.stderr
    answer = json.loads(done.stdout)
    assert bool(answer["gates_exceeded"]) == (code == 4)
    written = read_csv(OLD / "summary.csv", "summary")
    assert [row["kl_mean"] for row in answer["summary"]] == pytest.approx(list(written["kl_mean"]), rel=1e-6)
    assert files == {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}, "a gate writes nothing"


def test_an_old_plan_can_be_asked_again(tmp_path: Path) -> None:
    done = command("compare", "--config", OLD / "plan.json", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "prompts" in done.stdout


@pytest.mark.parametrize("table", ["summary", "after"])
def test_the_folds_of_an_old_injection_come_out_as_they_were_written(table: str) -> None:
    study = open_study(INJECT)
    written = read_csv(INJECT / f"{table}.csv", table)
    written = written.rename(columns={f"recovered_{end}": f"recovered_share_{end}" for end in ("low", "high")})
    assert study.experiment.name == "inject"
    written = without_small_shares(written)
    assert len(written) > 0
    pd.testing.assert_frame_equal(getattr(study, table)[list(written.columns)], written, check_dtype=False, rtol=1e-6)


def test_an_old_injection_is_rendered_and_gated(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(INJECT, run)
    assert open_study(run).verdict == (INJECT / "verdict.txt").read_text("utf-8").splitlines()
    for words, code in ((["report", run], 0), (["check", run, "--fail-on", "agreement<0.2"], 4)):
        done = command(*words)
        assert done.returncode == code, done.stderr
    assert "greedy 4: agreement is 0.114286" in done.stderr
    assert "What one token does" in (run / "report.html").read_text("utf-8")
