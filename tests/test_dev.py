"""scripts/dev.py: when it sets up anew, which torch it asks for, and that no lower bound is stated untested."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, in a checkout of its own; `ran` lists what it would have installed."""
    spec = importlib.util.spec_from_file_location("dev_under_test", ROOT / "scripts" / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROOT, module.HOME = tmp_path, tmp_path / ".venv"
    module.LOCK, module.PROJECT = tmp_path / "constraints.txt", tmp_path / "pyproject.toml"
    for file in (module.LOCK, module.PROJECT):
        file.write_bytes((ROOT / file.name).read_bytes())
    module.ran = []
    monkeypatch.setattr(module, "run", lambda *command: module.ran.append(command))

    def create(home: Path, **_: Any) -> None:
        Path(module.python(home)).parent.mkdir(parents=True, exist_ok=True)
        Path(module.python(home)).touch()

    monkeypatch.setattr(module.venv, "create", create)
    return module


def installs(dev: Any, *extras: str) -> int:
    dev.ran.clear()
    dev.locked(*extras)
    return len(dev.ran)


def test_it_sets_up_once_and_again_where_the_lock_or_the_project_has_changed(
    dev: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "torch_first", lambda home, torch, *given: dev.ran.append((torch, *given)))
    assert installs(dev) == 3
    assert dev.ran[0][0] == "torch==2.13.0"
    assert all(str(dev.LOCK) in command for command in dev.ran), "nothing comes but what is locked"
    assert "--no-build-isolation" in dev.ran[-1], "the build backend is locked too"
    assert installs(dev) == 0
    assert installs(dev, "[dev]") == 3
    assert installs(dev, "[dev]") == 0
    assert installs(dev) == 0, "what serves the tests serves the demo"
    for file in (dev.LOCK, dev.PROJECT):
        before = file.stat()
        file.write_text(file.read_text("utf-8") + "\n# changed\n", "utf-8")

        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert installs(dev) == 3, "by content, whatever the time of the file"
        assert installs(dev) == 0


@pytest.mark.parametrize(
    ("system", "driver", "offered", "asked"),
    [
        ("linux", False, True, ["torch==2.13.0+cpu"]),
        ("linux", False, False, ["torch==2.13.0+cpu", "torch==2.13.0"]),
        ("linux", True, True, ["torch==2.13.0"]),
        ("darwin", False, True, ["torch==2.13.0"]),
        ("win32", False, True, ["torch==2.13.0"]),
    ],
)
def test_the_cpu_build_is_asked_for_first_where_linux_has_no_driver(
    dev: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], system: str, driver: bool,
    offered: bool, asked: list[str],
) -> None:  # fmt: skip
    said: list[str] = []

    def answer(command: Any, **_: Any) -> subprocess.CompletedProcess[bytes]:
        said.append(command[-1])
        return subprocess.CompletedProcess(command, 0 if offered else 1)

    monkeypatch.setattr(dev.sys, "platform", system)
    monkeypatch.setattr(dev, "driver", lambda: driver)
    monkeypatch.setattr(dev.subprocess, "run", answer)
    dev.torch_first(dev.HOME, "torch==2.13.0")
    assert said + [command[-1] for command in dev.ran] == asked
    assert ("No NVIDIA driver here" in capfd.readouterr().err) == (not offered)


def test_a_lower_bound_that_does_not_resolve_is_refused(
    dev: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lowest = dev.bounds() | {"torch": "2.13.0", "pandas": "2.3.0", "six": "1.17.0"}
    monkeypatch.setattr(dev, "resolved", lambda *_, **__: lowest)
    monkeypatch.setattr(dev, "fill", lambda home, packages: None)
    monkeypatch.setattr(dev, "core", lambda home, options: 0)
    assert dev.bound("lowest", True, []) == 0
    assert dev.bound("lowest", False, []) == 1
    assert "that nothing tests: torch 2.6 (is 2.13.0)\n" in capsys.readouterr().err
    lowest["pandas"] = "2.3.1"
    assert dev.bound("lowest", True, []) == 1
    said = capsys.readouterr()
    assert said.err == "lower bounds that nothing tests: pandas 2.3 (is 2.3.1)\n"
    assert said.out.startswith("LOWEST RED: torch 2.13.0, ")


@pytest.mark.parametrize(("run", "tests", "code"), [(0, 0, 0), (3, 0, 1), (0, 1, 1), (0, -9, 1), (-9, 0, 1)])
def test_the_core_fails_where_the_run_or_the_tests_do(
    dev: Any, monkeypatch: pytest.MonkeyPatch, run: int, tests: int, code: int
) -> None:
    monkeypatch.setattr(dev, "tried", lambda *command: tests if "pytest" in command else run)
    assert dev.core(dev.HOME, []) == code


def test_an_environment_that_cannot_be_made_is_a_red_canary(
    dev: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise SystemExit(2)

    monkeypatch.setattr(dev, "resolved", fails)
    assert dev.bound("canary", True, []) == 1
    assert capsys.readouterr().out.startswith("CANARY RED")


@pytest.mark.parametrize(("code", "said"), [(0, "CANARY GREEN: torch 2.13.0, pandas 9"), (1, "CANARY RED: torch")])
def test_the_canary_says_its_result_and_the_versions_last(
    dev: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, said: str
) -> None:
    monkeypatch.setattr(dev, "resolved", lambda *_, **__: {"torch": "2.13.0", "pandas": "9", "six": "1"})
    monkeypatch.setattr(dev, "fill", lambda home, packages: None)
    monkeypatch.setattr(dev, "core", lambda home, options: code)
    assert dev.bound("canary", True, []) == code
    assert capsys.readouterr().out.splitlines()[-1].startswith(said)


@pytest.mark.parametrize(("lowest", "canary"), [(0, 0), (0, 1), (1, 0)])
def test_the_ends_run_side_by_side_and_the_lowest_alone_fails(
    dev: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    lowest: int,
    canary: int,
) -> None:
    """Each waits for the other's mark; what they say is not mixed, and the canary's line is the last."""
    script = (
        "import pathlib, sys, time\nname = sys.argv[1]\nassert sys.argv[2:] == ['-n', '0', '-x']\n"
        "pathlib.Path(name).touch()\nend = time.monotonic() + 60\n"
        "while not (pathlib.Path('lowest').exists() and pathlib.Path('canary').exists()):\n"
        "    assert time.monotonic() < end\n    time.sleep(0.01)\n"
        "print(name, 'begins', flush=True)\nprint(name.upper(), 'ends')\n"
        f"sys.exit({{'lowest': {lowest}, 'canary': {canary}}}[name])\n"
    )
    (tmp_path / "script.py").write_text(script)
    monkeypatch.setattr(dev, "__file__", str(tmp_path / "script.py"))
    monkeypatch.setattr(dev, "uv", lambda: "uv")
    assert dev.ends(["-x"]) == lowest
    assert capfd.readouterr().out.split("\n") == ["lowest begins", "LOWEST ends", "canary begins", "CANARY ends", ""]


def test_the_tests_of_the_core_are_there(dev: Any) -> None:
    names = {name.partition("/test_")[2] for name in dev.CORE}
    assert {"generate", "families", "score", "oracle"} <= names
    assert all((ROOT / "tests" / f"{name}.py").is_file() for name in dev.CORE)
