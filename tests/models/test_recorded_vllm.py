"""vLLM: outputs of `LLM.generate` written as JSON, and what its server adds to OpenAI's responses."""

from __future__ import annotations

import copy

from responses import VLLM, VLLM_CHAT, VLLM_LIVE, VLLM_SERVER

from decodedrift.models.recorded.adapters import adapted


def test_an_offline_output_has_ids_and_log_probabilities_by_id() -> None:
    (c,) = adapted(VLLM, "f:1")
    assert (c.prompt, c.prompt_token_ids, c.token_ids, c.text) == ("w1 w2", (1, 2), (5, 7, 0), "w5 w7")
    assert c.logprobs == (-0.25, -1.0, -0.5)  # of the token taken, which is not the first of its table
    assert c.top_logprobs == ({5: -0.25, 9: -2.0}, {8: -0.5, 7: -1.0}, {0: -0.5})
    assert (c.finish_reason, c.stop_reason, c.run, c.meta) == ("stop", None, 0, {"request_id": "0"})


def test_flat_log_probabilities_are_the_same() -> None:
    raw = copy.deepcopy(VLLM)
    raw["outputs"][0]["logprobs"] = {
        "start_indices": [0, 2, 4],
        "end_indices": [2, 4, 5],
        "token_ids": [5, 9, 8, 7, 0],
        "logprobs": [-0.25, -2.0, -0.5, -1.0, -0.5],
        "ranks": [1, 2, 1, 3, 1],
        "decoded_tokens": ["w5", "w9", "w8", "w7", "<|end|>"],
    }
    assert adapted(raw, "f:1") == adapted(VLLM, "f:1")
    assert adapted(raw, "f:1")[0].top_logprobs == adapted(VLLM, "f:1")[0].top_logprobs


def test_each_of_several_samples_is_a_run() -> None:
    raw = copy.deepcopy(VLLM)
    raw["outputs"].append(raw["outputs"][0] | {"index": 1, "token_ids": [9, 9], "logprobs": None, "text": "w9 w9"})
    assert [(c.run, c.token_ids, c.logprobs) for c in adapted(raw, "f:1")][1] == (1, (9, 9), None)


def test_the_server_returns_ids_of_prompt_and_text() -> None:
    (c,) = adapted(VLLM_SERVER, "f:1")
    assert (c.prompt_token_ids, c.token_ids, c.tokens) == ((1, 2), (5, 7), ("w5", "w7"))
    assert c.logprobs == (-0.25, -1.0)
    assert c.top_logprobs == ({"w5": -0.25, "w9": -2.0}, {"w8": -0.5, "w7": -1.0})


def test_tokens_named_by_their_ids_are_ids_and_a_floor_is_no_log_probability() -> None:
    (c,) = adapted(VLLM_CHAT, "f:1")
    assert (c.prompt_token_ids, c.token_ids, c.text) == ((3, 1, 2, 4), (5,), "w5")
    assert (c.logprobs, c.top_logprobs) == ((-0.25,), ({5: -0.25},))
    assert (c.finish_reason, c.stop_reason) == ("stop", "w9")


def test_a_text_that_was_taken_apart_is_a_failure_unless_its_ids_are_there() -> None:
    raw = copy.deepcopy(VLLM_CHAT)
    raw["choices"][0]["message"]["reasoning_content"] = "w3"
    assert adapted(raw, "f:1")[0].text is None and adapted(raw, "f:1")[0].token_ids == (5,)
    raw["choices"][0]["logprobs"] = None
    assert "took reasoning or tool calls out of the text" in str(adapted(raw, "f:1")[0].error)


def test_a_running_server_gives_ids_for_names() -> None:
    (c,) = adapted(VLLM_LIVE, "f:1")
    assert (c.prompt_token_ids, c.token_ids, c.text) == ((417, 437, 259, 395), (12, 388), ", there")
    assert c.logprobs == (-0.22675763070583344, -0.048519305884838104)
    assert c.top_logprobs == (
        {12: c.logprobs[0], 388: -1.6097580194473267},
        {388: c.logprobs[1], 316: -3.5967800617218018},
    )
    assert c.meta["system_fingerprint"] == "vllm-0.32.0-9efac76a"
