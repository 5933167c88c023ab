"""The wheel holds everything and runs outside the checkout; what is needed is declared, and locked."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
        "decodedrift/data/prompts/stories.jsonl", "decodedrift/data/texts/story.txt", "decodedrift/py.typed", "decodedrift/models/precisions/int8.py",
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


NAMES = {
    "yaml": "pyyaml",
    "huggingface_hub": "huggingface-hub",
    "markdown_it": "markdown-it-py",
    "compressed_tensors": "compressed-tensors",
}  # where a module has another name than its package
OPTIONAL = {"lm_eval"}  # a benchmark measures it where it is installed


def declared(*extras: str) -> dict[str, str]:
    """Distribution -> requirement, of the package itself and of these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *(r for e in extras for r in project["optional-dependencies"][e])]
    found = {canonicalize_name(Requirement(line).name): line for line in lines}
    return {name: line for name, line in found.items() if name != "decodedrift"}


def imported(*folders: str) -> set[str]:
    """Distributions whose modules these folders import, at whatever place."""
    files = [f for folder in folders for f in (ROOT / folder).rglob("*.py")]
    own = {"decodedrift", *(f.stem for f in files)}
    names: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    return {NAMES.get(n, n) for n in names - own - sys.stdlib_module_names}


def test_the_package_imports_what_it_declares_and_declares_what_it_imports() -> None:
    optional = {
        "accelerate",
        "bitsandbytes",
        "gguf",
        "matplotlib",
        "loguru",
        "peft",
    }  # the last is compressed-tensors' own
    assert imported("decodedrift") - optional == set(declared())
    assert "accelerate" in declared("accelerate")
    assert "gguf" in declared("gguf")
    assert "bitsandbytes" in declared("bnb")
    assert "peft" in declared("lora")
    assert "matplotlib" in declared("plots")
    assert "ray" in declared("ray")


def test_tests_and_scripts_import_what_is_declared() -> None:
    assert (
        not imported("tests", "scripts", "benchmarks")
        - set(declared("test", "dev", "bnb", "compressed", "torchao", "gguf", "plots", "lora", "ray", "definitions"))
        - OPTIONAL
    )


def locked() -> dict[str, tuple[str, Marker | None]]:
    """Package -> (version, marker) of constraints.txt."""
    lines = [r for r in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if r and not r.startswith("#")]
    wanted = [Requirement(line) for line in lines]
    assert len({r.name for r in wanted}) == len(wanted), "one version each, whatever the Python and the system"
    assert all(len(r.specifier) == 1 and next(iter(r.specifier)).operator == "==" for r in wanted)
    return {canonicalize_name(r.name): (next(iter(r.specifier)).version, r.marker) for r in wanted}


def test_torch_is_pinned_for_development_and_free_for_users() -> None:
    assert declared()["torch"] == "torch>=2.6"
    assert locked()["torch"] == ("2.13.0", None)


def test_the_lock_names_its_command_and_no_index() -> None:
    text = (ROOT / "constraints.txt").read_text("utf-8")
    assert "python3 scripts/dev.py lock" in text
    assert not [line for line in text.splitlines() if line.startswith("-") or "://" in line]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_what_is_declared_is_locked_for_every_python_and_system(python: str, system: str) -> None:
    lock = locked()
    where = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": system}
    for name, line in declared("test", "dev", "plots").items():
        version, marker = lock[name]
        assert Requirement(line).specifier.contains(version), f"{line}, locked at {version}"
        assert marker is None or marker.evaluate(where), f"{name} is not locked for Python {python} on {system}"


def test_all_that_an_environment_holds_for_us_is_locked() -> None:
    """Every requirement of a requirement, as the packages that are installed here state them."""
    lock, seen = locked(), set()
    waiting = [Requirement(line) for line in declared("test", "dev", "plots").values()]
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), *sorted(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        assert key[0] in lock, f"{wanted.name} is not in constraints.txt"
        try:
            lines = metadata.requires(wanted.name) or []
        except metadata.PackageNotFoundError:
            continue  # of another system, or of an extra that is not installed here
        for line in lines:
            further = Requirement(line)
            extras = [{"extra": extra} for extra in ("", *wanted.extras)]
            if further.marker is None or any(further.marker.evaluate(extra) for extra in extras):
                waiting.append(further)
    assert len(seen) > 50


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda p: p.name)
def test_the_public_workflows_run_our_commands(path: Path) -> None:
    """They cannot run here: what they say is read, and every command they give is one that scripts/dev.py knows."""
    jobs = yaml.safe_load(path.read_text("utf-8"))["jobs"]
    commands = [step["run"].split() for job in jobs.values() for step in job["steps"] if "run" in step]
    assert len(commands) == len(jobs)
    for words in commands:
        assert words[:2] == ["python", "scripts/dev.py"]
        assert words[2] in ("test", "core", "lowest", "canary")


def test_the_public_workflows_cover_every_python_and_system() -> None:
    folder = ROOT / ".github" / "workflows"
    jobs = yaml.safe_load((folder / "tests.yml").read_text("utf-8"))["jobs"]
    assert jobs["locked"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert jobs["quick"]["strategy"]["matrix"]["system"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert "--free-torch" in jobs["lowest"]["steps"][-1]["run"], "torch's own lower bound is tested there alone"
    triggers = yaml.safe_load((folder / "canary.yml").read_text("utf-8"))[True]  # YAML 1.1 reads `on` as true
    assert len(triggers["schedule"][0]["cron"].split()) == 5


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_a_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    for key in ("version", "license", "keywords"):
        assert citation[key] == project()[key]
    assert citation["title"] == project()["name"]
    assert citation["abstract"] == project()["description"]
    assert citation["repository-code"] == citation["url"] == project()["urls"]["Homepage"]


def test_the_projects_addresses_are_of_one_place_and_lead_to_files() -> None:
    home = project()["urls"]["Homepage"]
    assert all(url.startswith(home) for url in project()["urls"].values())
    for name, url in project()["urls"].items():
        if "/main/" in url:
            assert (ROOT / url.partition("/main/")[2]).exists(), name


def test_commits_are_checked_as_the_project_is() -> None:
    """Each tool that `dev.py test` runs before the tests, in the locked version."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    ruff, mypy = hooks
    assert ruff["rev"] == f"v{locked()['ruff'][0]}"
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]
    assert not any("args" in hook for hook in ruff["hooks"]), "pyproject.toml says how"
    assert [hook["entry"] for hook in mypy["hooks"]] == [".venv/bin/python -m mypy"]
    script = (ROOT / "scripts" / "dev.py").read_text("utf-8")
    for tool in ('"ruff", "check", "."', '"ruff", "format", "--check", "."', '"mypy")'):
        assert tool in script


FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("path", [f for f in FORMS if f.name != "config.yml"], ids=lambda p: p.name)
def test_an_issue_form_is_whole(path: Path) -> None:
    """As the forms' own rules want it: a name, a description, fields with distinct ids and labels."""
    form = yaml.safe_load(path.read_text("utf-8"))
    assert set(form) == {"name", "description", "labels", "body"}
    assert (
        len({f["id"] for f in form["body"]})
        == len({f["attributes"]["label"] for f in form["body"]})
        == len(form["body"])
    )
    assert {f["type"] for f in form["body"]} <= {"textarea", "checkboxes"}
    assert any(f.get("validations", {}).get("required") for f in form["body"])


def test_what_a_bug_is_asked_for() -> None:
    asked = {f.stem: f.read_text("utf-8") for f in FORMS}
    assert set(asked) == {"bug", "wrong-number", "new-thing", "config"}
    for word in ("id: command", "environment.json", "decodedrift --version"):
        assert word in asked["bug"]
    for word in ("metric", "precision", "strategy"):
        assert word in asked["new-thing"]
