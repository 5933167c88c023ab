"""OpenAI's completions and chat: tokens by their text or bytes, several choices, an echo, batches, errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from responses import OPENAI, OPENAI_CHAT

from decodedrift.models.recorded.adapters import adapted


def test_completions_name_tokens_by_text_and_half_characters_by_bytes() -> None:
    (c,) = adapted(OPENAI, "f:1")
    assert c.tokens == (" ", b"\xc3", b"\xa9", " w7") and c.token_ids is None
    assert c.logprobs == (-0.25, -1.0, -0.5, -0.125)
    assert c.top_logprobs == ({" ": -0.25, "w9": -2.0}, {b"\xc3": -1.0, "w8": -1.5}, {b"\xa9": -0.5}, {" w7": -0.125})
    assert c.meta["system_fingerprint"] == "fp_44"


def test_choices_of_a_chat_are_runs_in_their_order() -> None:
    first, second = adapted(OPENAI_CHAT, "f:1")
    assert [(c.run, c.text, c.tokens, c.logprobs) for c in (first, second)] == [
        (0, "w5", (b"w5",), (-0.25,)),
        (1, "w8", (b"w8",), (-1.5,)),
    ]
    assert first.top_logprobs == ({b"w5": -0.25, b"\xc3": -2.0},)
    assert second.top_logprobs is None  # none were shown


def test_an_echoed_prompt_is_no_part_of_the_text() -> None:
    raw = copy.deepcopy(OPENAI)
    choice = raw["choices"][0]
    choice["text"] = "w1 w2" + choice["text"]
    shown = choice["logprobs"]
    shown["tokens"] = ["w1", " w2", *shown["tokens"]]
    shown["token_logprobs"] = [None, -3.5, *shown["token_logprobs"]]
    shown["top_logprobs"] = [None, {" w2": -3.5}, *shown["top_logprobs"]]
    shown["text_offset"] = [0, 2, *shown["text_offset"]]
    echoed, plain = adapted(raw, "f:1")[0], adapted(OPENAI, "f:1")[0]
    assert echoed == plain and echoed.top_logprobs == plain.top_logprobs and plain.text == " é w7"


def test_a_line_of_a_batch_is_addressed_by_its_custom_id() -> None:
    line = {"id": "batch_req_1", "custom_id": "a", "response": {"status_code": 200, "body": OPENAI}, "error": None}
    assert adapted(line, "f:1")[0].prompt_id == "a"
    assert adapted(line, "f:1")[0].tokens == adapted(OPENAI, "f:1")[0].tokens
    failed = {"id": "batch_req_2", "custom_id": "b", "response": None, "error": {"code": "expired", "message": "late"}}
    assert [(c.prompt_id, c.error) for c in adapted(failed, "f:2")] == [("b", "late")]


def test_a_logged_request_says_what_was_asked() -> None:
    line = {"request": {"prompt": [1, 2], "seed": 3, "temperature": 0}, "response": OPENAI, "strategy": "sample"}
    (c,) = adapted(line, "f:1")
    assert (c.prompt_token_ids, c.seed, c.strategy) == ((1, 2), 3, "sample")
    chat = {"request": {"messages": [{"role": "user", "content": "w1"}]}, "response": OPENAI_CHAT}
    assert adapted(chat, "f:1")[0].messages == ({"role": "user", "content": "w1"},)


def test_an_error_is_a_failure_with_its_message() -> None:
    raw = {"error": {"message": "overloaded", "type": "server_error", "code": 503}, "prompt_id": "a"}
    assert [(c.prompt_id, c.error) for c in adapted(raw, "f:1")] == [("a", "overloaded")]


@pytest.mark.parametrize("counts", [None, {"prompt_tokens": 3, "completion_tokens": 4}])  # of 2 that are shown: a BOS
@pytest.mark.parametrize("shown", [True, False])
def test_an_echo_that_the_request_asked_for_is_cut_by_the_prompts_text(counts: Any, shown: bool) -> None:
    raw = copy.deepcopy(OPENAI)
    choice = raw["choices"][0]
    choice["text"] = "w1 w2" + choice["text"]
    logprobs = choice["logprobs"]
    for key, own in (("tokens", ["w1", " w2"]), ("token_logprobs", [None, -3.5]), ("top_logprobs", [None, {}])):
        logprobs[key] = [*own, *logprobs[key]]
    logprobs["text_offset"] = [0, 2, *(5 + n for n in range(4))]
    choice["logprobs"] = logprobs if shown else None
    raw["usage"] = counts
    request = {"prompt": "w1 w2", "echo": True}
    (cut,) = adapted({"request": request, "response": raw}, "f:1")
    (plain,) = adapted(OPENAI, "f:1")
    assert (cut.text, cut.error) == (" é w7", None)
    assert cut.logprobs == (plain.logprobs if shown else None)
    for other in ({"echo": False}, {}):  # a text may begin with its prompt
        (whole,) = adapted({"request": {"prompt": "w1 w2", **other}, "response": raw}, "f:1")
        assert whole.text == "w1 w2 é w7"
    (unknown,) = adapted({"request": {"prompt": "w2 w1", "echo": True}, "response": raw}, "f:1")
    assert unknown.error is not None and "was echoed" in unknown.error
