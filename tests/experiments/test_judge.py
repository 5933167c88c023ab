"""Two recorded runs against each other, judged by a model: held against the same run made here, and by hand."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from running import saved_as
from test_recorded import MORE, candidate, direct, model, rows_of, written

import decodedrift as dd
from decodedrift.cli.entry import main
from decodedrift.core.records import InputError
from decodedrift.experiments.compare.gating import gating
from decodedrift.experiments.compare.reader import as_read
from decodedrift.experiments.compare.screenful import screenful
from decodedrift.experiments.compare.sections.answer import JUDGED
from decodedrift.experiments.compare.selection import causes
from decodedrift.report.brief import summary
from decodedrift.report.sections.provenance import _options
from decodedrift.runs.wordgates import parse_gates

PROMPTS = [dd.Prompt(name, text) for name, text in MORE.items()]
ASKED: dict[str, Any] = {"max_new_tokens": 16, "batch_size": 24, "prompts": PROMPTS, "prompts_per_job": 12}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, and what its fp32 (a) and its bf16 (b) wrote in one run."""
    folder = tmp_path_factory.mktemp("judge")
    saved_as(model(), folder / "model")
    for name, variant, role in (("a", "fp32", "reference"), ("b", "bf16", "candidate")):
        written(folder, rows_of(direct(), variant, role=role)).rename(folder / f"{name}.jsonl")
    return folder


def asked(place: Path, **more: Any) -> dict[str, Any]:
    sides = {"reference": f"a={place}/a.jsonl", "candidates": f"b={place}/b.jsonl:precision=bf16"}
    return {"judge": str(place / "model")} | sides | ASKED | more


@pytest.fixture(scope="module")
def judged(place: Path) -> dd.Study:
    return dd.compare(**asked(place, out=place / "run"))


def test_texts_of_a_model_that_is_its_own_judge_are_compared_as_if_it_ran(judged: dd.Study) -> None:
    ours, theirs = candidate(judged.divergences), candidate(direct().divergences)
    assert 3 <= ours["diverged"].sum() < len(ours) == len(MORE) and set(ours["reference"]) == {"a"}
    same = ["prompt_id", "diverged", "first_divergence", "compared", "reference_token", "candidate_token", "cause"]
    pd.testing.assert_frame_equal(ours[same], theirs[same], check_exact=True)
    parted = ours["diverged"] == 1
    for column in ("reference_gap", "logprob_gap"):  # there it was decoded, and here it is read
        np.testing.assert_allclose(ours[column], theirs[column], atol=1e-5)
    assert (ours["reference_gap"][parted] > 0).all() and set(ours["layout"]) == {"forced"}


def test_the_judge_reads_both(judged: dd.Study) -> None:
    a, b = (judged.recorded[judged.recorded["candidate"] == name] for name in "ab")
    assert set(judged.recorded["reference"]) == {"judge"} and (a["gap"] == 0).all() and (b["gap"] > 0).any()
    assert judged.consistency["candidate"].tolist() == ["a", "b"]
    assert judged.consistency["rounding"].tolist() == ["not measured", judged.answer["rounding"][0]]
    traces, run_here = (s.traces.set_index(["prompt_id", "role"])["perplexity_judge"] for s in (judged, direct()))
    for role in ("reference", "candidate"):
        ours, theirs = (t.xs(role, level="role").sort_index() for t in (traces, run_here))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert set(judged.traces["variant"]) == {"a", "b"} and not len(judged.positions) and not len(judged.perplexity)
    sides = set(zip(judged.alternatives["variant"], judged.alternatives["pass"]))
    assert sides == {("a", "generated"), ("b", "generated"), ("judge", "forced")}


def test_the_judges_own_top_tokens_are_those_of_the_reference_that_it_is(judged: dd.Study) -> None:
    at = ["prompt_id", "position", "rank"]
    ours, theirs = (s.alternatives[s.alternatives["variant"] == name].drop_duplicates([*at, "pass"])
                    for s, name in ((judged, "judge"), (direct(), "fp32")))  # fmt: skip
    both = ours.merge(theirs[theirs["pass"] == "generated"], on=at)
    assert len(both) == len(ours) > 24 * 5 and (both["token_id_x"] == both["token_id_y"]).mean() > 0.99
    np.testing.assert_allclose(both["logprob_x"], both["logprob_y"], atol=1e-4)


def test_its_run_has_no_reference_for_another(judged: dd.Study, place: Path) -> None:
    with pytest.raises(InputError, match=r"a judge read recorded texts there; name a run whose reference ran itself$"):
        dd.compare(str(place / "model"), candidates="bf16", reference_run=place / "run", **ASKED)


def test_what_is_said_names_the_judge(judged: dd.Study) -> None:
    said = " ".join(judged.verdict)
    assert "a and b were recorded, and " in said and " in fp32 is the judge of both" in said
    assert "where the judge itself held the two tokens" in said and "the reference itself" not in said
    assert "are not what the judge takes there" in said
    assert "judge" in judged.to_html() and "b against a" in repr(judged)
    assert judged.environment["checkpoints"].keys() >= {"a", "b"}
    assert judged.environment["variants"]["judge"]["compute"] == "fp32"


# of whose texts are left, which is the file's side; any other sentence with the word is of numbers that none has there
OF_TEXTS = re.compile(
    "differ from the reference's|left the reference|to the word, the reference's|the reference's (token|word|file)|"
    "Reference → candidate|Reference and candidate draw|as the reference, or the judge, reads it|; reference a;"
)


def spoken(study: dd.Study) -> list[str]:
    """The sentences of a run, wherever a user reads them."""
    page = re.sub(r"(?s)<(script|style)\b.*?</\1>", "", study.to_html())
    said = re.findall(r'(?:title|aria-label|data-\w+)="([^"]*)"', page) + re.split("<[^>]+>", page)
    case, gaps = study.case(), study.plot.gaps()
    said += [*study.verdict, *screenful(study, verbose=True).split("- "), summary(study), repr(study), str(case)]
    said += [*re.split("[<>]", case._repr_html_() + study._repr_html_()), gaps.name, gaps.xaxis[0].axis_label.text]
    return [" ".join(html.unescape(text).split()) for text in said]


def naming_a_reference(sentences: Iterable[str]) -> list[str]:
    """Those that name the reference for anything but its texts."""
    others = (s for s in sentences if s not in ("reference", "Reference"))
    return [s for s in others if re.search(r"(?i)\breference\b", OF_TEXTS.sub("", s))]


def test_no_sentence_names_a_reference_where_none_runs(judged: dd.Study, place: Path) -> None:
    said = [*spoken(judged), *(place / "run" / "README.txt").read_text().splitlines()]
    assert naming_a_reference(said) == [] and any(s.startswith("Why: the judge all but tied at") for s in said)
    assert "The judge's gap, and the error that turned it" in said and len(said) > 300
    caught = naming_a_reference(spoken(direct()))
    for told in ("Why: the reference all but tied", "The reference's gap, and the error", "KL(reference ‖ candidate)"):
        assert any(sentence.startswith(told) for sentence in caught), told


def test_every_cause_is_told_of_the_judge(judged: dd.Study) -> None:
    for meanings in (causes(judged.plan), {n: as_read(why, judged.plan) for n, why in JUDGED.items()}):
        assert set(meanings) >= {"near_tie", "draw", "shift", "truncation", "stopped"}
        assert not any("reference" in meaning or "{" in meaning.replace("{share}", "") for meaning in meanings.values())
    assert "The reference clearly preferred its token" in causes(direct().plan)["shift"]


def test_the_folder_goes_on_reads_the_same_and_is_gated(judged: dd.Study, place: Path) -> None:
    again, back = dd.compare(**asked(place, out=place / "run", resume=True)), dd.open_study(place / "run")
    for other in (again, back):
        assert other.verdict == judged.verdict
        pd.testing.assert_frame_equal(other.consistency, judged.consistency)
    gates = gating(back.plan)
    (same,) = parse_gates([f"rounding=={back.answer['rounding'][0]}"], False, gates)
    assert len(same.exceeded(back.answer, gates)) == 1
    with pytest.raises(InputError, match="holds another run: "):
        dd.compare(**asked(place, judge=f"{place}/model:precision=bf16", out=place / "run", resume=True))


def test_swapped_and_by_another_judge_gaps_are_of_that_judge(judged: dd.Study, place: Path) -> None:
    sides = {"reference": f"b={place}/b.jsonl", "candidates": f"a={place}/a.jsonl"}
    back = dd.compare(**asked(place, **sides, judge=f"{place}/model:precision=fp64", limit=8))
    there = candidate(judged.divergences).set_index("prompt_id")
    parted = 0
    for row in candidate(back.divergences).itertuples():
        assert row.diverged == there.loc[row.prompt_id, "diverged"]
        if row.diverged:  # b's token is the one that the judge does not prefer
            assert row.reference_gap == pytest.approx(-there.loc[row.prompt_id, "reference_gap"], abs=1e-5)
            assert row.cause == there.loc[row.prompt_id, "cause"]
            parted += 1
    assert parted


def test_a_judge_that_prefers_the_other_token_by_far_is_no_near_tie(place: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (place / "a.jsonl").read_text().splitlines()][:2]
    for row in rows:
        row["token_ids"] = [1 + (i % 90) for i in row["token_ids"]]
        row.pop("top_logprobs"), row.pop("logprobs")
    path = written(tmp_path, rows)
    study = dd.compare(**asked(place, reference=f"off={path}", candidates=f"a={place}/a.jsonl", near_tie_below=0.001))
    (first, second) = candidate(study.divergences).head(2).itertuples()
    assert first.reference_gap < -0.001 and first.cause == second.cause == "shift"
    assert any("texts that the reference's file has not: 22" in sentence for sentence in study.verdict)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"judge": None}, "a recorded text reads no other; name a model that does"),
        ({"reference": "fp64"}, "runs here, and needs no judge"),
        ({"candidates": "bf16"}, "bf16 runs here, and judge= reads recorded runs"),
        ({"model": "x"}, "so is model="),
        ({"inject": True}, "inject=True needs sides that run here"),
        ({"texts": ["x.txt"]}, "needs sides that run here"),
        ({"reference_run": "{place}/run"}, "needs sides that run here"),
        ({"judge": "judge.jsonl"}, "the judge is a model that runs here"),
        ({"judge": "{place}/model:precision=fp99"}, "unknown precision 'fp99'"),
        ({"mode": "screen"}, "does not read"),
        ({"candidates": "judge={place}/b.jsonl"}, "give the run another name"),
    ],
)
def test_what_cannot_be_judged_is_one_line(place: Path, more: dict[str, Any], named: str) -> None:
    more = {k: v.format(place=place) if isinstance(v, str) else v for k, v in more.items()}
    with pytest.raises(InputError) as error:
        dd.compare(**asked(place, **more))
    assert named in str(error.value) and "\n" not in str(error.value)


def test_the_command_forecasts_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = place / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": p.id, "text": p.text}) + "\n" for p in PROMPTS))
    sides = ["--reference", f"a={place}/a.jsonl", "--candidates", f"b={place}/b.jsonl", "--judge", str(place / "model")]
    monkeypatch.setattr("sys.argv", ["decodedrift", "compare", *sides, "--prompts", str(prompts), "--dry-run"])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and f"read by {place}/model: a against b; 24 prompts, 1 text per prompt" in said
    assert "variants  a, b, judge" in said and "weights 1 times" in said and "wait for the candidates" not in said


def test_what_was_run_tells_no_option_that_does_nothing(judged: dd.Study) -> None:
    told = dict(_options(judged))
    assert {"Reference", "New tokens", "Layout", "Near tie below (nats)"} <= told.keys()
    idle = {"Concurrency", "Top tokens asked for", "Deadline", "Retries", "Delay", "Noise floor", "Bundled text"}
    assert not told.keys() & (idle | {"Perplexity of texts", "Mode", "Accuracies equivalent within"})
    there = dict(_options(direct()))
    assert "Mode" in there and not there.keys() & {"Concurrency", "Retries"}
