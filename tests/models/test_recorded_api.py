"""An endpoint is asked: what it is sent, what is made of what comes back, and of what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from server import DEMO, OPENAIS, Served

from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError
from decodedrift.core.settings import make_settings
from decodedrift.experiments.record.running import Outcome, recorded
from decodedrift.experiments.record.settings import RecordSettings
from decodedrift.models.recorded.api.asking import run
from decodedrift.models.recorded.api.client import checked_url
from decodedrift.runs.signals import Stopped

pytest.importorskip("openai")
KEY = "sk-Se/cret+0123456789"
PROMPTS = ["Once upon a time", "The ship was lost", "Lily liked cats"]


def record(server: Served, path: Path, **asked: Any) -> Outcome:
    values = {"endpoint": server.url, "model": "demo", "prompts": PROMPTS, "max_new_tokens": 4, "retries": 1} | asked
    return recorded(make_settings(RecordSettings, values), path, Progress())


def lines(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    header, *rest = [json.loads(line) for line in path.read_text().splitlines()]
    return header["decodedrift"], rest


def test_what_is_recorded_is_what_transformers_generates(server: Served, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    outcome = record(server, tmp_path / "out.jsonl", max_new_tokens=8)
    assert (outcome.texts, outcome.failed) == (3, 0)
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.bfloat16).eval()
    header, rows = lines(tmp_path / "out.jsonl")
    assert header["engine"] == {"name": "vllm", "version": "0.99", "models": ["demo"]}
    for prompt, row in zip(PROMPTS, rows, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            whole = model.generate(ids, do_sample=False, max_new_tokens=8)[0]
            log_p = model(whole[None]).logits[0, ids.shape[1] - 1 : -1].double().log_softmax(-1)
        new = whole[ids.shape[1] :].tolist()
        assert (row["prompt"], row["prompt_token_ids"]) == (prompt, ids[0].tolist())
        assert row["token_ids"] == new and row["text"] == tokenizer.decode(new) and row["finish_reason"] == "length"
        # a pass over the whole text rounds to bf16 otherwise than step by step: 0.1 nats, where texts differ by nats
        assert row["logprobs"] == pytest.approx([float(log_p[t, i]) for t, i in enumerate(new)], abs=0.1)
        assert [dict(top)[i] for top, i in zip(row["top_logprobs"], new)] == row["logprobs"]
        assert row["meta"]["system_fingerprint"] == "fp_1"


def test_a_strategy_is_asked_for_and_what_it_does_not_ask_is_switched_off(server: Served, tmp_path: Path) -> None:
    record(server, tmp_path / "out.jsonl", strategies=["greedy", "sample:k=7,temperature=0.5"], seeds=[3, 4], limit=1)
    probe, greedy, third, fourth = server.asked()
    assert (probe["max_tokens"], greedy["max_tokens"]) == (1, 4)
    assert (greedy["temperature"], greedy["top_p"], greedy["top_k"], "seed" in greedy) == (0, 1.0, -1, False)
    assert (third["temperature"], third["top_k"], third["min_p"]) == (0.5, 7, 0.0)
    assert [third["seed"], fourth["seed"]] == [3, 4]


def test_what_a_server_refuses_is_left_out_and_said(server: Served, tmp_path: Path) -> None:
    server.turn(strict=True)
    record(server, tmp_path / "out.jsonl", strategies=["top-p:p=0.5"])
    assert set(server.asked()[-1]) <= OPENAIS and server.asked()[-1]["logprobs"] == 5
    header, rows = lines(tmp_path / "out.jsonl")
    capable = header["capabilities"]["completions"]
    assert set(capable["taken"]) == {"logprobs"} and "supplied: top_k" in capable["refused"]["top_k"]
    assert "token_ids" not in capable["gives"] and "tokens" in rows[0] and "token_ids" not in rows[0]
    with pytest.raises(InputError, match=r"/v1: cannot be asked so \(HTTP 400: Unrecognized.*top_k\)"):
        record(server, tmp_path / "other.jsonl", strategies=["top-k:k=5"])


@pytest.mark.parametrize("strategies", [["greedy", "top-k:k=5"], ["top-k:k=5", "greedy"]])
def test_what_is_switched_off_by_another_number_is_asked_so(
    server: Served, tmp_path: Path, strategies: list[str]
) -> None:
    server.turn(positive=True)
    assert record(server, tmp_path / "out.jsonl", strategies=strategies, limit=1, retries=0).failed == 0
    by_strategy = dict(zip(strategies, [body["top_k"] for body in server.asked()[-2:]]))
    assert by_strategy == {"greedy": 0, "top-k:k=5": 5}
    capable = lines(tmp_path / "out.jsonl")[0]["capabilities"]["completions"]
    assert capable["taken"]["top_k"] == 0 and capable["refused"] == {} and "token_ids" in capable["gives"]


def test_a_500_that_refuses_a_field_is_not_waited_for(server: Served, tmp_path: Path) -> None:
    server.turn(positive=True)
    record(server, tmp_path / "out.jsonl", limit=1, retries=4)
    assert sum(body.get("top_k", 0) < 0 for body in server.asked()) == 4  # with all fields, and alone: twice each
    for wrong in (500, 503):  # of a moment
        server.turn(fail=[{"status": wrong, "retry_after": 0.01}])
        record(server, tmp_path / f"{wrong}.jsonl", limit=1)
        capable = lines(tmp_path / f"{wrong}.jsonl")[0]["capabilities"]["completions"]
        assert capable["refused"] == {} and capable["taken"]["top_k"] == -1


def test_text_alone_is_recorded_as_such(server: Served, tmp_path: Path) -> None:
    server.turn(logprobs=False, ids=False)
    record(server, tmp_path / "out.jsonl")
    header, rows = lines(tmp_path / "out.jsonl")
    assert header["capabilities"]["completions"]["gives"] == ["text"]
    assert all("text" in row and "token_ids" not in row and "logprobs" not in row for row in rows)


def test_turns_are_asked_as_a_chat_and_texts_with_the_template_too(server: Served, tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Tell."}, {"role": "user", "content": "A cat"}]
    prompts = [{"id": "talk", "messages": turns}, {"id": "text", "prompt": "A dog"}]
    record(server, tmp_path / "both.jsonl", prompts=prompts)
    by_id = {row["prompt_id"]: row for row in lines(tmp_path / "both.jsonl")[1]}
    assert by_id["talk"]["messages"] == turns and by_id["text"]["prompt"] == "A dog"
    assert all(len(row["token_ids"]) == 4 == len(row["logprobs"]) for row in by_id.values())
    assert {r["path"] for r in server.seen() if r["body"]} == {"/v1/completions", "/v1/chat/completions"}
    server.turn()
    record(server, tmp_path / "chat.jsonl", prompts=["A dog"], chat_template=True)
    assert server.asked()[-1]["messages"] == [{"role": "user", "content": "A dog"}]
    with pytest.raises(InputError, match="prompt ids: is token ids, which no chat takes"):
        record(server, tmp_path / "x.jsonl", prompts=[{"id": "ids", "prompt_token_ids": [5]}], chat_template=True)


def test_token_ids_are_asked_as_they_are(server: Served, tmp_path: Path) -> None:
    record(server, tmp_path / "out.jsonl", prompts=[{"id": "ids", "prompt_token_ids": [417, 437, 259]}])
    assert server.asked()[-1]["prompt"] == [417, 437, 259]
    assert lines(tmp_path / "out.jsonl")[1][0]["prompt_token_ids"] == [417, 437, 259]


def test_questions_begin_in_order_so_many_at_a_time(server: Served, tmp_path: Path) -> None:
    record(server, tmp_path / "one.jsonl", runs=2)
    assert [body["prompt"] for body in server.asked()[1:]] == PROMPTS * 2
    rows = lines(tmp_path / "one.jsonl")[1]
    assert [row["meta"]["order"] for row in rows] == list(range(6)) and not any(row["meta"]["beside"] for row in rows)
    assert [row.get("run", 0) for row in rows] == [0, 0, 0, 1, 1, 1]
    server.turn(after=1, hang=0.1)
    record(server, tmp_path / "many.jsonl", concurrency=3)
    rows = {row["meta"]["order"]: row for row in lines(tmp_path / "many.jsonl")[1]}
    assert {n: row["meta"]["beside"] for n, row in rows.items()} == {0: [1, 2], 1: [0, 2], 2: [0, 1]}


def test_a_pause_lies_between_two_beginnings(server: Served, tmp_path: Path) -> None:
    begin = time.monotonic()
    record(server, tmp_path / "out.jsonl", delay=0.2, concurrency=3)
    assert 0.4 <= time.monotonic() - begin < 5


def test_fields_of_ones_own_go_into_every_request(server: Served, tmp_path: Path) -> None:
    record(server, tmp_path / "out.jsonl", body='{"logit_bias": {"5": -100}}', limit=1)
    assert all(body["logit_bias"] == {"5": -100} for body in server.asked())
    with pytest.raises(InputError, match="--body: 'temperature' follows from the other options"):
        record(server, tmp_path / "x.jsonl", body={"temperature": 1})


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again_after_what_it_says(server: Served, tmp_path: Path, status: int) -> None:
    server.turn(after=1, fail=[{"status": status, "retry_after": 0.3}])
    begin = time.monotonic()
    assert record(server, tmp_path / "out.jsonl", limit=1).failed == 0
    assert time.monotonic() - begin > 0.3
    assert lines(tmp_path / "out.jsonl")[1][0]["meta"]["retries"] == 1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"fail": [{"status": 500, "retry_after": 0.01}] * 2}, "HTTP 500: failing"),
        ({"fail": [{"status": 400}]}, "HTTP 400: failing"),
        ({"hang": 2}, "no answer within 0.5 s"),
        ({"truncated": True}, "its answer is no JSON"),
        ({"plain": "[1, 2]"}, "its answer is no JSON object"),
        ({"plain": '{"choices": []}'}, "its answer: holds 0 completions"),
        ({"plain": '{"a": 1}'}, "its answer: this is the response of no engine"),
        (
            {"plain": '{"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [0.5]}}]}'},
            "logprobs[0] is 0.5",
        ),
        ({"bytes": 70_000_000}, "an answer of more than 67108864 bytes"),
    ],
)
def test_what_fails_is_a_row_and_is_asked_again(
    server: Served, tmp_path: Path, wrong: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "out.jsonl"
    server.turn(after=2, **wrong)
    outcome = record(server, path, deadline=0.5 if "hang" in wrong else 20, limit=2)
    assert (outcome.texts, outcome.failed) == (1, 1)
    failed = lines(path)[1][1]
    assert reason in failed["error"] and failed["prompt"] == PROMPTS[1] and "token_ids" not in failed
    before = path.read_bytes()
    server.turn()
    again = record(server, path, limit=2)
    assert (again.texts, again.before, again.failed) == (2, 1, 0)
    assert [body["prompt"] for body in server.asked()] == [PROMPTS[1]], "what is there is not asked, nor probed, again"
    assert path.read_bytes().startswith(before)
    assert lines(path)[1][-1]["meta"]["session"] == 1


def test_a_server_that_does_not_answer_is_one_line(server: Served, tmp_path: Path) -> None:
    gone = Served("http://127.0.0.1:9/v1", "")
    with pytest.raises(InputError, match=r"http://127.0.0.1:9/v1: cannot be asked \(ConnectError"):
        record(gone, tmp_path / "out.jsonl", retries=0)
    assert not (tmp_path / "out.jsonl").exists()


def test_the_key_goes_to_the_endpoint_alone_and_nowhere_else(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that writes the key into texts and reasons, with everything logged that can be."""
    wrong = [{"status": 500, "retry_after": 0.01}] * 2
    server.turn(key=KEY, echo=True, after=2, fail=wrong)
    home = tmp_path / "tmp"
    home.mkdir()
    given = {"MY_VARIABLE": KEY, "OPENAI_LOG": "debug", "TMPDIR": str(home), "OPENAI_API_KEY": "sk-another-one"}
    asked = ["--api-key-env", "MY_VARIABLE", "--log-level", "debug", "--max-new-tokens", "4", "--retries", "1"]
    prompts = [word for text in PROMPTS for word in ("--prompt", text)]
    command = [sys.executable, "-m", "decodedrift", "record", "--endpoint", server.url, "--model", "demo"]
    done = subprocess.run(
        [*command, *asked, *prompts, "-o", str(tmp_path / "out.jsonl")],
        env=os.environ | given, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3 and "1 failed" in done.stdout, done.stderr
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert "[hidden]" in written[0] and len(lines(tmp_path / "out.jsonl")[1]) == 3
    for text in (done.stdout, done.stderr, *written):
        for secret in (KEY, json.dumps(KEY)[1:-1], "Se/cret", "sk-another-one"):
            assert secret not in text
    assert {r["headers"].get("authorization") for r in server.seen()} == {f"Bearer {KEY}"}
    monkeypatch.setenv("MY_VARIABLE", "sk-wrong-0123456789")
    with pytest.raises(InputError, match=r"HTTP 401: wrong key: Bearer \[hidden\]"):
        record(server, tmp_path / "x.jsonl", api_key_env="MY_VARIABLE")


def test_without_a_key_none_is_sent(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "sk-not-for-you")
    record(server, tmp_path / "out.jsonl", limit=1)
    assert "sk-not-for-you" not in json.dumps(server.seen())
    names = {name.lower() for request in server.seen() for name in request["headers"]}
    assert names <= {"host", "accept", "connection", "content-type", "content-length", "user-agent"}


def test_a_redirect_is_not_followed(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    caught: list[str] = []

    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            caught.append(str(self.headers))

    other = HTTPServer(("127.0.0.1", 0), Other)
    Thread(target=other.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{other.server_address[1]}"
    monkeypatch.setenv("MY_VARIABLE", KEY)
    server.turn(redirect=root)
    with pytest.raises(InputError, match=f"HTTP 307, a redirect to {root}/v1/completions, which is not followed"):
        record(server, tmp_path / "out.jsonl", api_key_env="MY_VARIABLE")
    other.shutdown()
    assert caught == []


@pytest.mark.parametrize("value", ["", " ", "two words", "line\nbreak"])
def test_a_variable_without_a_key_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MY_VARIABLE", value)
    with pytest.raises(InputError, match="--api-key-env: ") as refused:
        record(Served("http://127.0.0.1:9/v1", ""), tmp_path / "out.jsonl", api_key_env="MY_VARIABLE")
    assert "MY_VARIABLE" not in str(refused.value) and (not value.strip() or value not in str(refused.value))


def test_a_key_in_the_place_of_a_name_is_not_repeated(tmp_path: Path) -> None:
    for key in ("sk-0123456789", "abcdef0123456789"):
        with pytest.raises(InputError, match="--api-key-env: ") as refused:
            record(Served("http://127.0.0.1:9/v1", ""), tmp_path / "out.jsonl", api_key_env=key)
        assert key not in str(refused.value)


def test_another_version_of_the_server_goes_on_with_nothing(server: Served, tmp_path: Path) -> None:
    server.turn(after=2, fail=[{"status": 400}])
    record(server, tmp_path / "out.jsonl", limit=2)
    server.turn(version="1.0")
    with pytest.raises(InputError, match=r"is a recording with engine.version '0.99', and this one has '1.0'"):
        record(server, tmp_path / "out.jsonl", limit=2)


def test_a_server_that_was_loading_is_filled_in_once_it_tells(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    server.turn(loading=99)
    record(server, path, limit=2)
    assert lines(path)[0]["engine"] == {"name": "unknown", "version": None, "models": []}
    server.turn()
    record(server, path, limit=2)
    header, rows = lines(path)
    assert header["engine"] == {"name": "vllm", "version": "0.99", "models": ["demo"]} and len(rows) == 2
    server.turn(loading=99)
    outcome = record(server, path, limit=2)
    assert outcome.before == 2 and lines(path)[0] == header
    server.turn(loading=1)  # asked again
    record(server, tmp_path / "other.jsonl", limit=1)
    assert lines(tmp_path / "other.jsonl")[0]["engine"] == header["engine"]


def test_a_body_that_holds_the_key_is_refused(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_VARIABLE", KEY)
    with pytest.raises(InputError, match="--body: holds the key of --api-key-env") as refused:
        record(server, tmp_path / "out.jsonl", api_key_env="MY_VARIABLE", body={"a": [f"x{KEY}"]})
    assert KEY not in str(refused.value) and not (tmp_path / "out.jsonl").exists() and server.seen() == []
    with pytest.raises(InputError, match="--body: 'echo' follows from the other options"):
        record(server, tmp_path / "out.jsonl", body={"echo": True})


def test_a_signal_within_the_event_loop_ends_the_asking() -> None:
    """Its handler runs wherever Python is just then: in a callback, whose exceptions asyncio tells to nobody else."""

    async def interrupted(late: bool) -> str:
        def received() -> None:
            raise Stopped(signal.SIGTERM)

        asyncio.get_running_loop().call_soon(received)
        await asyncio.sleep(0 if late else 60)
        return "as if nothing had come"

    for late in (False, True):
        with pytest.raises(Stopped, match="SIGTERM"):
            run(lambda late=late: interrupted(late))


def test_a_recording_that_is_killed_goes_on(server: Served, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    server.turn(after=3, hang=60)
    command = [sys.executable, "-m", "decodedrift", "record", "--endpoint", server.url, "--model", "demo"]
    flags = [word for text in PROMPTS for word in ("--prompt", text)] + ["--max-new-tokens", "4", "--retries", "1"]
    process = subprocess.Popen([*command, *flags, "-o", str(path)])
    while not (path.exists() and path.read_bytes().count(b"\n") == 3):  # the header, and two of three texts
        time.sleep(0.05)
    process.kill()
    process.wait()
    with path.open("ab") as stream:
        stream.write(b'{"prompt_id": "half a li')
    server.turn()
    outcome = record(server, path)
    assert (outcome.texts, outcome.before) == (3, 2)
    assert [body["prompt"] for body in server.asked()] == PROMPTS[2:]
    assert [row["prompt"] for row in lines(path)[1]] == PROMPTS


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://a/v1", "http://", "http://a b/v1", "http://[1/v1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"--endpoint: must be a URL such as http://127\.0\.0\.1:8000/v1"):
        checked_url(url)


@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "http://host/v1?api_key=secret", "https://host/v1#secret"])
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="no URL with a password or parameters is kept") as refused:
        checked_url(url)
    assert "secret" not in str(refused.value)


def test_without_the_client_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r'needs the openai client: pip install "decodedrift\[api\]"'):
        record(Served("http://127.0.0.1:9/v1", ""), tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"strategies": "beam"}, "strategy beam: an endpoint cannot be asked for it; choices: greedy, top-k"),
        ({"strategies": "greedy:no_repeat_ngram=2"}, "an endpoint knows no no_repeat_ngram"),
        ({"reference": "bf16"}, "--variant is of a model that runs here: leave it or --endpoint out"),
        ({"body": "[1]"}, "--body: must be a JSON object"),
        ({"concurrency": 0}, "--concurrency"),
        (
            {"endpoint": None, "retries": 4, "concurrency": 2},
            "--concurrency is of an endpoint: leave it out, or add --endpoint URL",
        ),
    ],
)
def test_what_an_endpoint_cannot_be_asked(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        record(Served("http://127.0.0.1:9/v1", ""), tmp_path / "out.jsonl", **asked)
