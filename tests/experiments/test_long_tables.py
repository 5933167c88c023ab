"""Positions that are too many to be held: folds and page read what they need of them, and come to the same."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from running import content, run, same_rows

import decodedrift as dd
from decodedrift.core.records import InputError
from decodedrift.experiments import study as studies
from decodedrift.experiments.compare import EXPERIMENT as COMPARE
from decodedrift.experiments.running import resume
from decodedrift.experiments.study import open_study
from decodedrift.runs import partfiles, tablefiles

ASKED: dict[str, Any] = {
    "candidates": ["bf16"], "strategies": ["greedy", "top-p"], "prompts": {"a": "w1 w2 w3", "b": "w4 w5", "c": "w6 w7"},
    "max_new_tokens": 8, "prompts_per_job": 1, "noise_floor": True,
}  # fmt: skip


@pytest.fixture
def held() -> dd.Study:
    return run(**ASKED)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dd.Study:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(studies, "HELD", 0)
        patched.setattr(partfiles, "LONG", 0)
        return run(**ASKED, out=tmp_path_factory.mktemp("long") / "run")


@pytest.fixture
def read(fresh: dd.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dd.Study:
    monkeypatch.setattr(studies, "HELD", 0)
    return open_study(shutil.copytree(str(fresh.path), tmp_path / "run"))


def test_folds_of_columns_are_those_of_the_whole_table(held: dd.Study, fresh: dd.Study) -> None:
    read = fresh
    assert not {"positions", "alternatives", "_predictions"} & read.__dict__.keys(), "nothing long was read whole"
    for name in (*COMPARE.folds(), "traces", "divergences", "tokens", "judged"):
        pd.testing.assert_frame_equal(getattr(read, name), getattr(held, name), check_exact=True)
    assert read.verdict == held.verdict
    same_rows(read.positions, held.positions)


def test_the_page_is_that_of_the_whole_table(read: dd.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_study(str(read.path)).to_html()
    monkeypatch.setattr(studies, "HELD", 10**9)
    whole = open_study(str(read.path))
    assert len(whole.positions) > 0
    assert whole.to_html() == page


def test_columns_of_some_prompts(held: dd.Study, read: dd.Study) -> None:
    for study in (held, read):
        part = study.columns_of("positions", ["position", "kl"], ["b", "nobody's"])
        whole = held.positions[held.positions["prompt_id"] == "b"]
        pd.testing.assert_frame_equal(part.reset_index(drop=True), whole[["position", "kl"]].reset_index(drop=True))
        assert not len(study.columns_of("positions", ["kl"], ["nobody's"]))
        assert study.length_of("positions") == len(held.positions) > len(whole) > 0


def test_what_is_read_leaves_arrows_own_memory_as_it_was(read: dd.Study) -> None:
    pool, before = pa.default_memory_pool().backend_name, pa.total_allocated_bytes()
    frame = read.columns_of("positions", ["prompt_id", "position", "kl"], ["a"])  # a single part
    frame.loc[frame.index[0], ["position", "kl"]] = 7
    assert frame[["position", "kl"]].iloc[0].tolist() == [7, 7]
    assert (pa.default_memory_pool().backend_name, pa.total_allocated_bytes()) == (pool, before)


def test_every_token_is_told_once(held: dd.Study) -> None:
    ids = held.tokens["token_id"]
    assert held.timings["job"].nunique() > 2, "of several jobs, each of which lists its own"
    assert len(ids) > 2 and not ids.duplicated().any()


def test_a_folder_that_has_gone_is_no_empty_table(read: dd.Study) -> None:
    shutil.rmtree(str(read.path))
    with pytest.raises(InputError, match="moved or deleted, and its positions with it"):
        read.positions  # noqa: B018


def test_parts_of_a_run_under_way_are_the_jobs(read: dd.Study) -> None:
    path = Path(str(read.path))
    every = partfiles.length_of_parts(path, "positions")
    min((path / "data" / "positions").glob("*.parquet")).unlink()  # as if it had been killed while these were written
    (path / "data" / "unfinished.json").write_text("{}", encoding="utf-8")
    assert partfiles.length_of_parts(path, "positions") == every


def test_a_part_that_is_lost_is_named_and_put_back_from_its_job(read: dd.Study) -> None:
    path = Path(str(read.path))
    before, wrote = content(path), partfiles.rows_written(path)
    for table, look in (("positions", open_study), ("alternatives", lambda p: open_study(p).alternatives_of(["a"]))):
        first, *_, last = sorted((path / "data" / table).glob("*.parquet"))
        last.unlink()
        gone = len(pd.read_parquet(path / "data/jobs" / last.stem / f"{table}.parquet"))
        why = f"{last}: missing or not whole, and with it {gone} of the {wrote[table]} rows of {table} that this run wrote"
        with pytest.raises(InputError, match=f"^{re.escape(why)}; mend with: decodedrift resume {path}$"):
            look(path)
        short = pd.read_parquet(first).iloc[1:]
        first.unlink()  # it is the job's own file by another name
        short.to_parquet(first)
        with pytest.raises(InputError, match=rf"^{first} and 1 more: missing or not whole"):
            look(path)
        resume(path)
        assert content(path) == before


def test_a_list_of_rows_that_is_none_is_one_line(read: dd.Study) -> None:
    listed = Path(str(read.path)) / "data" / "rows.json"
    listed.write_text("[1]", "utf-8")
    with pytest.raises(InputError, match=f"^{re.escape(str(listed))}: cannot be read .it is no object"):
        open_study(Path(str(read.path)))


def test_what_no_job_has_is_named_and_what_is_too_much_as_well(read: dd.Study) -> None:
    path = Path(str(read.path))
    every, part = partfiles.length_of_parts(path, "positions"), min((path / "data/positions").glob("*.parquet"))
    shutil.copy(part, part.with_name("other.parquet"))
    with pytest.raises(InputError, match=rf"positions: holds \d+ rows, and this run wrote {every}; take out"):
        open_study(path)
    part.with_name("other.parquet").unlink()
    part.write_bytes(b"no Parquet")
    with pytest.raises(InputError, match=f"{part}: cannot be read .*; delete it and: decodedrift resume {path}$"):
        open_study(path)
    shutil.rmtree(path / "data/jobs" / part.stem)
    with pytest.raises(InputError, match=f"{part}: cannot be read .*; put it back, or run it again$"):
        open_study(path)
    part.unlink()
    with pytest.raises(
        InputError, match=rf"positions: a file in it is missing or not whole, and with it \d+ of the {every} rows"
    ):
        resume(path)


def test_a_csv_is_written_in_pieces(held: dd.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = tmp_path / "a", tmp_path / "b"
    whole.mkdir()
    pieces.mkdir()
    tablefiles.write_csv(held.traces, whole / "traces.csv")
    monkeypatch.setattr(tablefiles, "AT_ONCE", 4)
    tablefiles.write_csv(held.traces, pieces / "traces.csv")
    assert len(held.traces) > 4
    assert content(whole) == content(pieces)
