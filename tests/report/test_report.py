"""The report: renders whatever a run left, lets no text act, and shows no number that the tables do not hold."""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pandas as pd
import pytest
from bokeh.models import ColumnDataSource, HoverTool
from hypothesis import strategies as st
from rich.cells import cell_len
from synthetic import synthetic

from decodedrift.core.records import InputError
from decodedrift.experiments.compare.beside import beside
from decodedrift.experiments.compare.folds.summary import perplexity
from decodedrift.experiments.compare.selection import MOST, clearest, select_cases, spread
from decodedrift.experiments.compare.verdict.assembly import folded
from decodedrift.experiments.study import Study, open_study
from decodedrift.measure.tables import TABLES, typed
from decodedrift.report import html, promptmap, summary_table, tokenview
from decodedrift.report.inline import library
from decodedrift.report.numbers import Number, number, percentage, significant, with_interval
from decodedrift.report.palette import DARK, LIGHT
from decodedrift.report.phrases import percent
from decodedrift.report.terminal import cut, text_table
from decodedrift.report.texts import shown
from decodedrift.report.tokenview import meetings

HOSTILE = [
    "</script><script>alert(1)</script>", '<img src=x onerror="alert(1)">', "</style></title></details></table>",
    '<meta http-equiv="refresh" content="0;url=https://example.org">', "{{7*7}}{% include 'x' %}", '" onclick="x',
    "\x1b[31mred\x1b]8;;https://example.org\x07", "\u202egnp.exe\u2066", "\ud800 lone \udfff", "a\x00b\r\nc\u2028d",
    "שלום עולם, مرحبا", "从前有一只兔子", "&lt;b&gt;&#60;i&#62;", "x" * 4000, "<!--", "]]>", "javascript:alert(1)",
    "a\u0300" * 99,
]  # fmt: skip
TAGS = "html head meta title style body main nav a section article p ul dfn h1 h2 h3 h4 b bdi small span div dl dt dd table "
TAGS += "thead tbody tr th td details summary svg line circle rect script button figure figcaption label select option noscript"
ATTRIBUTES = "lang dir http-equiv content charset name id class title href aria-label aria-hidden tabindex role scope "
ATTRIBUTES += "rowspan open viewbox x y width height x1 x2 y1 y2 cx cy r type aria-pressed aria-live hidden value"


def render(study: Study, title: str | None = None, **options: Any) -> str:
    return study.to_html(title, **options)


def study(
    candidates: Mapping[str, list[dict[str, Any]]] | None = None,
    *,
    strategy: str = "greedy",
    texts: bool = False,
    failures: list[dict[str, Any]] | None = None,
    says: str = "text",
    environment: Mapping[str, Any] | None = None,
    nan: bool = False,
) -> Study:
    """A Study by hand: for every candidate a list of divergences (empty dict: identical), one prompt each."""
    keys = {"model": "m", "reference": "fp32", "role": "candidate", "strategy": strategy, "seed": 0}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for index in range(max(map(len, (candidates or {"": []}).values()))):
        rows["traces"].append(trace("fp32", "reference", index, strategy, says))
    for name, found in (candidates or {}).items():
        for index, given in enumerate(found):
            key = keys | {"candidate": name, "prompt_id": f"p{index}"}
            rows["divergences"].append(key | {"diverged": 0, "nonfinite": 0, "compared": 9} | given)
            rows["positions"] += [key | position(t, nan) for t in range(3)]
            rows["traces"].append(trace(name, "candidate", index, strategy, says + " and more"))
        if texts:
            key = keys | {"candidate": name, "strategy": "text"}
            rows["positions"] += [key | {"prompt_id": f"book#{w}"} | position(t) for w in range(2) for t in range(3)]
        rows["timings"].append(
            {"job": "j", "variant": name, "strategy": "", "phase": "load", "seconds": 0.25, "tokens": 0}
        )
    rows["failures"] = failures or []
    frames = {name: typed(pd.DataFrame(rows[name]), name) for name in TABLES}
    frames["perplexity"] = perplexity(frames["positions"], {"scored_bytes": {"book": 40} if texts else {}})
    return Study(frames, plan(list(candidates or {}), strategy, says), environment)


def trace(variant: str, role: str, index: int, strategy: str, says: str) -> dict[str, Any]:
    return {"model": "m", "variant": variant, "role": role, "strategy": strategy, "seed": 0, "prompt_id": f"p{index}",
            "prompt": says, "tags": "tag", "text": says, "token_ids": "1 2 3", "n_tokens": 3, "finish": "length",
            "nonfinite": 0}  # fmt: skip


def position(t: int, nan: bool = False) -> dict[str, Any]:
    if nan:
        return {"position": t, "token_id": t, "token": "a", "nll_reference": 1.0, "nonfinite": 99}
    return {"position": t, "token_id": t, "token": "a", "kl": 1e-5 * (t + 1), "logit_gap_max": 0.1,
            "top1_agree": 1.0, "significant_digits": 2.0, "nll_reference": 1.0, "nll_candidate": 1.0 + t / 997, "nonfinite": 0}  # fmt: skip


def plan(names: list[str], strategy: str, says: str) -> dict[str, Any]:
    def variant(name: str) -> dict[str, Any]:
        return {"name": name, "precision": "bf16", "compute": "bf16", "options": {}, "model": None}

    return {"model": says, "reference": variant("fp32"), "candidates": [variant(n) for n in names], "seeds": [0],
            "strategies": [{"name": "greedy", "label": strategy, "params": {}}], "max_new_tokens": 9,
            "prompts": [{"id": "p0", "text": says, "tags": []}], "texts": [], "near_tie_below": 0.1}  # fmt: skip


def parted(t: int = 1, cause: str = "near_tie", **given: Any) -> dict[str, Any]:
    return {"diverged": 1, "first_divergence": t, "first_divergence_char": t, "cause": cause, "reference_token_id": 5,
            "reference_token": " a", "candidate_token_id": 6, "candidate_token": " b", "reference_gap": 0.0123456789,
            "swing": 0.1 + 0.2, "agreement_after": 0.5} | given  # fmt: skip


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.comments: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        self.text += data


def only_ours(page: str) -> Page:
    """Asserts that nothing in the page acts, hides or leaves it; returns what it holds."""
    page.encode("utf-8")
    found = Page(page)
    assert {tag for tag, _ in found.tags} <= set(TAGS.split())
    assert not found.comments
    for tag, attributes in found.tags:
        assert {a for a in attributes if not a.startswith("data-")} <= set(ATTRIBUTES.split()), (tag, attributes)
        assert not [a for a in attributes if a.startswith("on") or a == "style"]
        assert attributes.get("href", "#").startswith("#")  # type: ignore[union-attr]
        refresh = attributes.get("http-equiv")
        assert refresh in (None, "Content-Security-Policy")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", bare(page))
    scripts = [a for tag, a in found.tags if tag == "script"]
    assert [a.get("type") for a in scripts].count(None) == page.count("<script>")
    return found


def bare(page: str) -> str:
    """The page without the charting library, which is not ours to check."""
    return page.replace(library(), "")


def hashes(page: str, element: str) -> list[str]:
    """The hash of what stands in each of the page's elements of this name without attributes."""
    texts = re.findall(rf"<{element}>(.*?)</{element}>", page, re.S)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts]


FAILED = {"stage": "load", "status": "failed", "error": "no room"}
ODD = {
    "nothing diverged": lambda: study({"bf16": [{}, {}]}),
    "all at position 0": lambda: study({"bf16": [parted(0), parted(0)]}),
    "one trace": lambda: study({"bf16": [parted()]}),
    "twelve variants": lambda: study({f"v{i}": [parted(i), {}] for i in range(12)}),
    "nan candidate": lambda: study({"fp16": [parted(1, "nonfinite", nonfinite=9, candidate_token_id=None)]}, nan=True),
    "ids differ, texts do not": lambda: study({"bf16": [parted(first_divergence_char=None)]}),
    "texts too": lambda: study({"bf16": [parted()]}, texts=True),
    "texts only": lambda: study({"bf16": []}, texts=True),
    "failed": lambda: study({"bf16": [{}]}, failures=[FAILED | {"variant": "int8"}] * 3),
    "all failed": lambda: study({}, failures=[FAILED | {"prompt_id": "p"}]),
    "empty": lambda: study(),
}


@pytest.mark.parametrize("name", ODD)
def test_every_odd_study_renders(name: str) -> None:
    odd = ODD[name]()
    found = only_ours(render(odd))
    assert all(sentence in found.text for sentence in odd.verdict)
    assert all(cell_len(line) <= 80 for line in summary_table(odd).split("\n"))


def test_the_policy_comes_first_and_knows_every_script() -> None:
    page = render(study({"bf16": [parted()]}))
    head = page[page.index("<head>") + len("<head>") :].lstrip()
    policy = Page(head).tags[0][1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy["content"]).split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == hashes(page, "script")
    assert rules["style-src"].split()[0] == hashes(page, "style")[0]
    assert "unsafe" not in str(policy["content"])
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    assert not re.search("https?://", bare(page))


def test_equal_runs_give_equal_pages() -> None:
    first, again = (render(study({"bf16": [parted(), {}]}, texts=True)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(text: str) -> None:
    held = text.encode("utf-8", "replace").decode("utf-8")  # pandas' strings hold no lone surrogates; a title may
    hostile = study(
        {held: [parted(reference_token=held, candidate_token=held[::-1], cause=held), parted(2)]},
        strategy=held, says=held,
        failures=[{"variant": held, "strategy": held, "prompt_id": held, "stage": held, "status": held, "error": held}],
        environment={"versions": {text: text}, "cpu": text, "variants": {held: {"scheme": text, "attention": text}}},
    )  # fmt: skip
    hostile.plan = {**hostile.plan, "model": text}  # type: ignore[misc]
    page = render(hostile, title=text)
    found = only_ours(page)
    assert len(bare(page)) < 400_000
    if len(text) < 60:
        assert shown(text) in found.text
    table = summary_table(hostile)
    table.encode("utf-8")
    assert all(c.isprintable() for line in table.split("\n") for c in line)


def test_every_number_of_the_summary_is_the_tables() -> None:
    made = study({"bf16": [parted(), {}, {}], "int8": [parted(2, "shift"), parted(1), {}]}, texts=True)
    page = only_ours(render(made))
    titles = [a["title"] or "" for tag, a in page.tags if tag == "td" and a.get("title")]
    said = [part.split(" = ") for title in titles for part in title.split("; ")]
    for table, columns in (
        (made.summary, ["traces", "diverged", "divergence_rate", "divergence_rate_low", "divergence_rate_high",
                        "first_divergence_median", "near_tie_share", "reference_gap_median", "kl_mean", "top1_agreement", "ln_ppl_ratio", "agreement_after", "nonfinite"]),
        (made.perplexity, ["tokens", "perplexity", "bits_per_byte", "ln_ppl_ratio", "kl_mean",
                           "same_top1"]),
    ):  # fmt: skip
        for column in columns:
            shown_here = {float(value) for name, value in said if name == column}
            assert set(table[column].dropna().astype(float)) <= shown_here, column
            assert shown_here, column


def test_every_number_of_controls_injection_and_timings_is_the_tables() -> None:
    import decodedrift as dd

    made = dd.compare(
        "demo", candidates=["bf16"], limit=3, max_new_tokens=24, noise_floor=True, inject=True, default_text=False
    )
    page = only_ours(render(made))
    titles = [a["title"] or "" for tag, a in page.tags if tag == "td" and a.get("title")]
    shown = [part.split(" = ") for title in titles for part in title.split("; ")]

    def missing(name: str, values: Any) -> set[float]:
        return set(map(float, values)) - {float(value) for known, value in shown if known == name}

    table = made.summary
    assert set(table["role"]) == {"candidate", "self", "floor"}
    for column in ("diverged", "traces", "kl_mean"):
        assert not missing(column, table.loc[table["role"] != "candidate", column].dropna()), column
    injected = table[table.get("injected", 0) > 0]
    assert len(injected)
    for column in ("injected", "recovered_share", "trajectory_share", "trajectory_share_low"):
        assert not missing(column, injected[column].dropna()), column
    timed = made.timings.groupby(["variant", "phase"])["seconds"].sum()
    assert not missing("seconds", timed[timed.index.get_level_values("variant") != ""])
    assert not missing("sum", [made.timings["seconds"].sum(), *made.timings.groupby("phase")["seconds"].sum()])
    assert missing("seconds", [timed.max() + 1.0])


def test_a_screening_says_so_among_what_was_run() -> None:
    made = study({"bf16": [parted(), {}, {}]})
    assert "screening: candidates read" not in render(made)
    made.plan["mode"] = "screen"
    assert "screening: candidates read" in render(made)


def test_the_page_is_bounded_whatever_the_run() -> None:
    long = "\u202e<" * 50_000
    many = study({f"v{i}": [parted(t, reference_token=long) for t in range(80)] for i in range(6)}, says=long)
    page = render(many)
    assert len(page.encode("utf-8")) < 5_000_000
    found = Page(page)
    assert f"{MOST} of {6 * 80} compared traces" in found.text
    assert len([1 for tag, a in found.tags if "data-case" in a]) == MOST
    assert len([1 for tag, a in Page(render(many, top=7)).tags if "data-case" in a]) == 7


def test_without_text_no_text_is_in_the_page() -> None:
    says = "Zanzibar"
    made = study({"bf16": [parted(reference_token=says, candidate_token=says[::-1]), {}]}, says=says)
    made.plan = {**made.plan, "model": "m"}  # type: ignore[misc]
    assert says in render(made)
    page = render(made, texts=False)
    assert says not in page
    assert says[::-1] not in page
    assert 'id="tokens"></script>' in page


def test_every_candidate_has_its_turn() -> None:
    bad = {"candidate": "bad", "strategy": "s", "cause": "shift", "reference_gap": 9.0}
    good = {"candidate": "good", "strategy": "s", "cause": "near_tie", "reference_gap": 0.01, "first_divergence": 3}
    frame = typed(pd.DataFrame([*(bad | {"first_divergence": t} for t in range(50)), good]), "divergences")
    assert set(clearest(frame, 10)["candidate"]) == {"bad", "good"}
    assert clearest(frame, 10)["cause"].tolist() == ["shift"] * 9 + ["near_tie"]
    assert frame.loc[spread(frame, 4), "first_divergence"].tolist() == [24, 3, 23, 25]


def test_a_large_run_shows_the_worst_the_typical_and_the_equal() -> None:
    rows = [parted(t, reference_gap=t / 10) for t in range(500)] + [{}] * 500
    found = select_cases(study({"bf16": rows}), 100)
    assert len(found) == 100
    apart = found[found["diverged"] == 1]
    assert (found["diverged"] == 0).sum() == 10
    assert set(range(440, 500)) <= set(apart["first_divergence"])
    assert {249, 250} <= set(apart["first_divergence"])


def test_remainders_meet_where_three_tokens_in_a_row_agree() -> None:
    ours, theirs = [1, 2, 9, 4, 5, 6, 7, 3], [1, 8, 4, 5, 6, 7, 2, 3]
    assert meetings(ours, theirs, 1) == [[3, 2, 4]]
    assert meetings(ours, [1], 1) == []


@pytest.mark.parametrize(("value", "text"), [
    (0.000114, "1.14×10⁻⁴"), (0.0114, "0.0114"), (0.0, "0"), (None, "n/a"), (float("nan"), "n/a"), (float("inf"), "∞"),
    (-0.5, "−0.500"), (12345, "12,345"), (1234.5, "1,234"), (pd.NA, "n/a"), (0.09999, "0.100"), (0.0009999, "0.00100"),
    (3.2e12, "3.20×10¹²"),
])  # fmt: skip
def test_numbers_read_well(value: Any, text: str) -> None:
    assert significant(value) == text


def test_shares_are_never_rounded_to_all_or_nothing() -> None:
    shares = (0, 1, 0.375, 0.999999, 0.000001, 0.9896)
    assert [percentage(s) for s in shares] == ["0 %", "100 %", "37.5 %", ">99.99 %", "<0.01 %", "98.96 %"]


def test_a_mean_and_its_error_share_their_power_of_ten() -> None:
    def told(value: float, low: float, high: float) -> Number:
        return with_interval(SimpleNamespace(m=value, m_low=low, m_high=high), "m")

    exact = "m = 0.000114; m_low = 0.000105; m_high = 0.000123"
    assert told(1.14e-4, 1.05e-4, 1.23e-4) == Number("1.14 (1.05 to 1.23) ×10⁻⁴", exact)
    assert told(1e-6, -1.95e-4, 1.97e-4).text == "0.01 (−1.95 to 1.97) ×10⁻⁴"
    assert told(0.00012, 1.2e-7, 0.00528).text == "1.20×10⁻⁴ (1.20×10⁻⁷ to 0.00528)", "no end is lost"
    assert told(0.00012, 0.0, 0.00528).text == "0.00012 (0.00000 to 0.00528)"
    assert told(0.0, math.nan, math.nan).text == "0"
    assert with_interval(SimpleNamespace(m=0.25), "m").text == "0.250", "an older run"
    assert number(0.1 + 0.2, "x").exact == "x = 0.30000000000000004"


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_terminal_table_keeps_to_its_width(width: int) -> None:
    names = {"n" * 60: [parted(), {}], "从前有一只兔子" * 6: [{}, {}]}
    made = study(names, strategy="top-k:k=50,temperature=0.8", texts=True)
    table = summary_table(made, width)
    assert all(cell_len(line) <= width for line in table.split("\n"))
    assert "1/2" in table or width == 40


@pytest.mark.parametrize("name", ["[red]x[/]", "กั่น", "क्षि", "한글", "é"])
def test_the_terminal_table_stays_aligned_whatever_the_letters(name: str) -> None:
    """Marks that take no column of their own, letters that take two; markup of a library that draws is text."""
    lines = text_table(["name", "n"], [[name, "1"], ["plain", "22"]], 80, names=1).split("\n")
    assert {cell_len(line) for line in lines} == {max(5, cell_len(name)) + 4}
    assert lines[2].startswith(name)


@pytest.mark.parametrize("width", range(12))
@pytest.mark.parametrize(
    "name", ["top-k:k=50,temperature=0.8", "从前有一只兔子在森林里", "กั่นกั่นกั่นกั่นกั่น", "a b c d e f g h"]
)
def test_a_cut_name_keeps_both_ends(name: str, width: int) -> None:
    short = cut(name, width)
    assert cell_len(short) <= width
    assert ("…" in short) == (0 < width < cell_len(name))
    if width > 5:
        assert (short[0], short[-1]) == (name[0], name[-1])


@pytest.mark.parametrize(("shape", "limit"), [
    ({"prompts": 6, "tokens": 240, "candidates": 3}, 25_000),
    ({"prompts": 1, "tokens": 20, "candidates": 6, "strategies": 3, "alternatives": False}, 2_500),
])  # fmt: skip
def test_no_run_is_too_large(shape: dict[str, Any], limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller budget stands for a larger run: alternatives give way, then cases, never the summary."""
    made = synthetic(**shape)
    assert len(render(made).encode("utf-8")) < 5_000_000
    monkeypatch.setattr(tokenview, "LIMIT", limit)
    page = render(made)
    island = re.search(r'id="tokens">(.*?)</script>', page, re.S)
    assert island is not None
    assert limit / 3 < len(island[1]) <= limit
    head, *parts = unpacked(island[1])
    assert 0 < len(head["cases"]) < len(made.divergences)
    assert len(head["cases"]) == sum(len(part["cases"]) for part in parts)
    assert "prompt-0" in Page(page).text


def test_the_token_view_takes_what_the_page_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large figures leave less for tokens: the page's own limit holds whatever each part of it may take."""
    made = synthetic(prompts=6, tokens=240, candidates=3)
    whole = len(render(made).encode("utf-8"))
    monkeypatch.setattr(html, "MOST", whole - 60_000)
    page = render(made)
    assert whole - 90_000 < len(page.encode("utf-8")) <= whole - 60_000
    head, *parts = unpacked(re.search(r'id="tokens">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert head["cases"] and len(parts) == 6
    monkeypatch.setattr(html, "MOST", 0)
    head, *parts = unpacked(re.search(r'id="tokens">(.*?)</script>', render(made), re.S)[1])  # type: ignore[index]
    assert not head["cases"] and not parts


def unpacked(island: str) -> list[Any]:
    """The parts of a token view's island: each line by itself, as the page opens them."""
    return [json.loads(gzip.decompress(base64.b64decode(line))) for line in island.split("\n")]


def read_back(flat: dict[str, list[int]], ours: dict[int, list[tuple[int, int]]]) -> dict[int, list[tuple[int, int]]]:
    """Position -> (token, value), the differences undone, as the page's script does it."""
    tokens, found = iter(flat["token"]), {}
    for n, position in enumerate(flat["at"]):
        steps, first = flat["bits"][5 * n : 5 * n + 5], next(tokens)
        if first == tokenview.SAME:
            found[position] = [(t, b + step) for (t, b), step in zip(ours[position], steps, strict=True)]
        else:
            found[position] = list(zip([first, *itertools.islice(tokens, 4)], itertools.accumulate(steps), strict=True))
    assert next(tokens, None) is None
    return found


@hypothesis.given(st.dictionaries(st.integers(0, 9), st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 9)), max_size=5)),
       st.dictionaries(st.integers(0, 9), st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 9)), max_size=5)))  # fmt: skip
def test_alternatives_survive_their_packing(ours: dict[int, Any], theirs: dict[int, Any]) -> None:
    theirs |= {p: [(t, b + 1) for t, b in entries] for p, entries in ours.items() if p % 2}  # the same tokens
    packed = tokenview.flat(theirs, ours)
    assert (tokenview.SAME in packed["token"]) >= any(p % 2 for p in ours)
    for tops, held, base in ((ours, tokenview.flat(ours), {}), (theirs, packed, ours)):
        full = {p: [*e, *[(-1, -1)] * 5][:5] for p, e in base.items()}
        assert read_back(held, full) == {p: [*tops[p], *[(-1, -1)] * 5][:5] for p in sorted(tops)}


def test_the_island_holds_what_was_measured() -> None:
    made = synthetic(prompts=4, tokens=40, candidates=2)
    held, *parts = unpacked(tokenview.token_view(made, select_cases(made)))
    assert len(held["cases"]) == 8
    assert len(parts) == 4  # a part for each text of the reference, with both candidates
    for place in held["cases"]:
        case = place | parts[place["part"]]["cases"][place["case"]]
        key = (made.traces["prompt_id"] == case["prompt"]) & (made.traces["variant"] == case["candidate"])
        ids = [int(i) for i in made.traces[key]["token_ids"].iloc[0].split()]
        assert [held["ids"][i] for i in case["ids"]] == ids
        assert [held["texts"][i] for i in case["ids"]] == [f" word{i}" for i in ids]
        forced = made.positions[
            (made.positions["prompt_id"] == case["prompt"]) & (made.positions["candidate"] == case["candidate"])
        ]
        assert case["kl"] == [float(f"{v:.3g}") for v in forced["kl"]]
        tops = made.alternatives[(made.alternatives["prompt_id"] == case["prompt"])
                                 & (made.alternatives["candidate"] == case["candidate"])
                                 & (made.alternatives["variant"] == case["candidate"])]  # fmt: skip
        ours = read_back(parts[place["part"]]["trace"]["tops"], {})
        for part, passes in (("own", {"generated"}), ("beside", {"generated", "forced"})):
            for position, entries in read_back(case[part], ours).items():
                read = "generated" if case["at"] is None or position <= case["at"] or part == "own" else "forced"
                found = tops[(tops["position"] == position) & (tops["pass"] == read)].sort_values("rank")
                assert read in passes
                assert [held["ids"][i] for i, _ in entries] == list(found["token_id"])
                assert [bits for _, bits in entries] == [round(-p * 1e4) for p in found["logprob"]]


def test_figures_compose_and_save(tmp_path: Path) -> None:
    from bokeh.embed import file_html
    from bokeh.layouts import column
    from bokeh.resources import INLINE

    made = synthetic(prompts=16, tokens=40, candidates=2, strategies=2)
    case = ("prompt-1", "v0", "top-k:k=5")
    drawn = [
        made.plot.margins(),
        made.plot.survival(),
        made.plot.kl(),
        made.plot.gap(),
        made.plot.after(),
        made.plot.comparisons(),
        made.plot.gaps(),
        made.plot.gaps("v1"),
        made.plot.perplexity(),
        made.plot.tokens(*case),
    ]
    assert file_html(column(*drawn), INLINE).count("Bokeh") > 1
    with pytest.raises(ValueError, match="choices: top-k:k=5, top-k:k=6"):
        made.plot.margins("greedy")
    with pytest.raises(ValueError, match="no candidate 'v9'; choices: v0, v1"):
        made.plot.gaps("v9")
    with pytest.raises(ValueError, match="no compared trace with prompt_id 'x'; choices: prompt-0"):
        made.plot.tokens("x", "v0", "top-k:k=5")
    with pytest.raises(
        ValueError, match=r"no after to draw\. Not drawn, for want of 5 pairs at any lag: v0 \(top-k:k=5\)"
    ):
        synthetic(prompts=4, tokens=40, candidates=1).plot.after()
    with pytest.raises(ValueError, match="holds no first divergences"):
        study({"bf16": [{}]}).plot.gaps()


def test_every_figure_is_in_the_page_once_and_in_a_notebook() -> None:
    from decodedrift.experiments.compare.figures import FIGURES
    from decodedrift.experiments.compare.sections import SECTIONS, pictures

    made = synthetic(prompts=4, tokens=40, candidates=2, strategies=2)
    in_sections = [
        s for s in (*SECTIONS.values(), pictures.perplexity, pictures.reasons) if isinstance(s, pictures.Pictures)
    ]
    assert sorted(name for section in in_sections for name in section.captions) == sorted(FIGURES)
    assert set(dir(made.plot)) >= {*FIGURES, "decomposition", "tokens"} - {"state", "path"}
    for name, figure in FIGURES.items():
        assert figure(made).switch in ("strategy", "candidate", "")
        assert figure.name == name and figure.__doc__
    with pytest.raises(AttributeError, match=r"no figure 'nope'; choices: after, .*, gaps, kl, .*, tokens, where$"):
        _ = made.plot.nope
    with pytest.raises(ValueError, match="no decomposition 'nope'; choices: state, path"):
        made.plot.decomposition("nope")
    with pytest.raises(TypeError, match="too many positional"):
        made.plot.perplexity("top-k:k=5")


@pytest.mark.parametrize("name", ["survival", "comparisons", "kl", "gap", "margins", "after"])
def test_a_notebooks_figure_shows_one_strategy(name: str) -> None:
    made = synthetic(prompts=16, tokens=40, candidates=2, strategies=2)
    first, second = (s["label"] for s in made.plan["strategies"])
    for asked, shown_alone in (({}, first), ({"strategy": second}, second)):
        sources = [tag for source in getattr(made.plot, name)(**asked).select({"type": ColumnDataSource})
                   for tag in source.tags]  # fmt: skip
        assert {tag["choice"] for tag in sources} == {shown_alone}
    with pytest.raises(ValueError, match="strategy 'nope' has no such figures; choices: top-k:k=5, top-k:k=6"):
        getattr(made.plot, name)("nope")


BINS = pd.DataFrame([{
    "model": "m", "reference": "fp32", "candidate": "v0", "role": "candidate", "strategy": "top-k:k=5", "law": "empirical",
    "bin_low": 1e-3, "bin_high": 1e-2, "n": 9, "predicted": 5e-3, "observed": 1e-2, "observed_low": 1e-3,
    "observed_high": 0.1,
}])  # fmt: skip


def test_every_field_of_a_tooltip_has_its_format() -> None:
    """A field with a printf format that Bokeh is not told of is drawn with the format's own letters."""
    made = synthetic(prompts=24, tokens=40, candidates=2, strategies=1)
    made.flip_calibration = BINS
    checked = 0
    for name in ("survival", "kl", "gap", "margins", "after", "calibration", "perplexity", "gaps", "comparisons"):
        for tool in getattr(made.plot, name)().select({"type": HoverTool}):
            fields = {f for _, text in tool.tooltips for f in re.findall(r"@\w+(?=\{%)", text)}
            assert set(tool.formatters) == fields, name
            checked += len(fields) > 1
    assert checked >= 3


def test_the_line_of_the_near_ties_lies_within_its_axis() -> None:
    for gap in (1e-5, 0.02, 3.0):
        made = study({"bf16": [parted(reference_gap=gap, swing=2 * gap), {}]})
        plot = made.plot.gaps()
        assert plot.x_range.start < min(gap, 0.1) < max(gap, 0.1) < plot.x_range.end


def test_what_has_too_little_data_is_said_and_not_drawn() -> None:
    few, many = (synthetic(prompts=n, tokens=40, candidates=1) for n in (18, 20))  # every other prompt parts
    assert few.divergences["diverged"].sum() == 9 and many.divergences["diverged"].sum() == 10
    said = "Not drawn, for want of 10 first differences: v0 (top-k:k=5)."
    for made, bare in ((few, True), (many, False)):
        made.flip_calibration = BINS
        page = render(made)
        assert (said in Page(page).text) == bare
        assert ('id="plot-calibration"' in page) != bare


def test_the_map_holds_every_trace_and_where_it_meets_again() -> None:
    made = synthetic(prompts=8, tokens=30, candidates=2)
    ids = made.traces.loc[made.traces["role"] == "reference", "token_ids"].iloc[1].split()
    at = (made.traces["variant"] == "v0") & (made.traces["prompt_id"] == "prompt-1")
    made.traces.loc[at, "token_ids"] = " ".join([*ids[:4], "0", *ids[5:9], *["0"] * 9, *ids[18:]])
    row = (made.divergences["candidate"] == "v0") & (made.divergences["prompt_id"] == "prompt-1")
    made.divergences.loc[row, "first_divergence"] = 4
    rows, texts = made.divergences, dict.fromkeys(made.divergences["prompt_id"].unique(), "text")
    island = promptmap.prompt_map(rows, made.traces, texts, {("v0", "top-k:k=5", 0, "prompt-1")})
    held = json.loads(gzip.decompress(base64.b64decode(island)))
    assert [tuple(cell[:2]) for cell in held["cells"]] == [("v0", "top-k:k=5"), ("v1", "top-k:k=5")]
    for candidate, _, traces in held["cells"]:
        own = rows[rows["candidate"] == candidate]
        assert [held["ids"][t[0]] for t in traces] == list(own["prompt_id"])
        assert [t[2] for t in traces] == [30] * 8
        assert [t[3] for t in traces] == list(own["first_divergence"].fillna(-1))
    assert held["cells"][0][2][1] == [1, 0, 30, 4, 1, 5, 4, 18, 12]  # carried; words 5 to 8 and 18 to 29 again
    assert held["cells"][1][2][1][4] == 0
    bare = promptmap.prompt_map(rows, made.traces.assign(token_ids=None), dict.fromkeys(texts, ""), set())
    for _, _, traces in json.loads(gzip.decompress(base64.b64decode(bare)))["cells"]:
        assert {(len(trace), trace[2]) for trace in traces} == {(5, 30)}, "without tokens as long, and it meets nowhere"


def test_a_page_without_texts_is_the_same_when_it_is_made_again(tmp_path: Path) -> None:
    made = synthetic(prompts=2, tokens=20, candidates=1)
    key = made.divergences.iloc[0][["model", "reference", "candidate", "role", "strategy"]].to_dict()
    row = key | {"position": 3, "original_token_id": 1, "injected_token_id": 2, "token_ids": "5 " * 20, "recovered": 0}
    row |= {"seed": 0, "prompt_id": "prompt-0", "distance_injected": 2, "distance_reference": 9}
    made.injection = typed(pd.DataFrame([row]), "injection")
    made.plan["no_text"] = True
    page = (made.save(tmp_path / "run") / "report.html").read_text("utf-8")
    again = open_study(tmp_path / "run")
    assert again.verdict == made.verdict and any("put into the reference's" in sentence for sentence in made.verdict)
    assert again.to_html() == page and (made.divergences["diverged"] == 1).any()


def test_the_map_is_small_for_thousands_of_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    small = synthetic(prompts=40, tokens=30, candidates=2, alternatives=False)
    rows = pd.concat([small.divergences] * 75, ignore_index=True)
    texts = dict.fromkeys(rows["prompt_id"].unique(), "Once upon a time")
    assert len(rows) == 6000 and len(promptmap.prompt_map(rows, small.traces, texts, set())) < 40_000
    monkeypatch.setattr(promptmap, "MOST", 100)
    kept = promptmap.carried(rows)
    assert kept.groupby("candidate").size().to_dict() == {"v0": 50, "v1": 50}


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_what_is_written_can_be_read(colours: dict[str, str]) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 between text and its ground, the hottest token's included."""

    def luminance(rgb: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def rgb(name: str) -> list[float]:
        return [int(colours[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]

    def contrast(text: list[float], ground: list[float]) -> float:
        low, high = sorted((luminance(text), luminance(ground)))
        return (high + 0.05) / (low + 0.05)

    hottest = [0.54 * h + 0.46 * p for h, p in zip(rgb("heat"), rgb("raised"), strict=True)]
    assert math.isclose(contrast([0, 0, 0], [1, 1, 1]), 21.0)
    for text, ground in (
        ("ink", hottest),
        *((t, rgb(g)) for t in ("ink", "soft", "faint") for g in ("paper", "raised")),
    ):
        assert contrast(rgb(text), ground) >= 4.5, text


def test_a_long_verdict_folds_but_never_its_alarms() -> None:
    made = synthetic(prompts=4, tokens=40, candidates=2)
    made.failures = typed(pd.DataFrame([FAILED | {"variant": "v9"}]), "failures")
    again = made.divergences[made.divergences["diverged"] == 1].head(1).assign(role="self", candidate="fp32")
    made.divergences = typed(pd.concat([made.divergences, again], ignore_index=True), "divergences")
    its = made.traces[(made.traces["variant"] == "v0") & made.traces["prompt_id"].isin(again["prompt_id"])]
    made.traces = typed(pd.concat([made.traces, its.assign(role="self", variant="fp32")], ignore_index=True), "traces")
    first, rest = folded(made)
    assert sorted(first + rest) == sorted(made.verdict)
    assert len(rest) >= 2 and len(first) == 6
    assert first[0].startswith("The reference differs from itself") and first[-2].startswith("Not everything ran")
    assert first[-1].startswith("v9 (load): ")
    for markup in (render(made), made._repr_html_()):
        closed = re.search(r"<details.*?</details>", markup[max(0, markup.find('id="verdict"')) :], re.S)
        assert closed is not None
        assert all(s in Page(closed[0]).text for s in rest)
        assert not any(s in Page(closed[0]).text for s in first)
    assert folded(study({"bf16": [{}]}))[1] == []


def test_a_name_in_a_sentence_does_not_turn_it_around() -> None:
    made = study({"עברית": [parted(), {}], "bf16": [{}]}, texts=True)
    sentence = next(s for s in made.verdict if s.startswith("Perplexity"))
    assert re.search("עברית [+-]?[0-9]", sentence)  # the number would be drawn before the name
    for markup in (render(made), made._repr_html_()):
        assert re.search("<bdi>עברית</bdi> [+-]?[0-9]", markup)
        assert sentence in Page(markup).text


@pytest.mark.parametrize(
    ("share", "said"), [(1.01326, "101 %"), (25.0, "2,500 %"), (0.999999, "99.9999 %"), (0.999164, "99.92 %")]
)
def test_a_share_above_one_is_a_plain_percentage(share: float, said: str) -> None:
    assert percent(share) == said


@pytest.mark.parametrize("text", HOSTILE)
def test_a_notebook_gets_inert_markup(text: str) -> None:
    held = text.encode("utf-8", "replace").decode("utf-8")
    found = Page(study({held: [parted(), {}]}, strategy=held, says=held)._repr_html_())
    assert {tag for tag, _ in found.tags} <= {
        "div",
        "p",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "bdi",
        "small",
        "br",
        "details",
        "summary",
    }
    assert {a for _, attributes in found.tags for a in attributes} <= {"style", "title"}
    assert "50.0 %" in found.text


def test_two_runs_side_by_side() -> None:
    first = study({"bf16": [parted(), {}]}, environment={"cpu": "one", "versions": {"torch": "2"}})
    second = study({"bf16": [parted(), parted()]}, environment={"cpu": "two", "versions": {"torch": "2"}})
    second.traces.loc[second.traces["role"] == "candidate", "token_ids"] = ["1 2 3", "1 2 4"]
    found = only_ours(beside(first, second, names=("runs/a", "runs/b")))
    assert "Machine: cpu one → two." in found.text
    assert "Settings: the same." in found.text
    titles = [a.get("title") for tag, a in found.tags if tag == "td"]
    assert {
        "divergence_rate = 0.5",
        "divergence_rate = 1.0",
        "difference = 0.5",
        "same = 1; texts = 2",
        "at = 2",
    } <= set(titles)
    assert "cpu" in found.text
    assert "torch" not in found.text
    assert "Where they ran" not in only_ours(beside(first, first, names=("a", "b"))).text
    with pytest.raises(InputError, match="nothing in common"):
        beside(first, study({"int8": [parted()]}), names=("a", "b"))
