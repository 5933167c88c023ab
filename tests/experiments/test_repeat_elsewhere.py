"""`repeat` of what runs elsewhere: endpoints, asked one at a time and several, and files with repetitions."""

from __future__ import annotations

import json
import shutil
import sys
from math import comb, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server import DEMO, Served
from transformers import AutoModelForCausalLM, AutoTokenizer

import decodedrift as dd
from decodedrift.cli.entry import main
from decodedrift.core.prompts import load_prompts
from decodedrift.core.settings import make_settings
from decodedrift.experiments.repeat.settings import RepeatSettings
from decodedrift.experiments.repeat.table import gating
from decodedrift.runs.prepare import draft

pytest.importorskip("openai")
PROMPTS = {"a": "Once upon a time", "b": "The ship was lost", "c": "Lily liked cats and", "d": "In the garden there"}


def repeat(given: str, **asked: Any) -> dd.Study:
    """Of an endpoint or a file; without rerun no model runs here."""
    prompts = [dd.Prompt(name, text) for name, text in PROMPTS.items()]
    values: dict[str, Any] = {"vary": "concurrency", "runs": 4, "max_new_tokens": 6, "threads": 1, **asked}
    return dd.repeat("demo", candidates=[f"api={given}"], prompts=prompts, **values)


def answers(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "data" / "recorded" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


def expected(tokens: int, runs: int, rate: float) -> tuple[float, float]:
    """Mean and a bound of the variance of the different texts where each token is the runner-up at a rate.

    A text is its choices, best or runner-up at each token; a text of probability q is met in 1 - (1 - q)^runs. Whether
    two texts are met is negatively correlated, so that the variances add up to a bound.
    """
    met = [(comb(tokens, k), 1 - (1 - rate**k * (1 - rate) ** (tokens - k)) ** runs) for k in range(tokens + 1)]
    return sum(n * p for n, p in met), sum(n * p * (1 - p) for n, p in met)


def test_a_deterministic_server_writes_one_text_one_at_a_time_and_beside_others(server: Served, tmp_path: Path) -> None:
    study = repeat(f"{server.url}#served", vary="rerun,concurrency", concurrency=3, out=tmp_path / "run")
    rows = study.summary[study.summary["variant"] == "api"].set_index("vary")
    assert rows.loc[["rerun", "concurrency"], ["unique", "unique_most", "tar"]].eq(1).all(axis=None)
    assert rows["bit_equal"].isna().all(), "no bit of its logits is seen"
    assert (rows["avg_std_top1_prob"] == 0).all()
    assert set(study.unique["compared_by"]) == {"token ids"} and len(study.failures) == 0
    alone, together = (answers(tmp_path / "run", f"api-{name}") for name in ("rerun", "concurrency"))
    assert len(alone) == len(together) == 16
    assert not any(line["meta"]["beside"] for line in alone)
    assert all(line["meta"]["beside"] for line in together), "which could have varied"
    assert {row.variant for row in study.repeats[study.repeats["vary"] == "rerun"].itertuples()} == {"fp32", "api"}
    said = " ".join(study.verdict)
    assert "api (runs elsewhere), greedy: rerun: identical in 4 runs; concurrency: identical in 4 runs." in said
    assert "fp32 (dense), greedy: rerun: identical to the bit in 4 runs" in said and not study.failed
    again = dd.open_study(tmp_path / "run")
    assert again.verdict == study.verdict
    assert "served, api, greedy: rerun" in again.to_html()


def test_a_rate_of_other_tokens_gives_the_expected_number_of_texts(server: Served) -> None:
    rate, tokens, runs = 0.3, 4, 12
    server.turn(nondeterminism=rate)
    study = repeat(f"{server.url}#served", vary="rerun", max_new_tokens=tokens, runs=runs)
    (row,) = study.summary[study.summary["variant"] == "api"].itertuples()
    mean, variance = expected(tokens, runs, rate)
    near = 4 * sqrt(variance / len(PROMPTS))
    assert abs(row.unique - mean) < near
    assert all(abs(row.unique - expected(tokens, runs, other)[0]) > near for other in (0.0, 0.05)), "it can tell"
    shortest = study.by_length[study.by_length["variant"] == "api"].set_index("length").loc[1, "unique"]
    assert abs(shortest - expected(1, runs, rate)[0]) < 4 * sqrt(expected(1, runs, rate)[1] / len(PROMPTS))


def test_what_only_neighbours_move_is_told_from_what_moves_by_itself(server: Served) -> None:
    server.turn(nondeterminism=0.5, beside=True)
    study = repeat(f"{server.url}#served", vary="rerun,concurrency", concurrency=4)
    rows = study.summary[study.summary["variant"] == "api"].set_index("vary")
    assert rows.loc["rerun", "unique"] == 1 < rows.loc["concurrency", "unique"]
    assert "rerun: identical in 4 runs; concurrency: 4 of 4 prompts differ" in " ".join(study.verdict)


def test_without_ids_texts_are_compared_and_nothing_is_made_of_their_tokens(server: Served, tmp_path: Path) -> None:
    server.turn(nondeterminism=0.5, ids=False, logprobs=False)
    study = repeat(f"{server.url}#served", out=tmp_path / "run")
    assert set(study.unique["compared_by"]) == {"text"}
    texts: dict[str, set[str]] = {}
    for line in answers(tmp_path / "run", "api-concurrency"):
        texts.setdefault(line["prompt_id"], set()).add(line["text"])
    assert study.unique.set_index("prompt_id")["unique"].to_dict() == {name: len(t) for name, t in texts.items()}
    assert len(study.by_length) == 0
    assert study.repeats[["token_ids", "loop", "first_divergence"]].isna().all(axis=None)
    assert study.unique[["loop", "first_divergence"]].isna().all(axis=None)
    assert (study.repeats["n_tokens"] <= 6).all(), "which the server counts"
    assert "api tells no token ids: texts are compared as they are" in " ".join(study.verdict)
    assert "from token" not in " ".join(study.verdict)
    assert " they part at character " in str(study.case())
    assert max(map(len, study.experiment.shown(study, 80, True).splitlines())) <= 80


def test_ids_of_another_vocabulary_are_compared_all_the_same(tmp_path: Path) -> None:
    """Nothing of a repetition is read by the model that is here."""
    lines = [
        {"prompt_id": "a", "run": run, "token_ids": [10**6, 7 + run % 2], "text": f"x{run % 2}"} for run in range(4)
    ]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    study = repeat(str(tmp_path / "other.jsonl"), vary="rerun", runs=3)
    (row,) = study.unique[study.unique["variant"] == "api"].itertuples()
    assert (row.runs, row.unique, row.first_divergence) == (3, 2, 1), "as many as are asked for"
    assert [side.bracketed for side in study.case(candidate="api").sides] == ["[0]", "[1]"]
    assert study.failures["error"].unique().tolist() == ["the file has no completion of it"]
    assert len(study.failures) == 3


def test_a_recorded_file_gives_the_rows_that_its_endpoint_gave(server: Served, tmp_path: Path) -> None:
    server.turn(nondeterminism=0.3)
    asked = repeat(f"{server.url}#served", vary="rerun", out=tmp_path / "run")
    file = tmp_path / "run" / "data" / "recorded" / "api-rerun.jsonl"
    read = repeat(str(file), vary="rerun")
    kept = [name for name in asked.repeats if name != "model"]
    ours, theirs = (study.repeats.loc[study.repeats["variant"] == "api", kept] for study in (asked, read))
    assert len(ours) == 16 and ours.reset_index(drop=True).equals(theirs.reset_index(drop=True))
    with pytest.raises(dd.InputError, match="was recorded 1 at a time; add rerun to vary="):
        repeat(str(file))


def test_a_file_without_repetitions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt_id": "a", "text": "x"}) + "\n")
    with pytest.raises(dd.InputError, match=r"one completion of each prompt, .*record it with"):
        repeat(str(tmp_path / "one.jsonl"), vary="rerun")


def test_failures_are_rows_and_the_other_runs_count(server: Served) -> None:
    server.turn(after=6, fail=[{"status": 400}])
    study = repeat(f"{server.url}#served", concurrency=2)
    (failure,) = study.failures.itertuples()
    assert (failure.variant, failure.stage, failure.status) == ("api", "concurrency", "failed")
    assert "HTTP 400" in failure.error
    assert sorted(study.unique["runs"]) == [3, 4, 4, 4]


def test_without_anything_that_varies_here_no_model_is_loaded(server: Served) -> None:
    study = repeat(f"{server.url}#served", runs=2)
    assert set(study.environment["variants"]) == {"api"}
    assert set(study.summary["variant"]) == {"api"} and len(study.timings) == 0
    assert (
        draft(
            make_settings(RepeatSettings, {"candidates": ["api=http://h/v1#m"], "vary": "concurrency"})
        ).effort.writing
        == 0
    )


def test_answers_are_kept_and_only_those_missing_are_asked_for(server: Served, tmp_path: Path) -> None:
    given = f"{server.url}#served"
    repeat(given, out=tmp_path / "whole", concurrency=2)
    name = Path("data") / "recorded" / "api-concurrency.jsonl"
    lines = (tmp_path / "whole" / name).read_bytes().splitlines(keepends=True)
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).write_bytes(b"".join(lines[:14]))
    server.turn()
    study = repeat(given, out=tmp_path / "run", concurrency=2)
    assert len(server.asked()) == 3 and set(study.unique["runs"]) == {4}
    for other in ("report.html", "verdict.json"):
        (tmp_path / "run" / other).unlink()
    (tmp_path / "run" / "data" / "unfinished.json").write_text("{}")
    server.turn(plain="it is another server now")
    again = repeat(given, out=tmp_path / "run", concurrency=2, resume=True)
    assert server.asked() == [] and again.unique.equals(study.unique)


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as one that chats."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(DEMO, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
    tokenizer.save_pretrained(folder)
    return folder


def test_the_sets_conversations_are_read_here_and_asked_there(
    server: Served, chatting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command, from a forecast to a gate: system and user turns, rendered for what runs here, sent as they are."""
    asked = ["decodedrift", "repeat", "--model", str(chatting), "--candidates", f"api={server.url}#served"]
    asked += ["--prompts", "same-prompt", "--limit", "2", "--vary", "rerun,concurrency", "--runs", "3"]
    asked += ["--max-new-tokens", "3", "--threads", "1", "--fail-on", "unique>1", "--ignore-eos"]

    def command(*more: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [*asked, *more])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()  # type: ignore[return-value]

    code, out, _ = command("--dry-run")
    assert code == 0 and server.asked() == []
    assert "up to 6 requests, 1 at a time" in out and "up to 6 requests, 8 at a time" in out
    assert "up to 18 traces" in out and "(one variant resident, " in out, "6 here, 12 of the endpoint"
    both, asked[asked.index("rerun,concurrency")] = list(asked), "concurrency"
    code, out, _ = command("--dry-run")
    asked[:] = both
    assert code == 0 and "up to 6 traces" in out and "no weights: nothing runs here" in out
    assert "resident" not in out and "weights 1 times" not in out
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "openai", None)
        for more in (("--dry-run",), ("--out", str(tmp_path / "none"))):
            code, out, err = command(*more)
            assert (
                code == 2
                and err.strip().endswith('needs the openai client: pip install "decodedrift[api]"')
                and not out
            )
    assert not (tmp_path / "none").exists(), "it is said before anything is written"
    server.turn(nondeterminism=0.5)
    code, _, err = command("--out", str(tmp_path / "run"))
    assert code == 4 and "unique>1: api rerun greedy" in err and "api concurrency greedy" in err, err
    assert "fp32 rerun greedy" not in err
    turns = [list(prompt.messages or ()) for prompt in load_prompts("same-prompt")]
    assert [[turn["role"] for turn in messages] for messages in turns] == [["system", "user"]] * 8
    sent = [body["messages"] for body in server.asked() if body["messages"] in turns]
    assert len(sent) >= 12 and {m[1]["content"] for m in sent} == {turns[n][1]["content"] for n in (0, 3)}
    study = dd.open_study(tmp_path / "run")
    assert set(study.unique["variant"]) == {"fp32", "api"} and study.summary["unique"].iloc[0] == 1
    tokenizer, model = (kind.from_pretrained(chatting) for kind in (AutoTokenizer, AutoModelForCausalLM))
    for row in study.repeats[study.repeats["variant"] == "fp32"].groupby("prompt_id").first().itertuples():
        given = tokenizer.apply_chat_template(turns[int(row.Index[-1]) - 1],
                                              add_generation_prompt=True, return_tensors="pt")["input_ids"]  # fmt: skip
        ids = model.generate(given, max_new_tokens=3, do_sample=False, eos_token_id=None)[0, given.shape[1] :]
        assert row.token_ids == " ".join(map(str, ids.tolist()))


def test_gates_ask_for_what_can_vary(server: Served) -> None:
    values = {"candidates": ["api=http://h/v1#m"], "vary": "rerun,batch,concurrency"}
    plan = draft(make_settings(RepeatSettings, values)).as_dict()
    assert [cell[:2] for cell in gating(plan).cells] == [
        ("fp32", "rerun"), ("fp32", "batch"), ("api", "rerun"), ("api", "concurrency"),
    ]  # fmt: skip


def test_the_closed_form_itself() -> None:
    generator = np.random.default_rng(0)
    counts = [len({tuple(row) for row in generator.random((12, 4)) < 0.3}) for _ in range(4000)]
    mean, variance = expected(4, 12, 0.3)
    assert np.mean(counts) == pytest.approx(mean, abs=0.1)
    assert np.var(counts) <= variance


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"vary": "batch,order"}, "nothing of it is seen of api, which runs elsewhere; choices: rerun, concurrency"),
        ({"vary": "rerun,concurrency", "candidates": ["bf16"]}, "--vary concurrency: no variant is an endpoint"),
        ({"vary": "concurrency", "concurrency": 1}, "--concurrency 1: one request at a time has nothing beside it"),
        ({"candidates": ["bf16"], "retries": 2}, "--retries is of an endpoint, NAME=URL#MODEL"),
        ({"no_text": True}, "--no-text: what an endpoint answers is kept as it is"),
    ],
)
def test_what_cannot_be_asked_together(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(dd.InputError, match=message):
        draft(make_settings(RepeatSettings, {"candidates": ["api=http://h/v1#m"], "prompts": ["a"]} | asked))
