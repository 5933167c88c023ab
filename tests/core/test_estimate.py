"""How far a run is and how long it will take, against runs whose speeds are known."""

from __future__ import annotations

import subprocess
import sys

import pytest

from decodedrift.core.estimate import NONE, READING, Estimate, Work
from decodedrift.core.progress import Bars

WRITE, READ, LOAD = 0.5, 0.01, 7.0  # seconds a token, and beside the phases of a job


class Run:
    """A run on a clock of its own. shorter: texts end early, at that share of what was planned."""

    def __init__(self, todo: dict[str, Work], finished: Work = NONE, shorter: float = 1.0) -> None:
        self.now, self.shorter, self.todo = 0.0, shorter, todo
        self.estimate = Estimate(dict(todo), finished, clock=lambda: self.now)

    def begin(self, key: str) -> None:
        self.estimate.job(key)
        self.now += LOAD

    def phase(self, what: str, tokens: float, until: float = 1.0) -> None:
        cost = READ if what == READING else WRITE
        self.estimate.start(what, tokens)
        for _ in range(10):
            self.now += tokens * self.shorter * until * cost / 10
            self.estimate.tick(tokens * self.shorter * until / 10)
        if until == 1.0:
            self.estimate.stop()

    def job(self, key: str) -> None:
        self.begin(key)
        self.phase("greedy", self.todo[key].written)
        self.phase(READING, self.todo[key].read)


def seconds(work: Work) -> float:
    return work.written * WRITE + work.read * READ


@pytest.mark.parametrize("shorter", [1.0, 0.3])
def test_the_time_left_is_what_the_rest_takes(shorter: float) -> None:
    todo = {"a": Work(100, 400), "b": Work(100, 400), "c": Work(40, 160)}
    run = Run(todo, shorter=shorter)
    run.job("a")
    run.begin("b")
    expected = shorter * (seconds(todo["b"]) + seconds(todo["c"])) + LOAD
    assert run.estimate.left() == pytest.approx(expected)
    begin = run.now
    run.phase("greedy", 100)
    run.phase(READING, 400)
    run.job("c")
    assert run.now - begin == pytest.approx(expected)
    assert run.estimate.left() == pytest.approx(0.0)
    assert run.estimate.share() == 1.0


def test_no_time_is_told_before_every_kind_of_phase_was_timed() -> None:
    run = Run({"a": Work(100, 400)})
    run.begin("a")
    assert run.estimate.left() is None
    run.phase("greedy", 50)
    assert run.estimate.left() is None, "how fast it reads is not known"
    run.phase(READING, 100, until=0.5)
    assert run.estimate.left() == pytest.approx(50 * WRITE + 350 * READ)
    only_written = Run({"a": Work(100)})
    only_written.begin("a")
    only_written.phase("greedy", 100, until=0.5)
    assert only_written.estimate.left() == pytest.approx(50 * WRITE)


def test_a_run_that_goes_on_begins_where_it_was() -> None:
    run = Run({"c": Work(100, 400)}, finished=Work(200, 800))
    run.begin("c")
    run.phase("greedy", 50)
    run.phase(READING, 400)
    share = 1 - 50 * WRITE / seconds(Work(300, 1200))
    assert run.estimate.share() == pytest.approx(share)
    anew = Run({"c": Work(100, 400)})
    anew.begin("c")
    anew.phase("greedy", 50)
    anew.phase(READING, 400)
    assert anew.estimate.share() < share - 0.2


def test_the_share_never_falls_and_a_job_that_is_run_again_counts_once() -> None:
    run = Run({"a": Work(100, 400), "b": Work(100, 400)})
    run.begin("a")
    run.phase("greedy", 100)
    before = run.estimate.share()
    run.begin("a")  # memory ran out: again in half the batch
    assert run.estimate.share() == before
    run.phase("greedy", 100)
    run.phase(READING, 400)
    run.begin("b")
    assert run.estimate.share() == pytest.approx(0.5)


def test_what_was_not_planned_is_still_to_come() -> None:
    run = Run({"a": Work(100)})
    run.begin("a")
    run.phase("greedy", 100)
    assert run.estimate.left() == pytest.approx(0.0)
    run.phase("greedy", 60, until=0.5)
    assert run.estimate.left() == pytest.approx(30 * WRITE)


NOTEBOOK = """
import sys, types, warnings
sys.modules["ipywidgets"] = None
sys.modules["ipykernel.zmqshell"] = types.ModuleType("shell")
shell = types.SimpleNamespace(config={"IPKernelApp": 1}, kernel=None)
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: shell, display=None)
sys.modules["IPython.display"] = types.SimpleNamespace(HTML=None, display=None)
from decodedrift.core.progress import without_widgets
warnings.simplefilter("always")
CALL
import tqdm.auto
"""


@pytest.mark.parametrize(("call", "warned"), [("without_widgets()", False), ("", True)])
def test_no_box_of_warnings_in_a_notebook(call: str, warned: bool) -> None:
    code = NOTEBOOK.replace("CALL", call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("IProgress not found" in done.stderr) == warned, done.stderr


def test_no_time_is_told_of_phases_that_were_too_short_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = Bars(silent=True)
    bars.begin({"a": Work(100)}, Work())
    for share, left, said in ((0.0, 0.0, ""), (0.0, 30.0, ", about 30 s left"), (0.95, 0.4, ", about 0 s left")):
        monkeypatch.setattr(bars._estimate, "share", lambda share=share: share)
        monkeypatch.setattr(bars._estimate, "left", lambda left=left: left)
        assert bars._left() == said
