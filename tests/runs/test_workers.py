"""Jobs in several processes: equal tables, and what becomes of signals, deaths, errors and words on the way."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_model, tiny_tokenizer
from pooled import Work, jobs
from running import LEAN, content, saved_as

import decodedrift as dd
from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError
from decodedrift.core.settings import make_settings
from decodedrift.experiments import experiment
from decodedrift.runs import workers
from decodedrift.runs.executors import EXECUTORS
from decodedrift.runs.forecast import forecast
from decodedrift.runs.prepare import NOTHING, Prepared, Sizes, prepare
from decodedrift.runs.resume import differing
from decodedrift.runs.runfolder import Stored
from decodedrift.runs.signals import Stoppable, Stopped

PROMPTS = ["w1 w2", "w3 w4 w5", "w6"]
ASKED: dict[str, Any] = LEAN | {
    "candidates": ["bf16"], "strategies": ["greedy", "top-p"], "prompts": PROMPTS, "prompts_per_job": 1, "threads": 1,
    "max_new_tokens": 4, "batch_size": 2,
}  # fmt: skip


class Told(Progress):
    """Keeps what it is told, by worker."""

    def __init__(self) -> None:
        self.at, self.tokens, self.jobs = 0, Counter[int](), []

    def worker(self, number: int, of: int) -> None:
        self.at = number

    def job(self, key: str) -> None:
        self.jobs.append(key)

    def tick(self, tokens: int) -> None:
        self.tokens[self.at] += tokens


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_as(tiny_model("llama"), tmp_path_factory.mktemp("model"))


def ready(model: str, sizes: Sizes = NOTHING, **asked: Any) -> Prepared:
    kind = experiment("compare")
    return prepare(make_settings(kind.settings, ASKED | {"model": model} | asked), sizes=sizes, check=kind.check)


def gone(process: int) -> bool:
    """Whether a process has ended, soon."""
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{process}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_three_jobs_in_two_processes_leave_the_folder_that_one_leaves(model: str, tmp_path: Path) -> None:
    """Byte for byte, but for times and for what was asked; a run goes on with another number of processes."""
    told = Told()
    alone = dd.compare(model, **ASKED, out=tmp_path / "alone")
    wide = dd.compare(model, **ASKED, workers=2, out=tmp_path / "wide", progress=told)
    files = {name: content(tmp_path / name) for name in ("alone", "wide")}
    plans = [files[name].pop("data/plan.json") for name in files]
    assert files["wide"] == files["alone"]
    assert plans[1].replace(b'"workers": 2', b'"workers": 1') == plans[0]
    assert (alone.environment["workers"], wide.environment["workers"]) == (1, 2)
    assert wide.environment["generation"]["path"] == alone.environment["generation"]["path"]
    assert (sorted(told.jobs), len(told.jobs)) == (sorted(set(told.jobs)), 3)
    assert min(told.tokens[0], told.tokens[1]) > 0, "both told how far they were"
    again = dd.compare(model, **ASKED | {"workers": 3}, out=tmp_path / "wide", resume=True)
    assert len(again.traces) == len(wide.traces)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(str(tmp_path))


def left(work: Work) -> list[Path]:
    """Files that stand for weights on the disk, but for those of this process."""
    return [file for file in Path(work.folder).glob("weights.*") if file.suffix != f".{os.getpid()}"]


@pytest.mark.parametrize("name", sorted({*EXECUTORS} - {"ray"}))
def test_an_executor_runs_every_job_once_in_as_many_processes_as_the_world_says(name: str, work: Work) -> None:
    """The first one settles path and batch size, which all others then have; a process that is killed is replaced."""
    results = list(EXECUTORS[name](work, jobs("first", "killed", "b", "c", "d")))  # type: ignore[arg-type]
    assert sorted(r.key for r in results) == ["b", "c", "d", "first", "killed"]
    assert {(r.path, r.size) for r in results} == {("stock", 4)}
    assert results[0].process == os.getpid()
    others = {r.process for r in results[1:]}
    assert len(others) in (1, 2, 3)
    assert os.getpid() not in others
    assert all(map(gone, others))


def test_a_job_whose_processes_always_die_is_named(work: Work) -> None:
    ran = EXECUTORS["local"](work, jobs("first", "always", "b"))  # type: ignore[arg-type]
    done: list[Any] = []
    with pytest.raises(InputError, match=r"job always: its process was ended 3 times, at last by SIGKILL; finished"):
        done.extend(iter_into(ran, done))
    assert len(list(Path(work.folder).glob("always*"))) == 3
    assert [r.key for r in done] == ["first", "b"]


def iter_into(results: Iterator[Any], done: list[Any]) -> Iterator[Any]:
    """Results one by one, kept though an error follows."""
    for result in results:
        done.append(result)
    return iter(())


@pytest.mark.parametrize(
    ("key", "kind", "words"), [("refused", InputError, "cannot run"), ("broken", KeyError, "lost")]
)
def test_an_error_in_a_process_is_the_run_s(work: Work, key: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as error:
        list(EXECUTORS["local"](work, jobs("first", key, "long")))  # type: ignore[arg-type]
    assert ("pooled.py" in "".join(getattr(error.value, "__notes__", ()))) == (kind is KeyError)
    assert left(work) == []


def test_what_processes_log_and_warn_of_is_said_here(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.warns(UserWarning, match="an old argument") as warned, caplog.at_level(logging.INFO, "decodedrift"):
        list(EXECUTORS["local"](work, jobs("first", "said", "said")))  # type: ignore[arg-type]
    assert [r.getMessage() for r in caplog.records] == ["job said is odd"] * 2
    assert len(warned) >= 1
    assert left(work) == []


def test_a_signal_ends_the_jobs_in_hand_at_their_next_batch(work: Work) -> None:
    """What ended before is kept, and no process is left."""
    work.progress = progress = Stoppable(Progress())
    ran = EXECUTORS["local"](work, jobs("first", "b", "long", "c", "d"))  # type: ignore[arg-type]
    begin = time.monotonic()
    assert sorted(next(ran).key for _ in range(4)) == ["b", "c", "d", "first"]
    progress.received(2, None)
    with pytest.raises(Stopped):
        next(ran)
    assert time.monotonic() - begin < 15, "the long job takes 30 s"
    assert left(work) == []


def test_the_second_signal_ends_processes_at_once(work: Work) -> None:
    ran = EXECUTORS["local"](work, jobs("first", "b", "long", "c"))  # type: ignore[arg-type]
    others = [next(ran) for _ in range(3)][1:]
    ran.close()  # type: ignore[attr-defined]
    assert all(gone(r.process) for r in others)


DRIVER = """
import sys
from pooled import Work, jobs
from decodedrift.runs.executors import EXECUTORS
for result in EXECUTORS["local"](Work(sys.argv[1]), jobs("first", "b", "long")):
    print(result.process, flush=True)
"""


def test_processes_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    """In the middle of a job, too."""
    here = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)], env=here, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    others = [int(driver.stdout.readline()) for _ in range(2)][1:]
    while not (word := tmp_path / "long.0").is_file() or not word.read_text():
        time.sleep(0.02)
    others.append(int(word.read_text()))
    driver.kill()
    driver.wait()
    driver.stdout.close()
    assert len(set(others)) == 2
    assert all(map(gone, others))


def test_how_many_processes_is_settled_before_anything_runs(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 8)

    def settled(sizes: Sizes = NOTHING, **asked: Any) -> tuple[int, int | None]:
        world = ready(model, sizes, **asked).world
        return world.workers, world.plan.threads

    assert settled(workers=2, threads=None) == (2, 4)
    assert settled(workers=2, threads=3) == (2, 3)
    assert settled(workers=9, threads=None) == (3, 2), "no more than jobs"
    assert settled(workers="auto", threads=None) == (3, 2)
    assert settled(workers="auto", threads=4) == (2, 4)
    assert settled(workers="auto", threads=8) == (1, 8)
    assert settled(workers="auto", threads=None, memory_bytes=int(1.5 * 2**30)) == (2, 4)
    assert settled(workers=1, threads=None) == (1, None)
    assert settled(Sizes(threads=4, begun=True), workers=3, threads=None) == (3, 4), "a run that goes on keeps them"
    with pytest.raises(
        InputError, match=r"--workers 3: 3 processes need about 1\.8 GiB, and 1\.5 GiB may be used; use --workers 2"
    ):
        settled(workers=3, memory_bytes=int(1.5 * 2**30))


def test_neither_batches_nor_keys_depend_on_how_many_there_are(model: str) -> None:
    one, two = ready(model), ready(model, workers=2)
    assert [job.key for job in one.jobs] == [job.key for job in two.jobs]
    assert (one.plan.batch_size, one.plan.prompts_per_job) == (two.plan.batch_size, two.plan.prompts_per_job)
    assert two.world.workers == 2
    assert ", 2 processes" in two.announcement()


def test_a_shard_has_no_more_processes_than_jobs_and_the_threads_of_all(model: str) -> None:
    two, one = (ready(model, workers=2, shard=shard, threads=None) for shard in ("1/2", "2/2"))
    assert (two.world.workers, one.world.workers, one.environment["workers"]) == (2, 1, 1)
    assert two.plan.threads == one.plan.threads is not None
    assert "processes" not in one.announcement()


def test_a_forecast_shows_the_memory_that_too_many_processes_are_refused_by(model: str) -> None:
    with pytest.raises(InputError, match=r"need about ([0-9.]+ GiB)") as refused:
        ready(model, workers=3, memory_bytes=2**30)
    needed = str(refused.value).split("need about ")[1].split(",")[0]
    line = next(line for line in forecast(ready(model, workers=3)).splitlines() if line.startswith("memory"))
    assert f"at least {needed} of " in line and "in all 3 processes" in line


def test_other_threads_are_said_once(model: str) -> None:
    """They are of the plan, and of what the machine computed with."""
    two, one = (ready(model, threads=threads) for threads in (2, 1))
    found = differing(
        Stored(one.plan.as_dict(), dict(one.environment)),
        Stored(two.plan.as_dict(), dict(two.environment)),
        type(one.plan),
    )
    assert found == ["threads 1 there, 2 here"]


def test_a_model_in_memory_stays_in_its_process(model: str) -> None:
    with pytest.raises(InputError, match=r"workers=2: .* is a model in memory.* save_pretrained.*use workers=1"):
        dd.compare(tiny_model("llama"), tokenizer=tiny_tokenizer(96), **ASKED, workers=2)
    with pytest.raises(InputError, match="workers=: must be auto or a whole number from 1 to 1024, not 0"):
        dd.compare(model, **ASKED, workers=0)
