"""llama.cpp's server: /completion with n_probs, and ids beside the texts of its /v1."""

from __future__ import annotations

import copy

from responses import LLAMA_CPP_PYTHON, LLAMA_CPP_PYTHON_CHAT, LLAMACPP, LLAMACPP_CHAT, LLAMACPP_OLD

from decodedrift.models.recorded.adapters import adapted


def test_ids_and_log_probabilities_of_before_sampling_are_read() -> None:
    (c,) = adapted(LLAMACPP, "f:1")
    assert (c.prompt, c.token_ids, c.text) == ("w1 w2", (5, 7), "w5 w7")
    assert (c.logprobs, c.top_logprobs) == ((-0.25, -1.0), ({5: -0.25, 9: -2.0}, {8: -0.5, 7: -1.0}))
    assert (c.finish_reason, c.stop_reason) == ("eos", None)


def test_without_return_tokens_the_ids_come_with_the_probabilities() -> None:
    assert adapted(LLAMACPP | {"tokens": []}, "f:1")[0].token_ids == (5, 7)


def test_a_stop_string_is_told_from_a_stop_token() -> None:
    (c,) = adapted(LLAMACPP | {"stop_type": "word", "stopping_word": "w8"}, "f:1")
    assert (c.finish_reason, c.stop_reason) == ("stop", "w8")
    assert adapted(LLAMACPP | {"stop_type": "limit"}, "f:1")[0].finish_reason == "length"


def test_tokens_that_a_stop_string_took_away_have_no_log_probability() -> None:
    (c,) = adapted(LLAMACPP | {"tokens": [5, 7, 8], "stop_type": "word", "stopping_word": "w8"}, "f:1")
    assert (c.token_ids, c.logprobs) == ((5, 7, 8), (-0.25, -1.0, None))
    assert c.top_logprobs is not None and len(c.top_logprobs) == 3 and c.top_logprobs[2] == {}
    (other,) = adapted(LLAMACPP | {"tokens": [5, 6, 8]}, "f:1")  # what is shown is of other tokens
    assert (other.token_ids, other.logprobs, other.top_logprobs) == ((5, 6, 8), None, None)


def test_probabilities_of_after_sampling_are_no_log_probabilities() -> None:
    raw = copy.deepcopy(LLAMACPP)
    for position in raw["completion_probabilities"]:  # post_sampling_probs
        position["prob"] = 1.0
        position["top_probs"] = [{"id": position["id"], "token": position["token"], "prob": 1.0}]
        del position["logprob"], position["top_logprobs"]
    (c,) = adapted(raw, "f:1")
    assert (c.token_ids, c.logprobs, c.top_logprobs) == ((5, 7), None, None)


def test_an_old_build_names_tokens_by_text_only() -> None:
    (c,) = adapted(LLAMACPP_OLD, "f:1")
    assert (c.token_ids, c.tokens, c.logprobs) == (None, ("w5", " w7"), None)
    assert c.finish_reason == "length"


def test_its_chat_has_ids() -> None:
    (c,) = adapted(LLAMACPP_CHAT, "f:1")
    assert (c.token_ids, c.logprobs, c.top_logprobs) == ((5,), (-0.25,), ({5: -0.25, 9: -2.0},))
    assert c.meta["system_fingerprint"] == "b6123-ec428b02"


def test_its_python_server_names_tokens_by_text_with_their_spaces() -> None:
    (c,) = adapted(LLAMA_CPP_PYTHON, "f:1")
    assert (c.token_ids, c.tokens, c.text, c.finish_reason) == (None, (",", " there"), ", there", "length")
    assert c.logprobs == (-0.03175363317131996, -0.06841522455215454)
    assert c.top_logprobs is not None and c.top_logprobs[1] == {" there": c.logprobs[1], " in": -2.9793171882629395}
    (chat,) = adapted(LLAMA_CPP_PYTHON_CHAT, "f:1")
    assert (chat.tokens, chat.text) == ((".", " "), ". ")
    assert chat.top_logprobs is not None and chat.top_logprobs[0] == {
        ".": -2.064255475997925, " was": -2.2151191234588623,
    }  # fmt: skip
