"""The page in a real browser: it draws, its switches work, a case opens, its numbers are the tables', no text acts."""

from __future__ import annotations

import io
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import synthetic
from test_report import HOSTILE, ODD, parted, study

import decodedrift as dd
from decodedrift.experiments.compare.selection import telling_case
from decodedrift.experiments.study import Study
from decodedrift.report.heat import LEVELS
from decodedrift.report.phrases import relative
from decodedrift.report.terms import TERMS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def render(study: Study, title: str | None = None, **options: Any) -> str:
    return study.to_html(title, **options)


class Opened:
    """A page with everything that it did besides being looked at."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.said: list[str] = []
        page.on("console", lambda m: self.said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.said.append(f"error {e}"))
        page.on("dialog", lambda d: (self.said.append(f"dialog {d.message}"), d.dismiss()))
        page.on("request", lambda r: self.said.append(f"request {r.url}") if not r.url.startswith("file:") else None)
        page.on("popup", lambda p: self.said.append("popup"))

    def settle(self) -> None:
        self.page.wait_for_selector("html[data-drawn=yes]", state="attached", timeout=30_000)
        if self.page.locator("#view").count():
            self.page.wait_for_selector("html[data-opened=yes]", state="attached", timeout=10_000)

    def models(self, name: str, key: str) -> list[Any]:
        """What each renderer of a figure with this tag is: [tag, visible]."""
        found = self.page.evaluate(
            """([name, key]) => decodedrift.drawn.get(name).models.filter((m) => (m.tags ?? []).some((t) => t && (t[key] ?? t.get?.(key)) !== undefined))
                .map((m) => { const t = m.tags[0]; const get = (k) => t instanceof Map ? t.get(k) : t[k]; return [get("choice"), get("series"), m.visible]; })""",
            [name, key],
        )
        assert isinstance(found, list)
        return found

    def csv(self, name: str) -> pd.DataFrame:
        """A figure's values as the page gives them away."""
        with self.page.expect_download() as got:
            self.page.evaluate(f"document.querySelector('[data-download={name}]').click()")
        assert got.value.suggested_filename == f"{name}.csv"
        return pd.read_csv(io.BytesIO(Path(got.value.path()).read_bytes()), float_precision="round_trip")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright drives the browser: pip install playwright"
    )
    with playwright.sync_playwright() as driver:
        held = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield held
        held.close()


Show = Callable[..., Opened]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Show]:
    """Opens a page of HTML; at the end it must have done nothing that it should not."""
    opened: list[Opened] = []

    def made(html: str, fragment: str = "", *, width: int = 1180, height: int = 900, scheme: str = "light") -> Opened:
        path = tmp_path / f"page{len(opened)}.html"
        path.write_text(html, "utf-8")
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        opened.append(Opened(page))
        page.goto(path.as_uri() + fragment)
        opened[-1].settle()
        return opened[-1]

    yield made
    for each in opened:
        each.page.wait_for_timeout(50)
        address = each.page.url.split("#")[0]
        each.page.close()
        assert each.said == []
        assert address.startswith(tmp_path.as_uri())


@pytest.fixture(scope="module")
def ran() -> Study:
    """A small run of the bundled model, with alternatives, a text and the noise floor."""
    return dd.compare(
        "demo", candidates=["bf16", "int8"], strategies=["greedy", "top-p"], limit=4, max_new_tokens=24, noise_floor=True,
        texts=[dd.Text("changes", (Path(__file__).parents[2] / "CHANGELOG.md").read_text("utf-8")[:2000])], default_text=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def html(ran: Study) -> str:
    return render(ran)


def open_list(opened: Opened) -> None:
    opened.page.click("#cases-as-list > summary")


def first_case(made: Study, strategy: str = "greedy") -> Any:
    rows = made.divergences
    return next(
        rows[(rows["role"] == "candidate") & (rows["diverged"] == 1) & (rows["strategy"] == strategy)].itertuples()
    )


def link(row: Any) -> str:
    return f"#prompt={row.prompt_id}&candidate={row.candidate}&strategy={row.strategy}&seed={row.seed}"


def test_every_figure_is_drawn(ran: Study, html: str, show: Show) -> None:
    opened = show(html)
    plots = opened.page.locator("[data-figure]")
    assert plots.count() >= 3
    for i in range(plots.count()):
        box = plots.nth(i).locator("canvas").first.bounding_box()
        assert box["width"] > 300 and box["height"] > 100
    assert opened.page.evaluate("document.querySelector('#plot-margins').getBoundingClientRect().height") < 600


def test_switches_and_legend(ran: Study, html: str, show: Show) -> None:
    opened = show(html)
    shown = opened.page.locator(".heatmap:visible")
    assert shown.get_attribute("data-map") == "divergence_rate"
    opened.page.click("[data-quantity=kl_mean]")
    assert (shown.count(), shown.get_attribute("data-map")) == (1, "kl_mean")
    assert {c for c, _, seen in opened.models("margins", "series") if seen} == {"greedy"}
    group = opened.page.locator(".group", has=opened.page.locator("#plot-margins"))
    group.get_by_role("button", name="top-p").click()
    assert {c for c, _, seen in opened.models("margins", "series") if seen} == {"top-p"}
    group.get_by_role("button", name="bf16").click()
    assert "bf16" not in {s for _, s, seen in opened.models("margins", "series") if seen}
    group.get_by_role("button", name="greedy").click()
    assert "bf16" not in {s for _, s, seen in opened.models("margins", "series") if seen}
    group.get_by_role("button", name="bf16").click()
    assert "bf16" in {s for _, s, seen in opened.models("margins", "series") if seen}


def test_what_is_drawn_is_what_the_tables_hold(ran: Study, html: str, show: Show) -> None:
    opened = show(html)
    gaps = opened.csv("gaps").set_index(["candidate", "strategy", "seed", "prompt_id"])
    rows = ran.divergences[ran.divergences["role"] == "candidate"].set_index(
        ["candidate", "strategy", "seed", "prompt_id"]
    )
    assert len(gaps) == ((rows["reference_gap"] > 0) & (rows["swing"] > 0) & (rows["diverged"] == 1)).sum() > 0
    for column in ("reference_gap", "swing", "first_divergence"):
        assert list(gaps[column]) == list(rows.loc[gaps.index, column]), column
    ratios = opened.csv("perplexity").set_index(["candidate", "tokens_of"])
    texts = ran.perplexity.dropna(subset=["ln_ppl_ratio"]).set_index(["variant", "text"])
    own = ran.distribution.query("role == 'candidate' and bucket == 'all' and strategy != 'text'")
    own = own.set_index(["candidate", "strategy"])
    assert len(ratios) == len(texts) + len(own) == 6
    for frame in (texts, own):
        for column in ("ln_ppl_ratio", "ln_ppl_ratio_low"):
            assert (ratios.loc[frame.index, column].to_numpy() == frame[column].to_numpy()).all()
    margins = opened.csv("margins").query("strategy == 'greedy' and positions == 'all'")
    forced = ran.positions.query("role == 'candidate' and strategy == 'greedy' and candidate == 'bf16'")
    assert list(margins["share"]) == sorted(margins["share"])
    known = forced["choice_margin"].to_numpy()
    for value, share in zip(margins["choice_margin"], margins["share"], strict=True):
        assert math.isclose(share, np.mean(known <= value)) and value in known


def test_the_table_beside_a_figure(ran: Study, html: str, show: Show) -> None:
    opened = show(html)
    opened.page.click("[data-table=gaps] > summary")
    table = opened.page.locator("[data-table=gaps] table")
    table.locator("tbody td").first.wait_for()
    heads = table.locator("th").all_inner_texts()
    cells = table.locator("tbody tr").first.locator("td")
    row = dict(zip(heads, cells.all_inner_texts(), strict=True))
    exact = float(cells.nth(heads.index("swing")).get_attribute("title"))
    assert exact in set(ran.divergences["swing"].dropna())
    assert math.isclose(float(row["swing"]), exact, rel_tol=1e-5)


def test_every_number_of_the_lists_is_the_tables(ran: Study, html: str, show: Show) -> None:
    opened = show(html)
    titles = opened.page.evaluate(
        "[...document.querySelectorAll('#cases-list td[title], .heat td[title]')].map((c) => c.title)"
    )
    found: dict[str, set[float]] = {}
    for part in (p for title in titles for p in title.split("; ") if " = " in p):
        name, value = part.split(" = ")
        found.setdefault(name, set()).add(float(value))
    rows = ran.divergences[ran.divergences["role"] == "candidate"]
    for column in ("reference_gap", "swing", "first_divergence", "agreement_after"):
        assert found[column] == set(rows[column].dropna().astype(float)), column
    for column in ("divergence_rate", "kl_mean", "kl_mean_low", "top1_agreement", "ln_ppl_ratio"):
        assert found[column] == set(ran.summary[column].dropna().astype(float)), column
    assert found["kl"] <= set(ran.positions["kl"])


def test_a_case_opens_from_the_list_and_from_a_link(ran: Study, html: str, show: Show) -> None:
    row = first_case(ran)
    opened = show(html, link(row))
    title = opened.page.locator("#view-title")
    assert f"{row.prompt_id} · greedy · {row.candidate} · part at word {row.first_divergence + 1}" in title.inner_text()
    open_list(opened)
    assert opened.page.locator("#view-left .tok.at").count() == opened.page.locator("#view-right .tok.at").count() == 1
    traces = ran.traces[(ran.traces["prompt_id"] == row.prompt_id) & (ran.traces["strategy"] == "greedy")]
    for side, variant in (("left", "fp32"), ("right", row.candidate)):
        trace = next(
            traces[(traces["variant"] == variant) & traces["role"].isin(["reference", "candidate"])].itertuples()
        )
        assert opened.page.locator(f"#view-{side} .tok").count() == trace.n_tokens
        assert opened.page.locator(f"#view-{side}").evaluate("(n) => n.textContent").replace("⏎", "") == trace.text
    was = title.inner_text()
    opened.page.locator("#cases-list tbody tr:not(.chosen)").first.click()
    opened.page.wait_for_function("(was) => document.querySelector('#view-title').textContent !== was", arg=was)
    was = title.inner_text()
    opened.page.click("#view-next")
    opened.page.wait_for_function("(was) => document.querySelector('#view-title').textContent !== was", arg=was)
    opened.page.click("#view-before")
    opened.page.wait_for_function("(was) => document.querySelector('#view-title').textContent === was", arg=was)
    opened.page.evaluate("location.hash = '#prompt=nobody'")
    opened.page.wait_for_function("document.querySelector('#view-title').textContent.includes('does not hold')")


def test_only_the_opened_case_is_unpacked(ran: Study, html: str, show: Show) -> None:
    opened = show(html)
    opened.page.evaluate(
        """() => { const held = DecompressionStream; window.unpacked = 0;
                   window.DecompressionStream = class extends held { constructor(kind) { super(kind); window.unpacked += 1; } }; }"""
    )
    title = opened.page.locator("#view-title")
    prompts = [r.prompt_id for r in ran.divergences[ran.divergences["role"] == "candidate"].itertuples()]
    other = next(p for p in prompts if p not in title.inner_text())
    for candidate, count in (("bf16", 1), ("int8", 1)):  # both stand beside the same text of the reference
        opened.page.evaluate(
            "(hash) => { location.hash = hash; }", f"#prompt={other}&candidate={candidate}&strategy=greedy"
        )
        opened.page.wait_for_function(
            "([a, b]) => [a, b].every((t) => document.querySelector('#view-title').textContent.includes(t))",
            arg=[other, candidate],
        )
        assert opened.page.evaluate("unpacked") == count


def test_hover_and_keys_show_the_alternatives(ran: Study, html: str, show: Show) -> None:
    row = first_case(ran)
    opened = show(html, link(row))
    opened.page.hover("#view-left .tok.at")
    said = opened.page.locator(".tops td:nth-child(2)").all_inner_texts()
    kept = ran.alternatives
    keys = kept[["candidate", "strategy", "prompt_id"]] == [row.candidate, "greedy", row.prompt_id]
    kept = kept[keys.all(axis=1) & (kept["position"] == row.first_divergence) & (kept["pass"] == "generated")]
    shares = [
        math.exp(p) for v in ("fp32", row.candidate) for p in kept[kept["variant"] == v].sort_values("rank")["logprob"]
    ]
    assert len(said) == len(shares) == 10
    assert all(
        math.isclose(float(s.removesuffix(" %")), 100 * p, abs_tol=0.0501)
        for s, p in zip(said, shares)
        if s[0] not in "<>"
    )
    taken = opened.page.locator(".tops tr.taken td:first-child").all_inner_texts()
    assert taken == [t.replace(" ", "␣").replace("\n", "⏎") for t in (row.reference_token, row.candidate_token)]
    opened.page.click("#view-mark")
    opened.page.keyboard.press("ArrowRight")
    assert f"word {row.first_divergence + 2}" in opened.page.locator(".what").inner_text()
    assert opened.page.locator(".tops table").count() == 2
    opened.page.keyboard.press("ArrowLeft")  # focus shows what hovering shows
    assert opened.page.locator(".tops td:nth-child(2)").all_inner_texts() == said
    opened.page.keyboard.press("Home")
    opened.page.keyboard.press("ArrowDown")
    assert opened.page.evaluate("document.activeElement.closest('#view-right') !== null")


def test_colours_of_tokens_switch(ran: Study, html: str, show: Show) -> None:
    opened = show(html, link(first_case(ran)))
    hot = "[...document.querySelectorAll('#view-left .tok')].map((t) => t.className)"
    by_margin = opened.page.evaluate(hot)
    opened.page.click("[data-colour=kl]")
    assert opened.page.evaluate(hot) != by_margin
    opened.page.click("[data-colour=margin]")
    assert opened.page.evaluate(hot) == by_margin


def test_the_list_sorts_and_filters(ran: Study, html: str, show: Show) -> None:
    opened = show(html)
    open_list(opened)
    opened.page.click("[data-sort=at]")
    order = "[...document.querySelectorAll('#cases-list tbody tr')].map((r) => r.dataset.at)"
    found = opened.page.evaluate(order)
    known = [int(x) for x in found if x]
    assert known == sorted(known) and len(set(known)) > 2
    assert found == [str(k) for k in known] + [""] * (len(found) - len(known))
    opened.page.click("[data-sort=at]")
    assert [int(x) for x in opened.page.evaluate(order) if x] == known[::-1]
    opened.page.select_option("#by-cause", "equal")
    assert opened.page.locator("#cases-list tbody tr:visible").count() == len(found) - len(known)
    opened.page.select_option("#by-cause", "")
    opened.page.select_option("#by-candidate", "int8")
    assert opened.page.locator("#cases-list tbody tr:visible").count() == 8


def test_a_point_of_the_scatter_opens_its_case(ran: Study, html: str, show: Show) -> None:
    opened = show(html)
    opened.page.evaluate(
        """() => { const m = decodedrift.drawn.get("gaps").models.find((m) => m.selected && m.data && (m.data._link ?? m.data.get?.("_link")));
                   m.selected.indices = [0]; }"""
    )
    opened.page.wait_for_function("location.hash.includes('prompt=')")
    assert opened.page.locator("#cases-list tr.chosen").count() == 1


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_answer_and_the_fork_are_on_the_first_screen(
    ran: Study, html: str, show: Show, width: int, height: int
) -> None:
    page = show(html, width=width, height=height).page
    assert page.locator(".card h2").all_inner_texts() == list(ran.answer["candidate"]) == ["bf16", "int8"]
    assert page.locator(".card .says").all_inner_texts() == [
        word for row in ran.answer.itertuples() for word in (row.wording, row.quality)
    ]
    for part in (".card >> nth=1", "#fork-left", "#fork-right"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, part
    assert page.evaluate("scrollY") == 0
    said = page.locator(".card >> nth=1").evaluate("(card) => card.textContent")
    [row] = ran.answer[ran.answer["candidate"] == "int8"].itertuples()
    assert "weights rounded, arithmetic fp32" in said and not re.search(r"(?<!\w)-\d", said)
    assert relative(row.ppl_change, row.ppl_change_low, row.ppl_change_high) in said
    tick, bar = (page.locator(f".card .scale {p} >> nth=0").bounding_box() for p in (".tick", ".track"))
    at = (tick["x"] + tick["width"] / 2 - bar["x"]) / bar["width"]
    assert math.isclose(at, ran.answer["floor_rate"][0], abs_tol=0.01)


def test_the_fork_shows_both_ways_and_walks_on(ran: Study, html: str, show: Show) -> None:
    row = telling_case(ran)
    page = show(html).page
    told = [page.locator(f"#fork-{part}").inner_text() for part in ("trunk", "left", "right")]
    traces = ran.traces[(ran.traces["prompt_id"] == row.prompt_id) & (ran.traces["strategy"] == row.strategy)]
    for said, role, variant, token in zip(told[1:], ("reference", "candidate"), (row.reference, row.candidate),
                                          (row.reference_token, row.candidate_token)):  # fmt: skip
        trace = traces[(traces["role"] == role) & (traces["variant"] == variant)]["text"].iloc[0]
        assert said.split()[0] == token.strip()
        assert " ".join(trace.split()[:2]) in f"{told[0]} {said}".replace("⏎ ", "")
    held = probabilities(ran, row)
    for token, said in ((row.reference_token_id, told[1]), (row.candidate_token_id, told[2])):
        for variant in (row.reference, row.candidate):
            assert f"{variant} {held[variant, token]:.1f} %" in said
    was = page.evaluate("scrollY")
    for name, step in (("next", 1), ("before", -1)):
        before = page.locator("#fork-count").inner_text()
        page.locator(f"#fork-{name}").press("Enter")
        page.wait_for_function("(was) => document.querySelector('#fork-count').textContent !== was", arg=before)
        assert int(page.locator("#fork-count").inner_text().split()[0]) == int(before.split()[0]) + step
    assert [page.locator(f"#fork-{part}").inner_text() for part in ("trunk", "left", "right")] == told
    assert page.evaluate("scrollY") == was


def probabilities(made: Study, row: Any) -> dict[tuple[str, int], float]:
    """(variant, token) -> per cent at t* of a case, as the table of the alternatives has them."""
    kept = made.alternatives
    keys = kept[["candidate", "strategy", "prompt_id"]] == [row.candidate, row.strategy, row.prompt_id]
    kept = kept[keys.all(axis=1) & (kept["position"] == row.first_divergence) & (kept["pass"] == "generated")]
    return {(r.variant, int(r.token_id)): 100 * math.exp(r.logprob) for r in kept.itertuples()}


def test_all_prompts_are_rows_of_squares(ran: Study, html: str, show: Show) -> None:
    page = show(html).page
    page.wait_for_selector("#map[data-drawn=yes]")
    rows = ran.divergences.query("role == 'candidate' and candidate == 'int8' and strategy == 'top-p'")
    page.locator("#map-candidates").get_by_role("button", name="int8").click()
    page.locator("#map-strategies").get_by_role("button", name="top-p").press("Enter")
    page.select_option("#map-order", "given")
    lines = page.locator("#map-rows li")
    assert lines.locator(".label").all_inner_texts() == list(rows["prompt_id"])
    cell = float(page.evaluate("getComputedStyle(document.querySelector('#map')).getPropertyValue('--cell')")[:-2])
    for line, row in zip(lines.all(), rows.itertuples(), strict=True):
        same = line.locator(".same").evaluate_all("(n) => n.reduce((sum, s) => sum + s.offsetWidth, 0)") / cell
        assert round(same) == (row.compared if row.diverged == 0 else row.first_divergence)
        said = line.locator(".unseen").evaluate("(n) => n.textContent")
        assert ("the same in all" in said) == (row.diverged == 0)
        assert row.diverged == 0 or f"at word {row.first_divergence + 1} of" in said
    assert f"{rows['diverged'].sum()} of {len(rows)} answers" in page.locator("#map-said").inner_text()
    lines.nth(0).locator("a").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "(id) => document.querySelector('#view-title').textContent.startsWith(id)", arg=rows["prompt_id"].iloc[1]
    )
    assert "int8" in page.locator("#view-title").inner_text()
    assert page.evaluate("document.activeElement.classList.contains('tok')")
    assert page.locator("#map-rows a[aria-current] .label").inner_text() == rows["prompt_id"].iloc[1]


def test_a_link_turns_the_map_and_a_stale_one_opens_another_case(ran: Study, html: str, show: Show) -> None:
    row = first_case(ran, "top-p")
    page = show(html, link(row)).page
    page.wait_for_selector("#map[data-drawn=yes]")
    chosen = page.locator("#map [aria-pressed=true]").all_inner_texts()
    assert chosen == [row.candidate, "top-p"]
    assert page.locator("#map-rows a[aria-current] .label").inner_text() == row.prompt_id
    page = show(html, "#prompt=gone").page
    assert page.locator("#fork-left").is_visible() and page.locator("#view-left .tok").count() > 0
    title = page.locator("#view-title").inner_text()
    assert "does not hold" in title and telling_case(ran).prompt_id in title


def test_the_map_of_very_many_prompts(show: Show) -> None:
    rng = np.random.default_rng(1)
    prompts = [f"\u202e\x1b[31m{rng.bytes(12).hex()}" for _ in range(1200)]  # beyond what any text of a page may be
    made = study({"bf16": [parted(1), *[{}] * 1199]}, texts=True)
    for name in ("divergences", "traces", "positions"):
        table = getattr(made, name)
        table["prompt_id"] = table["prompt_id"].map(lambda p: prompts[int(p[1:])] if p[1:].isdigit() else p)
    page = show(render(made)).page
    page.wait_for_selector("#map[data-drawn=yes]")
    assert page.locator("#map-rows li").count() == 200
    assert "1 of 1200 answers" in page.locator("#map-said").inner_text()
    for part in ("#view-title", "#fork-where"):
        assert page.locator(part).inner_text().startswith("<U+202E><U+001B>[31m")


def test_arrow_keys_work_as_soon_as_a_case_is_open(ran: Study, html: str, show: Show) -> None:
    row = telling_case(ran)
    page = show(html).page
    page.keyboard.press("ArrowRight")
    assert f"word {row.first_divergence + 2}" in page.locator(".what").inner_text()
    page.keyboard.press("ArrowLeft")
    assert f"word {row.first_divergence + 1}" in page.locator(".what").inner_text()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_what_explains_a_word_never_covers_the_text(html: str, show: Show, width: int, height: int) -> None:
    page = show(html, width=width, height=height).page
    for scroll in range(0, 1800, 150):
        page.evaluate(
            "(y) => scrollTo(0, document.querySelector('#view').getBoundingClientRect().top + scrollY - 700 + y)",
            scroll,
        )
        boxes = [page.locator(part).bounding_box() for part in ("#view-left", "#view-right", "#inspector")]
        for box in boxes[:2]:
            assert box["y"] + box["height"] <= boxes[2]["y"] or boxes[2]["y"] + boxes[2]["height"] <= box["y"]


def test_a_term_says_what_it_means_by_keyboard_and_by_touch(html: str, show: Show) -> None:
    page = show(html, width=390).page
    term, tip = page.locator("#cases .term", has_text="word").first, page.locator("#tip")
    assert not tip.is_visible()
    term.focus()
    assert tip.inner_text() == TERMS["word"]
    assert term.get_attribute("aria-describedby") == "tip"
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    term.dispatch_event("click")  # as touch does where it gives no focus
    assert tip.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(html: str, browser: Any, tmp_path: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
    path = tmp_path / "page.html"
    path.write_text(html, "utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-opened=yes]", state="attached")
    for folded in (True, False):
        page.evaluate("(open) => document.querySelectorAll('details').forEach((d) => (d.open = open))", not folded)
        page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text("utf-8"))
        found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
        assert [(rule["id"], node["html"][:120]) for rule in found for node in rule["nodes"]] == []
    for level in range(LEVELS + 1):
        page.evaluate("(n) => document.querySelectorAll('.heat td').forEach((d) => (d.className = `heat-${n}`))", level)
        found = page.evaluate("axe.run('.heatmap:not([hidden])', { runOnly: ['color-contrast'] })")
        assert found["passes"] and not found["violations"], level
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1180, "dark"), (390, "light"), (390, "dark")])
def test_narrow_and_dark(ran: Study, html: str, show: Show, width: int, scheme: str) -> None:
    opened = show(html, width=width, scheme=scheme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(int(x) for x in paper.removeprefix("rgb(").removesuffix(")").split(",")) > 384
    assert light == (scheme == "light")
    ink = opened.page.evaluate(
        "decodedrift.drawn.get('margins').models.find((m) => m.axis_label_text_color).axis_label_text_color"
    )
    assert ink == ("#a3a8b1" if scheme == "dark" else "#5d6470")
    opened.page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
    opened.page.wait_for_function(
        "(was) => decodedrift.drawn.get('margins').models.find((m) => m.axis_label_text_color).axis_label_text_color !== was",
        arg=ink,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_trace_of_an_earlier_drawing_stays(html: str, show: Show, scheme: str) -> None:
    """Along the left and upper edge of every canvas nothing but the ground of the last drawing is left."""
    opened = show(html, scheme=scheme)
    opened.page.set_viewport_size({"width": 900, "height": 900})
    opened.page.wait_for_timeout(300)
    edges = opened.page.evaluate(
        """() => {
          const found = [];
          const walk = (node) => { for (const n of node.children) { if (n.tagName === "CANVAS") found.push(n); if (n.shadowRoot) walk(n.shadowRoot); walk(n); } };
          for (const plot of document.querySelectorAll("[data-figure]")) walk(plot);
          const spread = (c, w, h) => {
            const copy = Object.assign(document.createElement("canvas"), { width: w, height: h });
            const context = copy.getContext("2d", { willReadFrequently: true });
            context.drawImage(c, 0, 0);
            const red = [...context.getImageData(0, 0, w, h).data].filter((v, i, all) => i % 4 === 0 && all[i + 3] > 0);
            return Math.max(0, ...red) - Math.min(255, ...red);
          };
          return found.filter((c) => c.width && c.height).flatMap((c) => [spread(c, 1, c.height), spread(c, c.width, 1)]);
        }"""
    )
    assert len(edges) >= 24
    assert max(edges) <= 8


def test_print_shows_every_quantity(ran: Study, html: str, show: Show) -> None:
    opened = show(html, scheme="dark")
    opened.page.emulate_media(media="print")
    assert opened.page.locator(".heatmap:visible").count() >= 4
    assert (
        opened.page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()") == "#000000"
    )


def test_on_paper_figures_are_pictures_and_nothing_is_folded(ran: Study, html: str, show: Show) -> None:
    opened = show(html, scheme="dark")
    page = opened.page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    plots = page.locator("[data-figure]").count()
    pictures = page.locator(".plot > img.printed:visible")
    assert pictures.count() == plots >= 7
    assert all(pictures.nth(i).evaluate("(p) => p.decode().then(() => p.naturalWidth)") > 200 for i in range(plots))
    ink = "decodedrift.drawn.get('margins').models.find((m) => m.axis_label_text_color).axis_label_text_color"
    assert page.evaluate(ink) == "#5d6470"  # the light one, on a dark screen
    assert page.locator("#verdict details p:visible").count() == page.locator("#verdict details p").count() > 0
    for hidden in (".download", ".filters", ".walk", "[aria-pressed=false]:not([data-series])", ".plot canvas"):
        assert page.locator(hidden).count() > 0
        assert page.locator(f"{hidden}:visible").count() == 0, hidden
    assert {
        box.evaluate("(b) => getComputedStyle(b).overflowX + getComputedStyle(b).maxHeight")
        for box in page.locator(".scroll:visible, .toks:visible").all()
    } == {"visiblenone"}
    assert page.pdf()[:5] == b"%PDF-"
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(ink) == "#a3a8b1"
    assert page.locator("img.printed").count() == 0
    assert page.locator(".plot canvas:visible").count() > 0


def test_hostile_text_does_nothing(show: Show) -> None:
    held = [t.encode("utf-8", "replace").decode() for t in HOSTILE] + [
        "$$\\href{https://example.org}{x}$$",
        "@{x}",
        "x,y\n=1+1",
    ]
    names = {
        f"{i} {t}"[:80]: [parted(1 + i, reference_token=t, candidate_token=t[::-1]), {}] for i, t in enumerate(held)
    }
    made = study(names, says=" ".join(held), strategy="greedy", texts=True,
                 failures=[{"variant": t, "status": t, "error": t} for t in held])  # fmt: skip
    made.tokens = pd.DataFrame({"token_id": [1, 2, 3], "token": held[:3], "bytes": ["", "ff", ""]})
    opened = show(render(made, title=held[0]))
    page = opened.page
    for details in page.locator("details").all():
        details.evaluate("(d) => (d.open = true)")
    for cell in range(0, len(held), 4):
        page.locator("#cases-list tbody tr a").nth(cell).click()
        page.wait_for_timeout(30)
        page.hover("#view-left .tok >> nth=0")
    box = page.locator("#plot-gaps").bounding_box()
    page.locator("#plot-gaps").scroll_into_view_if_needed()
    box = page.locator("#plot-gaps").bounding_box()
    for step in range(20):
        page.mouse.move(box["x"] + box["width"] * step / 20, box["y"] + box["height"] / 2)
    assert len(opened.csv("gaps")) == len(held)
    assert page.evaluate("document.querySelectorAll('img, iframe, object, link').length") == 0
    assert page.title().startswith("</script><script>alert(1)")


@pytest.mark.parametrize("text", ["x" * 4000, "שלום עולם, مرحبا بالعالم", "从前有一只兔子住在森林里" * 9])
@pytest.mark.parametrize("width", [390, 1180])
def test_odd_texts_keep_to_their_place(text: str, width: int, show: Show) -> None:
    rows = [parted(1, reference_token=text, candidate_token=text[::-1]), {}]
    made = study({text[:60]: rows}, strategy="greedy", says=text, texts=True)
    made.tokens = pd.DataFrame({"token_id": [1, 2, 3], "token": [text, "plain", text], "bytes": ["", "", ""]})
    page = show(render(made), width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.hover("#view-left .tok >> nth=2")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for side in ("left", "right"):
        tokens = page.locator(f"#view-{side} .tok")
        box = page.locator(f"#view-{side}").bounding_box()
        for inner in (tokens.nth(i).bounding_box() for i in range(3)):
            assert box["x"] - 1 <= inner["x"] and inner["x"] + inner["width"] <= box["x"] + box["width"] + 1
        assert len(tokens.first.inner_text()) <= 91
    apart = "[...document.querySelectorAll('.token, bdi')].map((n) => getComputedStyle(n).unicodeBidi)"
    assert set(page.evaluate(apart)) == {"isolate"}
    assert page.evaluate("getComputedStyle(document.querySelector('#view-left')).direction") == (
        "rtl" if "ש" in text else "ltr"
    )


@pytest.mark.parametrize("name", ODD)
def test_odd_runs_open(name: str, show: Show) -> None:
    opened = show(render(ODD[name]()))
    assert opened.page.locator("h1").inner_text()


def test_scripts_of_others_do_not_run(show: Show, browser: Any, tmp_path: Path) -> None:
    """The negative control: were markup let through, the policy would still stop it."""
    page = render(study({"bf16": [parted()]})).replace(
        "<main>", "<main><script>document.title = 'run'</script><img src=x onerror=\"document.title='run'\">"
    )
    path = tmp_path / "bad.html"
    path.write_text(page, "utf-8")
    tab = browser.new_page()
    said: list[str] = []
    tab.on("console", lambda m: said.append(m.text))
    tab.goto(path.as_uri())
    tab.wait_for_selector("html[data-drawn=yes]", state="attached")
    assert tab.title() != "run"
    assert sum("Content Security Policy" in s for s in said) >= 2
    tab.close()


def test_curves_are_what_their_tables_hold(show: Show) -> None:
    """Survival, growth, agreement by lag and the parts of the error, of a study that has them."""
    made = synthetic(prompts=22, tokens=40, candidates=2, strategies=2, alternatives=False)
    keys = ["model", "reference", "candidate", "role", "strategy"]
    at = made.positions.groupby([*keys, "position"], sort=False)["kl"].mean().reset_index()
    at["position"] = at["position"].astype(int)
    draws = np.random.default_rng(1).random((len(at), 12)) + 0.1
    numbers = {
        "survival": ["incidence", "incidence_low", "incidence_high", "incidence_predicted"],
        "growth": ["logit_gap_rms_median", "logit_gap_rms_p10", "logit_gap_rms_p90", "kl_mean"],
        "decomposition": [f"{n}{end}" for n in ("state_compounding", "path_compounding_after") for end in ("", "_low", "_high")],
        "after": ["agreement"],
    }  # fmt: skip
    for name, columns in numbers.items():
        frame = at[[*keys, "position"]].assign(at_risk=3, events=0, n=3, **dict(zip(columns, draws.T)))
        setattr(made, name, frame.rename(columns={"position": "lag"}) if name == "after" else frame)
    pairs = pd.DataFrame([{"model": "m", "reference": "fp32", "strategy": s, "candidate": "v0", "other": "v1", "pairs": 3,
                           "candidate_earlier": 2 - i, "other_earlier": i, "p_value": p}
                          for i, (s, p) in enumerate(zip(at["strategy"].unique(), (1 / 3, float("nan"))))])  # fmt: skip
    bins = at.groupby(keys, sort=False).head(3).reset_index(drop=True)
    chances = dict(zip(["bin_low", "bin_high", "predicted", "observed", "observed_low", "observed_high"], draws.T))
    bins = pd.concat([bins[keys].assign(law=law, n=9, **{c: v[: len(bins)] / d for c, v in chances.items()})
                      for law, d in (("empirical", 2), ("normal", 3))], ignore_index=True)  # fmt: skip
    bins.loc[0, "observed"] = 0.0
    made.comparisons, made.flip_calibration = pairs, bins
    opened = show(render(made))
    index = ["strategy", "candidate", "other"]
    drawn, held = (
        opened.csv("comparisons").set_index(index),
        pairs.set_index(index).drop(columns=["model", "reference"]),
    )
    pd.testing.assert_frame_equal(
        drawn[held.columns], held, check_exact=True, check_dtype=False, check_index_type=False
    )
    drawn, held = opened.csv("calibration"), bins[bins["law"] == "empirical"]
    assert set(drawn["law"]) == {"empirical"}
    index = ["strategy", "candidate", "bin_low"]
    drawn, held = drawn.set_index(index).sort_index(), held.set_index(index).sort_index()
    columns = [c for c in drawn.columns if c != "law"]
    assert len(columns) == 6
    pd.testing.assert_frame_equal(
        drawn[columns], held[columns], check_exact=True, check_dtype=False, check_index_type=False
    )
    for name, figure in (("survival", "survival"), ("growth", "kl"), ("growth", "gap"), ("after", "after"),
                         ("decomposition", "state"), ("decomposition", "path")):  # fmt: skip
        drawn, table = opened.csv(figure), getattr(made, name)
        index = ["candidate", "strategy", "lag" if name == "after" else "position"]
        held = table.set_index(index)
        assert len(drawn) == len(table)
        columns = [c for c in drawn.columns if c not in index]
        assert set(columns) & set(numbers[name])
        for column in columns:
            assert list(drawn[column]) == list(held.loc[pd.MultiIndex.from_frame(drawn[index]), column]), (
                figure,
                column,
            )


def test_the_map_begins_with_what_parts_and_shows_the_row_of_a_link(show: Show) -> None:
    """More texts than are drawn at a time: those that part come first, and a link's row is drawn and scrolled to."""
    made = study({"bf16": [*[{}] * 210, *[parted(1) for _ in range(240)]]}, texts=True)
    html = render(made, top=450)
    page = show(html).page
    page.wait_for_selector("#map[data-drawn=yes]")
    assert page.locator("#map-rows li").count() == 200
    assert page.locator("#map-rows li .at").count() == 200
    page = show(html, "#prompt=p449&candidate=bf16&strategy=greedy&seed=0").page
    page.wait_for_selector("#map[data-drawn=yes]")
    row = page.locator("#map-rows a[aria-current=true]")
    assert row.locator(".label").inner_text() == "p449"
    at, seen = row.bounding_box(), page.locator("#map-rows").bounding_box()
    assert seen["y"] <= at["y"] and at["y"] + at["height"] <= seen["y"] + seen["height"]


def test_the_fork_of_a_candidate_that_broke(show: Show) -> None:
    """NaN is not a word outside the top five."""
    made = study({"bf16": [parted(1, "nonfinite", candidate_token_id=pd.NA, candidate_token=pd.NA)]}, texts=True)
    theirs = made.traces["role"] == "candidate"
    made.traces.loc[theirs, ["token_ids", "finish"]] = ["1", "nonfinite"]
    keys = {"model": "m", "reference": "fp32", "candidate": "bf16", "role": "candidate", "strategy": "greedy", "seed": 0,
            "prompt_id": "p0", "position": 1}  # fmt: skip
    kept = [
        keys | {"variant": name, "pass": how, "rank": rank + 1, "token_id": 2 + rank, "logprob": value}
        for name, how, values in (("fp32", "generated", (-0.5, -1.5)), ("bf16", "forced", (math.nan, math.nan)))
        for rank, value in enumerate(values)
    ]
    made.alternatives = pd.DataFrame(kept)
    page = show(render(made)).page
    left, right = (page.locator(f"#fork-{side} .said").inner_text() for side in ("left", "right"))
    assert "bf16 no finite number" in " ".join(left.split()) and "top five" not in left
    assert "fp32 60.7 %" in " ".join(left.split())
    assert right.split("\n")[0] == "(breaks here)"
    assert (
        "no finite number" in page.locator(".tops").inner_text() and "<0.1 %" not in page.locator(".tops").inner_text()
    )


def test_the_margins_beside_a_list_are_those_of_the_list(ran: Study, html: str, show: Show) -> None:
    """At a fork the forced reading may hold another order than the generating pass, which the list shows."""
    row = telling_case(ran)
    kept = ran.alternatives.query("role == 'candidate' and `pass` == 'generated'")
    kept = kept[
        (kept[["candidate", "strategy", "prompt_id"]] == [row.candidate, row.strategy, row.prompt_id]).all(axis=1)
    ]
    kept = kept[kept["position"] == row.first_divergence].sort_values("rank")
    margins = [
        -np.diff(kept.loc[kept["variant"] == name, "logprob"].to_numpy())[0] for name in (row.reference, row.candidate)
    ]
    said = show(html).page.locator(".what").inner_text()
    ours, theirs = map(float, re.search(r"margin\s+(\S+) → (\S+)", said).groups())
    assert [ours, theirs] == pytest.approx(margins, abs=1.01e-4)
