"""Does it cost answers: flips counted by hand, runs whose answers are known, what is refused, shown, gated and not kept."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import running
from hypothesis import given
from hypothesis import strategies as st
from test_answer import PLAN, rows

import decodedrift as dd
from decodedrift.experiments.compare import checking
from decodedrift.experiments.compare.folds.accuracy import KEYS, NUMBERS, judged, word_of
from decodedrift.experiments.compare.gating import gating, never
from decodedrift.experiments.compare.selection import select_cases, telling_case
from decodedrift.experiments.compare.table import brief
from decodedrift.experiments.compare.verdict import accuracy
from decodedrift.measure.checks import Judged
from decodedrift.models.text.vocabulary import Vocabulary
from decodedrift.numerics.equivalence import paired_score
from decodedrift.runs.wordgates import parse_gates

PROMPTS = {"one": "w1 w2", "two": "w3", "three": "w4 w5 w6", "four": "w7 w8"}
run = partial(running.run, candidates=["int8"], strategies=["greedy"], prompts=PROMPTS, max_new_tokens=24)
SEARCHED = ["accuracy_drop>0.01", "accuracy_drop>0.9", "answers==worse", "default"]
OUTCOME = st.tuples(st.sampled_from("abc"), st.booleans())


def answered(texts: dict[str, str], **more: Any) -> list[dd.Prompt]:
    return [dd.Prompt(name, PROMPTS[name], answer=texts.get(name), **more) for name in PROMPTS]


def read(**asked: Any) -> dd.Study:
    """The run in which each prompt has an answer that no text is: what was compared are the texts themselves."""
    return run(prompts=answered(dict.fromkeys(PROMPTS, "x")), answer_check="exact:case=true", **asked)


def texts_of(study: dd.Study, side: str) -> dict[str, str]:
    """Each prompt's text as one side wrote it."""
    return dict(zip(study.checks["prompt_id"], study.checks[f"{side}_answer"], strict=True))


def checks(
    flips: list[str], parted: list[int] | None = None, prompt: str = "p{}", strategy: str = "greedy"
) -> pd.DataFrame:
    """A row a prompt: what became of its answer."""
    sides = {
        "right_to_wrong": (1, 0),
        "wrong_to_right": (0, 1),
        "wrong_to_wrong": (0, 0),
        "same": (1, 1),
        "blank": None,
    }
    return rows("checks", [
        {"model": "m", "reference": "fp32", "candidate": "c", "role": "candidate", "strategy": strategy, "seed": 0,
         "prompt_id": prompt.format(n), "diverged": (parted or [int(flip != "same") for flip in flips])[n]}
        | ({} if sides[flip] is None else
           {"flip": flip, "reference_right": sides[flip][0], "candidate_right": sides[flip][1]})
        for n, flip in enumerate(flips)
    ])  # fmt: skip


def made(table: pd.DataFrame, **plan: Any) -> dd.Study:
    """A run of candidate c with these rows of checks.csv."""
    prompts = [{"id": name, "text": "", "tags": [], "answer": "x"} for name in table["prompt_id"].unique()]
    keys = ["model", "reference", "candidate", "role", "strategy", "seed", "prompt_id", "diverged"]
    pairs = table[keys].assign(compared=8, nonfinite=0, first_divergence=3).to_dict("records")
    asked = {
        "answer_check": "exact",
        "equivalence": 0.02,
        "prompts": prompts,
        "strategies": [{"name": "greedy", "label": "greedy", "params": {}}],
    }
    return dd.Study({"checks": table, "divergences": rows("divergences", pairs)}, PLAN | asked | plan)


@given(OUTCOME, OUTCOME)
def test_flips_are_turned_around_with_the_sides(one: tuple[str, bool], two: tuple[str, bool]) -> None:
    there, back = checking.flip(Judged(*one), Judged(*two)), checking.flip(Judged(*two), Judged(*one))
    turned = {checking.LOST: checking.WON, checking.WON: checking.LOST}
    assert back == turned.get(there, there)
    assert (there in turned) == (one[1] != two[1])
    assert checking.flip(Judged(*one), Judged(*one)) == checking.SAME


def test_every_figure_by_hand() -> None:
    table = checks(["right_to_wrong"] * 3 + ["wrong_to_right"] + ["wrong_to_wrong"] * 2 + ["same"] * 3 + ["blank"],
                   [1, 1, 1, 1, 1, 1, 1, 0, 0, 1])  # fmt: skip
    (row,) = made(table).accuracy.itertuples()
    assert (row.answered_prompts, row.checked, row.unchecked) == (10, 9, 1)
    assert (row.right_to_wrong, row.wrong_to_right, row.wrong_to_wrong) == (3, 1, 2)
    assert (row.accuracy_reference, row.accuracy_candidate) == (pytest.approx(6 / 9), pytest.approx(4 / 9))
    assert (row.accuracy_drop, row.flips, row.churn) == (
        pytest.approx(2 / 9),
        pytest.approx(4 / 9),
        pytest.approx(6 / 9),
    )
    assert (row.checked_diverged, row.harmful_share) == (7, pytest.approx(3 / 7))
    told = table[table["flip"].notna()]
    ours, theirs = (told[f"{side}_right"].to_numpy(float) for side in ("reference", "candidate"))
    names = told["prompt_id"].to_numpy(str)
    assert (row.accuracy_drop_low, row.accuracy_drop_high) == paired_score(ours, theirs, names)[1:]
    assert (row.equivalence_low, row.equivalence_high) == paired_score(ours, theirs, names, 0.9)[1:]
    assert row.accuracy_drop_low < row.equivalence_low < row.accuracy_drop < row.equivalence_high


def test_every_word_and_what_must_not_get_it() -> None:
    def word(flips: list[str], **plan: Any) -> str:
        return str(made(checks(flips), **plan).answer["answers"].iloc[0])

    flips = {"l": "right_to_wrong", "w": "wrong_to_right"}
    assert word(["same"] * 133) == "equivalent"
    assert word(["same"] * 132) == "cannot tell", "the smallest number whose interval lies within 2 points"
    assert word(["same"] * 132, equivalence=0.03) == "equivalent"
    assert word(["same"] * 300 + [flips["l"], flips["w"]] * 40) == "cannot tell", "as often, but other answers"
    assert word(["same"] * 20 + [flips["l"]] * 12) == "worse"
    assert word(["same"] * 20 + [flips["w"]] * 12) == "better"
    assert word(["blank"] * 5) == "not measured" == word([])
    assert word([flips["l"]]) == "cannot tell", "one prompt has no interval"
    row = {"equivalence_low": -0.02, "equivalence_high": 0.0, "accuracy_drop_low": -0.03, "accuracy_drop_high": 0.01,
           "checked": 9, "prompts_needed": 1234.0}  # fmt: skip
    assert word_of(row, 0.02)[0] == "cannot tell", "the margin itself is not within it"
    assert word_of(row, 0.02)[1].endswith("about 1,300 prompts would tell, were there none")
    assert word_of(row | {"equivalence_low": -0.0199}, 0.02)[0] == "equivalent"


def test_what_is_not_counted_is_said() -> None:
    table = checks(["same"] * 5 + ["blank"])
    study = made(table, prompts=[{"id": f"p{n}", "text": ""} for n in range(9)])
    assert study.answer["answers_note"].iloc[0].endswith("; 3 of 9 prompts have no answer; 1 text could not be checked")
    assert "no answers were checked (--check)" in made(checks([]), answer_check=None).answer["answers_note"].iloc[0]
    assert "no text of it could be checked" in made(checks(["blank"])).answer["answers_note"].iloc[0]


def test_the_candidates_row_is_over_all_strategies_by_prompt() -> None:
    table = pd.concat(
        [checks(["right_to_wrong", "same"]), checks(["same", "same"], strategy="beam")], ignore_index=True
    )
    (row,) = made(table).answer.itertuples()
    assert (row.answered_prompts, row.checked, row.accuracy_drop, row.flips) == (2, 4, 0.25, 0.25)
    assert made(table).accuracy["strategy"].tolist() == ["greedy", "beam"]


def test_a_run_whose_answers_are_the_references_own_loses_each_that_parts() -> None:
    """A closed form: what the reference wrote is right, so every text that differs is a right answer turned wrong."""
    plain = read()
    ours, theirs = texts_of(plain, "reference"), texts_of(plain, "candidate")
    apart = {prompt for prompt in PROMPTS if ours[prompt] != theirs[prompt]}
    assert 0 < len(apart) < len(PROMPTS), "some part, and some do not"
    assert set(plain.checks["flip"]) == {"wrong_to_wrong", "same"} and plain.accuracy["flips"].eq(0).all()
    assert plain.accuracy["churn"].eq(len(apart) / len(PROMPTS)).all()
    study = run(prompts=answered(ours), answer_check="exact:case=true")
    table = study.checks.set_index("prompt_id")
    assert (table["reference_right"] == 1).all() and set(table["role"]) == {"candidate"}
    for prompt in PROMPTS:
        assert table.loc[prompt, "flip"] == ("right_to_wrong" if prompt in apart else "same")
        assert table.loc[prompt, "diverged"] == int(prompt in apart)
        assert table.loc[prompt, "expected"] == ours[prompt]
    (row,) = study.accuracy.itertuples()
    assert (row.harmful_share, row.accuracy_reference) == (1.0, 1.0)
    turned = run(prompts=answered(theirs), answer_check="exact:case=true").checks
    assert set(turned.loc[turned["diverged"] == 1, "flip"]) == {"wrong_to_right"}
    pd.testing.assert_frame_equal(study.traces, plain.traces)
    first: Any = telling_case(study)
    assert table.loc[first.prompt_id, "flip"] == "right_to_wrong"
    assert (
        f"int8 turned {len(apart)} of {len(apart)} from right to wrong and 0 from wrong to right." in study.verdict[1]
    )


def test_what_costs_an_answer_is_shown_first() -> None:
    clear, tie = (
        {"role": "candidate", "diverged": 1, "strategy": "greedy", "cause": cause, "reference_token": " careful",
         "candidate_token": " happy", "first_divergence": 5, "agreement_after": 0.1, "at_end": 0, "candidate": "c",
         "seed": 0, "prompt_id": f"p{n}"}
        for n, cause in enumerate(("shift", "near_tie"))
    )  # fmt: skip
    for flips, prompt in ((["right_to_wrong", "wrong_to_right"], "p0"), (["wrong_to_right", "same"], "p1")):
        first = telling_case(SimpleNamespace(divergences=pd.DataFrame([clear, tie]), checks=checks(flips)))  # type: ignore[arg-type]
        assert first is not None and first.prompt_id == prompt


def test_no_special_token_is_part_of_an_answer() -> None:
    from conftest import tiny_tokenizer

    vocab = Vocabulary(tiny_tokenizer(), eos=(5,), pad=0, bos=None, window=99, size=96)
    assert vocab.words([0, 1, 5, 2, 5]) == "w1 w5 w2", "a stop id that does not end the text is a word of it"
    assert vocab.decode([0, 1, 5, 2, 5]) == "<|end|> w1 w5 w2 w5"
    assert vocab.words([]) == vocab.words([5]) == ""


def test_some_have_an_answer_and_some_do_not_and_without_any_there_is_nothing() -> None:
    study = run(prompts=answered({"two": "w1"}), answer_check="contains")
    assert study.checks["prompt_id"].tolist() == ["two"] and study.accuracy["answered_prompts"].tolist() == [1]
    assert study.answer["answers_note"].iloc[0].endswith("3 of 4 prompts have no answer")
    plain = run(prompts=answered({"two": "w1"}))
    assert not len(plain.checks) and not len(plain.accuracy)
    (row,) = plain.answer.itertuples()
    assert (row.answers, row.checked, row.answered_prompts) == ("not measured", 0, 0) and math.isnan(row.accuracy_drop)
    assert not any("answers" in sentence for sentence in plain.verdict), "what nobody asked for is not told of"
    assert "answers" not in brief(plain)[1][0]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"answer_check": "exact"}, "no prompt has an answer; give one under `answer` in prompts="),
        ({"answer_check": "number", "prompts": answered({"two": "many"})}, "prompt two: its answer 'many' holds no number"),
        ({"answer_check": "regex", "prompts": answered({"two": "("})}, "is no regular expression"),
        ({"answer_check": "python:f.py:f", "prompts": answered({"two": "x"})}, "allow it with trust_check_code=True"),
        ({"answer_check": "python:f.py:f", "prompts": answered({"two": "x"}), "trust_check_code": True}, "no such file"),
        ({"answer_check": "exact", "mode": "screen", "prompts": answered({"two": "x"})}, "needs whole texts"),
        ({"answer_check": "exat", "prompts": answered({"two": "x"})}, "did you mean 'exact'"),
        ({"equivalence": 0}, "equivalence=: must be a number > 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_checked_is_refused_in_a_line_before_anything_runs(
    asked: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decodedrift.models import world

    monkeypatch.setattr(world.World, "load", lambda *a: pytest.fail("weights were loaded"))
    with pytest.raises(dd.InputError) as refused:
        run(**asked)
    assert why in str(refused.value) and "\n" not in str(refused.value)


def test_a_check_that_comes_to_no_result_is_a_failure_of_that_prompt_alone(tmp_path: Path) -> None:
    code = "def f(text, answer):\n    if answer == 'bad': raise ValueError('no')\n    return answer in text\n"
    (tmp_path / "own.py").write_text(code)
    asked = {"answer_check": f"python:{tmp_path / 'own.py'}:f", "trust_check_code": True}
    study = run(prompts=answered({"one": "bad", "two": "w"}), **asked)
    (failure,) = study.failures.to_dict("records")
    assert (failure["stage"], failure["status"], failure["prompt_id"]) == ("check", "failed", "one")
    assert failure["error"] == "f raised ValueError: no" and study.failed
    (row,) = study.accuracy.itertuples()
    assert (row.checked, row.unchecked, row.answered_prompts) == (1, 1, 2)
    assert study.checks.loc[study.checks["prompt_id"] == "one", ["flip", "candidate_right"]].isna().all(axis=None)
    digest = study.environment["generation"]["check_code"]
    assert len(digest) == 64
    study.save(tmp_path / "run")
    (tmp_path / "own.py").write_text(code + "\n")
    with pytest.raises(dd.InputError, match="generation check_code differs"):
        run(prompts=answered({"one": "bad", "two": "w"}), **asked, out=tmp_path / "run", resume=True)
    assert dd.open_study(tmp_path / "run").checks["flip"].notna().sum() == 1, "a finished run needs no code"


def test_without_texts_the_words_stay_and_no_text_does(tmp_path: Path) -> None:
    secret = texts_of(read(), "reference")
    asked = {"prompts": answered(secret), "answer_check": "exact:case=true"}
    folder = tmp_path / "run"
    run(**asked, no_text=True, out=folder)
    study, whole = dd.open_study(folder), run(**asked)
    assert study.checks[["expected", "reference_answer", "candidate_answer"]].isna().all(axis=None)
    assert study.checks["flip"].tolist() == whole.checks["flip"].tolist()
    assert study.answer["answers"].tolist() == whole.answer["answers"].tolist()
    assert study.answer["accuracy_drop"].tolist() == whole.answer["accuracy_drop"].tolist()
    words = {text[:20] for text in secret.values()}
    kept = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".parquet")
    assert not [text for text in words if text.encode() in kept]
    assert {p["answer"] for p in json.loads((folder / "data" / "plan.json").read_text())["prompts"]} == {None}


def test_a_run_goes_on_and_is_opened_with_the_same_answers(tmp_path: Path) -> None:
    asked = {"prompts": answered({"one": "w1", "three": "w2"}), "answer_check": "contains"}
    first = run(**asked, prompts_per_job=2, out=tmp_path / "run")
    again = dd.open_study(tmp_path / "run")
    pd.testing.assert_frame_equal(again.checks, first.checks)
    pd.testing.assert_frame_equal(again.accuracy, first.accuracy)
    assert (tmp_path / "run" / "tables" / "checks.csv").exists() and (
        tmp_path / "run" / "tables" / "accuracy.csv"
    ).exists()
    told = json.loads((tmp_path / "run" / "verdict.json").read_text())["candidates"][0]
    assert list(told)[:4] == ["candidate", "wording", "quality", "answers"]


def test_gates_on_what_answers_cost() -> None:
    table = pd.concat([checks(["right_to_wrong"] * 12 + ["same"] * 20)], ignore_index=True)
    study = made(table)
    study.summary = table[[*KEYS, "role"]].head(1).assign(traces=32, diverged=12)
    study.certificate = pd.DataFrame(columns=KEYS)
    gates = gating(study.plan)
    by_column = gates.table(study)
    said = [
        gate.exceeded(study.answer if gate.text.startswith(("answers", "wording", "quality")) else by_column, gates)
        for gate in parse_gates(SEARCHED, False, gates)
    ]
    assert "accuracy_drop is 0.375" in said[0][0] and not said[1]
    assert said[2][0].startswith("answers==worse: c: answers is worse: fewer of its answers are right")
    assert len(said) == 3 + len(gates.recommended) and "answers==worse" in gates.recommended
    (interval,) = parse_gates(["accuracy_drop>0.3"], True, gates)
    assert not interval.exceeded(by_column, gates), "the lower end is below"
    plain = made(checks([]), answer_check=None)
    (gate,) = parse_gates(["accuracy_drop>0.01"], False, gating(plain.plan))
    assert gate.exceeded(study.summary.assign(**dict.fromkeys(NUMBERS, math.nan)), gating(plain.plan)) == [
        "accuracy_drop>0.01: c greedy: accuracy_drop has no value: it is there only where answers are checked (--check)"
    ]
    assert never({"checked": 5, "checked_diverged": 0, "traces": 5, "diverged": 0}, "harmful_share", {})
    assert not never({"checked": math.nan, "checked_diverged": math.nan}, "harmful_share", {})
    assert not never({"checked": 5, "checked_diverged": 1}, "harmful_share_low", {})


def test_the_page_links_to_what_cost_an_answer_and_nothing_in_it_acts() -> None:
    evil = "<script>alert(1)</script>\u202e"
    study = run(prompts=[dd.Prompt(f"{name}{evil}", text, answer=f"{evil}x") for name, text in PROMPTS.items()],
                answer_check="contains")  # fmt: skip
    parted = study.checks["diverged"] == 1
    assert parted.any()
    study.checks = study.checks.assign(
        flip=study.checks["flip"].mask(parted, "right_to_wrong"),
        reference_right=study.checks["reference_right"].mask(parted, 1),
    )
    page = study.to_html()
    table = page.partition('<table id="costly">')[2].partition("</table>")[0]
    assert table.count("<tr>") == 1 + parted.sum() and table.count('<a href="#candidate=int8') == parted.sum()
    assert "&lt;script&gt;" in table and "<script>alert" not in page and "\u202e" not in page
    assert "Does it cost answers?" in page
    assert "&lt;script&gt;" not in study.to_html(texts=False).partition('<table id="costly">')[2].partition("</table>")[
        0
    ].replace("&lt;script&gt;alert(1)&lt;/script&gt;&lt;U+202E&gt;", ""), "without texts the names alone"
    assert "Does it cost answers?" not in run().to_html()


def test_a_page_that_cannot_show_all_keeps_what_cost_an_answer() -> None:
    from synthetic import synthetic

    study = synthetic(prompts=200, tokens=12, candidates=1, alternatives=False)
    last = study.divergences[study.divergences["diverged"] == 1].tail(3)
    keys = ["model", "reference", "candidate", "role", "strategy", "seed", "prompt_id"]
    table = rows("checks", last[keys].assign(flip="right_to_wrong", diverged=1).to_dict("records"))
    assert not set(last["prompt_id"]) <= set(select_cases(study, 20)["prompt_id"]), "the control"
    study.checks = table
    picks = select_cases(study, 20)
    assert set(last["prompt_id"]) <= set(picks["prompt_id"]) and len(picks) == 20
    assert len(select_cases(study, 2)) == 2


def test_the_words_of_a_change() -> None:
    def told(flips: list[str]) -> str:
        (row,) = made(checks(flips)).answer.itertuples()
        return accuracy.change(row)

    lost, won = ["right_to_wrong"], ["wrong_to_right"]
    assert told(lost * 2 + ["same"] * 8).startswith("accuracy 100 % to 80 %, a loss of 20.0 points (-")
    assert told(won * 2 + ["same"] * 8).startswith("accuracy 80 % to 100 %, a gain of 20.0 points (-")
    assert told(["same"] * 10).startswith("accuracy 100 % on both sides (a loss of -27.8 to 27.8 points)")
    assert told(lost) == "accuracy 100 % to 0 %, a loss of 100.0 points", "one prompt has no interval"
    assert told(["blank"]) == ""


def test_old_runs_have_no_answers_and_are_not_wrong() -> None:
    study = dd.open_study(Path(__file__).parents[1] / "fixtures" / "run-0.1.0")
    assert not len(study.checks) and not len(study.accuracy)
    assert set(study.answer["answers"]) == {"not measured"} and "answers" not in " ".join(study.verdict)
    figures = judged(study.checks, study.plan)
    assert figures["checked"] == 0 and math.isnan(figures["accuracy_drop"]) and math.isnan(figures["prompts_needed"])
