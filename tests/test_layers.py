"""The shape of the code: rooms, imports that go down only, what must start without torch, files that stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "decodedrift"
ROOMS = ("core", "numerics", "models", "decoding", "measure", "runs", "report", "experiments", "cli")  # lowest first
TORCH_FREE = (
    "cli",
    "core.records",
    "core.prompts",
    "core.secrecy",
    "decoding.strategies",
    "models.precisions",
    "models.recorded.read",
    "models.recorded.match",
    "measure.metrics",
    "measure.tables",
    "core.settings",
    "runs.resume",
    "runs.runfolder",
    "runs.gates",
    "runs.signals",
    "report",
    "experiments.study",
    "experiments.record.running",
)
ONLY_IN = {  # library -> rooms
    "torch": {"models", "decoding", "measure", "experiments"},
    "transformers": {"models"},
    "pandas": {"measure", "runs", "report", "experiments"},
    "scipy": {"numerics"},
    "jinja2": {"report", "experiments"},
    "bokeh": {"report", "experiments"},
    "typer": {"cli"},
    "openai": {"models"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return "/".join(path.relative_to(PACKAGE).with_suffix("").parts)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, types: bool = True) -> set[str]:
    """Full names of imported modules, those in functions and, with `types`, under TYPE_CHECKING too."""
    names: set[str] = set()
    tree = ast.parse(path.read_text("utf-8"))
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    skipped = set() if types else {inner for guard in guards for inner in ast.walk(guard)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            names.update(f"{node.module}.{a.name}" for a in node.names)
    return names


def rooms_of(path: Path) -> set[str]:
    """The rooms that a module imports from."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("decodedrift.")} & set(ROOMS)


def test_every_room_is_on_the_plan_and_says_what_belongs_there() -> None:
    folders = {p.parent.relative_to(PACKAGE) for p in modules() if p.parent != PACKAGE}
    assert {f.parts[0] for f in folders} == set(ROOMS)
    assert {p.name for p in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}
    for folder in folders:
        docstring = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text("utf-8")))
        assert docstring and len(docstring) > 40, f"{folder}: what belongs here?"


def test_the_tests_have_the_same_rooms() -> None:
    folders = {p.parent.name for p in PACKAGE.parent.glob("tests/*/test_*.py")}
    assert folders == set(ROOMS)
    assert {p.name for p in PACKAGE.parent.glob("tests/test_*.py")} == {
        "test_dev.py", "test_docs.py", "test_layers.py", "test_packaging.py", "test_running.py",
    }  # fmt: skip


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    if (own := room(path)) in ROOMS:
        up = {r for r in rooms_of(path) if ROOMS.index(r) > ROOMS.index(own)}
        assert not up, f"{name_of(path)} imports {up}, which lies above it"


def test_no_two_modules_import_each_other() -> None:
    names = {name_of(p).removesuffix("/__init__").replace("/", "."): p for p in modules()}
    arrows = {}
    for name, path in names.items():
        targets = {i.removeprefix("decodedrift.") for i in imports(path) if i.startswith("decodedrift.")}
        arrows[name] = {next((t for t in (i, i.rpartition(".")[0]) if t in names), None) for i in targets} - {None}
    left = dict(arrows)
    while left:
        free = {n for n, targets in left.items() if not targets & set(left) - {n}}
        assert free, f"these import each other: {sorted(left)}"
        left = {n: targets for n, targets in left.items() if n not in free}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    for name in imports(path, types=False):
        allowed = ONLY_IN.get(name.split(".")[0])
        assert allowed is None or room(path) in allowed, f"{name} is imported in {room(path)}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):  # its body: the signature of `dd.compare` lists every option
            assert (node.end_lineno or 0) - node.body[0].lineno < 60, f"{node.name} is too long"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_these_start_without_torch(module: str) -> None:
    code = f"import sys, decodedrift.{module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_libraries_load_with_what_uses_them() -> None:
    code = """import sys, decodedrift.cli, decodedrift.experiments.study, decodedrift.report, decodedrift.experiments.compare.folds
early = {"bokeh", "scipy"} & set(sys.modules)
import decodedrift.numerics.weibull, decodedrift.numerics.flips
print(*early, *{"scipy.stats", "scipy.optimize"} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_public_face_is_lazy_and_complete() -> None:
    code = "import sys, decodedrift as dd; dd.Study, dd.open_study, dd.Prompt; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    import decodedrift

    assert all(getattr(decodedrift, name) is not None for name in decodedrift.__all__)
