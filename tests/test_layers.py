"""The shape of the code: imports go down only, what must start without torch does, files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "decodedrift"

# lowest first; a module imports from its own row's predecessors only (or from a row of its own, where listed together)
LAYERS = [
    {"secrecy", "compilation", "records", "numerics", "sequences", "noise", "sinks", "spool", "rewrites", "survival"},
    {"formats"},
    {
        "notation",
        "environment",
        "progress",
        "metrics",
        "weibull",
        "flips",
        "phrases",
        "files",
        "weightfiles",
        "batches",
    },
    {"longrope", "strategies", "precisions", "prompts", "alternatives", "signals", "copies"},
    {"checkpoints", "copycontrol", "settings", "warping", "donor"},
    {"stops", "fewest", "footprint", "tokenizer", "models", "choosers", "identity"},
    {"tokens"},
    {"special", "beams", "kvcache", "forcing", "choices"},
    {"steps"},
    {"generate", "score", "probe", "plan", "rows"},
    {"spoilt", "nonfinite", "failures", "windows", "divergence", "summary", "bootstrap", "handover", "tablefiles"},
    {"fitting", "passes", "world", "store", "decomposition", "trajectory", "compounding", "risk"},
    {"judging", "budget"},
    {"injection", "decompose", "controls", "screening", "resume"},
    {"execute", "verdict", "engines", "prediction"},
    {"study", "listing", "retry"},
    {"gates"},
    {"report", "prepare"},
    {"run", "forecast", "runner_up"},
    {"cli"},
    {"__main__", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TORCH_FREE = (
    "cli",
    "records",
    "strategies",
    "precisions",
    "settings",
    "prompts",
    "study",
    "store",
    "resume",
    "gates",
    "signals",
    "secrecy",
    "report",
    "metrics",
)
ONLY_IN = {
    "transformers": {
        "models",
        "steps",
        "precisions",
        "checkpoints",
        "tokens",
        "tokenizer",
        "footprint",
        "fewest",
        "choosers",
        "kvcache",
        "rewrites",
    },
    "pandas": {
        "alternatives",
        "nonfinite",
        "failures",
        "phrases",
        "runner_up",
        "rows",
        "passes",
        "store",
        "tablefiles",
        "summary",
        "study",
        "verdict",
        "run",
        "report",
        "execute",
        "gates",
        "decomposition",
        "trajectory",
        "decompose",
        "compounding",
        "prediction",
        "risk",
    },
    "scipy": {"survival", "weibull", "flips"},
    "jinja2": {"report"},
    "bokeh": {"report"},
    "typer": {"cli"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, top_only: bool) -> set[str]:
    """Full names of imported modules; with `top_only`, only those of import time (not in functions or TYPE_CHECKING)."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped: set[ast.AST] = set()
    if top_only:
        for node in ast.walk(tree):
            guard = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            if guard or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                skipped.update(ast.walk(node))
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "decodedrift":
                found.update(f"decodedrift.{a.name}" for a in node.names)
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    own = room(path)
    assert own in LEVEL, f"{own} has no place in LAYERS"
    for name in imports(path, top_only=True):
        parts = name.split(".")
        if parts[0] == "decodedrift" and len(parts) > 1 and parts[1] != own:
            assert LEVEL[parts[1]] < LEVEL[own], f"{own} imports {parts[1]}, which is not below it"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    for name in imports(path, top_only=False):
        allowed = ONLY_IN.get(name.split(".")[0])
        assert allowed is None or room(path) in allowed, f"{name} is imported in {room(path)}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and "cli" not in path.parts:  # its `compare` lists every option
            assert (node.end_lineno or 0) - node.lineno <= 60, f"{node.name} is too long"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_these_start_without_torch(module: str) -> None:
    code = f"import sys, decodedrift.{module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_charting_library_loads_with_the_page() -> None:
    code = "import sys, decodedrift.cli, decodedrift.study, decodedrift.report; sys.exit('bokeh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_face_is_lazy_and_complete() -> None:
    code = "import sys, decodedrift as dd; dd.Study, dd.open_study, dd.Prompt; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    import decodedrift

    assert all(getattr(decodedrift, name) is not None for name in decodedrift.__all__)
