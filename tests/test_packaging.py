"""The wheel holds everything: built, unpacked elsewhere, and run outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_holds_model_prompts_templates_and_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        "decodedrift/data/demo/model.safetensors", "decodedrift/data/demo/tokenizer.json",
        "decodedrift/data/demo/README.md", "decodedrift/data/prompts/default.jsonl",
        "decodedrift/data/prompts/stories.jsonl", "decodedrift/py.typed", "decodedrift/precisions/int8.py",
    ):  # fmt: skip
        assert wanted in names
    assert {"decodedrift/report/templates/page.html.j2", "decodedrift/report/static/tokens.js"} <= set(names)
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "scripts/"))]


def test_the_installed_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    # -P and a PYTHONPATH that comes first: the unpacked wheel, not the checkout, is what runs
    code = "import decodedrift, sys; sys.path.pop(0); print(decodedrift.__file__)"
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    where = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True,
                           check=True).stdout  # fmt: skip
    assert str(site) in where
    command = [
        sys.executable,
        "-m",
        "decodedrift",
        "compare",
        "--limit",
        "2",
        "--max-new-tokens",
        "4",
        "--candidates",
        "int8",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = tmp_path / done.stdout.splitlines()[-1].removeprefix("report: ")
    assert report.is_file()
    assert report.stat().st_size > 5000


def test_torch_is_pinned_for_development_and_free_for_users() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    torch = [d for d in project["dependencies"] if d.startswith("torch")]
    assert torch == ["torch>=2.6"]
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
