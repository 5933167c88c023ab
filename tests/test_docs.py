"""The documentation is true: its Python runs, its commands run, its links lead somewhere."""

from __future__ import annotations

import doctest
import os
import re
import shlex
from pathlib import Path

import pytest
from forking import command

from decodedrift.experiments import experiment
from decodedrift.measure.tables import PARTS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


def commands() -> list[str]:
    found = [
        line[2:]
        for page in PAGES
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line[:2] == "$ "
    ]
    return [c for c in found if "path/to" not in c]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_in_the_docs_runs(page: Path) -> None:
    space: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), space)
    assert "study" in space or not blocks(page, "python")


@pytest.mark.parametrize("line", commands())
def test_commands_in_the_docs_run(line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    assert words[0] == "decodedrift"
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text("utf-8"), "utf-8")
    done = command(*words[1:], cwd=tmp_path)
    if "--model gpt2" in line:  # a hub id: the tests run offline, and the refusal names the ways on
        assert done.returncode == 2
        assert "--model demo" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


LINKED = [*PAGES, *sorted(p for p in ROOT.glob("*.md") if p not in PAGES)]
HOME, RAW = "https://github.com/decodedrift/decodedrift", "https://raw.githubusercontent.com/decodedrift/decodedrift"
STABLE = ("Python", "The command line", "The run folder")
RECORDS = {
    "plan.json",
    "environment.json",
    "verdict.txt",
    "verdict.json",
    "report.html",
    "README.txt",
}  # beside the tables


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures, also those that are defined at its end."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    defined = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.M))
    used = re.findall(r"\]\[([^\]]+)\]", text)
    assert set(used) == set(defined), f"{page.name}: {set(used) ^ set(defined)} is used or defined, not both"
    return [*re.findall(r"\]\(([^)]+)\)", text), *defined.values(), *re.findall(r"<(https?://[^>]+)>", text)]


def headings(page: Path) -> set[str]:
    """The anchors that a page's headings have where it is shown."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    """A file of the project, by a relative link or by its address there; and a heading of it, where one is named."""
    for link in links(page):
        target, _, anchor = link.partition("#")
        if in_project := re.fullmatch(rf"(?:{HOME}/(?:blob|tree)|{RAW})/main/(.*)", target):
            file = ROOT / in_project[1]
        elif target.startswith("http"):
            continue
        else:
            file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in headings(file), f"{page.name} links to {link}, and there is no such heading"


def test_links_of_the_readme_work_on_a_package_index() -> None:
    readme = links(ROOT / "README.md")
    assert len(readme) > 10
    assert [link for link in readme if not link.startswith("https://")] == []


def test_the_design_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    paths = {p for p in re.findall(r"`([\w./]+)`", text) if p.endswith((".py", "/")) or p == "early.js"}
    code = [p for p in (ROOT / "decodedrift").rglob("*") if "__pycache__" not in p.parts]
    names = {p.name for p in code if p.is_file()}
    assert len(paths) > 40
    for path in paths - {"decodedrift/"}:
        there = (ROOT / "decodedrift" / path).exists() or (ROOT / path).exists()
        assert there if "/" in path else path in names, path


@pytest.mark.parametrize("page", LINKED, ids=lambda p: p.name)
def test_scripts_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"\b(?:benchmarks|scripts|tests|examples)/\w+\.\w+", page.read_text("utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_docstrings_name_files_that_exist() -> None:
    code = sorted((ROOT / "decodedrift").rglob("*.py"))
    named = [(p, n) for p in code for n in re.findall(r"`([\w/]+\.py)`", p.read_text("utf-8"))]
    assert len(named) > 3
    for path, name in named:
        assert (ROOT / "decodedrift" / name).exists() or name in {p.name for p in code}, f"{path.name} speaks of {name}"
    assert not [p for p in code if re.search(r"(?<!docs/)\b(METRICS|DESIGN|TRAPS|STYLE)\.md", p.read_text("utf-8"))]


def test_every_trap_has_the_tests_that_it_names() -> None:
    rows = re.findall(r"^\| .* \| (`.*`) \|$", (ROOT / "docs" / "traps.md").read_text("utf-8"), re.M)
    assert len(rows) > 60
    for row in rows:
        file = ""
        for named in re.findall(r"`([^`]+)`", row):
            where, _, name = named.partition("::")
            file = file if where == ".." else where
            text = next((ROOT / "tests").rglob(file)).read_text("utf-8")
            assert not name or f"def {name}(" in text, f"traps.md: {file} has no {name}"


def test_the_design_lists_the_rooms_in_their_order() -> None:
    from test_layers import ROOMS

    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    assert re.findall(r"^\| `(\w+)/` \| ", text, re.M) == list(ROOMS)


def test_what_is_called_stable_is_there() -> None:
    import typer

    import decodedrift as dd
    from decodedrift.cli import app as commands

    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    python, line, folder = (text.partition(f"## {title}\n")[2].partition("\n## ")[0] for title in STABLE)
    names = [n for row in re.findall(r"^\| (`.*?) \|", python, re.M) for n in re.findall(r"`(\w+)`", row)]
    assert sorted(names) == sorted(dd.__all__)
    listed = line.partition(", their options")[0]
    assert set(re.findall(r"`(?:decodedrift )?(\w+)`", listed)) == set(typer.main.get_command(commands).commands)
    rows = re.findall(r"^\| ((?:`compare` and )?`\w+`), in `(\w+)` \| (`.*) \|$", folder, re.M)
    of_both, of_compare, of_repeat, of_formats = (
        {f"{place}/{file}" for who, place, files in rows if who == name for file in re.findall(r"`([\w./]+)`", files)}
        for name in ("`compare` and `inject`", "`compare`", "`repeat`", "`formats`")
    )
    assert of_both & of_compare == set()
    for name, files in (
        ("inject", of_both),
        ("compare", of_both | of_compare),
        ("repeat", of_repeat),
        ("formats", of_formats),
    ):
        assert {f for f in files if Path(f).name not in RECORDS} == {
            f"data/{t}/" if t in PARTS else f"tables/{t}.csv"
            for t in (*experiment(name).tables, *experiment(name).folds())
        }


def test_exit_codes_are_those_of_the_docs() -> None:
    from decodedrift.cli.app import BUG, DONE, FAILED, GATE, INPUT

    words = {DONE: "done", BUG: "a bug of decodedrift", INPUT: "wrong input", FAILED: "finished but something failed",
             GATE: "a gate exceeded"}  # fmt: skip
    for page in ("README.md", "docs/api.md"):
        text = " ".join((ROOT / page).read_text("utf-8").split())
        assert ", ".join(f"{code} {what}" for code, what in words.items()) in text
    codes = re.findall(r"^\| (\d+(?:, \d+)*) \|", (ROOT / "docs" / "runs.md").read_text("utf-8"), re.M)
    assert codes == ["0", "1", "2", "3", "4", "129, 130, 143"]


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## (\S+)", text, re.M)[0] == "Unreleased"
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }


def test_every_place_that_contributing_names_exists() -> None:
    import importlib

    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    paths = re.findall(r"`((?:decodedrift|tests|scripts|docs|prompts)/[\w/.]*)", text) + re.findall(
        r"`([\w]+\.toml|\w+\.md)`", text
    )
    assert len(set(paths)) > 15
    assert not [p for p in paths if not (ROOT / p).exists()]
    registries = {}
    for row in re.findall(r"^\| .* \|$", text, re.M):
        _, file, line = row.strip("| ").split(" | ")
        if name := re.match(r"`([A-Z_]+)` (?:in `([\w/.]+)`|there)", line):
            path = name[2] or re.findall(r"`([\w/]+\.py)`", file)[0]
            module = importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
            registries[name[1]] = getattr(module, name[1])
    assert set(registries) == {
        "PRECISIONS", "KNOBS", "STRATEGIES", "TOKEN_METRICS", "TRACE_METRICS", "CHECKS", "TABLES", "FOLDS", "SECTIONS", "FIGURES",
        "EXPERIMENTS", "EXECUTORS", "ADAPTERS", "VARY",
    }  # fmt: skip
    assert all(isinstance(registry, (dict, tuple)) and registry for registry in registries.values())
    for name in re.findall(
        r"`(Knob|Precision|StrategyKind|Metric|TraceMetric|Rounded|JobResult|LogitPair|TracePair)`", text
    ):
        assert any(f"class {name}" in p.read_text("utf-8") for p in (ROOT / "decodedrift").rglob("*.py")), name
    assert "](../CONTRIBUTING.md)" in (ROOT / "docs/design.md").read_text("utf-8")


@pytest.mark.parametrize(
    "module",
    [
        "decodedrift",
        "decodedrift.experiments.compare.face",
        "decodedrift.numerics.logits",
        "decodedrift.numerics.chrf",
    ],
)
def test_examples_in_docstrings_hold(module: str) -> None:
    import importlib

    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_example_notebook_runs() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(ROOT))
        shown = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
        assert shown
        assert not [o for o in shown if o.output_type == "error"]


def test_no_page_speaks_of_where_it_was_made() -> None:
    here = os.path.dirname(ROOT)
    for page in PAGES:
        assert f"{here}/" not in page.read_text("utf-8")
