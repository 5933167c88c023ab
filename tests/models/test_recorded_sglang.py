"""SGLang's /generate: [ln p, id, text] under `meta_info`."""

from __future__ import annotations

import copy

from responses import SGLANG

from decodedrift.models.recorded.adapters import adapted


def test_ids_log_probabilities_and_the_prompts_ids_are_read() -> None:
    (c,) = adapted(SGLANG | {"prompt": "w1 w2"}, "f:1")
    assert (c.prompt, c.prompt_token_ids, c.token_ids, c.text) == ("w1 w2", (1, 2), (5, 7), "w5 w7")
    assert (c.logprobs, c.top_logprobs) == ((-0.25, -1.0), ({5: -0.25, 9: -2.0}, {8: -0.5, 7: -1.0}))
    assert (c.finish_reason, c.stop_reason) == ("stop", 0)
    assert c.meta == {"id": "26223ea355df4c0ab45e5af04505ed67", "weight_version": "default"}


def test_a_prompt_that_is_read_in_part_gives_no_prompt_ids() -> None:
    raw = copy.deepcopy(SGLANG)
    del raw["meta_info"]["input_token_logprobs"][0]  # logprob_start_len 1
    assert adapted(raw, "f:1")[0].prompt_token_ids is None


def test_without_log_probabilities_ids_are_still_read() -> None:
    raw = {"text": "w5", "output_ids": [5], "meta_info": {"finish_reason": {"type": "length", "length": 1}}}
    (c,) = adapted(raw, "f:1")
    assert (c.token_ids, c.logprobs, c.top_logprobs, c.finish_reason) == ((5,), None, None, "length")


def test_ids_beyond_what_is_told_have_no_log_probability() -> None:
    (c,) = adapted(SGLANG | {"output_ids": [5, 7, 0]}, "f:1")
    assert (c.token_ids, c.logprobs) == ((5, 7, 0), (-0.25, -1.0, None))
    assert adapted(SGLANG | {"output_ids": [6, 7]}, "f:1")[0].logprobs is None


def test_an_abort_is_a_failure_with_its_message() -> None:
    raw = {"text": "", "meta_info": {"finish_reason": {"type": "abort", "message": "too long", "status_code": 400}}}
    assert adapted(raw, "f:1")[0].error == "too long"
