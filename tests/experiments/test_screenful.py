"""What a terminal of 80 x 24 shows of a run, and which split it shows."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import types
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import running
from rich.cells import cell_len
from synthetic import synthetic
from test_answer import rows
from test_answer import study as made

from decodedrift.core.records import InputError
from decodedrift.experiments.compare.baseline import worse
from decodedrift.experiments.compare.screenful import _rates, screenful
from decodedrift.experiments.compare.selection import fork, telling_case
from decodedrift.experiments.compare.verdict import assembly, certificate
from decodedrift.experiments.study import Study, open_study


@pytest.fixture(scope="module")
def study() -> Any:
    return running.run(
        "demo", candidates=["bf16", "int8"], strategies=["greedy", "top-p"], limit=3, max_new_tokens=24,
        noise_floor=True, default_text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def parted() -> Any:
    """Rounded weights, computed in float32: where texts part does not hang on how a processor multiplies 16 bits."""
    return running.run("demo", candidates=["int4"], strategies=["greedy"], limit=3, max_new_tokens=24)


def test_both_questions_are_answered_for_every_candidate(study: Any) -> None:
    """int8 too: against itself in another layout, and on a text that neither side wrote."""
    assert study.answer["candidate"].tolist() == ["bf16", "int8"]
    assert (study.answer["floor_prompts"] == 3).all()
    assert (study.answer["texts"] == "bundled story").all()
    assert (study.answer["quality"] == "no loss above 1 %").all()
    floors = study.divergences[study.divergences["role"] == "floor"]
    assert floors.groupby("reference", sort=False)["candidate"].first().to_dict() == {
        "bf16": "bf16 (5 wider)", "int8": "int8 (5 wider)"}  # fmt: skip
    assert study.environment["warnings"] == []


def test_a_screen_has_the_answer_a_table_and_a_split_and_verbose_has_all(study: Any) -> None:
    shown = screenful(study)
    lines = shown.split("\n")
    assert all(cell_len(line) <= 80 for line in lines)
    assert len(lines) <= 21, "the command line, the path of the report, and a blank line are beside it"
    for row in study.answer.itertuples():
        assert f"{row.candidate}  wording {row.wording}: " in shown
        assert f"quality {row.quality}: perplexity " in shown
    assert lines[0].startswith("bf16")
    assert "parted from fp32" in shown
    everything = " ".join(screenful(study, verbose=True).replace("\n  ", " ").split())
    for sentence in assembly.rest(study):
        assert f"- {sentence}" in everything
    assert "median t*" in everything and "median t*" not in shown


@pytest.mark.slow
def test_the_default_run_fits_a_terminal(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "decodedrift", "compare", "--quiet", "--out", "run"], cwd=tmp_path, check=True,
        capture_output=True, text=True, env=os.environ | {"COLUMNS": "80", "LINES": "24"},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) < 24 and all(cell_len(line) <= 80 for line in lines), done.stdout
    assert [line.split()[1] for line in lines if line[:4] in ("bf16", "fp16", "int8")][:3] == ["wording"] * 3
    assert any(line.startswith("- ") for line in lines) and any(" held " in line for line in lines)


def test_what_does_not_fit_is_skipped_and_what_leaves_the_certificate_is_shown(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        assembly, "rest", lambda study: ["long " * 200, "short one", "longer " * 200, "second", "third"]
    )
    shown = screenful(study)
    assert "- short one\n- second\n- third\n" in shown and "long" not in shown
    urgent = "Outside the noise certificate " + "word " * 60
    monkeypatch.setattr(assembly, "rest", lambda study: [urgent, "short one"])
    monkeypatch.setattr(certificate, "outside", lambda study: [urgent])
    shown = screenful(study)
    assert "- Outside the noise certificate" in shown and shown.count("\n") < 21


LONG = ["greedy", "sample:k=20,p=0.8,temperature=0.7", "greedy:repetition_penalty=1.3"]


@pytest.mark.parametrize("more", [0, 9])
def test_no_strategy_leaves_the_table_without_a_word(more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names are shortened so that all stand side by side; how many of more have no room is said."""
    monkeypatch.setattr(assembly, "pooled", lambda cells, column: 0.5)
    labels = LONG + [f"sample:k={k},temperature=0.7" for k in range(more)]
    cells = [
        {"role": "candidate", "candidate": "bf16", "strategy": label, "diverged": number, "traces": 99}
        for number, label in enumerate(labels)
    ]
    study: Any = types.SimpleNamespace(summary=pd.DataFrame(cells), plan={"reference": {"name": "fp32"}})
    lines = _rates(study, 80, ["bf16"]).split("\n")
    shown = sum(cell.endswith("/99") for cell in lines[2].split())
    assert all(cell_len(line) <= 80 for line in lines)
    assert shown == len(labels) if not more else 3 <= shown < len(labels)
    assert lines[3:] == ([f"({len(labels) - shown} more strategies; --verbose has all)"] if more else [])


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9, 20])
def test_any_number_of_candidates_fits(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    study = synthetic(prompts=4, tokens=6, candidates=count, strategies=2, alternatives=False)
    for alarm, outside in product(["", "it broke " * 200], ["", "it is wider " * 90]):
        monkeypatch.setattr(assembly, "alarms", lambda study, alarm=alarm: [alarm] if alarm else [])
        monkeypatch.setattr(certificate, "outside", lambda study, outside=outside: [outside] if outside else [])
        monkeypatch.setattr(assembly, "rest", lambda study, outside=outside: [outside] if outside else ["a sentence"])
        lines = screenful(study).split("\n")
        assert len(lines) <= 21 and all(cell_len(line) <= 80 for line in lines)
        named = [line.split()[0] for line in lines if " wording " in line]
        hidden = count - len(named)
        if hidden:
            assert f"({hidden} more candidates; --verbose has all)" in lines
        elif count > 3:
            assert "(--verbose has all)" in lines
        assert bool(outside) == any("it is wider" in line for line in lines)
        everything = screenful(study, verbose=True)
        assert everything.count(" wording ") == count


def test_of_too_many_candidates_the_loud_ones_are_shown() -> None:
    study = synthetic(prompts=4, tokens=6, candidates=20, alternatives=False)
    study.answer = study.answer.assign(wording=["differs"] * 19 + ["nonfinite"])
    shown = screenful(study)
    assert "v19 " in shown and "v15 " not in shown


def test_what_broke_comes_before_the_answer() -> None:
    broken = made([0, 0])
    trace = {"model": "m", "strategy": "greedy", "seed": 0, "prompt_id": "p0", "token_ids": "1 2", "n_tokens": 2}
    broken.traces = rows("traces", [
        trace | {"variant": "fp32", "role": "reference", "finish": "length"},
        trace | {"variant": "c", "role": "candidate", "finish": "nonfinite", "n_tokens": 1, "nonfinite": 1},
    ])  # fmt: skip
    assert broken.answer["wording"].tolist() == ["nonfinite"]
    assert broken.verdict[0].startswith("c breaks in ")
    assert screenful(broken).startswith("- c breaks in ")
    twice = [trace | {"variant": v, "role": role, "finish": finish, "strategy": s, "n_tokens": n, "nonfinite": n == 1}
             for s in ("greedy", "top-p") for v, role, finish, n in (("fp32", "reference", "length", 2),
                                                                     ("c", "candidate", "nonfinite", 1))]  # fmt: skip
    both = made([0, 0])
    both.traces = rows("traces", twice)
    both.failures = rows("failures", [
        {"variant": "c", "stage": "generate", "status": "nonfinite", "strategy": "greedy", "error": "ended a trace"},
        {"variant": "c", "stage": "load", "status": "failed", "error": "gone"}])  # fmt: skip
    assert both.answer["wording_note"].tolist() == ["NaN or infinite logits ended 2 traces (greedy, top-p)"]
    assert not any("ended a trace" in sentence for sentence in both.verdict), "told once, by the first sentence"
    assert any(sentence.startswith("c (load): gone") for sentence in both.verdict)


def test_the_split_is_a_greedy_near_tie_on_a_word_that_changes_the_text(parted: Any) -> None:
    row = telling_case(parted)
    assert (row.strategy, row.cause) == ("greedy", "near_tie")
    assert row.first_divergence > 0 and row.agreement_after < 0.5
    assert row.reference_token.strip().isalpha() and row.candidate_token.strip().isalpha()
    texts = fork(parted, row)
    assert texts is not None
    traces = parted.traces[(parted.traces["strategy"] == "greedy") & (parted.traces["prompt_id"] == row.prompt_id)]
    ours = traces[traces["role"] == "reference"].iloc[0]
    theirs = traces[(traces["role"] == "candidate") & (traces["variant"] == row.candidate)].iloc[0]
    assert texts.shared + texts.reference_text == ours["prompt"] + ours["text"]
    assert texts.shared + texts.candidate_text == ours["prompt"] + theirs["text"]
    assert texts.reference_text.startswith(row.reference_token.strip())
    assert texts.candidate_text.startswith(row.candidate_token.strip())


def test_a_split_has_the_space_that_a_decoder_drops(parted: Any) -> None:
    """As SentencePiece's: a text by itself begins without the space that its first token has."""
    without = Study({name: getattr(parted, name) for name in parted.experiment.tables}, parted.plan, parted.environment)
    without.traces = parted.traces.assign(text=parted.traces["text"].str.removeprefix(" "))
    row = telling_case(parted)
    texts, same = fork(without, row), fork(parted, row)
    assert texts is not None and texts == same
    prompt = parted.traces.set_index("prompt_id")["prompt"][row.prompt_id].iloc[0]
    assert texts.shared.startswith(f"{prompt} ")


def test_the_probabilities_at_the_fork_are_the_references_own(parted: Any) -> None:
    """Against the stored top tokens of the reference at that place."""
    row = telling_case(parted)
    texts = fork(parted, row)
    assert texts is not None
    tops = parted.alternatives
    tops = tops[(tops["candidate"] == row.candidate) & (tops["strategy"] == "greedy") & (tops["variant"] == "fp32")]
    tops = tops[(tops["prompt_id"] == row.prompt_id) & (tops["position"] == row.first_divergence)]
    held = np.exp(tops[tops["pass"] == "generated"].set_index("token_id")["logprob"])
    assert texts.p_reference == pytest.approx(held[row.reference_token_id], rel=1e-4)
    assert texts.p_candidate == pytest.approx(held[row.candidate_token_id], rel=1e-4)
    assert texts.p_reference > texts.p_candidate


def test_a_token_that_is_white_is_shown_and_a_draw_has_no_probabilities(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decodedrift.experiments.compare import screenful as module
    from decodedrift.experiments.compare.selection import Fork

    monkeypatch.setattr(module, "telling_case", lambda study: types.SimpleNamespace(reference="a", candidate="b"))
    monkeypatch.setattr(module, "fork", lambda study, row: Fork("x", "y", "z", "One", "\n", 0.31, 0.309))
    assert 'a held "One" 31 % | "⏎" 31 %:' in module._split(study, 80)
    monkeypatch.setattr(module, "fork", lambda study, row: Fork("x", "y", "z", "white", "little", math.nan, math.nan))
    assert 'a took "white", b "little":' in module._split(study, 80)


@pytest.mark.parametrize("text", ["", "a word " * 60, "漢字" * 200, "x" * 500, "\x1b[2J\u202e" * 50, "é\n\t" * 90])
@pytest.mark.parametrize("name", ["c", "a" * 60, "漢" * 40])
def test_a_split_of_any_text_fits(text: str, name: str, study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from decodedrift.experiments.compare import screenful as module
    from decodedrift.experiments.compare.selection import Fork

    monkeypatch.setattr(module, "telling_case", lambda study: types.SimpleNamespace(reference=name, candidate=name))
    monkeypatch.setattr(module, "fork", lambda study, row: Fork(text, text, text, text[:90], text[:90], 0.123, 0.045))
    lines = module._split(study, 80).split("\n")
    assert len(lines) == 3 and all(cell_len(line) <= 80 and line.isprintable() for line in lines), lines


def test_a_line_break_is_seen_in_the_split(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from decodedrift.experiments.compare import screenful as module
    from decodedrift.experiments.compare.selection import Fork

    monkeypatch.setattr(module, "telling_case", lambda study: types.SimpleNamespace(reference="r", candidate="c"))
    monkeypatch.setattr(module, "fork", lambda study, row: Fork("s", "A", "b", " A", " \n", 0.24, 0.22))
    assert module._split(study, 80).startswith('After "s", r held "A" 24 % | "⏎" 22 %:')


def case(**changes: Any) -> dict[str, Any]:
    row = {"role": "candidate", "diverged": 1, "strategy": "greedy", "cause": "near_tie", "reference_token": " careful",
           "candidate_token": " happy", "first_divergence": 5, "agreement_after": 0.1, "at_end": 0}  # fmt: skip
    return row | changes


@pytest.mark.parametrize(
    "worse_case",
    [
        {"strategy": "top-p"}, {"cause": "shift"}, {"reference_token": ","}, {"candidate_token": "ed"},
        {"reference_token": "Happy"}, {"first_divergence": 0}, {"agreement_after": 0.9}, {"agreement_after": math.nan},
        {"cause": "search"}, {"at_end": 1}, {"diverged": 0}, {"role": "floor"},
    ],
)  # fmt: skip
def test_a_case_that_shows_less_does_not_come_first(worse_case: dict[str, Any], study: Any) -> None:
    checks = rows("checks", [])
    assert (
        telling_case(types.SimpleNamespace(divergences=pd.DataFrame([case(**worse_case), case()]), checks=checks)).Index
        == 1
    )
    only = types.SimpleNamespace(divergences=pd.DataFrame([case(**worse_case)]), checks=checks)
    never = {"cause", "at_end", "diverged", "role"} & worse_case.keys() and worse_case != {"cause": "shift"}
    assert (telling_case(only) is None) == bool(never)


def test_a_run_without_words_shows_no_split() -> None:
    run = running.run("demo", candidates=["bf16"], strategies=["greedy"], limit=2, max_new_tokens=12, no_text=True)
    assert " held " not in screenful(run)


def test_verdict_json_is_the_answer_first(study: Any, tmp_path: Path) -> None:
    said = json.loads((study.save(tmp_path / "run") / "verdict.json").read_text("utf-8"))
    assert list(said) == ["candidates", "controls", "verdict"]
    assert [row["wording"] for row in said["candidates"]] == list(study.answer["wording"])
    assert {row["role"] for row in said["controls"]} == {"self", "floor"}
    assert said["verdict"] == study.verdict
    again = open_study(tmp_path / "run")
    pd.testing.assert_frame_equal(again.answer, study.answer)


def test_a_run_is_not_worse_than_itself_and_worse_where_a_figure_leaves_its_interval(study: Any) -> None:
    assert worse(study, study) == ([], 2 * (2 * 2 + 2))
    changed = dataclasses.make_dataclass("Run", ["summary", "answer", "plan", "environment", "experiment", "path"])
    table = study.summary.copy()
    at = table.index[(table["role"] == "candidate") & (table["candidate"] == "int8") & (table["strategy"] == "greedy")][
        0
    ]

    def run(**changes: Any) -> Any:
        entries = {"summary": table, "answer": study.answer, "plan": study.plan, "environment": study.environment}
        return changed(**entries | {"experiment": study.experiment, "path": None} | changes)

    bound = table.loc[at, "kl_mean_high"]
    for value, bad in ((bound * 0.999, False), (bound * 1.001, True), (math.nan, True)):
        moved = table.copy()
        moved.loc[at, "kl_mean"] = value
        sentences, _ = worse(run(summary=moved), study)
        assert [s.startswith("int8 greedy: kl_mean is") for s in sentences] == [True] * bad
    high = table.loc[at, "divergence_rate_high"]
    moved = table.copy()
    moved.loc[at, "divergence_rate"] = min(1.0, high + 1e-6)
    assert len(worse(run(summary=moved), study)[0]) == (high < 1)
    words = study.answer.assign(quality="worse")
    assert worse(run(answer=words), study)[0] == [
        f"{name}: quality is 'worse', and was 'no loss above 1 %'" for name in ("bf16", "int8")]  # fmt: skip
    assert not worse(run(answer=words), run(answer=words))[0], "it was so before"
    with pytest.raises(InputError, match="max_new_tokens 24 there, 25 here"):
        worse(run(plan={**study.plan, "max_new_tokens": 25}), study)
    with pytest.raises(InputError, match="metrics version"):
        worse(run(environment={**study.environment, "metrics_version": 1}), study)
