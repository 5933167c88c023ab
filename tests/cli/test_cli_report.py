"""`decodedrift report`: a page again and two runs side by side, without torch; refusals in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import synthetic

from decodedrift import cli, open_study

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic(prompts=3, tokens=12, candidates=2).save(tmp_path_factory.mktemp("runs") / "first")


NO_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} was asked for")

sys.meta_path.insert(0, Refuse())
from decodedrift.cli import main
main()
"""


def report(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a Python that has no torch."""
    command = [sys.executable, "-c", NO_TORCH, "report", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "80"})


def test_a_run_is_rendered_again(run: Path) -> None:
    before = (run / "report.html").read_text("utf-8")
    done = report(run)
    assert (done.returncode, done.stdout) == (0, f"report: {run / 'report.html'}\n"), done.stderr
    assert (run / "report.html").read_text("utf-8") == before
    done = report(run, "--title", "After <the> upgrade", "--top", "2", "--no-text", "--out", run / "other.html")
    assert done.returncode == 0, done.stderr
    page = (run / "other.html").read_text("utf-8")
    assert "After &lt;the&gt; upgrade" in page
    assert page.count("data-case=") == 2
    assert "word" in before
    assert " word1" not in page
    assert "Once upon" not in page


def test_a_folder_in_the_users_home(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves the ~ of `--out=~/page.html` as it is."""
    monkeypatch.setenv("HOME", str(run.parent))
    done = report(f"~/{run.name}", "--out=~/page.html")
    assert (done.returncode, done.stdout) == (0, f"report: {run.parent / 'page.html'}\n"), done.stderr
    assert report(f"~/{run.name}").returncode == 0
    assert len(open_study(f"~/{run.name}").alternatives) == len(open_study(run).alternatives) > 0


def test_two_runs(run: Path, tmp_path: Path) -> None:
    other = synthetic(prompts=3, tokens=12, candidates=1).save(tmp_path / "second")
    done = report(run, other)
    assert (done.returncode, done.stdout) == (0, f"report: {run / 'beside-second.html'}\n"), done.stderr
    assert "Settings: candidates v0 and v1 → v0." in (run / "beside-second.html").read_text("utf-8")
    assert report(run, other, "--no-text").returncode == 0
    done = report(run, FIXTURES / "inject-0.1.0")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "a run of inject cannot be held beside one of compare" in done.stderr
    done = report(FIXTURES / "inject-0.1.0", FIXTURES / "inject-0.1.0")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "a run of inject cannot be held beside another" in done.stderr


@pytest.mark.parametrize(("words", "said"), [
    (("nowhere",), "nowhere: not a run folder"), (("RUN", "--top", "0"), "--top: must be a whole number >= 1, not '0'"),
    (("RUN", "--out", "RUN/tables/traces.csv"), "no report of decodedrift's"), (("RUN", "--out", "RUN"), "this is a folder"),
    (("RUN", "--out", "RUN/none/x.html"), "there is no folder"), (("RUN", "RUN", "--top", "3"), "of a single run's page"),
])  # fmt: skip
def test_refusals(
    run: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["decodedrift", "report", *(w.replace("RUN", str(run)) for w in words)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
