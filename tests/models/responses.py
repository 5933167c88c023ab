"""Responses of engines in the shapes that they have, shortened: what their adapters are tested with."""

from __future__ import annotations

from typing import Any

VLLM: dict[str, Any] = {  # dataclasses.asdict of a RequestOutput, through JSON: ids as keys are texts
    "request_id": "0",
    "prompt": "w1 w2",
    "prompt_token_ids": [1, 2],
    "prompt_logprobs": [None, {"2": {"logprob": -3.5, "rank": 4, "decoded_token": "w2"}}],
    "outputs": [
        {
            "index": 0,
            "text": "w5 w7",
            "token_ids": [5, 7, 0],
            "cumulative_logprob": -1.75,
            "logprobs": [
                {
                    "5": {"logprob": -0.25, "rank": 1, "decoded_token": "w5"},
                    "9": {"logprob": -2.0, "rank": 2, "decoded_token": "w9"},
                },
                {
                    "8": {"logprob": -0.5, "rank": 1, "decoded_token": "w8"},
                    "7": {"logprob": -1.0, "rank": 3, "decoded_token": "w7"},
                },
                {"0": {"logprob": -0.5, "rank": 1, "decoded_token": "<|end|>"}},
            ],
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ],
    "finished": True,
    "metrics": None,
    "lora_request": None,
}

VLLM_SERVER: dict[str, Any] = {  # /v1/completions with return_token_ids and prompt_logprobs
    "id": "cmpl-6d2b",
    "object": "text_completion",
    "created": 1764150000,
    "model": "tiny",
    "choices": [
        {
            "index": 0,
            "text": "w5 w7",
            "logprobs": {
                "text_offset": [0, 2],
                "token_logprobs": [-0.25, -1.0],
                "tokens": ["w5", "w7"],
                "top_logprobs": [{"w5": -0.25, "w9": -2.0}, {"w8": -0.5, "w7": -1.0}],
            },
            "finish_reason": "length",
            "stop_reason": None,
            "prompt_logprobs": [None, {"2": {"logprob": -3.5, "rank": 4, "decoded_token": "w2"}}],
            "token_ids": [5, 7],
            "prompt_token_ids": [1, 2],
        }
    ],
    "service_tier": None,
    "system_fingerprint": None,
    "usage": {"prompt_tokens": 2, "total_tokens": 4, "completion_tokens": 2, "prompt_tokens_details": None},
    "kv_transfer_params": None,
}

VLLM_CHAT: dict[str, Any] = {  # /v1/chat/completions with return_tokens_as_token_ids
    "id": "chatcmpl-9f",
    "object": "chat.completion",
    "created": 1764150000,
    "model": "tiny",
    "prompt_token_ids": [3, 1, 2, 4],
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "w5", "reasoning_content": None, "tool_calls": []},
            "logprobs": {
                "content": [
                    {
                        "token": "token_id:5",
                        "logprob": -0.25,
                        "bytes": [119, 53],
                        "top_logprobs": [
                            {"token": "token_id:5", "logprob": -0.25, "bytes": [119, 53]},
                            {"token": "token_id:9", "logprob": -9999.0, "bytes": [119, 57]},
                        ],
                    }
                ]
            },
            "finish_reason": "stop",
            "stop_reason": "w9",
            "token_ids": None,
        }
    ],
    "usage": {"prompt_tokens": 4, "total_tokens": 5, "completion_tokens": 1},
}

SGLANG: dict[str, Any] = {  # /generate, return_logprob, top_logprobs_num 2, logprob_start_len 0
    "text": "w5 w7",
    "output_ids": [5, 7],
    "meta_info": {
        "id": "26223ea355df4c0ab45e5af04505ed67",
        "finish_reason": {"type": "stop", "matched": 0},
        "prompt_tokens": 2,
        "weight_version": "default",
        "input_token_logprobs": [[None, 1, None], [-3.5, 2, None]],
        "output_token_logprobs": [[-0.25, 5, None], [-1.0, 7, None]],
        "input_top_logprobs": [None, [[-3.0, 4, None], [-3.5, 2, None]]],
        "output_top_logprobs": [[[-0.25, 5, None], [-2.0, 9, None]], [[-0.5, 8, None], [-1.0, 7, None]]],
        "completion_tokens": 2,
        "cached_tokens": 0,
        "e2e_latency": 0.05,
    },
}

OPENAI: dict[str, Any] = {  # completions with logprobs=2
    "id": "cmpl-7",
    "object": "text_completion",
    "created": 1764150000,
    "model": "davinci-002",
    "choices": [
        {
            "text": " é w7",
            "index": 0,
            "logprobs": {
                "tokens": [" ", "bytes:\\xc3", "bytes:\\xa9", " w7"],
                "token_logprobs": [-0.25, -1.0, -0.5, -0.125],
                "top_logprobs": [
                    {" ": -0.25, "w9": -2.0},
                    {"bytes:\\xc3": -1.0, "w8": -1.5},
                    {"bytes:\\xa9": -0.5, "w8": -9999.0},
                    {" w7": -0.125},
                ],
                "text_offset": [5, 6, 6, 7],
            },
            "finish_reason": "length",
        }
    ],
    "usage": {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6},
    "system_fingerprint": "fp_44",
}

OPENAI_CHAT: dict[str, Any] = {  # logprobs: true, top_logprobs: 2, n: 2
    "id": "chatcmpl-B9",
    "object": "chat.completion",
    "created": 1764150000,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "index": 1,
            "message": {"role": "assistant", "content": "w8", "refusal": None, "annotations": []},
            "logprobs": {
                "content": [{"token": "w8", "logprob": -1.5, "bytes": [119, 56], "top_logprobs": []}],
                "refusal": None,
            },
            "finish_reason": "stop",
        },
        {
            "index": 0,
            "message": {"role": "assistant", "content": "w5", "refusal": None, "annotations": []},
            "logprobs": {
                "content": [
                    {
                        "token": "w5",
                        "logprob": -0.25,
                        "bytes": [119, 53],
                        "top_logprobs": [
                            {"token": "w5", "logprob": -0.25, "bytes": [119, 53]},
                            {"token": "\\xc3", "logprob": -2.0, "bytes": [195]},
                        ],
                    }
                ],
                "refusal": None,
            },
            "finish_reason": "stop",
        },
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    "system_fingerprint": "fp_44",
}

LLAMACPP: dict[str, Any] = {  # /completion, n_probs 2, return_tokens
    "index": 0,
    "content": "w5 w7",
    "tokens": [5, 7],
    "id_slot": 0,
    "stop": True,
    "model": "tiny.gguf",
    "tokens_predicted": 3,
    "tokens_evaluated": 2,
    "generation_settings": {"n_predict": 8, "seed": 4294967295, "temperature": 0.0, "stop": [], "n_probs": 2},
    "prompt": "w1 w2",
    "has_new_line": False,
    "truncated": False,
    "stop_type": "eos",
    "stopping_word": "",
    "tokens_cached": 4,
    "timings": {"prompt_n": 2, "predicted_n": 3},
    "completion_probabilities": [
        {
            "id": 5,
            "token": "w5",
            "bytes": [119, 53],
            "logprob": -0.25,
            "top_logprobs": [
                {"id": 5, "token": "w5", "bytes": [119, 53], "logprob": -0.25},
                {"id": 9, "token": "w9", "bytes": [119, 57], "logprob": -2.0},
            ],
        },
        {
            "id": 7,
            "token": "w7",
            "bytes": [119, 55],
            "logprob": -1.0,
            "top_logprobs": [
                {"id": 8, "token": "w8", "bytes": [119, 56], "logprob": -0.5},
                {"id": 7, "token": "w7", "bytes": [119, 55], "logprob": -1.0},
            ],
        },
    ],
}

LLAMACPP_OLD: dict[str, Any] = {  # before December 2024: probabilities of what is left after sampling
    "content": "w5 w7",
    "generation_settings": {"temperature": 0.8},
    "prompt": "w1 w2",
    "model": "tiny.gguf",
    "stop": True,
    "stopped_eos": False,
    "stopped_limit": True,
    "stopped_word": False,
    "stopping_word": "",
    "completion_probabilities": [
        {"content": "w5", "probs": [{"prob": 0.9, "tok_str": "w5"}, {"prob": 0.1, "tok_str": "w9"}]},
        {"content": " w7", "probs": [{"prob": 1.0, "tok_str": " w7"}]},
    ],
}

LLAMACPP_CHAT: dict[str, Any] = {  # llama-server's /v1/chat/completions: ids beside the texts
    "choices": [
        {
            "finish_reason": "length",
            "index": 0,
            "message": {"role": "assistant", "content": "w5"},
            "logprobs": {
                "content": [
                    {
                        "id": 5,
                        "token": "w5",
                        "bytes": [119, 53],
                        "logprob": -0.25,
                        "top_logprobs": [
                            {"id": 5, "token": "w5", "bytes": [119, 53], "logprob": -0.25},
                            {"id": 9, "token": "w9", "bytes": [119, 57], "logprob": -2.0},
                        ],
                    }
                ]
            },
        }
    ],
    "created": 1764150000,
    "model": "tiny.gguf",
    "system_fingerprint": "b6123-ec428b02",
    "object": "chat.completion",
    "usage": {"completion_tokens": 1, "prompt_tokens": 2, "total_tokens": 3},
    "id": "chatcmpl-x",
    "timings": {"prompt_n": 2},
}

OWN: dict[str, Any] = {
    "prompt_id": "a",
    "prompt_token_ids": [1, 2],
    "token_ids": [5, 7],
    "logprobs": [-0.25, None],
    "top_logprobs": [[[5, -0.25], ["w9", -2.0], [[195], -3.0]], None],
    "finish_reason": "stop",
    "strategy": "greedy",
    "run": 1,
    "meta": {"host": "b"},
}

SAMPLES: dict[str, list[dict[str, Any]]] = {  # by the adapter that reads them
    "vllm": [VLLM],
    "sglang": [SGLANG],
    "openai": [OPENAI, OPENAI_CHAT, VLLM_SERVER, VLLM_CHAT, LLAMACPP_CHAT],
    "llama.cpp": [LLAMACPP, LLAMACPP_OLD],
    "decodedrift": [OWN],
}

VLLM_LIVE: dict[str, Any] = {  # vLLM 0.32.0, the demo model in fp32: /v1/completions as `record` asks it
    "id": "cmpl-8c588f25d4e27450",
    "object": "text_completion",
    "created": 1795718528,
    "model": "demo",
    "choices": [
        {
            "index": 0,
            "text": ", there",
            "logprobs": {
                "text_offset": [0, 11],
                "token_logprobs": [-0.22675763070583344, -0.048519305884838104],
                "tokens": ["token_id:12", "token_id:388"],
                "top_logprobs": [
                    {"token_id:12": -0.22675763070583344, "token_id:388": -1.6097580194473267},
                    {"token_id:388": -0.048519305884838104, "token_id:316": -3.5967800617218018},
                ],
            },
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": [12, 388],
            "prompt_logprobs": None,
            "prompt_token_ids": [417, 437, 259, 395],
            "routed_experts": None,
        }
    ],
    "service_tier": None,
    "system_fingerprint": "vllm-0.32.0-9efac76a",
    "usage": {"prompt_tokens": 4, "total_tokens": 6, "completion_tokens": 2, "prompt_tokens_details": None},
    "kv_transfer_params": None,
    "ec_transfer_params": None,
    "metrics": None,
}

LLAMA_CPP_PYTHON: dict[str, Any] = {  # llama-cpp-python 0.3.36's server: /v1/completions; its tokens have no ids
    "id": "cmpl-bd749426-b6f3-401d-8d7f-4f5ae9ef4e5e",
    "object": "text_completion",
    "created": 1795718528,
    "model": "stories",
    "choices": [
        {
            "text": ", there",
            "index": 0,
            "logprobs": {
                "text_offset": [16, 17],
                "token_logprobs": [-0.03175363317131996, -0.06841522455215454],
                "tokens": [",", " there"],
                "top_logprobs": [
                    {",": -0.03175363317131996, " there": -3.5481643676757812},
                    {" there": -0.06841522455215454, " in": -2.9793171882629395},
                ],
            },
            "finish_reason": "length",
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}

LLAMA_CPP_PYTHON_CHAT: dict[str, Any] = {  # the same, /v1/chat/completions: bytes are announced and not given
    "id": "chatcmpl-c8f6b0e1-84b1-434f-b84a-c44b1f3d886c",
    "object": "chat.completion",
    "created": 1795718528,
    "model": "stories",
    "choices": [
        {
            "index": 0,
            "message": {"content": ". ", "role": "assistant"},
            "logprobs": {
                "content": [
                    {
                        "token": ".",
                        "logprob": -2.064255475997925,
                        "bytes": None,
                        "top_logprobs": [
                            {"token": ".", "logprob": -2.064255475997925, "bytes": None},
                            {"token": " was", "logprob": -2.2151191234588623, "bytes": None},
                        ],
                    },
                    {
                        "token": " ",
                        "logprob": -0.5949273109436035,
                        "bytes": None,
                        "top_logprobs": [
                            {"token": " ", "logprob": -0.5949273109436035, "bytes": None},
                            {"token": " I", "logprob": -1.9494900703430176, "bytes": None},
                        ],
                    },
                ],
                "refusal": None,
            },
            "finish_reason": "length",
        }
    ],
    "usage": {"prompt_tokens": 23, "completion_tokens": 2, "total_tokens": 25},
}
