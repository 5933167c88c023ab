"""llama.cpp's server, `/completion` with `n_probs`. Its `/v1` is read by `openai.py`.

Only log-probabilities of before sampling are read: with `post_sampling_probs`, and by builds of before December 2024,
the server tells what is left after temperature and truncation (`prob`, `probs`).
"""

from __future__ import annotations

from typing import Any

from decodedrift.models.recorded.adapters.base import Adapter, Raw, address, meta, padded, told

FINISH = {"eos": "eos", "limit": "length", "word": "stop"}  # `none`: it goes on


def _lines(raw: Raw) -> list[dict[str, Any]]:
    line = address(raw) | {"text": raw["content"], "meta": meta(raw, "model", "generation_settings", "truncated")}
    line["finish_reason"] = _finish(raw)
    if line["finish_reason"] == "stop":
        line["stop_reason"] = raw.get("stopping_word") or None
    if raw.get("tokens"):  # with `return_tokens`
        line["token_ids"] = raw["tokens"]
    line |= _shown(raw.get("completion_probabilities") or [], line.get("token_ids"))
    return [line]


def _finish(raw: Raw) -> str | None:
    if "stop_type" in raw:
        return FINISH.get(raw["stop_type"])
    old = {"stopped_eos": "eos", "stopped_limit": "length", "stopped_word": "stop"}
    return next((word for key, word in old.items() if raw.get(key)), None)


def _shown(positions: list[Raw], ids: list[int] | None) -> dict[str, Any]:
    """Tokens with what the server told of each position."""
    if not positions:
        return {}
    if not all("id" in position for position in positions):  # an old build
        return {} if ids is not None else {"tokens": [position["content"] for position in positions]}
    shown = [position["id"] for position in positions]
    ids = ids if ids is not None else shown
    line: dict[str, Any] = {"token_ids": ids}
    if ids[: len(shown)] == shown and any("logprob" in position for position in positions):
        tops = [
            [(e["id"], e["logprob"]) for e in position.get("top_logprobs") or () if told(e["logprob"]) is not None]
            for position in positions
        ]
        line["logprobs"] = padded([told(position.get("logprob")) for position in positions], None, len(ids))
        line["top_logprobs"] = padded(tops, None, len(ids))
    return line


def _knows(raw: Raw) -> bool:
    return isinstance(raw.get("content"), str) and ("stop" in raw or "completion_probabilities" in raw)


LLAMACPP = Adapter("llama.cpp", "a response of llama.cpp's /completion", _knows, _lines)
