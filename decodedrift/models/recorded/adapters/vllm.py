"""vLLM's own outputs: a `RequestOutput` of `LLM.generate`, written as JSON (`dataclasses.asdict` or by hand).

Its OpenAI server is read by `openai.py`.
"""

from __future__ import annotations

from typing import Any

from decodedrift.models.recorded.adapters.base import Adapter, Raw, address, meta, told


def _lines(raw: Raw) -> list[dict[str, Any]]:
    return [_line(raw, output) for output in raw["outputs"]]


def _line(raw: Raw, output: Raw) -> dict[str, Any]:
    line = address(raw) | {key: output.get(key) for key in ("text", "finish_reason", "stop_reason")}
    ids = list(output["token_ids"])
    line |= {"token_ids": ids, "run": raw.get("run") or output.get("index") or 0, "meta": meta(raw, "request_id")}
    if output.get("logprobs") is not None:
        tables = [_table(position) for position in _positions(output["logprobs"])]
        line["logprobs"] = [told(table.get(token)) for token, table in zip(ids, tables, strict=True)]
        line["top_logprobs"] = [[(t, p) for t, p in table.items() if told(p) is not None] for table in tables]
    return line


def _positions(logprobs: Any) -> list[Raw]:
    """id -> entry at each position; also of the flat form, whose lists hold all positions one after the other."""
    if isinstance(logprobs, list):
        return logprobs
    entries = list(zip(logprobs["token_ids"], logprobs["logprobs"], strict=True))
    spans = zip(logprobs["start_indices"], logprobs["end_indices"], strict=True)
    return [dict(entries[begin:end]) for begin, end in spans]


def _table(position: Raw | None) -> dict[int, float]:
    """Token id -> ln p; JSON's keys are texts, and an entry is a number or a `Logprob`."""
    return {int(t): e["logprob"] if isinstance(e, dict) else e for t, e in (position or {}).items()}


def _knows(raw: Raw) -> bool:
    return isinstance(raw.get("outputs"), list)


VLLM = Adapter("vllm", "a RequestOutput of vLLM's LLM.generate", _knows, _lines)
