"""`record` on a local model: the texts that `compare` has, in a file that goes on where it was left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import run

import decodedrift as dd
from decodedrift.cli.entry import main
from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError, Prompt
from decodedrift.core.settings import make_settings
from decodedrift.experiments.record.running import Outcome, recorded
from decodedrift.experiments.record.settings import RecordSettings
from decodedrift.models.recorded.read import read
from decodedrift.models.recorded.writer import recording

PROMPTS = {"a": "Once upon a time", "b": "The ship was lost", "c": "Lily liked cats and"}
ASKED: dict[str, Any] = {"max_new_tokens": 6, "strategies": ["greedy", "top-p:p=0.9", "beam"], "seeds": [0, 1]}


def record(path: Path, **asked: Any) -> Outcome:
    prompts = [Prompt(name, text) for name, text in PROMPTS.items()]
    return recorded(make_settings(RecordSettings, {"prompts": prompts, **ASKED, **asked}), path, Progress())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording in bf16."""
    path = tmp_path_factory.mktemp("record") / "out.jsonl"
    assert str(record(path, reference="bf16", prompts_per_job=2)) == f"recorded 12 texts: {path}"
    return path


def test_it_is_what_the_variant_writes_in_a_comparison(whole: Path) -> None:
    study = run("demo", prompts=PROMPTS, candidates=["bf16"], prompts_per_job=2, **ASKED)
    traces = study.traces[study.traces["variant"] == "bf16"].set_index(["strategy", "seed", "prompt_id"])
    completions = read(str(whole)).completions
    assert len(completions) == len(traces[traces["role"] == "candidate"]) == 12
    for c in completions:
        row = traces[traces["role"] == "candidate"].loc[(c.strategy, c.seed, c.prompt_id)]
        assert c.token_ids is not None and " ".join(map(str, c.token_ids)) == row["token_ids"] and c.text == row["text"]
        assert c.finish_reason == {"eos": "stop", "length": "length"}[row["finish"]]
        assert c.prompt == PROMPTS[str(c.prompt_id)]
        if c.strategy != "beam":
            assert c.logprobs is not None and sum(p or 0 for p in c.logprobs) == pytest.approx(row["logprob_sum"])
            assert c.top_logprobs is not None and all(len(top) == 5 for top in c.top_logprobs)
            for token, p, top in zip(c.token_ids, c.logprobs, c.top_logprobs, strict=True):
                assert top.get(token, p) == p and max(top.values()) >= (p or 0)


def test_its_header_says_what_wrote_it(whole: Path) -> None:
    header = read(str(whole)).header
    assert (header["coupling"], header["precision"], header["engine"]["name"]) == ("gumbel", "bf16", "transformers")
    assert header["facts"]["weight_dtypes"].keys() == {"bf16"} and header["plan"]["batch_size"] == 8
    assert len(header["prompts"]) == 64 and "prompts" not in header["plan"]


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_one_that_was_cut_off_goes_on_and_ends_the_same(whole: Path, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "out.jsonl"
    every = whole.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(every[:cut]) + every[cut][:20])
    outcome = record(path, reference="bf16", prompts_per_job=2)
    assert (outcome.texts, outcome.before) == (12, cut - 1)
    assert path.read_bytes() == whole.read_bytes()


def test_a_whole_one_runs_nothing(whole: Path) -> None:
    before = whole.read_bytes()
    assert record(whole, reference="bf16", prompts_per_job=2).before == 12
    assert whole.read_bytes() == before


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"max_new_tokens": 7}, "plan.max_new_tokens 6, and this one has 7"),
        ({"reference": "fp32"}, "variant.name 'bf16', and this one has 'fp32'"),
        ({"prompts": ["Another"]}, "prompts '"),
    ],
)
def test_another_recording_is_not_mixed_in(whole: Path, other: dict[str, Any], named: str) -> None:
    before = whole.read_bytes()
    with pytest.raises(InputError, match="is a recording with ") as refused:
        record(whole, **{"reference": "bf16", "prompts_per_job": 2} | other)
    assert named in str(refused.value) and whole.read_bytes() == before


@pytest.mark.parametrize("content", ["a text", '{"prompt": "a", "text": "b"}\n', "[1]\n"])
def test_what_is_no_recording_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match="is there and is no recording; name another file"):
        record(path)
    assert path.read_text() == content


def test_two_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with recording(path), pytest.raises(InputError, match="another decodedrift records into it"), recording(path):
        pass
    assert list(tmp_path.iterdir()) == [], "nothing was recorded, and nothing is left"


def test_repetitions_are_runs(tmp_path: Path) -> None:
    assert record(tmp_path / "out.jsonl", runs=2, strategies=["greedy"], max_new_tokens=2).texts == 6
    completions = read(str(tmp_path / "out.jsonl")).completions
    assert [c.run for c in completions] == [0, 0, 0, 1, 1, 1]
    assert completions[0].token_ids == completions[3].token_ids


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "decodedrift", "record", "--limit", "1", "--max-new-tokens", "2"]
    done = subprocess.run([*command, "-o", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"recorded 1 text: {path}\n")
    assert json.loads(path.read_text().splitlines()[0])["decodedrift"]["plan"]["max_new_tokens"] == 2


@pytest.mark.parametrize(
    ("flags", "message"), [(["-o", "x.csv"], "--out x.csv: is recorded as .jsonl"), ([], "--out: name the file")]
)
def test_where_it_cannot_be_written_is_one_line(
    flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["decodedrift", "record", "--limit", "1", *flags])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 2 and message in capsys.readouterr().err


def test_it_is_called_from_python(tmp_path: Path) -> None:
    path = dd.record("demo", out=tmp_path / "out.jsonl", prompts=["Once upon a time"], max_new_tokens=2)
    assert read(str(path)).completions[0].prompt == "Once upon a time"
    with pytest.raises(InputError, match="max_new_tokens=: must be"):
        dd.record("demo", out=path, max_new_tokens=0)
