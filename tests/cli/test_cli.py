"""The command as its users meet it: quick to start, quiet where it should be, and the same numbers when asked again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forking
import pandas as pd
import pytest
from running import LEAN_FLAGS

from decodedrift import cli
from decodedrift.core.estimate import Work
from decodedrift.experiments.compare import EXPERIMENT as COMPARE
from decodedrift.experiments.study import open_study
from decodedrift.measure.tables import PARTS, TABLES
from decodedrift.runs import tablefiles

EMPTY = {  # of the run below
    "checks", "accuracy", "injection", "steps", "failures", "decomposition", "after", "layers", "where",
    "consistency",
}  # fmt: skip
TABLES_THERE = {f"tables/{table}.csv" for table in (*COMPARE.tables, *COMPARE.folds()) if table not in {*PARTS, *EMPTY}}
SMALL = ("--max-new-tokens", "4", "--candidates", "bf16", *LEAN_FLAGS)


def command(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A true process."""
    return subprocess.run(
        [sys.executable, "-m", "decodedrift", *map(str, arguments)],
        cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """`decodedrift compare ...` in this process: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["decodedrift", "compare", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, said.out, said.err

    return call


def dry(here: Callable[..., tuple[int, str, str]], *arguments: str | Path) -> str:
    """What --dry-run says."""
    code, out, err = here(*arguments, "--dry-run")
    assert code == 0, err
    return out


# ---- starting


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0), (["--version"], 0), (["compare", "--help"], 0), ([], 0), (["comprae"], 2),
        (["compare", "--bogus"], 2), (["compare", "--strategies", "x"], 2),
    ],
    ids=str,
)  # fmt: skip
def test_starts_without_torch(arguments: list[str], code: int) -> None:
    probe = (
        "import sys\nfrom decodedrift.cli import main\n"
        f"sys.argv = ['decodedrift', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as stopped: code = stopped.code\n"
        "heavy = {'torch', 'transformers', 'pandas', 'scipy', 'pyarrow'} & set(sys.modules)\n"
        "print('PROBE', code, ','.join(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    _, found, *heavy = done.stdout.splitlines()[-1].split(" ")
    assert int(found) == code
    assert heavy in ([], [""])
    assert len(done.stderr.splitlines()) <= 2


def test_help_is_plain(tmp_path: Path) -> None:
    done = command("compare", "--help", cwd=tmp_path, COLUMNS="80")
    assert "<" not in re.sub(r"<=", "", done.stdout)  # no <list[str]>
    assert "str | None" not in done.stdout
    for option in ("--model NAME", "--candidates LIST", "--max-new-tokens N", "--out DIR", "--prompts FILE"):
        assert option in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    for option in re.findall(r"^ +(--[a-z-]+)", done.stdout, re.MULTILINE):
        assert option == option.lower()


def test_version(tmp_path: Path) -> None:
    from importlib.metadata import version

    assert command("--version", cwd=tmp_path).stdout == f"decodedrift {version('decodedrift')}\n"


def test_list_says_what_there_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from decodedrift.decoding.strategies import STRATEGIES
    from decodedrift.measure.metrics import TOKEN_METRICS, TRACE_METRICS
    from decodedrift.models.knobs import KNOBS
    from decodedrift.models.precisions import PRECISIONS

    monkeypatch.setattr(sys, "argv", ["decodedrift", "list"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr()
    assert (stopped.value.code, said.err) == (0, "")
    names = {line.split()[0] for line in said.out.splitlines() if re.match(r"  \S", line)}
    assert {*PRECISIONS, *KNOBS, *STRATEGIES, *TOKEN_METRICS, *TRACE_METRICS, "default", "stories"} <= names
    assert max(map(len, said.out.splitlines())) <= 80


def test_list_says_what_cannot_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from decodedrift.cli import listing
    from decodedrift.models.precisions.base import Precision

    monkeypatch.setitem(
        listing.PRECISIONS, "int8-bnb", Precision("x", None, lambda device: "int8-bnb needs bitsandbytes")
    )
    assert "not here: int8-bnb needs bitsandbytes" in listing.listing()


def test_a_part_of_the_list_can_be_asked_for(tmp_path: Path) -> None:
    said = command("list", "strategies", cwd=tmp_path).stdout
    assert said.startswith("strategies\n")
    assert "min-p" in said
    assert "precisions" not in said
    wrong = command("list", "strategy", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "'strategies'?" in wrong.stderr
    assert "Traceback" not in wrong.stderr


# ---- a real run


@pytest.fixture(scope="module")
def ran(
    saved: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One real run in a process of its own, for several tests to look at."""
    folder = tmp_path_factory.mktemp("ran")
    text = folder / "text.txt"
    text.write_text(" ".join(f"w{1 + i * 7 % 90}" for i in range(60)))
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": f"q{i}", "prompt": f"w{i + 1} w{i + 2}"}) + "\n" for i in range(3)))
    done = command(
        "compare", "--model", saved(), "--prompts", prompts, "--candidates", "bf16,fp16:batch_size=1",
        "--strategies", "greedy,top-k:k=5", "--strategies", "beam:num_beams=2", "--seeds", "0,1", "--text", text,
        "--context", "16", "--max-new-tokens", "6", "--prompts-per-job", "2", "--no-noise-floor", "--out", "RUN", cwd=folder,
    )  # fmt: skip
    return folder / "RUN", done


Ran = tuple[Path, "subprocess.CompletedProcess[str]"]


def test_a_run_leaves_its_folder(ran: Ran) -> None:
    run, done = ran
    assert done.returncode == 0, done.stderr
    assert {p.name for p in run.iterdir()} == {
        "report.html",
        "verdict.txt",
        "verdict.json",
        "README.txt",
        "tables",
        "data",
    }
    assert {f"tables/{p.name}" for p in (run / "tables").iterdir()} == TABLES_THERE
    assert {p.name for p in (run / "data").iterdir()} == {
        "plan.json", "environment.json", "rows.json", "jobs", "positions", "alternatives"
    }  # fmt: skip
    jobs = sorted(p.name for p in (run / "data/jobs").iterdir())
    assert len(jobs) == 3  # two shards of prompts and one of text
    assert sorted(p.stem for p in (run / "data/positions").iterdir()) == jobs
    assert sorted(p.stem for p in (run / "data/alternatives").iterdir()) == jobs[:2], "a text has none: no empty part"
    assert not list(run.rglob("*.part"))
    plan = json.loads((run / "data/plan.json").read_text())
    assert [v["name"] for v in plan["candidates"]] == ["bf16", "fp16:batch_size=1"]
    assert [s["label"] for s in plan["strategies"]] == ["greedy", "top-k:k=5", "beam:num_beams=2"]


def test_what_a_run_says(ran: Ran) -> None:
    """The last line is where to look; nothing is wider than a terminal; libraries keep quiet; no bars in a pipe."""
    run, done = ran
    assert done.stdout.splitlines()[-1] == "report: RUN/report.html"
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert len(done.stderr.splitlines()) == 1
    assert "fp32 against bf16, fp16:batch_size=1; 3 prompts" in done.stderr
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.stdout + done.stderr)
    assert str(run.parent) not in (run / "data/environment.json").read_text()


def test_columns_are_the_declared_ones(ran: Ran) -> None:
    run, _ = ran
    for table in ("traces", "divergences", "timings"):
        assert list(pd.read_csv(run / f"tables/{table}.csv").columns) == list(TABLES[table])
    for table in ("positions", "alternatives"):
        assert list(pd.read_parquet(run / "data" / table).columns) == list(TABLES[table])


def test_a_plan_runs_again(ran: Ran, here: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """`--config RUN/plan.json --out NEW`: every table the same, to the last byte, but for the clock."""
    run, _ = ran
    code, out, err = here("--config", run / "data/plan.json", "--out", "again", "--quiet")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "report: again/report.html"
    again = tmp_path / "again"
    for name in sorted(TABLES_THERE - {"tables/timings.csv"} | {"verdict.txt", "README.txt", "data/plan.json"}):
        assert (again / name).read_bytes() == (run / name).read_bytes(), name
    for table in ("positions", "alternatives"):
        ours, theirs = (folder / "data" / table for folder in (again, run))
        assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
        pd.testing.assert_frame_equal(pd.read_parquet(ours), pd.read_parquet(theirs), check_exact=True)


def test_flags_win_over_the_plan(ran: Ran, here: Callable[..., tuple[int, str, str]]) -> None:
    run, _ = ran
    plan = run / "data/plan.json"
    assert "fp32, int8" in dry(here, "--config", plan, "--candidates", "int8")
    assert "; 1 prompt," in dry(here, "--config", plan, "--prompt-id", "q1")
    assert "; 2 prompts" in dry(here, "--config", plan, "--limit", "2")
    assert "; 2 prompts, " in dry(here, "--config", plan, "--prompt", "w1", "--prompt", "w2")
    assert ", 9 new tokens" in dry(here, "--config", plan, "--max-new-tokens", "9")


def test_json(saved: Callable[..., Path], tmp_path: Path) -> None:
    """A pipe into jq gets JSON and nothing else, whatever is missing or infinite."""
    done = forking.command(
        "compare", "--model", saved(), "--prompt", "w1 w2", *SMALL, "--json", "--out", "RUN", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(done.stdout, parse_constant=refuse)
    assert list(found) == ["candidates", "controls", "summary", "verdict", "gates_exceeded", "gates_passed", "run"]
    assert list(found["candidates"][0])[:3] == ["candidate", "wording", "quality"]
    assert {row["role"] for row in found["controls"]} == {"self"}
    assert found["run"] == "RUN"
    assert {row["strategy"] for row in found["summary"]} == {"greedy", "beam", "top-k", "top-p"}
    assert all(isinstance(row["traces"], int) for row in found["summary"])
    assert "report: RUN/report.html" in done.stderr


def test_json_of_a_dry_run_is_empty(here: Callable[..., tuple[int, str, str]], saved: Callable[..., Path]) -> None:
    code, out, err = here("--model", saved(), "--prompt", "w1 w2", "--dry-run", "--json")
    assert (code, out) == (0, "")
    assert "jobs " in err


def test_quiet(here: Callable[..., tuple[int, str, str]], saved: Callable[..., Path]) -> None:
    code, out, err = here("--model", saved(), "--prompt", "w1", *SMALL, "--strategies", "greedy", "--quiet")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"report: reports/gpt2\d*-\d{8}-\d{6}/report.html", out.splitlines()[-1])


def test_two_runs_in_one_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.place.time, "strftime", lambda form: "20260101-000000")
    first = cli.place.default_folder("owner/some model")
    assert first == "reports/some-model-20260101-000000"
    Path(first).mkdir(parents=True)
    assert cli.place.default_folder("owner/some model") == f"{first}-2"


def test_dry_run_writes_nothing(
    here: Callable[..., tuple[int, str, str]], saved: Callable[..., Path], tmp_path: Path
) -> None:
    said = dry(here, "--model", saved(), "--prompt", "w1 w2", "--out", "RUN")
    assert not list(tmp_path.iterdir())
    for word in ("jobs ", "rows ", "memory ", "GiB", "time ", "fp32, bf16, fp16, int8"):
        assert word in said
    assert "of 0.04 GiB" in dry(here, "--model", saved(), "--prompt", "w1 w2", "--memory", "0.04")


# ---- what is asked, in its several spellings


def test_lists_repeat_and_take_commas(here: Callable[..., tuple[int, str, str]], saved: Callable[..., Path]) -> None:
    base = ("--model", saved(), "--prompt", "w1 w2")
    commas = dry(here, *base, "--candidates", "bf16,fp16:batch_size=2,threads=1", "--seeds", "0,1",
                 "--strategies", "greedy,top-k:k=5,temperature=0.5")  # fmt: skip
    repeated = dry(here, *base, "--candidates", "bf16", "--candidates", "fp16:batch_size=2:threads=1",
                   "--seeds", "0", "--seeds", "1", "--strategies", "greedy", "--strategies", "top-k:k=5:temperature=0.5")  # fmt: skip
    assert commas.splitlines()[:5] == repeated.splitlines()[:5]
    assert "fp32, bf16, fp16:batch_size=2,threads=1" in commas
    assert "top-k:k=5,temperature=0.5 (seed 1)" in commas


def test_prompts_and_prompt_together(
    here: Callable[..., tuple[int, str, str]], saved: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("w1\nw2\n")
    assert "; 3 prompts," in dry(here, "--model", saved(), "--prompts", "p.txt", "--prompt", "w3, w4")


def test_a_bundled_set_is_cut_to_a_balanced_few(
    here: Callable[..., tuple[int, str, str]], saved: Callable[..., Path]
) -> None:
    assert "; 16 prompts (stories)" in dry(here)
    assert "; 3 prompts (stories)" in dry(here, "--limit", "3")
    assert "; 17 prompts," in dry(here, "--prompts", "stories", "--prompt", "Once upon a time")


def test_ids_with_commas(here: Callable[..., tuple[int, str, str]], saved: Callable[..., Path], tmp_path: Path) -> None:
    rows = [{"id": i, "prompt": "w1 w2"} for i in ("a,b", "a", "b", "c")]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = ("--model", saved(), "--prompts", "p.jsonl")
    assert "; 1 prompt," in dry(here, *base, "--prompt-id", "a,b")
    assert "; 2 prompts" in dry(here, *base, "--prompt-id", "a, c")
    assert "; 2 prompts" in dry(here, *base, "--prompt-id", "a", "--prompt-id", "a,b")


@pytest.mark.parametrize("dashes", ["-", "_"])
def test_yaml(
    here: Callable[..., tuple[int, str, str]], saved: Callable[..., Path], tmp_path: Path, dashes: str
) -> None:
    settings: dict[str, Any] = {
        f"max{dashes}new{dashes}tokens": 5, "model": str(saved()), "candidates": ["int8", "bf16"], "seeds": 3,
        "strategies": "top-p:p=0.5", "prompts": ["w1 w2", {"prompt": "w3", "id": "mine", "tags": ["a"]}],
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(json.dumps(settings))  # JSON is YAML
    said = dry(here, "--config", "c.yaml")
    assert "fp32 against int8, bf16; 2 prompts, 1 text per prompt, 5 new tokens" in said
    assert "top-p:p=0.5 (seed 3)" in said
    several = dry(here, "--config", "c.yaml", "--strategies", "greedy,top-p", "--seeds", "0,1,2")
    assert "2 prompts, 4 texts per prompt, 5 new tokens" in several, "a strategy that does not sample runs once"
    assert "7 new tokens" in dry(here, "--config", "c.yaml", "--max-new-tokens", "7")


def test_several_texts(here: Callable[..., tuple[int, str, str]], saved: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c,d.txt"):
        (tmp_path / name).write_text("w1 w2 w3 w4")
    said = dry(here, "--model", saved(), "--prompt", "w1", "--text", "a.txt,b.txt", "--text", "c,d.txt")
    assert "jobs      4 " in said


# ---- terminals and pipes


def test_progress_in_a_pipe_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    from decodedrift.core.progress import Bars

    bars = Bars(opening="what runs")
    bars.start("bf16", "greedy", 10)
    bars.tick(5)
    bars.start("bf16", "reading", 10)
    bars.stop()
    assert capsys.readouterr().err == "what runs\n"


def test_progress_at_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from decodedrift.core.progress import Bars

    bars = Bars(True, opening="what runs")
    assert capsys.readouterr().err == "what runs\n"
    bars.begin({"a": Work(10), "b": Work(10)}, Work(20))
    bars.job("a")
    bars.start("bf16", "greedy", 10)
    bars.tick(10)
    bars.stop()
    bars.job("b")
    bars.start("bf16", "greedy", 10)
    bars.tick(5)
    bars.report()
    said = capsys.readouterr().err
    assert " 50 % " in said, "it goes on where the first session ended"
    assert " 75 % " in said
    assert " left" not in said, "of phases too short to time"
    assert "100 % " in said, "at the end it is full, whatever the estimate said"
    assert said.endswith("writing the report\n")


def test_a_bar_is_as_wide_whatever_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the terminal says that it has no columns."""
    from decodedrift.core import progress

    monkeypatch.setattr(progress.os, "get_terminal_size", lambda _: os.terminal_size((0, 0)))
    monkeypatch.setattr(progress.sys.stderr, "fileno", lambda: 2)
    bars = progress.Bars(True)
    bars.begin({"a": Work(10), "b": Work(10)}, Work())
    for key, left in (("a", None), ("b", 5000.0)):
        bars.job(key)
        monkeypatch.setattr(bars, "_left", lambda left=left: f", about {progress.span(left)} left" if left else "")
        bars.start("a variant of a long name", "greedy and more", 10)
    drawn = [line for line in capsys.readouterr().err.split("\r") if "a variant" in line]
    assert {line.index("a variant") for line in drawn} == {80 - progress.WORDS}
    assert any(", about 83 min left" in line for line in drawn)


def test_progress_of_a_long_run_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a minute, and none with --quiet."""
    from decodedrift.core import progress

    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for silent in (False, True):
        bars = progress.Bars(silent=silent)
        bars.begin({"a": Work(100)}, Work())
        bars.job("a")
        bars.start("bf16", "greedy", 100)
        for _ in range(100):
            now[0] += 1.5
            bars.tick(1)
        bars.report()
        lines = capsys.readouterr().err.splitlines()
        assert lines == (
            [] if silent else ["41 % done, about 88 s left", "82 % done, about 27 s left", "writing the report"]
        )


def test_a_terminal_without_utf8(tmp_path: Path) -> None:
    done = command("compare", "--prompts", "ünïcode→.txt", cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 2
    assert "no such file" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_no_error(unbuffered: str) -> None:
    """`decodedrift --version | head -0`, whether Python writes at once or at the end."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "decodedrift", "--version"], env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from decodedrift.cli import listing

    def interrupted(what: str | None) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "listing", interrupted)
    monkeypatch.setattr(sys, "argv", ["decodedrift", "list"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("moment", ["before a command", "while a message is written"])
def test_ctrl_c_at_any_moment(moment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from decodedrift.cli import entry

    def interrupted(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "app" if moment == "before a command" else "_complain", interrupted)
    monkeypatch.setattr(sys, "argv", ["decodedrift", "resume", "nowhere"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_positions_as_csv_too(saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    asked = [
        "compare",
        "--model",
        str(saved()),
        "--prompt",
        "w1 w2",
        "--candidates",
        "bf16",
        "--strategies",
        "greedy",
        *LEAN_FLAGS,
    ]
    argv = [
        "decodedrift",
        *asked,
        "--max-new-tokens",
        "4",
        "--positions-csv",
        "--quiet",
        "--out",
        str(tmp_path / "run"),
    ]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    frames = open_study(tmp_path / "run").frames
    pd.testing.assert_frame_equal(
        tablefiles.read_csv(tmp_path / "run" / "tables/positions.csv", "positions"), frames["positions"]
    )
