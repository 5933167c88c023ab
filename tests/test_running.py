"""The tests' own helper: equal runs are made once, and no test meets what another has changed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import running
from conftest import tiny_model

import decodedrift as dd

run = functools.partial(
    running.run, candidates=["fp16"], strategies=["greedy"], prompts={"a": "w1", "b": "w2"}, max_new_tokens=2
)


@pytest.fixture
def made() -> Iterator[list[str]]:
    """What was compared, each time that something was; without `monkeypatch`, which would set all apart."""
    models: list[str] = []
    real = dd.compare
    dd.compare = lambda model, **asked: models.append(str(model)[:4]) or real(model, **asked)  # type: ignore[assignment]
    yield models
    dd.compare = real


def test_an_equal_run_is_made_once_and_every_caller_has_its_own(made: list[str]) -> None:
    first = run("gpt2", seeds=[41])
    first.traces["token_ids"] = ""
    first.plan["prompts"].clear()
    second = run("gpt2", seeds=[41])
    assert len(made) == 1
    assert (second.traces["token_ids"] != "").all()
    assert [p["id"] for p in second.plan["prompts"]] == ["a", "b"]
    assert second.summary["traces"].tolist() == [2, 2]
    run("gpt2", seeds=[42])
    assert len(made) == 2


def test_what_may_differ_in_more_than_its_arguments_is_made_anew(made: list[str], tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    folder = running.saved_as(model, tmp_path / "m")
    for _ in range(2):
        run(model)
        run(folder)
        run("gpt2", candidates=[f"other={folder}"])
    run("gpt2", out=tmp_path / "run")
    assert len(made) == 7


def test_a_test_that_patches_shares_nothing(made: list[str], request: pytest.FixtureRequest) -> None:
    before = run("gpt2", seeds=[43])
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    patch.setattr("decodedrift.experiments.compare.verdict.assembly.FIRST", 3)
    again = run("gpt2", seeds=[43])
    run("gpt2", seeds=[987654321])
    assert len(made) == 3
    assert again.positions.equals(before.positions)
    assert "987654321" not in str(running._runs.keys())
