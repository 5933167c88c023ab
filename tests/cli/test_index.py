"""`decodedrift index`: the runs below a folder on one page, what cannot be read named, and no text that acts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forking
import pandas as pd
import pytest
from running import run

import decodedrift as dd
from decodedrift.experiments.overview import overview, parted
from decodedrift.report.index import curve

FIXTURES = Path(__file__).parents[1] / "fixtures"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two candidates in a run of today, three runs of before, one broken, one folder without a run."""
    top = tmp_path_factory.mktemp("many")
    study = run(prompts={"a": "w1 w2", "b": "w3"}, strategies=["greedy"], candidates=["bf16", "fp16"], max_new_tokens=6)
    study.save(top / "new")
    for name in ("deep/run-0.1.0", "inject-0.1.0"):
        shutil.copytree(FIXTURES / Path(name).name, top / name)
    hostile = 'x"><script>alert(1)<'
    shutil.copytree(FIXTURES / "run-0.1.0", top / hostile)
    (top / hostile / "report.html").write_text("page")
    (top / "broken").mkdir()
    (top / "broken/plan.json").write_text("{")
    (top / "foreign").mkdir()
    (top / "foreign/plan.json").write_text('{"a": 1}')
    (top / "notes").mkdir()
    (top / "around").symlink_to(top, target_is_directory=True)
    (top / "linked").symlink_to(top / "new", target_is_directory=True)
    return top


def cells(page: str) -> list[list[tuple[str, str]]]:
    """(key, text) of every cell, by row."""
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    found = []
    for row in body.split("<tr")[1:]:
        parts = re.findall(r'<td[^>]* data-key="([^"]*)"[^>]*>(.*?)</td>', row, re.S)
        found.append([(key, re.sub("<[^>]*>", "", text)) for key, text in parts])
    return found


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return forking.command("index", *arguments, cwd=cwd)


def test_a_row_per_run_and_candidate(many: Path) -> None:
    page, skipped = overview(many)
    assert skipped[0] == ("around", "a link, which is not followed")
    assert re.fullmatch(r"plan\.json: cannot be read \(line 1: not valid JSON .*\)", dict(skipped)["broken"])
    assert dict(skipped)["foreign"].startswith("its plan.json is none of decodedrift's")
    assert [name for name, _ in skipped] == ["around", "broken", "foreign", "notes"]
    rows = {(row[0][0], row[3][0]): row for row in cells(page)}
    hostile = "x&#34;&gt;&lt;script&gt;alert(1)&lt;"
    assert set(rows) == {
        *((name, c) for name in ("deep/run-0.1.0", hostile) for c in ("bf16", "int8")),
        *((name, c) for name in ("new", "linked") for c in ("bf16", "fp16")),
        ("inject-0.1.0", "One token replaced at positions 4, 9"),
    }  # fmt: skip
    old = dd.open_study(FIXTURES / "run-0.1.0")
    summary = old.summary[old.summary["role"] == "candidate"]
    for name, part in summary.groupby("candidate"):
        row = rows["deep/run-0.1.0", str(name)]
        assert float(row[6][0]) == pytest.approx(part["diverged"].sum() / part["traces"].sum())
        answer = old.answer.set_index("candidate").loc[name]
        assert (row[4][1], row[5][1]) == (answer["wording"], answer["quality"])
        read = old.positions[(old.positions["candidate"] == name) & (old.positions["role"] == "candidate")]
        assert float(row[8][0]) == pytest.approx(read[read["strategy"] != "text"]["kl"].mean())
    assert [text for _, text in rows["inject-0.1.0", "One token replaced at positions 4, 9"][4:9]] == [""] * 5
    assert 'href="new/report.html"' in page
    assert 'href="x%22%3E%3Cscript%3Ealert%281%29%3C/report.html"' in page
    assert page.count("<script>") == 1 and 'http-equiv="Content-Security-Policy"' in page


def test_what_was_checked_has_a_column_and_elsewhere_there_is_none(many: Path, tmp_path: Path) -> None:
    prompts = [dd.Prompt("a", "w1 w2", answer="w"), dd.Prompt("b", "w3", answer="w"), dd.Prompt("c", "w4", answer="no")]
    study = run(prompts=prompts, strategies=["greedy"], candidates=["bf16"], max_new_tokens=3, answer_check="contains")
    study.save(tmp_path / "runs/checked")
    shutil.copytree(many / "new", tmp_path / "runs/new")
    page, _ = overview(tmp_path / "runs")
    word = study.answer["answers"][0]
    rows = {(row[0][0], row[3][0]): row for row in cells(page)}
    assert rows["checked", "bf16"][6] == (word, f"{word}: 66.7 % to 66.7 %, 0 % flipped")
    assert rows["new", "bf16"][6] == ("", "")
    assert "Answers" in page and "Answers" not in overview(many)[0]


def test_the_command(many: Path, tmp_path: Path) -> None:
    done = command(str(many), "--out", "page.html", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "index: page.html\n")
    assert done.stderr.splitlines()[-1] == "skipped notes: no run"
    assert "skipped broken: plan.json: cannot be read (line 1: not valid JSON" in done.stderr
    link = re.search(r'href="([^"]*new/report.html)"', (tmp_path / "page.html").read_text("utf-8"))
    assert link and (tmp_path / link[1]).is_file(), "links lead from where the page lies"
    (tmp_path / "empty/notes").mkdir(parents=True)
    for folder, words in (("empty", "no run in it that can be read (notes: no run)"), ("absent", "no such folder")):
        done = command(folder, cwd=tmp_path)
        assert done.returncode == 2 and words in done.stderr
        assert not (tmp_path / folder / "index.html").exists()


def test_curves_are_the_share_that_has_parted() -> None:
    rows = pd.DataFrame({"diverged": [1, 1, 0, 0], "first_divergence": pd.array([1, 3, None, None], dtype="Int64")})
    assert parted(rows, 5) == [0.0, 0.25, 0.25, 0.5, 0.5]
    assert curve([0.0, 0.25, 0.25, 0.5, 0.5]) == "M2 24H22.0V18.5H62.0V13.0H102"
    assert curve([0.0, 0.0]) == "M2 24H102", "what never parts stays at the bottom"


@pytest.fixture
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with sync.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])


def test_headings_sort(many: Path, tmp_path: Path, browser: Any) -> None:
    (tmp_path / "index.html").write_text(overview(many, place=tmp_path)[0])
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.goto((tmp_path / "index.html").as_uri())

    def column(index: int) -> list[str]:
        return page.evaluate(f"[...document.querySelectorAll('tbody tr')].map((r) => r.cells[{index}].dataset.key)")  # type: ignore[no-any-return]

    for index in (6, 8):
        heading = page.locator("th").nth(index)
        heading.locator("button").click()
        up = column(index)
        assert heading.get_attribute("aria-sort") == "ascending"
        assert up == sorted(up, key=lambda key: (key == "", float(key or 0)))
        heading.locator("button").click()
        filled = [key for key in up if key]
        assert column(index) == [*sorted(filled, key=float, reverse=True), ""], "what is empty stays last"
    page.locator("th").nth(0).locator("button").click()
    assert column(0) == sorted(column(0), key=str.lower)
    assert said == []
    if shot := os.environ.get("DECODEDRIFT_SHOT"):
        page.screenshot(path=shot)
