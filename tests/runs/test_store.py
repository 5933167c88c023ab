"""The run folder: whole or not at all, never over something else, and every cell back as it was."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decodedrift.core import files
from decodedrift.core.records import InputError
from decodedrift.experiments.compare import EXPERIMENT as COMPARE
from decodedrift.experiments.study import open_study
from decodedrift.measure.tables import PARTS, TABLES, JobResult, typed
from decodedrift.runs import runfolder
from decodedrift.runs.partfiles import read_parquet
from decodedrift.runs.places import contents, where
from decodedrift.runs.runfolder import RunFolder
from decodedrift.runs.tablefiles import read_csv, write_csv, write_parquet

# docs/metrics.md, "The tables"
KEYS = "model reference candidate role strategy seed prompt_id"
COLUMNS = {
    "traces": "model variant role strategy seed prompt_id prompt tags text token_ids n_tokens finish logprob_sum "
    "perplexity_self perplexity_judge min_margin nonfinite",
    "divergences": f"{KEYS} diverged first_divergence first_divergence_char compared prefix_fraction "
    "reference_token_id candidate_token_id reference_token candidate_token reference_margin candidate_margin "
    "reference_gap candidate_gap swing logprob_gap gap_over_error gap_ulps layout cause at_end search_error "
    "agreement_after edit_similarity chrf_after reconverged reconvergence_lag nonfinite",
    "positions": f"{KEYS} position token_id token layout kl kl_reverse tv logit_gap_max logit_gap_rms significant_digits "
    "logit_margin_reference logit_margin_candidate logit_margin_ulps top1_agree directional_error choice_agree "
    "choice_margin choice_error rank delta_p nll_reference nll_candidate entropy_reference p_top_reference nonfinite",
    "alternatives": f"{KEYS} position variant pass rank token_id logprob",
    "injection": f"{KEYS} position original_token_id injected_token_id recovered recovery_lag agreement "
    "trajectory_share distance_injected distance_reference second_divergence second_compared token_ids",
    "recorded": "model reference candidate role strategy seed prompt_id position token_id token gap rank nll_reference "
    "cast_token_id cast_gap nll_cast logprob shown kl_shown missing_reference missing_candidate",
    "judged": f"{KEYS} tokens sequence_logratio logratio_square k3 ratio_out_10 ratio_out_1 ratio_out_mlperf difr "
    "difr_tokens",
    "checks": f"{KEYS} expected reference_answer candidate_answer reference_right candidate_right flip diverged",
    "steps": f"{KEYS} position e0 e1 kl_reference_text kl_candidate_text after",
    "layers": f"{KEYS} depth module tokens error_square reference_square error_max first_module",
    "repeats": "model variant vary strategy seed prompt_id run setting unique_id first_divergence n_tokens finish loop "
    "logits right text token_ids compared_by",
    "spread": "model variant vary strategy seed prompt_id positions top1_prob_std noise_square error_square",
    "routing": "model reference candidate role strategy layer experts chosen tokens changed agreement margin "
    "margin_changed error within_error kl kl_replayed routing_ratio",
    "training": "model arm role held_against seed step loss grad_norm_scaled grad_norm grad_norm_clipped scale skipped "
    "cancelled arrived flushed_weights flushed_activations overflowed_weights overflowed_activations distance "
    "distance_running cosine overflow_module overflow_pass",
    "arms": "model arm role held_against seed steps loss distance distance_running distance_floors perplexity "
    "digits_median digits_p5 cancelled arrived flushed_weights flushed_activations overflowed_weights "
    "overflowed_activations scale skipped differing held_out_tokens broken_step broken_module broken_why texts diverged "
    "divergence_rate first_divergence_median kl kl_floors ppl_change ppl_change_low ppl_change_high wording wording_note "
    "quality quality_note",
    "digits": "model seed pair epoch significant_digits significant_digits_p5 digits_weights loss loss_other agree right",
    "tensors": "model what module tensor kind n zeros nonfinite largest smallest square added_in",
    "roundings": "model what module tensor kind format numbers overflow flushed subnormal unchanged held normal "
    "error_square normal_square",
    "binades": "model what kind binade numbers",
    "tokens": "token_id token bytes",
    "timings": "job variant strategy phase seconds tokens",
    "failures": "model variant strategy seed prompt_id stage status error",
}
HOSTILE = [
    "NA", "null", "nan", "None", "", " ", "inf", "1", "01", "1.0", "TRUE", "a,b", 'a"b', '"', '""', "a\nb", "a\r\nb", "\r",
    "\t", "\\", "\\n", "\\u0041", "\\\\u0041", "a\\", "=1+1", "+1", "-1", "@x", "\x00", "\x1b[31m", "\x9b", "\ud800",
    "\udfff\ud800", "‮", "​", "\u2028", "\ufeff", "🙂", "#", "'", ";",
]  # fmt: skip
anything = st.text(st.characters(exclude_categories=()), max_size=8)


def table(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    return typed(pd.DataFrame({c: pd.Series([r.get(c) for r in rows], dtype="object") for c in TABLES[name]}), name)


def test_columns_are_the_documents() -> None:
    assert {name: " ".join(columns) for name, columns in TABLES.items()} == COLUMNS


def test_columns_are_in_metrics_md() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    said = set(re.findall(r"`([a-z0-9_]+)`", text))
    assert {name: [c for c in columns if c not in said] for name, columns in TABLES.items()} == {t: [] for t in TABLES}


# ---- cells


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_text_comes_back(tmp_path: Path, kind: str) -> None:
    rows = [{"prompt_id": text, "text": text, "seed": n} for n, text in enumerate(HOSTILE)]
    before = table("traces", rows)
    after = round_trip(before, "traces", tmp_path, kind)
    pd.testing.assert_frame_equal(after, before, check_exact=True)
    assert after["text"].tolist() == HOSTILE
    assert after["finish"].isna().all()  # what is not there is not the empty text


@settings(max_examples=60)
@given(st.lists(anything, min_size=1, max_size=4))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    before = table("traces", [{"prompt_id": t, "text": t} for t in texts])
    for kind in ("csv", "parquet"):
        assert round_trip(before, "traces", folder, kind)["text"].tolist() == texts


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_number_comes_back(tmp_path: Path, kind: str) -> None:
    numbers = [0.0, -0.0, 0.1, 1 / 3, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, None, 1e16, -1e-12]
    before = table("traces", [{"logprob_sum": x, "seed": 2**63 - 1, "prompt_id": "p"} for x in numbers])
    after = round_trip(before, "traces", tmp_path, kind)
    pd.testing.assert_frame_equal(after, before, check_exact=True)
    assert np.array_equal(np.signbit(after["logprob_sum"]), np.signbit(before["logprob_sum"]))
    assert after["seed"].tolist() == [2**63 - 1] * len(numbers)


def test_integers_may_be_absent(tmp_path: Path) -> None:
    before = table("divergences", [{"first_divergence": 0, "seed": 2**62 + 1}, {"first_divergence": None, "seed": 3}])
    for kind in ("csv", "parquet"):
        after = round_trip(before, "divergences", tmp_path, kind)
        pd.testing.assert_frame_equal(after, before, check_exact=True)
        assert after["first_divergence"].isna().tolist() == [False, True]


@pytest.mark.parametrize("name", TABLES)
def test_empty_tables_keep_their_columns(tmp_path: Path, name: str) -> None:
    before = typed(pd.DataFrame(), name)
    for kind in ("csv", "parquet"):
        after = round_trip(before, name, tmp_path, kind)
        pd.testing.assert_frame_equal(after, before, check_exact=True)


def test_tables_of_folds_find_their_types(tmp_path: Path) -> None:
    before = pd.DataFrame(
        {"candidate": ["bf16", "NA"], "traces": [3, 4], "kl_mean": [0.5, math.inf], "half": [1.0, math.nan]}
    )
    write_csv(before, tmp_path / "t.csv")
    after = read_csv(tmp_path / "t.csv", "summary")
    assert after["candidate"].tolist() == ["bf16", "NA"]
    assert [str(t) for t in after.dtypes[1:]] == ["int64", "float64", "float64"]
    pd.testing.assert_frame_equal(after[["traces", "kl_mean", "half"]], before[["traces", "kl_mean", "half"]])


def test_a_table_that_a_spreadsheet_saved(tmp_path: Path) -> None:
    """A byte-order mark, CRLF, quotes only where they must be."""
    path = tmp_path / "failures.csv"
    path.write_bytes(
        b'\xef\xbb\xbfmodel,variant,strategy,seed,prompt_id,stage,status,error\r\nm,bf16,,0,,load,failed,"a, b"\r\n'
    )
    row = read_csv(path, "failures").iloc[0]
    assert (row["model"], row["seed"], row["error"]) == ("m", 0, "a, b")


@pytest.mark.parametrize("content", ["", '"a","b"\n"1"\n', '"a"\n"1\n', '"a"\n1"2\n', '"kl_mean"\n"x"\n'])
def test_a_table_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=r"t\.csv"):
        read_csv(tmp_path / "t.csv", "summary")


def round_trip(frame: pd.DataFrame, name: str, folder: Path, kind: str) -> pd.DataFrame:
    path = folder / f"{name}.{kind}"
    if kind == "csv":
        write_csv(frame, path)
        return read_csv(path, name)
    write_parquet(frame, path, name)
    return read_parquet(path, name)


# ---- folders


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        RunFolder.create(tmp_path)
    with pytest.raises(InputError, match="a file, not a folder"):
        RunFolder.create(tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert not list(RunFolder.create(tmp_path / "a" / "b").path.iterdir())


def test_discard_takes_only_what_is_ours(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_json(runfolder.MARK, {})
    folder.discard()
    assert not folder.path.exists()
    kept = RunFolder.create(tmp_path / "kept")
    (kept.path / "notes").write_text("mine")
    kept.discard()
    assert (kept.path / "notes").exists()
    done = RunFolder.create(tmp_path / "done")
    done.write_json(runfolder.MARK, {})
    done.write_job(JobResult("00000-a"))
    done.discard()
    assert where(done.path, runfolder.MARK).exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_text("verdict.txt", "first\n")
    with suppress(KeyboardInterrupt), files.atomic(folder.path / "verdict.txt") as part:
        part.write_text("half of the sec")
        raise KeyboardInterrupt
    assert (folder.path / "verdict.txt").read_text() == "first\n"
    assert [p.name for p in folder.path.iterdir()] == ["verdict.txt"]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(tmp_path / "run")

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder.write_json(runfolder.MARK, {})
    monkeypatch.setattr(files, "sync", full)
    monkeypatch.setattr(runfolder, "sync", full)
    with pytest.raises(InputError, match=r"environment\.json: cannot be written \(No space left"):
        folder.write_json(runfolder.RAN_ON, {})
    with pytest.raises(InputError, match=r"00000-a: cannot be written \(No space left"):
        folder.write_job(JobResult("00000-a"))
    assert [p.name for p in (folder.path / "data").iterdir() if p.is_file()] == [runfolder.MARK]
    assert folder.finished_jobs() == []


def test_a_job_is_finished_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_json(runfolder.MARK, {})
    folder.write_job(JobResult("00000-a", facts={"bf16": {"x": 1}}))
    with monkeypatch.context() as patched:
        patched.setattr(runfolder.os, "replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            folder.write_job(JobResult("00001-b"))
    found = folder.read_jobs(folder.finished_jobs())
    assert found.facts == {"bf16": {"x": 1}}
    assert set(found.frames) == {*TABLES} - {*PARTS}
    folder.write_job(JobResult("00001-b"))  # what was left half-written is no hindrance
    assert sorted(p.name for p in (folder.path / "data/jobs").iterdir()) == ["00000-a", "00001-b"]


def test_jobs_come_back_in_order(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_json(runfolder.MARK, {})
    for index in (1, 0, 2):
        folder.write_job(
            JobResult(f"0000{index}-x", {**JobResult("").rows, "traces": [{"prompt_id": f"p{index}", "seed": 0}]})
        )
    frames = folder.read_jobs(["00000-x", "00001-x", "00002-x"]).frames
    assert frames["traces"]["prompt_id"].tolist() == ["p0", "p1", "p2"]
    assert dict(frames["traces"].dtypes) == dict(typed(pd.DataFrame(), "traces").dtypes)


def finished(folder: RunFolder) -> None:
    frames = {t: typed(pd.DataFrame(), t) for t in TABLES}
    folder.write_json(runfolder.MARK, {"model": "demo"})
    folder.write_json("environment.json", {"python": "3"})
    frames["traces"] = table("traces", [{"prompt_id": "p", "n_tokens": 3}])
    folder.write_tables(frames | {t: pd.DataFrame({"model": []}) for t in COMPARE.folds()})


def test_only_a_finished_run_opens(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        open_study(tmp_path / "nothing")
    folder = RunFolder.create(tmp_path / "run")
    folder.write_json(runfolder.MARK, {"model": "demo"})
    with pytest.raises(InputError, match=r"did not finish \(rows\.json is missing\)"):
        open_study(folder.path)
    finished(RunFolder.create(tmp_path / "done"))
    study = open_study(tmp_path / "done")
    assert study.plan == {"model": "demo"}
    read = {name for name in study.tables if name in study.__dict__}
    assert read == {*COMPARE.tables} - {*PARTS}, "folds are made again of the rows, and long tables read when asked for"
    where(tmp_path / "done", runfolder.MARK).write_text("{")
    with pytest.raises(InputError, match=r"plan\.json: cannot be read"):
        open_study(tmp_path / "done")


def test_nothing_that_is_empty_is_written_and_what_is_lost_is_named(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    finished(folder)
    assert [str(p.relative_to(folder.path)) for p in sorted(folder.path.rglob("*")) if p.is_file()] == [
        "data/environment.json", "data/plan.json", "data/rows.json", "tables/traces.csv",
    ]  # fmt: skip
    assert not [p for p in folder.path.rglob("*") if p.is_dir() and not any(p.iterdir())]
    assert open_study(folder.path).traces["n_tokens"].tolist() == [3]
    assert list(open_study(folder.path).failures.columns) == list(TABLES["failures"])
    table = folder.path / "tables/traces.csv"
    table.write_text(table.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match=r"tables/traces\.csv: holds 0 rows, and this run wrote 1; put it back"):
        open_study(folder.path)
    table.unlink()
    with pytest.raises(InputError, match=r"tables/traces\.csv: missing, and this run wrote 1 rows"):
        open_study(folder.path)


def test_jobs_without_rows_leave_no_parts(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_json(runfolder.MARK, {})
    row = {"prompt_id": "p", "position": 0, "token_id": 1, "kl": 0.5}
    folder.write_job(JobResult("00000-a", {**JobResult("").rows, "positions": [row]}))
    folder.write_job(JobResult("00001-b"))
    folder.write_tables({"positions": None, "alternatives": None})
    assert [p.name for p in (folder.path / "data/positions").iterdir()] == ["00000-a.parquet"]
    assert not (folder.path / "data/alternatives").exists()
    assert json.loads((folder.path / "data/rows.json").read_text()) == {"positions": 1, "alternatives": 0}


def test_readme_names_the_files_that_are_there(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    finished(folder)
    folder.write_text("verdict.txt", "x\n")
    text = contents(folder.path, "compare", [*COMPARE.folds(), *COMPARE.tables])
    files = re.findall(r"^(\S+\.\w+|data/\w+/)  +\S", text, re.M)
    assert set(files) == {str(p.relative_to(folder.path)) for p in folder.path.rglob("*") if p.is_file()}
    assert "every text, a row per trace" in text
    wordless = contents(folder.path, "compare", [*COMPARE.folds(), *COMPARE.tables], words=False)
    assert "a row per trace of any variant, without its text" in wordless and "every text" not in wordless
    assert "\x1b" not in text and text.isascii()


def test_every_table_has_its_line_in_the_readme() -> None:
    from decodedrift.experiments import EXPERIMENTS, experiment
    from decodedrift.measure.about import ABOUT

    names = {t for kind in map(experiment, EXPERIMENTS) for t in (*kind.tables, *kind.folds())}
    assert names - set(ABOUT) == set()


def test_a_folder_of_version_0_1_keeps_its_form(tmp_path: Path) -> None:
    """What lies on top stays there, whatever is written after it; with data/plan.json beside it, it is a new one."""
    (tmp_path / "plan.json").write_text("{}")
    assert where(tmp_path, "summary.csv") == tmp_path / "summary.csv"
    folder = RunFolder(tmp_path, fresh=False)
    folder.write_job(JobResult("00000-a"))
    assert [p.name for p in (tmp_path / "jobs").iterdir()] == folder.finished_jobs() == ["00000-a"]
    assert not (tmp_path / "data").exists()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/plan.json").write_text("{}")
    assert where(tmp_path, "summary.csv") == tmp_path / "tables/summary.csv"


def test_json_holds_no_nan(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_json(
        "environment.json", {"a": math.nan, "b": [math.inf, -math.inf], "c": "\ud800", "d": np.float64(0.5)}
    )
    found = json.loads((folder.path / "data/environment.json").read_bytes(), parse_constant=lambda c: pytest.fail(c))
    assert found == {"a": None, "b": ["inf", "-inf"], "c": "\ud800", "d": 0.5}
