"""Two runs side by side: what changed, in words, and where their texts part."""

from __future__ import annotations

import copy
import re
from typing import Any

import pandas as pd
import pytest
from synthetic import synthetic

import decodedrift as dd
from decodedrift.core.records import Variant
from decodedrift.experiments.compare.beside import beside
from decodedrift.experiments.compare.changes import deciding, differences, partings, sentences, settings
from decodedrift.experiments.compare.settings import CompareSettings
from decodedrift.report.sections.provenance import DEFAULTS


@pytest.fixture
def one() -> dd.Study:
    return synthetic(prompts=3, tokens=6, candidates=1, alternatives=False)


@pytest.fixture
def two(one: dd.Study) -> dd.Study:
    return copy.deepcopy(one)


def written(study: dd.Study, prompt: str, ids: str, finish: str = "length") -> None:
    rows = (study.traces["prompt_id"] == prompt) & (study.traces["role"] == "candidate")
    study.traces.loc[rows, ["token_ids", "finish"]] = [ids, finish]


def test_equal_runs_have_no_change(one: dd.Study, two: dd.Study) -> None:
    lines = sentences(one, two)
    assert lines == [
        "Settings: the same.", "Versions: the same.", "Machine: the same.", "Model and tokenizer: the same.",
        "Answer: the same.", "Divergence rates whose intervals do not overlap: none.",
    ]  # fmt: skip
    assert partings(one, two)["at"].isna().all()
    assert len(partings(one, two)) == 6


def test_what_changed_is_said(one: dd.Study, two: dd.Study) -> None:
    one.environment = {"versions": {"torch": "2.12", "numpy": "2"}, "cpu": "a", "tokenizer": "0" * 64, "warnings": []}
    two.environment = {"versions": {"torch": "2.13", "numpy": "2"}, "cpu": "a", "tokenizer": "1" * 64, "warnings": []}
    two.plan = {**two.plan, "max_new_tokens": 8, "threads": 2, "prompts": two.plan["prompts"][:2]}
    one.answer, two.answer = (
        pd.DataFrame({"candidate": ["v0"], "wording": [word], "quality": ["worse"]}) for word in ("as noise", "differs")
    )
    lines = sentences(one, two)
    assert lines[:5] == [
        "Settings: prompts 3 → 2; new tokens 6 → 8.", "Versions: torch 2.12 → 2.13.", "Machine: the same.",
        "Model and tokenizer: tokenizer is another.", "Answer: v0 as noise → differs.",
    ]  # fmt: skip
    assert differences(one.environment, two.environment) == {
        "versions.torch": ("2.12", "2.13"), "tokenizer": ("0" * 12, "1" * 12),
    }  # fmt: skip


def test_a_recorded_text_that_is_no_rounding_any_more_is_said(one: dd.Study, two: dd.Study) -> None:
    same = {"candidate": ["v0"], "wording": ["differs"], "quality": ["not measured"]}
    one.answer, two.answer = (
        pd.DataFrame(same | {"rounding": [word]}) for word in ("cannot tell", "more than rounding")
    )
    assert "Answer: v0, rounding: cannot tell → more than rounding." in sentences(one, two)
    assert "Answer: the same." in sentences(one, copy.deepcopy(one))


@pytest.mark.parametrize(("ends", "said"), [((0.5, 0.9), "v0 under top-k:k=5 20 % → 70 %"), ((0.3, 0.9), "none")])
def test_a_rate_has_changed_where_the_intervals_are_apart(
    one: dd.Study, two: dd.Study, ends: tuple[float, float], said: str
) -> None:
    columns = ["divergence_rate", "divergence_rate_low", "divergence_rate_high"]
    one.summary[columns], two.summary[columns] = [0.2, 0.1, 0.4], [0.7, *ends]
    assert sentences(one, two)[-1] == f"Divergence rates whose intervals do not overlap: {said}."


@pytest.mark.parametrize(("first", "second", "finish", "at", "tokens"), [
    ("1 2 3 4", "1 2 9 4", "length", 2, " word3 →  word9"),
    ("1 2 3 4", "1 2", "length", None, ""),  # cut at its length: equal as far as both go
    ("1 2 3 4", "1 2", "screened", None, ""),  # a screening reads no further than to its predicted difference
    ("1 2 3 4", "1 2", "eos", 2, " word3 → the end"),
    ("1 2", "1 2", "eos", None, ""),
])  # fmt: skip
def test_the_first_token_that_differs(
    one: dd.Study, two: dd.Study, first: str, second: str, finish: str, at: int | None, tokens: str
) -> None:
    written(one, "prompt-1", first)
    written(two, "prompt-1", second, finish)
    [row] = partings(one, two).query("prompt_id == 'prompt-1' and role == 'candidate'").itertuples()
    assert (None if pd.isna(row.at) else row.at, row.tokens) == (at, tokens)
    assert partings(one, two)["at"].notna().sum() == (at is not None)


def test_another_prompt_of_the_same_id_is_not_compared(one: dd.Study, two: dd.Study) -> None:
    prompts: list[dict[str, Any]] = [dict(p) for p in two.plan["prompts"]]
    prompts[0]["text"] = "another"
    two.plan = {**two.plan, "prompts": prompts}
    assert set(partings(one, two)["prompt_id"]) == {"prompt-1", "prompt-2"}


def test_what_decides_is_made_of_the_settings() -> None:
    names = set(deciding(CompareSettings))
    assert {"model", "candidates", "strategies", "seeds", "batch_size", "noise_floor", "near_tie_below"} <= names
    assert not names & {"device", "threads", "memory_bytes", "executor", "no_text", "prompts_per_job"}
    plan = {"candidates": [{"name": "q", "model": "a"}], "mode": "exact"}
    other = {"candidates": [{"name": "q", "model": "b"}], "mode": "screen"}
    assert settings(CompareSettings, plan, other) == [
        "candidates (q) given otherwise", "mode every variant generates → screening: candidates read",
    ]  # fmt: skip
    assert settings(CompareSettings, plan, plan) == []
    assert {"device", "batch_size", "threads", "use_cache", "model", "revision"} == DEFAULTS.keys()
    assert all(getattr(Variant("v", "bf16"), name) == value for name, value in DEFAULTS.items())


def html(one: dd.Study, two: dd.Study, **asked: Any) -> str:
    return beside(one, two, names=("a", "b"), **asked)


def test_other_definitions_are_said_before_anything_else(one: dd.Study, two: dd.Study) -> None:
    said = "made by other definitions of the metrics (versions 4 and 5): figures of changed columns cannot be compared"
    one.environment, two.environment = {"metrics_version": 4}, {"metrics_version": 5}
    page = html(one, two)
    assert 0 < page.index(said) < page.index("What changed")
    assert "Versions: metrics 4 → 5." in sentences(one, two)
    assert "definitions of the metrics" not in html(one, one)


def test_no_token_without_texts(one: dd.Study, two: dd.Study) -> None:
    written(one, "prompt-1", "1 2 3 4")
    written(two, "prompt-1", "1 2 9 4")
    assert "word3" in html(one, two)
    page = html(one, two, texts=False)
    assert not re.search(r"word\d", page)
    assert "First different token" in page and "prompt-1" in page


def test_runs_without_a_common_prompt_say_so(one: dd.Study, two: dd.Study) -> None:
    assert "No prompt is in both runs" not in html(one, two)
    two.plan = {**two.plan, "prompts": [{**p, "text": "another"} for p in two.plan["prompts"]]}
    assert "No prompt is in both runs" in html(one, two)
    two.plan = one.plan
    two.traces["token_ids"] = None
    assert "kept its tokens in both runs" in html(one, two)


def test_a_run_beside_itself_is_said_once(one: dd.Study, two: dd.Study) -> None:
    page = html(one, two)
    assert "Every figure is equal in both runs" in page and "Figures of both runs" not in page
    assert "What both say" in page
    two.summary.loc[0, "kl_mean"] = 3.0
    page = html(one, two)
    assert "Every figure is equal" not in page and "Figures of both runs" in page


def test_files_are_named_in_words(one: dd.Study, two: dd.Study) -> None:
    def environment(digit: str, **more: str) -> dict[str, Any]:
        own = {"name": "x", "config": digit * 40, "files": {"model.safetensors": digit * 64}, **more}
        return {"model": {"files": {"a.bin": digit * 64}}, "checkpoints": {"a.b": own}}

    one.environment, two.environment = environment("0"), environment("1", commit="c")
    assert sentences(one, two)[3] == (
        "Model and tokenizer: file a.bin is another; config of the checkpoint of a.b is another; file model.safetensors "
        "of the checkpoint of a.b is another; commit of the checkpoint of a.b is in one of them alone."
    )


def test_figures_are_told_in_words(one: dd.Study, two: dd.Study) -> None:
    """No symbol of the definitions, shares differ by points, and what never happened is no missing number."""
    columns = ["divergence_rate", "diverged", "first_divergence_median"]
    one.summary[columns], two.summary[columns] = [0.5, 1, 3.0], [0.0, 0, float("nan")]
    page = html(one, two)
    assert not re.search(r"t\*|PPL", page)
    cells = [re.sub("<[^>]*>", "", c).strip() for c in re.findall("<td[^>]*>(.*?)</td>", page, re.DOTALL)]
    at = cells.index("First different token, median")
    assert cells[at : at + 4] == ["First different token, median", "3", "never", ""]
    assert "−50 points" in cells
