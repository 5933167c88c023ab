"""SGLang's native `/generate` and `Engine.generate`: ids and log-probabilities in `meta_info`, as [ln p, id, text]."""

from __future__ import annotations

from typing import Any

from decodedrift.models.recorded.adapters.base import Adapter, Raw, address, meta, padded, told


def _lines(raw: Raw) -> list[dict[str, Any]]:
    info = raw["meta_info"]
    finish = info.get("finish_reason")
    finish = finish if isinstance(finish, dict) else {"type": finish}
    line = address(raw) | {"text": raw.get("text"), "meta": meta(info, "id", "weight_version") | meta(raw)}
    line |= {"finish_reason": finish.get("type"), "stop_reason": finish.get("matched")}
    if finish.get("type") == "abort" and finish.get("message"):
        line["error"] = finish["message"]
    read = info.get("input_token_logprobs") or ()
    if read and len(read) == info.get("prompt_tokens"):  # else the log-probabilities began within the prompt
        line.setdefault("prompt_token_ids", [entry[1] for entry in read])
    if raw.get("output_ids") is not None:
        line["token_ids"] = raw["output_ids"]
    if (chosen := info.get("output_token_logprobs")) is not None:
        shown = [entry[1] for entry in chosen]
        ids = line.setdefault("token_ids", shown)
        if ids[: len(shown)] == shown:
            line["logprobs"] = padded([told(entry[0]) for entry in chosen], None, len(ids))
            tops = _tops(info.get("output_top_logprobs"))
            line["top_logprobs"] = tops and padded(tops, None, len(ids))
    return [line]


def _tops(positions: Any) -> Any:
    """[[ln p, id, text], ...] at each position -> pairs; None where none were asked for."""
    if not positions:
        return None
    return [[(entry[1], entry[0]) for entry in top or () if told(entry[0]) is not None] for top in positions]


def _knows(raw: Raw) -> bool:
    return isinstance(raw.get("meta_info"), dict)


SGLANG = Adapter("sglang", "a response of SGLang's /generate", _knows, _lines)
