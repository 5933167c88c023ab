"""`--candidates api=URL#MODEL`: an endpoint is recorded and compared in one step."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from running import LEAN, LEAN_FLAGS, avx512, same_rows
from server import DEMO, Served

import decodedrift as dd
from decodedrift.core.notation import is_endpoint
from decodedrift.core.records import InputError, Prompt
from decodedrift.core.settings import make_settings
from decodedrift.experiments.compare.settings import CompareSettings
from decodedrift.experiments.running import resume
from decodedrift.models.variants import parse_variants
from decodedrift.report.sections.provenance import _options
from decodedrift.runs.prepare import draft

pytest.importorskip("openai")
PROMPTS = {"a": "Once upon a time", "b": "The ship was lost", "c": "Lily liked cats and", "d": "In the garden there"}


def compare(server: Served, *others: str, **asked: Any) -> dd.Study:
    prompts = [Prompt(name, text) for name, text in PROMPTS.items()]
    values: dict[str, Any] = {"prompts": prompts, "strategies": ["greedy"], "max_new_tokens": 24, **LEAN, **asked}
    return dd.compare("demo", candidates=[f"api={server.url}#demo:precision=bf16", *others], **values)


def test_the_model_served_in_bf16_gives_what_the_candidate_bf16_gives(server: Served) -> None:
    """Everything of the texts is equal; the log-probabilities are those of transformers in another process.

    To the last bit where a processor multiplies 16 bits alike whichever way a matrix lies: there Conv1D is a Linear.
    """
    study = compare(server, "bf16:batch_size=1", batch_size=1)
    assert len(study.failures) == 0
    sides = {name: study.divergences[study.divergences["candidate"] == name] for name in ("api", "bf16:batch_size=1")}
    texts = [
        "strategy",
        "seed",
        "prompt_id",
        "diverged",
        "first_divergence",
        "reference_gap",
        "cause",
        "length_reference",
    ]
    kept = [name for name in texts if name in study.divergences]
    assert sides["api"]["diverged"].sum() > 0, "there is something to find"
    same_rows(*(side[kept] for side in sides.values()))
    traces = [study.traces[study.traces["variant"] == name] for name in sides]
    kept = ["strategy", "seed", "prompt_id", "text", "token_ids", "n_tokens", "finish", "perplexity_judge"]
    same_rows(*(side[kept] for side in traces))
    apart = 1e-9 if avx512() else 0.05
    assert traces[0]["logprob_sum"].to_numpy() == pytest.approx(traces[1]["logprob_sum"].to_numpy(), abs=apart)
    rates = study.summary.set_index("candidate")["divergence_rate"]
    assert rates["api"] == rates["bf16:batch_size=1"] > 0


@pytest.fixture(scope="module")
def whole(endpoint: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of short texts."""
    endpoint.turn()
    out = tmp_path_factory.mktemp("whole") / "run"
    compare(endpoint, out=out, max_new_tokens=4)
    return out


def turning(count: int) -> list[Prompt]:
    """Prompts of ids without sense, behind which the demo model's first choice is another in bf16 than in fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.randint(1, 2048, (24, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        models = (AutoModelForCausalLM.from_pretrained(DEMO, dtype=d).eval() for d in (torch.float32, torch.bfloat16))
        ours, theirs = (model(ids).logits.argmax(-1) for model in models)
    places = (ours != theirs).nonzero()[:count].tolist()
    return [Prompt(f"{row}-{t}", "", prompt_token_ids=tuple(ids[row, : t + 1].tolist())) for row, t in places]


def test_a_type_that_is_said_while_recording_is_what_rounding_is_held_beside(server: Served, tmp_path: Path) -> None:
    """Prompts behind which bf16 prefers another token; said to be fp16, that is more than its rounding."""
    file = tmp_path / "there.jsonl"
    asked: dict[str, Any] = {"prompts": turning(24), "max_new_tokens": 1}
    dd.record("demo", out=file, endpoint=server.url, precision="bf16", **asked)
    with pytest.raises(InputError, match="endpoint=: name the model that it serves with model="):
        dd.record(out=tmp_path / "other.jsonl", endpoint=server.url, **asked)
    assert json.loads(file.read_text().splitlines()[0])["decodedrift"]["precision"] == "bf16"
    (tmp_path / "wrong.jsonl").write_text(file.read_text().replace('"precision": "bf16"', '"precision": "fp16"'))
    sides = [f"right={file}", f"wrong={tmp_path}/wrong.jsonl"]
    study = dd.compare("demo", candidates=sides, strategies=["greedy"], **asked, **LEAN)
    assert study.consistency.set_index("candidate")["turns"]["right"] >= 10
    said = " ".join(study.verdict)
    assert "right, consistent with bf16 rounding" in said and "wrong, more than fp16 rounding" in said
    with pytest.raises(InputError, match=r"there\.jsonl says precision bf16, and precision=fp16 is asked for"):
        dd.compare("demo", candidates=[f"a={file}:precision=fp16"], **asked)
    with pytest.raises(InputError, match="is a recording with precision 'bf16', and this one has 'fp16'"):
        dd.record("demo", out=file, endpoint=server.url, precision="fp16", **asked)


def test_what_it_answered_stays_in_the_run_and_is_not_asked_again(server: Served, whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    study = dd.open_study(out)
    file = out / "data" / "recorded" / "api.jsonl"
    assert json.loads(file.read_text().splitlines()[0])["decodedrift"]["endpoint"] == server.url
    assert study.environment["checkpoints"]["api"]["header"]["engine"]["name"] == "vllm"
    assert "recorded/" in (out / "README.txt").read_text()
    assert {"Concurrency", "Retries"} <= dict(_options(study)).keys()
    before = file.read_bytes()
    for name in ("report.html", "verdict.json"):
        (out / name).unlink()
    (out / "data" / "unfinished.json").write_text("{}")
    server.turn(plain="it is another server now")
    compare(server, out=out, max_new_tokens=4, resume=True)
    assert server.asked() == [] and file.read_bytes() == before


def test_a_recording_that_stopped_before_the_run_began_goes_on(server: Served, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    lines = (whole / "data" / "recorded" / "api.jsonl").read_bytes().splitlines(keepends=True)
    (out / "data" / "recorded").mkdir(parents=True)
    (out / "data" / "recorded" / "api.jsonl").write_bytes(b"".join(lines[:3]))
    server.turn()
    compare(server, out=out, max_new_tokens=4)
    assert [body["prompt"] for body in server.asked()] == list(PROMPTS.values())[2:]


def test_one_that_is_stopped_while_it_asks_says_how_to_go_on(server: Served, tmp_path: Path) -> None:
    server.turn(after=3, hang=60)
    out = tmp_path / "run"
    command = [sys.executable, "-m", "decodedrift", "compare", "--candidates", f"api={server.url}#demo", "--quiet"]
    command += ["--strategies", "greedy", "--max-new-tokens", "2", *LEAN_FLAGS, "--out", str(out)]
    command += [word for text in PROMPTS.values() for word in ("--prompt", text)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    file = out / "data" / "recorded" / "api.jsonl"
    while process.poll() is None and not (file.exists() and file.read_bytes().count(b"\n") > 1):
        time.sleep(0.05)
    process.terminate()
    said = process.communicate()[1]
    assert process.returncode == 143
    assert (
        f"stopped by SIGTERM while an endpoint was asked; its answers are kept. Go on with the whole command and --resume {out}"
        in " ".join(said.split())
    )
    with pytest.raises(
        InputError, match="stopped while an endpoint was asked; give the whole command again with --resume"
    ):
        resume(out)


def test_an_answer_that_failed_is_said_and_the_others_are_compared(server: Served) -> None:
    server.turn(after=4, fail=[{"status": 400}])
    study = compare(server, max_new_tokens=4)
    assert len(study.divergences[study.divergences["candidate"] == "api"]) == 3
    assert "HTTP 400" in " ".join(study.failures["error"])


def test_strategies_that_no_endpoint_knows_are_left_to_the_others(server: Served) -> None:
    study = compare(server, "bf16", strategies=["greedy", "beam"], max_new_tokens=4)
    strategies = study.divergences.groupby("candidate")["strategy"].unique()
    assert set(strategies["bf16"]) == {"greedy", "beam"} and set(strategies["api"]) == {"greedy"}
    with pytest.raises(InputError, match="an endpoint cannot be asked for it"):
        compare(server, strategies=["beam"])


def test_it_is_asked_where_an_event_loop_runs(server: Served) -> None:
    async def notebook() -> dd.Study:
        return compare(server, max_new_tokens=2)

    assert len(asyncio.run(notebook()).divergences) > 0


def test_a_nondeterministic_server_parts_from_the_reference(server: Served) -> None:
    server.turn(nondeterminism=1.0)
    study = compare(server, max_new_tokens=4)
    ours = study.divergences[study.divergences["candidate"] == "api"]
    assert (ours["first_divergence"] == 0).all()


@pytest.mark.parametrize(
    ("written", "name", "compute"),
    [("api=http://h:8000/v1#org/m:precision=bf16", "org/m", "bf16"), ("api=https://h/v1#llama3:8b", "llama3:8b", None)],
)
def test_it_is_written_as_a_url_and_a_model(written: str, name: str, compute: str | None) -> None:
    (variant,) = parse_variants([written], parse_variants(["fp32"])[0])
    assert variant.endpoint and variant.recorded and str(variant.model).endswith(f"#{name}")
    assert (variant.name, variant.compute) == ("api", compute)
    assert not is_endpoint("http://h/v1")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"no_text": True}, "--no-text: what an endpoint answers is kept as it is"),
        ({"candidates": ["bf16"], "concurrency": 2}, "--concurrency is of an endpoint, NAME=URL#MODEL"),
        ({"candidates": ["api=http://me:secret@h/v1#m"]}, "no URL with a password or parameters is kept"),
        ({"candidates": ["api=http://h/v1#m:batch_size=1"]}, "batch_size= belongs to what runs here"),
        ({"candidates": ["api=http://h/v1"]}, "is neither an existing folder"),
    ],
)
def test_what_cannot_be_asked_together(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        draft(make_settings(CompareSettings, {"candidates": ["api=http://h/v1#m"], "prompts": ["a"]} | asked))
    assert "secret" not in str(refused.value)


def test_the_command_compares_in_one_step_and_a_forecast_asks_nobody(server: Served, tmp_path: Path) -> None:
    """The key of a server that writes it into every text is in no file of the run, and in no message."""
    key = "sk-cret-0123456789"
    server.turn(key=key, echo=True)
    command = [sys.executable, "-m", "decodedrift", "compare", "--candidates", f"api={server.url}#demo"]
    command += ["--prompt", "Once upon a time", "--strategies", "greedy", "--max-new-tokens", "4", *LEAN_FLAGS]
    command += ["--api-key-env", "MY_VARIABLE", "--out", str(tmp_path / "run")]
    how: dict[str, Any] = {
        "env": os.environ | {"MY_VARIABLE": key},
        "capture_output": True,
        "text": True,
        "check": False,
    }
    forecast = subprocess.run([*command, "--dry-run"], **how)
    assert forecast.returncode == 0 and server.seen() == [], forecast.stderr
    assert "up to 1 requests, 1 at a time, whose time is not in this" in forecast.stdout
    done = subprocess.run(command, **how)
    assert done.returncode == 0 and "api" in done.stdout, done.stderr
    written = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) > 10 and any(b"[hidden]" in data for data in written)
    assert not any(key.encode() in data for data in (*written, done.stdout.encode(), done.stderr.encode()))
    assert {r["headers"].get("authorization") for r in server.seen()} == {f"Bearer {key}"}


def test_an_endpoint_is_a_reference_beside_a_judge(server: Served) -> None:
    address = f"{server.url}#demo:precision=bf16"
    prompts = [Prompt(name, text) for name, text in PROMPTS.items()]
    asked: dict[str, Any] = {"prompts": prompts, "strategies": ["greedy"], "max_new_tokens": 8}
    study = dd.compare(judge="demo", reference=f"one={address}", candidates=f"two={address}", **asked)
    assert study.divergences["diverged"].tolist() == [0] * 4 and not len(study.failures)
    assert study.consistency["candidate"].tolist() == ["one", "two"]
    one, two = study.consistency.drop(columns="candidate").to_dict("records")
    assert one["gap_mean"] == two["gap_mean"] and one["logprob_tokens"] == two["logprob_tokens"] > 0
