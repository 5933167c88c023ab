"""Gates: what may be asked, what is exceeded, and that whatever is missing or not a number does not pass."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import tiny_model, tiny_tokenizer

import decodedrift as dd
from decodedrift import cli, store
from decodedrift.gates import columns, parse_gate
from decodedrift.records import InputError
from decodedrift.summary import Z95

PLAN = {
    "candidates": [{"name": "bf16"}, {"name": "fp32:batch_size=1"}],
    "strategies": [{"label": "greedy"}, {"label": "top-k:k=5"}],
}


def table(**values: Any) -> pd.DataFrame:
    """A summary in which every cell has the same values; the self control is far beyond any bound."""
    cells = [(c["name"], s["label"], "candidate") for c in PLAN["candidates"] for s in PLAN["strategies"]]
    rows = [{"candidate": c, "strategy": s, "role": r, **values} for c, s, r in cells]
    return pd.DataFrame(
        [{"candidate": "fp32", "strategy": "greedy", "role": "self", **dict.fromkeys(values, 1e9)}, *rows]
    )


@pytest.mark.parametrize(
    ("text", "value", "exceeded"),
    [
        ("kl_mean>0.1", 0.1, 0), ("kl_mean>0.1", 0.11, 4), ("kl_mean>=0.1", 0.1, 4), ("kl_mean<0.1", 0.1, 0),
        ("kl_mean<=0.1", 0.1, 4), ("kl_mean==0", 0.0, 4), ("kl_mean!=0", 0.0, 0), (" kl_mean > 1e-1 ", 0.2, 4),
        ("kl_mean>0.1:bf16", 0.2, 2), ("kl_mean>0.1:greedy", 0.2, 2), ("kl_mean>0.1:fp32:batch_size=1", 0.2, 2),
        ("kl_mean>0.1:top-k:k=5", 0.2, 2), ("kl_mean>0.1", math.nan, 4), ("kl_mean<0.1", math.nan, 4),
        ("kl_mean!=3", math.nan, 4), ("kl_mean>inf", 5.0, 0), ("kl_mean>0.1", math.inf, 4), ("kl_mean>-1", 0.0, 4),
    ],
)  # fmt: skip
def test_what_is_exceeded(text: str, value: float, exceeded: int) -> None:
    said = parse_gate(text, False, PLAN).exceeded(table(kl_mean=value), PLAN)
    assert len(said) == exceeded
    assert all(text.strip() in line and f"{value:.6g}" in line for line in said)


def test_a_candidate_without_a_result_does_not_pass() -> None:
    short = table(kl_mean=0.0)[lambda t: t["candidate"] != "bf16"]
    said = parse_gate("kl_mean>0.1", False, PLAN).exceeded(short, PLAN)
    assert [line.split(": ")[1:] for line in said] == [
        ["bf16 greedy", "there is no result"], ["bf16 top-k:k=5", "there is no result"],
    ]  # fmt: skip
    assert len(parse_gate("kl_p99>0.1", False, PLAN).exceeded(table(kl_mean=0.0), PLAN)) == 4


@pytest.mark.parametrize(
    ("text", "values", "exceeded"),
    [
        ("divergence_rate>0.1", {"divergence_rate": 0.2, "divergence_rate_low": 0.05, "divergence_rate_high": 0.4}, 0),
        ("divergence_rate>0.1", {"divergence_rate": 0.2, "divergence_rate_low": 0.11, "divergence_rate_high": 0.4}, 4),
        ("divergence_rate<0.3", {"divergence_rate": 0.2, "divergence_rate_low": 0.05, "divergence_rate_high": 0.4}, 0),
        ("divergence_rate<0.5", {"divergence_rate": 0.2, "divergence_rate_low": 0.05, "divergence_rate_high": 0.4}, 4),
        ("kl_mean>0.1", {"kl_mean": 0.1 + 1.9 * 0.01, "kl_se": 0.01}, 0),
        ("kl_mean>0.1", {"kl_mean": 0.1 + 2.0 * 0.01, "kl_se": 0.01}, 4),
        ("kl_mean>0.1", {"kl_mean": 0.05, "kl_se": math.nan}, 4),
    ],
)  # fmt: skip
def test_intervals(text: str, values: dict[str, float], exceeded: int) -> None:
    said = parse_gate(text, True, PLAN).exceeded(table(**values), PLAN)
    assert len(said) == exceeded
    if exceeded and "kl_se" in values and not math.isnan(values["kl_se"]):
        assert f"{values['kl_mean'] - Z95 * values['kl_se']:.6g} to" in said[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kl_p9>1", ("'kl_p9'", "did you mean 'kl_p99'", "divergence_rate")),
        ("kl_mean", ("COLUMN>NUMBER",)), ("", ("COLUMN>NUMBER",)), ("kl_mean>", ("COLUMN>NUMBER",)),
        ("kl_mean>x", ("COLUMN>NUMBER",)), ("kl_mean>nan", ("COLUMN>NUMBER",)), ("kl_mean=1", ("COLUMN>NUMBER",)),
        ("kl_mean>1:bf61", ("'bf61'", "did you mean 'bf16'", "greedy")), ("kl_mean>1:", ("candidate or strategy ''",)),
        ("candidate>1", ("no column 'candidate'",)), ("kl_mean>1 and kl_max>2", ("COLUMN>NUMBER",)),
    ],
)  # fmt: skip
def test_what_is_no_gate(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as refused:
        parse_gate(text, False, PLAN)
    assert all(word in str(refused.value) for word in words)


def test_a_column_without_an_interval() -> None:
    with pytest.raises(InputError, match=r"kl_p99 has no interval; choices: .*divergence_rate.*kl_mean"):
        parse_gate("kl_p99>1", True, PLAN)
    with pytest.raises(InputError, match="compared with"):
        parse_gate("kl_mean==1", True, PLAN)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gates") / "run"
    dd.compare(
        tiny_model("gpt2"), tokenizer=tiny_tokenizer(), prompts=["w1 w2", "w3"], candidates=["bf16"],
        strategies=["greedy"], max_new_tokens=8, out=folder,
    )  # fmt: skip
    return folder


def test_columns_are_the_summarys(finished: Path) -> None:
    table = dd.open_study(finished).summary
    assert list(columns()) == [c for c in table.columns if pd.api.types.is_numeric_dtype(table[c])]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["decodedrift", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, said.out, said.err

    return call


def test_check_a_finished_run(command: Callable[..., tuple[int, str, str]], finished: Path) -> None:
    assert command("check", finished, "--fail-on", "kl_mean>5")[0] == 0
    code, out, err = command("check", finished, "--fail-on", "kl_mean>0", "--fail-on", "nonfinite>0:bf16", "--json")
    assert code == 4
    kl = dd.open_study(finished).summary["kl_mean"].iloc[-1]
    assert f"gate exceeded: kl_mean>0: bf16 greedy: kl_mean is {kl:.6g}\n" in err
    assert "nonfinite" not in [line for line in err.splitlines() if line.startswith("gate")]
    assert json.loads(out)["gates_exceeded"] == [f"kl_mean>0: bf16 greedy: kl_mean is {kl:.6g}"]
    assert command("check", finished)[0] == 2
    assert command("check", finished, "--fail-on", "kl_mean>0:fp16")[0] == 2
    assert command("check", finished / "nothing", "--fail-on", "kl_mean>0")[0] == 2
    assert command("resume", finished, "--fail-on", "kl_mean>0")[0] == 4


def test_something_failed_goes_before_a_gate(
    command: Callable[..., tuple[int, str, str]], finished: Path, tmp_path: Path
) -> None:
    study = dd.open_study(finished)
    study.failures = pd.DataFrame(
        [{"model": "m", "variant": "fp16", "stage": "load", "status": "failed", "error": "e"}]
    )
    study.failures = store.joined([store.JobResult("").frame("failures"), study.failures], "failures")
    from decodedrift.rows import typed

    study.failures = typed(study.failures, "failures")
    study.save(tmp_path / "failed")
    assert command("check", tmp_path / "failed", "--fail-on", "kl_mean>0")[0] == 3


def test_compare_refuses_a_wrong_gate_before_it_runs(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command("compare", "--fail-on", "kl_p9>1")
    assert code == 2
    assert "did you mean 'kl_p99'" in err
    assert not list(tmp_path.iterdir())
