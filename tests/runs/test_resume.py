"""A run that is killed, at any moment and by any signal, ends with the rows of one that was not; never with a mixture."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from running import LEAN, LEAN_FLAGS, content

import decodedrift as dd
from decodedrift.core import files
from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError
from decodedrift.core.settings import make_settings
from decodedrift.experiments import running
from decodedrift.experiments.compare import job as executing
from decodedrift.experiments.compare.settings import CompareSettings
from decodedrift.measure import bench
from decodedrift.models import budget, load
from decodedrift.runs import runfolder
from decodedrift.runs.resume import stored_settings, stored_sizes
from decodedrift.runs.runfolder import RunFolder
from decodedrift.runs.signals import Stopped, stoppable, terminable

ASKED: dict[str, Any] = LEAN | {
    "candidates": ["bf16", "int8"], "strategies": ["greedy", "top-p"], "max_new_tokens": 5, "prompts_per_job": 1,
    "prompts": ["w1 w2", "w3", "w4 w5 w6", "w7"], "batch_size": 2,
}  # fmt: skip
FLAGS = [
    "--candidates", "bf16,int8", "--strategies", "greedy,top-p", "--max-new-tokens", "5", "--prompts-per-job", "1",
    "--prompt", "w1 w2", "--prompt", "w3", "--prompt", "w4 w5 w6", "--prompt", "w7", "--prompt", "", "--batch-size", "2",
    *LEAN_FLAGS,
]  # fmt: skip


def interrupted(out: Path, jobs: int, model: Any, **more: Any) -> None:
    """A run that dies when it begins its job number `jobs`."""

    class Dying(Progress):
        count = 0

        def start(self, variant: str, what: str, tokens: int) -> None:
            if what == "all strategies" and variant == "fp32":
                Dying.count += 1
                if Dying.count > jobs + 1:  # the first job has the self control
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dd.compare(model, out=out, progress=Dying(), **ASKED | more)


@pytest.fixture(scope="module")
def never_killed(saved: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("never") / "run"
    dd.compare(saved(), out=folder, **ASKED)
    return folder


@pytest.fixture
def whole(never_killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(never_killed, tmp_path / "whole"))


# ---- killed and resumed


def killed(saved: Callable[..., Path], folder: Path, kills: int, seed: int) -> list[int]:
    """A run killed often, then left alone: how each process ended."""
    out = folder / "run"
    first = ["compare", "--model", str(saved()), *FLAGS, "--resume", str(out), "--quiet"]
    again = ["resume", str(out), "--quiet"] if seed % 2 else first
    asked = {"first": first, "again": again, "folder": str(out), "longest": 1.5, "kills": kills, "seed": seed}
    script = Path(__file__).parents[1] / "killing.py"
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(asked)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    return json.loads(done.stdout)


def uninterrupted(saved: Callable[..., Path], folder: Path) -> Path:
    asked = ASKED | {"prompts": [*ASKED["prompts"], ""]}  # the empty one is refused
    dd.compare(str(saved()), out=folder / "whole", **asked)
    return folder / "whole"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(
    ("kills", "seed"), [(3, 1), *(pytest.param(12, seed, marks=pytest.mark.slow) for seed in range(3, 23))]
)
def test_killed_at_random_moments(saved: Callable[..., Path], tmp_path: Path, kills: int, seed: int) -> None:
    *early, last = killed(saved, tmp_path, kills, seed)
    assert early, "no kill met the run"
    assert set(early) <= {-signal.SIGKILL, 129, 130, 143}
    assert last == 3, "done, with one prompt refused"
    files = content(tmp_path / "run")
    assert {"data/plan.json", "tables/traces.csv", "verdict.txt"} <= files.keys()
    assert files == content(uninterrupted(saved, tmp_path))


# ---- what is asked again must be the same


def test_only_what_is_missing_runs(
    saved: Callable[..., Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "run", 2, saved())
    assert len(RunFolder(tmp_path / "run").finished_jobs()) == 2
    ran: list[str] = []
    real = executing.execute
    monkeypatch.setattr(executing, "execute", lambda job, *more: (ran.append(job.key), real(job, *more))[1])
    study = running.resume(tmp_path / "run")
    assert ran == RunFolder(whole).finished_jobs()[2:]
    assert content(tmp_path / "run") == content(whole)
    assert study.summary.equals(dd.open_study(whole).summary)


def test_a_finished_run_loads_no_weights(
    saved: Callable[..., Path], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(whole)
    monkeypatch.setattr(load, "_ready", lambda *a: pytest.fail("weights were loaded"))
    assert dd.compare(saved(), out=whole, resume=True, **ASKED).path == whole
    assert running.resume(whole).path == whole
    assert content(whole) == before


def test_a_finished_run_is_resumed_without_torch(whole: Path) -> None:
    code = (
        "import sys\nfrom decodedrift.cli import main\nsys.argv = ['decodedrift', 'resume', sys.argv[1]]\n"
        "try: main()\nexcept SystemExit as stopped: assert stopped.code == 0, stopped.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(whole)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "report:" in done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_new_tokens": 6}, "max_new_tokens 5 there, 6 here"),
        ({"candidates": ["bf16"]}, "candidates int8 only there"),
        ({"candidates": ["int8", "bf16"]}, "candidates are in another order"),
        ({"strategies": ["greedy", "top-p:p=0.5"]}, "strategies top-p only there"),
        ({"prompts": ["w1 w2", "w3", "w4 w5 w6", "w8"]}, "only there"),
        ({"seeds": [1]}, "seeds 0 only there"),
        ({"batch_size": 1}, "batch_size 2 there, 1 here"),
        ({"reference": "fp64"}, "reference name 'fp32' there, 'fp64' here"),
        ({"no_text": True}, "no_text False there, True here"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_another_plan_is_refused(saved: Callable[..., Path], whole: Path, change: dict[str, Any], words: str) -> None:
    before = content(whole)
    with pytest.raises(InputError, match="holds another run") as refused:
        dd.compare(saved(), out=whole, resume=True, **ASKED | change)
    assert words in str(refused.value)
    assert len(str(refused.value)) <= 300 + len(str(whole))
    assert content(whole) == before


def test_other_weights_are_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(saved(), model)
    interrupted(tmp_path / "run", 1, model)
    weights = load_file(model / "model.safetensors")
    weights["transformer.ln_f.bias"][0] += 1e-3
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model files model.safetensors differs"):
        running.resume(tmp_path / "run")
    shutil.copy(saved() / "model.safetensors", model)
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"layer_norm_epsilon": 1e-3}))
    with pytest.raises(InputError, match="model config differs"):
        running.resume(tmp_path / "run")


def test_other_code_of_a_trusted_model_is_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(saved(), model)
    (model / "modeling_own.py").write_text("scale = 1\n")
    interrupted(tmp_path / "run", 1, model, trust_remote_code=True)
    (model / "modeling_own.py").write_text("scale = 2\n")
    with pytest.raises(InputError, match=r"model files modeling_own.py differs"):
        running.resume(tmp_path / "run")


def test_another_environment_is_refused(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "run", 1, saved())
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ANOTHER")
    monkeypatch.setattr(torch, "__version__", "9.9")
    with pytest.raises(InputError, match=r"torch '.*' there, '9.9' here; cpu_capability '.*' there, 'ANOTHER' here"):
        running.resume(tmp_path / "run")


def test_the_key_covers_what_decides_a_row(saved: Callable[..., Path], tmp_path: Path) -> None:
    from decodedrift.core.settings import make_settings
    from decodedrift.experiments.compare.settings import CompareSettings
    from decodedrift.runs.prepare import prepare

    def keys(**more: Any) -> list[str]:
        return [job.key for job in prepare(make_settings(CompareSettings, {"model": saved(), **ASKED, **more})).jobs]

    base = keys()
    assert keys(memory_bytes=2**31) == base
    changes: list[dict[str, Any]] = [
        {"seeds": [1]}, {"max_new_tokens": 6}, {"candidates": ["bf16"]}, {"candidates": ["bf16", "int8:head=false"]},
        {"batch_size": 1}, {"ignore_eos": True}, {"threads": 2}, {"coupling": "none"}, {"layout": "per-strategy"},
        {"prompts": ["w1 w3", "w4", "w4 w5 w7", "w8"]}, {"near_tie_below": 0.2}, {"noise_floor": True},
    ]  # fmt: skip
    for change in changes:
        assert not set(keys(**change)) & set(base), change
    assert keys(prompts=["w1 w2", "w3", "w4 w5 w6", "w7", "w8"])[:4] == base


def test_a_model_in_memory_is_known_by_its_weights(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    more = {"tokenizer": tiny_tokenizer()}
    interrupted(tmp_path / "run", 1, model, **more)
    with pytest.raises(InputError, match="was in memory"):
        running.resume(tmp_path / "run")
    with torch.no_grad():
        model.transformer.ln_f.bias[0] += 1
    with pytest.raises(InputError, match="model files in memory differs"):
        dd.compare(model, out=tmp_path / "run", resume=True, **ASKED, **more)
    study = dd.compare(tiny_model("gpt2"), out=tmp_path / "run", resume=True, **ASKED, **more)
    assert study.traces["prompt_id"].nunique() == 4


def test_memory_that_is_free_later_changes_no_batch(saved: Callable[..., Path], tmp_path: Path, whole: Path) -> None:
    interrupted(tmp_path / "run", 1, saved())
    stored = RunFolder(tmp_path / "run").stored()
    assert stored is not None
    environment = stored.environment | {
        "generation": stored.environment["generation"] | {"batch_size": 2, "batch_size_asked": 16}
    }
    (tmp_path / "run" / "data/environment.json").write_text(json.dumps(environment))  # as if 16 had not fitted
    assert stored_settings(CompareSettings, RunFolder(tmp_path / "run").stored()).batch_size == 16  # type: ignore[arg-type]
    assert running.resume(tmp_path / "run").plan["batch_size"] == 2
    assert content(tmp_path / "run") == content(whole)


# ---- folders that died early, are held, or go


def test_a_folder_that_died_before_its_plan_is_begun(saved: Callable[..., Path], whole: Path, tmp_path: Path) -> None:
    early = tmp_path / "early"
    (early / "data").mkdir(parents=True)
    (early / "data/plan.json.part").write_text("{")
    (early / ".lock").write_text("1")
    with pytest.raises(InputError, match=r"no run was begun here"):
        running.resume(early)
    dd.compare(saved(), out=early, resume=True, **ASKED)
    assert content(early) == content(whole)
    dd.compare(saved(), out=tmp_path / "absent", resume=True, **ASKED)
    assert content(tmp_path / "absent") == content(whole)


@pytest.mark.parametrize("left", [["plan.json"], ["plan.json", "unfinished.json"]])
def test_a_folder_that_died_within_its_first_files(saved: Callable[..., Path], tmp_path: Path, left: list[str]) -> None:
    """Nothing that a resume goes by is lost, the refused prompt included."""
    whole = uninterrupted(saved, tmp_path)
    assert "refused" in (whole / "tables/failures.csv").read_text()
    interrupted(tmp_path / "run", 0, saved(), prompts=[*ASKED["prompts"], ""])
    for file in (tmp_path / "run/data").iterdir():
        if file.name not in left:
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    running.resume(tmp_path / "run")
    assert content(tmp_path / "run") == content(whole)


def test_a_run_of_version_0_1_goes_on_in_its_form(saved: Callable[..., Path], whole: Path, tmp_path: Path) -> None:
    """Everything on top, as it was begun; its files are those of a new folder."""
    interrupted(tmp_path / "run", 1, saved())
    for file in (tmp_path / "run/data").iterdir():
        file.rename(tmp_path / "run" / file.name)
    (tmp_path / "run/data").rmdir()
    running.resume(tmp_path / "run")
    flat = {name.removeprefix("data/").removeprefix("tables/"): data for name, data in content(whole).items()}
    assert content(tmp_path / "run") | {"README.txt": b""} == flat | {"README.txt": b""}
    assert "\nsummary.csv " in (tmp_path / "run/README.txt").read_text()
    assert dd.open_study(tmp_path / "run").summary.equals(dd.open_study(whole).summary)


def test_someone_elses_folder_is_not_begun_in(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="not a run folder"):
        RunFolder.reopen(tmp_path)


def test_what_a_kill_left_is_cleared(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    (folder.path / "data/decodedrift-abc").mkdir(parents=True)
    (folder.path / "data/decodedrift-abc" / "0").write_bytes(b"logits")
    (folder.path / "data/jobs" / "00000-x.part").mkdir(parents=True)
    (folder.path / "tables").mkdir()
    (folder.path / "tables/summary.csv.part").write_text("half")
    with RunFolder(folder.path, fresh=False):
        left = {str(p.relative_to(folder.path)) for p in folder.path.rglob("*") if p.name != ".lock"}
        assert left == {"data", "data/jobs", "tables"}


def test_two_processes_in_one_folder(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_json(runfolder.MARK, {})
    code = (
        "import sys, time\nfrom decodedrift.runs.runfolder import RunFolder\n"
        "with RunFolder(sys.argv[1], fresh=False):\n    print('held', flush=True)\n    time.sleep(100)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {other.pid}.*at work"), RunFolder(folder.path, fresh=False):
        pass
    other.kill()
    other.wait()
    with RunFolder(folder.path, fresh=False):  # a kill frees it
        assert (folder.path / ".lock").read_text() == f"{os.getpid()}\n"
    assert not (folder.path / ".lock").exists()


def test_a_folder_that_vanishes_is_not_made_again(saved: Callable[..., Path], tmp_path: Path) -> None:
    class Vanishing(Progress):
        def start(self, variant: str, what: str, tokens: int) -> None:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.raises(InputError, match="moved or deleted"):
        dd.compare(saved(), out=tmp_path / "run", progress=Vanishing(), **ASKED)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("variant", "phase"), [("fp32", "all strategies"), ("fp32", "reading"), ("int8", "reading")])
def test_logits_that_vanish_with_the_folder_are_no_bug(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, phase: str
) -> None:

    class Vanishing(Progress):
        def start(self, name: str, what: str, tokens: int) -> None:
            if (name, what) == (variant, phase):
                shutil.rmtree(tmp_path / "run", ignore_errors=True)

    monkeypatch.setattr(budget, "spool_bytes", lambda world: 0)  # everything waits in files
    with pytest.raises(InputError, match="moved or deleted"):
        dd.compare(saved(), out=tmp_path / "run", progress=Vanishing(), **ASKED)
    assert not (tmp_path / "run").exists()


def test_a_disk_that_becomes_read_only_in_the_first_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the folder of the refused run can be taken away: the refusal is told all the same."""
    folder = RunFolder.create(tmp_path / "run")
    folder.write_json(runfolder.MARK, {})

    def refuse(*arguments: Any, **more: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("unlink", "rmdir"):
        monkeypatch.setattr(Path, name, refuse)
    folder.discard()
    assert (folder.path / "data/plan.json").exists()


def test_a_full_disk_keeps_no_one_from_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with files.locked(tmp_path):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(InputError, match="another decodedrift is at work"), files.locked(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fails_under_way_keeps_what_is_finished(
    saved: Callable[..., Path], whole: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the spool, where a candidate's failure would be made of it, and in the tables."""
    from decodedrift.decoding.spool import Spool

    real = Spool.put
    calls: list[int] = []

    def failing(self: Spool, key: Any, tensor: torch.Tensor) -> None:
        calls.append(1)
        if len(calls) > 5:
            raise OSError(number, os.strerror(number))
        real(self, key, tensor)

    with monkeypatch.context() as patched:
        patched.setattr(Spool, "put", failing)
        with pytest.raises(InputError, match=f"cannot be written .{os.strerror(number)}"):
            dd.compare(saved(), out=tmp_path / "run", **ASKED)
    running.resume(tmp_path / "run")
    assert content(tmp_path / "run") == content(whole)


def test_a_limit_on_file_sizes_is_a_full_disk(saved: Callable[..., Path], tmp_path: Path) -> None:
    """The kernel's own refusal, in a true process."""
    resource = pytest.importorskip("resource")
    arguments = ["compare", "--model", str(saved()), *FLAGS, "--out", "run", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "decodedrift", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "cannot be written" in last
    assert "finished jobs are kept" in last
    assert "Traceback" not in done.stderr


def test_a_damaged_job_is_named(saved: Callable[..., Path], tmp_path: Path, whole: Path) -> None:
    interrupted(tmp_path / "run", 2, saved())
    job = tmp_path / "run" / "data/jobs" / RunFolder(tmp_path / "run").finished_jobs()[0]
    (job / "traces.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(
        InputError, match=r"traces\.parquet: cannot be read .*delete its folder and: decodedrift resume .*run$"
    ):
        running.resume(tmp_path / "run")
    shutil.rmtree(job)
    running.resume(tmp_path / "run")
    assert content(tmp_path / "run") == content(whole)


# ---- signals


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_at_the_next_batch_and_a_second_at_once(signum: int, code: int) -> None:
    with pytest.raises(Stopped) as stopped, stoppable(Progress()) as progress:  # noqa: PT012
        os.kill(os.getpid(), signum)
        time.sleep(0.01)
        progress.tick(1)  # within a batch nothing happens
        progress.start("bf16", "greedy", 1)
        progress.batch()
    assert stopped.value.code == code
    with pytest.raises(Stopped), stoppable(Progress()):  # noqa: PT012
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signal.SIGTERM if signum == signal.SIGHUP else signum)
        time.sleep(1)
        pytest.fail("the second one does not wait")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_that_a_destructor_swallows_is_not_lost(signum: int, code: int) -> None:
    class Deaf:
        def __del__(self) -> None:
            signal.raise_signal(signum)
            told.append("nothing was raised")

    told: list[str] = []
    with pytest.raises(Stopped) as stopped, terminable():  # noqa: PT012
        Deaf()  # while a run is prepared
        with stoppable(Progress()) as progress:
            progress.tick(1)
            progress.batch()
            pytest.fail("the next batch stops")
    assert (stopped.value.code, told) == (code, [])
    with pytest.raises(Stopped) as stopped, terminable():  # noqa: PT012
        Deaf()
        told.append("the command ends")
    assert (stopped.value.code, told) == (code, ["the command ends"])
    with terminable(), stoppable(Progress()) as progress:
        progress.batch()  # the next command has heard of nothing


def test_a_closed_terminal_that_is_told_of_twice_stops_at_the_next_batch() -> None:
    """By the shell that ends, and by the system."""
    with pytest.raises(Stopped, match="SIGHUP"), stoppable(Progress()) as progress:  # noqa: PT012
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
        progress.tick(1)
        progress.batch()


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_ignored(signum: int) -> None:
    """As SIGHUP is under nohup, and SIGINT in what a script starts in the background."""
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with terminable(), stoppable(Progress()) as progress:
            os.kill(os.getpid(), signum)
            time.sleep(0.01)
            progress.batch()
            assert signal.getsignal(signum) == signal.SIG_IGN
        assert signal.getsignal(signum) == signal.SIG_IGN
    finally:
        signal.signal(signum, before)


def test_a_terminal_that_is_closed(saved: Callable[..., Path], tmp_path: Path) -> None:
    """A true one: whatever is still said goes nowhere, the exit code is the signal's, and the run goes on with resume."""
    pty = pytest.importorskip("pty")
    out = tmp_path / "run"
    long = ["--max-new-tokens", "60", *(word for n in range(10, 16) for word in ("--prompt", f"w{n}"))]
    arguments = ["compare", "--model", str(saved()), *FLAGS, *long, "--out", str(out)]
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-m", "decodedrift", *arguments])
    end = time.monotonic() + 100
    while not list(out.glob("data/jobs/0*")):
        assert time.monotonic() < end, "no job was finished"
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 10_000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 129
    kept = RunFolder(out).finished_jobs()
    assert 0 < len(kept) < 10
    assert not (out / ".lock").exists(), "it ended in good order"
    running.resume(out)
    assert len(RunFolder(out).finished_jobs()) == 10


def test_a_signal_is_no_candidates_failure(saved: Callable[..., Path], tmp_path: Path, whole: Path) -> None:
    class Signalled(Progress):
        def start(self, variant: str, what: str, tokens: int) -> None:
            if variant == "int8" and len(RunFolder(tmp_path / "run").finished_jobs()) == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped), stoppable(Signalled()) as progress:
        dd.compare(saved(), out=tmp_path / "run", progress=progress, **ASKED)
    assert len(RunFolder(tmp_path / "run").finished_jobs()) == 1
    running.resume(tmp_path / "run")
    assert content(tmp_path / "run") == content(whole)


# ---- memory that runs out


def test_out_of_memory_halves_the_batch_for_all_alike(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench.generate
    sizes: list[tuple[str, int]] = []

    def small(model: Any, vocab: Any, prompts: Any, *more: Any, **named: Any) -> Any:
        if model.variant.name == "bf16" and len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append((model.variant.name, len(prompts)))
        return real(model, vocab, prompts, *more, **named)

    monkeypatch.setattr(bench, "generate", small)
    more = ASKED | {"batch_size": 4, "prompts_per_job": 4}
    study = dd.compare(saved(), out=tmp_path / "run", **more)
    assert not study.failed
    key = RunFolder(tmp_path / "run").finished_jobs()[0]
    assert study.environment["generation"]["lowered"] == {key: 2}
    assert [size for name, size in sizes if name == "int8"] == [4, 2, 2], "what the others had run is run again"
    monkeypatch.setattr(bench, "generate", real)
    expected = dd.compare(saved(), **more | {"batch_size": 2})
    assert study.positions.equals(expected.positions)
    assert study.traces.equals(expected.traces)
    assert dd.compare(saved(), out=tmp_path / "run", resume=True, **more).positions.equals(study.positions)


def test_what_does_not_fit_even_alone_fails_alone(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench.generate

    def never(model: Any, *more: Any, **named: Any) -> Any:
        if model.variant.name == "bf16":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, *more, **named)

    monkeypatch.setattr(bench, "generate", never)
    study = dd.compare(saved(), **ASKED)
    assert set(study.failures["variant"]) == {"bf16"}
    assert set(study.failures["status"]) == {"out_of_memory"}
    assert set(study.divergences["candidate"]) == {"fp32", "int8"}


def test_a_reference_without_memory_ends_the_run_in_one_line(
    saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*more: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(bench, "generate", never)
    with pytest.raises(InputError, match="the reference cannot run: fp32: out of memory"):
        dd.compare(saved(), **ASKED)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EROFS])
def test_a_lock_on_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Refused in one line: no soft lock, which a killed process would leave behind, takes its place."""

    def none(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(InputError, match=rf"gives no lock \(.*{os.strerror(number)}"), files.locked(tmp_path):
        pass


def test_a_lock_whose_file_went_while_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last holder took the file away between opening and locking: a lock on no name would keep nobody out."""
    import fcntl

    real = fcntl.flock

    def gone(handle: int, what: int) -> None:
        (tmp_path / ".lock").unlink(missing_ok=True)
        real(handle, what)

    monkeypatch.setattr(fcntl, "flock", gone)
    with pytest.raises(InputError, match="another decodedrift is at work"), files.locked(tmp_path):
        pass
    monkeypatch.setattr(fcntl, "flock", real)
    with files.locked(tmp_path):
        assert (tmp_path / ".lock").exists()


@pytest.mark.parametrize("value", [0, -1, True, "8", 2.0])
def test_sizes_that_a_folder_holds_are_checked(value: object) -> None:
    asked = make_settings(CompareSettings, {"batch_size": 4})
    stored = runfolder.Stored({"prompts_per_job": 16}, {"generation": {"batch_size_asked": 4, "batch_size": value}})
    with pytest.raises(InputError, match=f"batch-size must be a whole number >= 1, not {value!r}"):
        stored_sizes(stored, asked)
    with pytest.raises(InputError, match="prompts-per-job"):
        stored_sizes(runfolder.Stored({"prompts_per_job": value}, {}), asked)
