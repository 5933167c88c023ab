"""Several runs as one: rows below one another, and nothing that would be counted twice or is not comparable."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from running import run

import decodedrift as dd

OLD = Path(__file__).parents[1] / "fixtures" / "run-0.1.0"
ASKED = {"prompts": {"a": "w1 w2", "b": "w3"}, "strategies": ["greedy"], "max_new_tokens": 6}


def test_tables_are_stacked() -> None:
    one, two = run(candidates=["bf16"], **ASKED), run(candidates=["fp16"], **ASKED)
    both = dd.concat([one, two], names=["first", "second"])
    for name in ("summary", "divergences", "positions", "answer"):
        mine = getattr(both, name)
        assert mine.columns[0] == "run"
        for label, study in (("first", one), ("second", two)):
            part = mine[mine["run"] == label].drop(columns="run").reset_index(drop=True)
            pd.testing.assert_frame_equal(part, getattr(study, name), check_dtype=False)
    assert set(both.frames) == set(one.frames)
    assert not both.failed
    assert both.failures.columns[0] == "run" and not len(both.failures)
    with pytest.raises(AttributeError, match="there is no table 'sumary'"):
        both.sumary  # noqa: B018


def test_a_stack_is_shown() -> None:
    one, two = run(candidates=["bf16"], **ASKED), run(candidates=["fp16"], **ASKED)
    both = dd.concat([one, two], names=["a<b>\x1b[1m", "second"])
    table = both.table()
    assert list(table.columns) == ["Run", *one.table().columns]
    pd.testing.assert_frame_equal(table.iloc[1:, 1:].reset_index(drop=True), two.table())
    first, second = repr(both).splitlines()
    assert first.startswith("a<b><U+001B>[1m: bf16: ") and second.startswith("second: fp16: ")
    page = both._repr_html_()
    assert "a&lt;b&gt;" in page and "<b>" not in page and "\x1b" not in page and "fp16" in page


def test_runs_are_called_after_their_folders(tmp_path: Path) -> None:
    paths = [run(candidates=[name], **ASKED).save(tmp_path / name) for name in ("bf16", "fp16")]
    assert list(dd.concat(map(dd.open_study, paths)).studies) == ["bf16", "fp16"]


def test_what_cannot_be_stacked_is_refused() -> None:
    one, two = run(candidates=["bf16"], **ASKED), run(candidates=["bf16"], **ASKED)
    with pytest.raises(dd.InputError, match="tell them apart with names="):
        dd.concat([one, two])
    with pytest.raises(dd.InputError, match=r"x and y both hold bf16 of .*, greedy, prompt a; leave one out"):
        dd.concat([one, two], names=["x", "y"])
    with pytest.raises(dd.InputError, match="names"):
        dd.concat([one, two], names=["x", "x"])
    with pytest.raises(dd.InputError, match="1 names for 2 studies"):
        dd.concat([one, two], names=["x"])
    with pytest.raises(dd.InputError, match="give a list of studies"):
        dd.concat([])
    with pytest.raises(dd.InputError, match=r"version .* of the metrics, .* by "):
        dd.concat([one, dd.open_study(OLD)], names=["x", "y"])
    with pytest.raises(dd.InputError, match=r"is a run of compare, inject-0\.1\.0 of inject"):
        dd.concat([dd.open_study(OLD), dd.open_study(OLD.with_name("inject-0.1.0"))])
