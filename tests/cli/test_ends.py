"""How a process of ours ends: with its code whatever became of its streams, and after all that has to come before."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from decodedrift.cli import entry, streams

RUN = Path(__file__).parent.parent / "fixtures" / "run-0.1.0"
FULL = "decodedrift: stdout: cannot be written (No space left on device)\n"
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
needs_shell = pytest.mark.skipif(os.name == "nt", reason="closes streams as a POSIX shell does")


@pytest.mark.parametrize("early", [False, True])
def test_all_that_was_registered_and_every_thread_comes_before_the_end(early: bool) -> None:
    """A handler of somebody who came first (coverage in a sitecustomize) too; only without one the end is a quick one."""
    code = f"""import atexit, os, sys, threading
if {early}: atexit.register(print, "early")
class Teardown:
    def __del__(self, say=os.write): say(1, b"teardown")
sys.argv, sys.kept = ["decodedrift", "--no-such"], Teardown()
from decodedrift.__main__ import begin
threading.Timer(0.1, print, ["thread"]).start()
try: begin()
finally: atexit.register(print, "late")"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--no-such" in done.stderr
    assert done.stdout.split() == ["thread", "late", *(["early", "teardown"] if early else [])]


@needs_shell
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error_and_no_file_takes_their_numbers(closed: str, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text("""import atexit, os, sys
from decodedrift.__main__ import begin
def spy():
    nowhere = os.stat(os.devnull)
    with open("seen", "w") as seen: print(*(int(os.path.samestat(os.fstat(n), nowhere)) for n in range(3)), file=seen)
sys.argv = ["decodedrift", "--version"]
try: begin()
finally: atexit.register(spy)""")
    shell = f"exec {sys.executable} run.py {closed}"
    with open(tmp_path / "in", "w+b") as given:
        done = subprocess.run(
            ["sh", "-c", shell],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=given,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (closed == "2>&-")
    assert (tmp_path / "seen").read_text().split() == [
        str(int(mark in f" {closed}")) for mark in ("<&-", " >&-", "2>&-")
    ]


def ended(words: list[str], stdout: io.TextIOWrapper | None, monkeypatch: pytest.MonkeyPatch) -> object:
    """The exit code of a command in this process, with a stdout of its own."""
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    monkeypatch.setattr(entry, "_alone", False)
    monkeypatch.setattr(sys, "argv", ["decodedrift", *words])
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as stopped:
        entry.program()
    return stopped.value.code


@needs_full
@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize(("words", "code"), [(["list"], 2), (["list", "nothing"], 2), (["check"], 4)])
def test_a_full_stdout_is_one_line_and_a_gate_counts_all_the_same(
    words: list[str],
    code: int,
    through: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gated = [str(RUN), "--fail-on", "divergence_rate>0.5:greedy"] if words == ["check"] else []
    with open("/dev/full", "wb", buffering=0) as full:
        stdout = io.TextIOWrapper(full if through else io.BufferedWriter(full), "utf-8", write_through=through)
        assert ended([*words, *gated], stdout, monkeypatch) == code
        said = capsys.readouterr().err.splitlines(keepends=True)
        assert len(said) == (2 if gated else 1) and "bug" not in "".join(said)
        assert (said[-1] == FULL) == ("nothing" not in words)


def test_a_gate_counts_where_stdout_is_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(["check", str(RUN), "--fail-on", "divergence_rate>0.5:greedy"], None, monkeypatch) == 4
    assert capsys.readouterr().err.startswith("gate exceeded: ")


def test_a_stream_that_somebody_put_there_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, "ascii", newline="\n"))
    streams.secure()
    print("\u2192", flush=True)
    assert buffer.getvalue().split() == [rb"\u2192"]


@needs_shell
def test_ctrl_c_during_the_imports(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "decodedrift", "--version"], env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
