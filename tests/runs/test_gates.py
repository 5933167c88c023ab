"""Gates: what may be asked, what is exceeded, and that whatever is missing or not a number does not pass."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import tiny_model
from running import run, saved_as

import decodedrift as dd
from decodedrift import cli
from decodedrift.core.records import InputError
from decodedrift.experiments.compare.gating import IF_DIVERGED, columns, gating
from decodedrift.experiments.compare.heat import heat_maps
from decodedrift.measure.tables import joined, typed
from decodedrift.report.terminal import summary_table
from decodedrift.runs import runfolder
from decodedrift.runs.gates import OPERATORS, Gate, parse_gate
from decodedrift.runs.wordgates import parse_gates

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
    said = parse_gate(text, False, gating(PLAN)).exceeded(table(kl_mean=value), gating(PLAN))
    assert len(said) == exceeded
    shown = "has no value" if math.isnan(value) else f"is {value:.6g}"
    assert all(line.startswith(text.strip()) and line.endswith(f": kl_mean {shown}") for line in said)


def test_a_candidate_without_a_result_does_not_pass() -> None:
    short = table(kl_mean=0.0)[lambda t: t["candidate"] != "bf16"]
    said = parse_gate("kl_mean>0.1", False, gating(PLAN)).exceeded(short, gating(PLAN))
    assert [line.split(": ")[1:] for line in said] == [
        ["bf16 greedy", "there is no result"], ["bf16 top-k:k=5", "there is no result"],
    ]  # fmt: skip
    assert len(parse_gate("kl_p99>0.1", False, gating(PLAN)).exceeded(table(kl_mean=0.0), gating(PLAN))) == 4


@pytest.mark.parametrize(
    ("text", "values", "exceeded"),
    [
        ("divergence_rate>0.1", {"divergence_rate": 0.2, "divergence_rate_low": 0.05, "divergence_rate_high": 0.4}, 0),
        ("divergence_rate>0.1", {"divergence_rate": 0.2, "divergence_rate_low": 0.11, "divergence_rate_high": 0.4}, 4),
        ("divergence_rate<0.3", {"divergence_rate": 0.2, "divergence_rate_low": 0.05, "divergence_rate_high": 0.4}, 0),
        ("divergence_rate<0.5", {"divergence_rate": 0.2, "divergence_rate_low": 0.05, "divergence_rate_high": 0.4}, 4),
        ("kl_mean>0.1", {"kl_mean": 0.12, "kl_mean_low": 0.09, "kl_mean_high": 0.16}, 0),
        ("kl_mean>0.1", {"kl_mean": 0.12, "kl_mean_low": 0.101, "kl_mean_high": 0.16}, 4),
        ("kl_mean>0.1", {"kl_mean": 0.05, "kl_mean_low": math.nan, "kl_mean_high": math.nan}, 0),
        ("kl_mean>0.1", {"kl_mean": 0.12, "kl_mean_low": math.nan, "kl_mean_high": math.nan}, 4),
        ("kl_mean>0.1", {"kl_mean": math.nan, "kl_mean_low": math.nan, "kl_mean_high": math.nan}, 4),
        ("sigma_ratio>1", {"sigma_ratio": 1.0, "sigma_ratio_low": math.nan, "sigma_ratio_high": math.nan}, 0),
    ],
)  # fmt: skip
def test_intervals(text: str, values: dict[str, float], exceeded: int) -> None:
    said = parse_gate(text, True, gating(PLAN)).exceeded(table(**values), gating(PLAN))
    assert len(said) == exceeded
    assert not any("nan" in line for line in said)
    if exceeded and "kl_mean" in values:
        ends = f"({values['kl_mean_low']:.6g} to {values['kl_mean_high']:.6g})"
        alone = "has no value" if math.isnan(values["kl_mean"]) else "is 0.12, without an interval"
        assert said[0].endswith(alone if "nan" in ends else ends)


def test_a_plain_cast_without_a_sigma_ratio_is_told_why() -> None:
    values = dict.fromkeys(("sigma_ratio", "sigma_ratio_low", "sigma_ratio_high"), math.nan)
    for interval in (False, True):
        said = parse_gate("sigma_ratio>1:bf16", interval, gating(PLAN)).exceeded(table(**values), gating(PLAN))
        assert said[0] == (
            "sigma_ratio>1:bf16: bf16 greedy: sigma_ratio has no value: it is there only for a candidate that "
            "computes in 16 bits and is no plain cast"
        )
        said = parse_gate("k3>0.001:bf16", interval, gating(PLAN)).exceeded(
            table(k3=math.nan, k3_low=math.nan, k3_high=math.nan), gating(PLAN)
        )
        assert said[0].endswith("k3 has no value: it is there only for sampling at temperature 1 that leaves no token "
                                "out, as top-p:p=1")  # fmt: skip


@pytest.mark.parametrize("operator", list(OPERATORS))
@pytest.mark.parametrize("column", IF_DIVERGED)
def test_what_never_happened_passes_every_gate(column: str, operator: str) -> None:
    plan = PLAN | {"inject": True, "decompose": True}

    def exceeded(interval: bool = False, asked: dict[str, Any] = plan, **values: Any) -> int:
        empty = dict.fromkeys((column, f"{column}_low", f"{column}_high"), math.nan)
        gate = Gate(f"{column}{operator}5", column, operator, 5.0, "", interval)
        return len(gate.exceeded(table(**empty | values), gating(asked)))

    assert exceeded(traces=4, diverged=0) == 0
    assert exceeded(traces=4, diverged=0, interval=f"{column}_low" in columns()) == 0
    assert exceeded(traces=0, diverged=0) == 4, "nothing was compared"
    assert exceeded(traces=4, diverged=1) == 4, "missing for another reason"
    assert exceeded() == 4
    not_asked = exceeded(traces=4, diverged=0, asked=PLAN)
    assert not_asked == (4 if column.startswith(("injected", "recovered", "trajectory", "second_", "path_")) else 0)


def test_a_candidate_that_is_missing_fails_where_the_others_never_diverged() -> None:
    short = table(traces=4, diverged=0, half_life=math.nan)[lambda t: t["candidate"] != "bf16"]
    said = parse_gate("half_life<5", False, gating(PLAN)).exceeded(short, gating(PLAN))
    assert [line.split(": ")[1:] for line in said] == [
        ["bf16 greedy", "there is no result"], ["bf16 top-k:k=5", "there is no result"],
    ]  # fmt: skip
    assert (
        len(
            parse_gate("kl_mean>1", False, gating(PLAN)).exceeded(
                table(traces=4, diverged=0, kl_mean=math.nan), gating(PLAN)
            )
        )
        == 4
    )


def test_the_columns_that_exist_only_where_something_diverged(tmp_path: Path) -> None:
    """Those that are empty for a candidate that never diverged, and filled for one that did; as docs/runs.md lists them."""
    other = tiny_model("gpt2")
    with torch.no_grad():
        noise = torch.randn(other.transformer.wte.weight.shape, generator=torch.Generator().manual_seed(0))
        other.transformer.wte.weight.add_(0.02 * noise)
    study = run(
        "gpt2", prompts=[f"w{i} w{i + 1}" for i in range(1, 13)], strategies=["top-k"], max_new_tokens=48, inject=True,
        decompose=True, candidates=["fp64", f"other={saved_as(other, tmp_path / 'other')}"],
    )  # fmt: skip
    rows = study.summary[study.summary["role"] == "candidate"].set_index("candidate")
    assert rows.loc["fp64", "diverged"] == 0
    assert rows.loc["other", "diverged"] > 6
    filled = [c for c in columns() if pd.notna(rows.loc["other", c]) and pd.isna(rows.loc["fp64", c])]
    assert sorted(filled) == sorted(IF_DIVERGED)
    documented = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
    part = documented.split("These columns are", 1)[1].split("Where something diverged", 1)[0]
    assert tuple(c for c in re.findall(r"`(\w+)`", part) if not c.startswith("--")) == IF_DIVERGED
    shown = summary_table(study, 120)
    assert re.search(r"fp64 .* never ", shown)
    (half_life,) = (m for m in heat_maps(study) if m.name == "half_life")
    assert [(name, cells[0].text == "never") for name, _, cells in half_life.rows] == [("fp64", True), ("other", False)]


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
        parse_gate(text, False, gating(PLAN))
    assert all(word in str(refused.value) for word in words)


def test_a_column_without_an_interval() -> None:
    with pytest.raises(InputError, match=r"kl_p99 has no interval; choices: .*divergence_rate.*kl_mean"):
        parse_gate("kl_p99>1", True, gating(PLAN))
    with pytest.raises(InputError, match="compared with"):
        parse_gate("kl_mean==1", True, gating(PLAN))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gates") / "run"
    run("gpt2", prompts=["w1 w2", "w3"], candidates=["bf16"], strategies=["greedy"], max_new_tokens=8, out=folder)
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


def test_check_says_what_passed_and_holds_against_an_earlier_run(
    command: Callable[..., tuple[int, str, str]], finished: Path, tmp_path: Path
) -> None:
    code, out, _ = command("check", finished, "--fail-on", "default", "--fail-on", "kl_mean>5", "--baseline", finished)
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("gate passed: ")] == [
        "gate passed: wording==nonfinite: in none of 1 candidate",
        "gate passed: wording==not compared: in none of 1 candidate",
        "gate passed: quality==worse: in none of 1 candidate; quality is not measured for bf16",
        "gate passed: answers==worse: in none of 1 candidate; answers is not measured for bf16",
        "gate passed: kl_mean>5: in none of 1 row of candidate and strategy",
        "gate passed: --baseline: none of 4 figures is worse",
    ]
    word = dd.open_study(finished).answer["wording"].iloc[0]
    code, out, err = command("check", finished, "--fail-on", f"wording=={word}", "--fail-on", "quality!=worse")
    assert code == 4
    assert f"gate exceeded: wording=={word}: bf16: wording is {word}: " in err
    assert "gate exceeded: quality!=worse: bf16: quality is not measured: " in err
    assert "gate passed" not in out
    earlier = dd.open_study(finished)
    rows = {name: getattr(earlier, name) for name in earlier.experiment.tables}
    rows["positions"] = rows["positions"].assign(kl=0.0)
    dd.Study(rows, earlier.plan, earlier.environment).save(tmp_path / "earlier")
    code, _, err = command("check", finished, "--baseline", tmp_path / "earlier")
    assert code == 4 and "gate exceeded: bf16 greedy: kl_mean is " in err
    assert command("check", tmp_path / "earlier", "--baseline", finished)[0] == 0, "better is not worse"
    plan = {**earlier.plan, "max_new_tokens": 1}
    dd.Study(rows, plan, earlier.environment).save(tmp_path / "another")
    code, _, err = command("check", finished, "--baseline", tmp_path / "another")
    assert code == 2 and "not a run of the same: max_new_tokens 1 there, " in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wording==fine", ("'wording==fine'", "more than noise")),
        ("wording>0.1", ("wording==WORDS", "choices")),
        ("quality==worse:fp61", ("no candidate 'fp61'", "bf16")),
        ("quality==worse:greedy", ("no candidate 'greedy'",)),
        ("qualty==worse", ("'qualty==worse'",)),
    ],
)
def test_a_gate_on_words_that_is_none_is_refused(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as refused:
        parse_gates([text], False, gating(PLAN))
    assert all(word in str(refused.value) for word in words), refused.value


def test_a_gate_on_words_fails_where_there_is_no_answer() -> None:
    (gate,) = parse_gates(["quality==worse"], False, gating(PLAN))
    answers = pd.DataFrame([{"candidate": "bf16", "quality": "better", "quality_note": ""}])
    assert gate.exceeded(answers, gating(PLAN)) == ["quality==worse: fp32:batch_size=1: there is no result"]
    (gate,) = parse_gates(["quality!=no loss above 1 %:bf16"], False, gating(PLAN))
    assert gate.exceeded(answers, gating(PLAN)) == ["quality!=no loss above 1 %:bf16: bf16: quality is better: "]
    assert not gate.exceeded(answers.assign(quality="no loss above 1 %"), gating(PLAN))


def test_a_gate_says_of_what_it_counts() -> None:
    assert parse_gate("kl_mean>1", False, gating(PLAN)).passed(table(), gating(PLAN)).endswith(
        "in none of 4 rows of candidate and strategy"
    )  # fmt: skip
    (gate,) = parse_gates(["quality==worse"], False, gating(PLAN))
    answers = pd.DataFrame({"candidate": ["bf16", "fp32:batch_size=1"], "quality": ["better", "cannot tell"]})
    assert gate.passed(answers, gating(PLAN)) == "quality==worse: in none of 2 candidates"


def test_something_failed_goes_before_a_gate(
    command: Callable[..., tuple[int, str, str]], finished: Path, tmp_path: Path
) -> None:
    study = dd.open_study(finished)
    study.failures = pd.DataFrame(
        [{"model": "m", "variant": "fp16", "stage": "load", "status": "failed", "error": "e"}]
    )
    study.failures = joined([runfolder.JobResult("").frame("failures"), study.failures], "failures")
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


def test_texts_too_short_to_come_back_do_not_excuse_what_was_measured() -> None:
    study = dd.inject("demo", at=[3], strategies=["greedy"], limit=2, max_new_tokens=8)
    gated = study.experiment.gating(study.plan)
    assert study.summary["long_enough"].tolist() == [0]
    for text, passes in (
        ("agreement<0.99", False),
        ("agreement<0", True),
        ("recovered_share_low<0", False),
        ("texts<3", False),
    ):
        exceeded = parse_gate(text, False, gated).exceeded(study.summary, gated)
        assert (exceeded == []) == passes, text


def test_an_inject_has_no_baseline(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """Its plan names candidates too, none of them; it is refused in words."""
    study = dd.inject("demo", at=[2], limit=2, max_new_tokens=6, strategies=["greedy"], out=tmp_path / "run")
    code, _, err = command("check", study.path, "--baseline", study.path)
    assert code == 2 and "a run of inject has no baseline; give two runs of compare" in err
