"""OpenAI's completions and chat completions, and whatever serves the same: vLLM, llama.cpp, SGLang, llama-cpp-python.

Servers add to it what OpenAI does not tell: token ids of the prompt and of the text (vLLM's `return_token_ids`; an `id`
beside each token by llama.cpp), and `stop_reason` (vLLM) or `matched_stop` (SGLang). Where they do, it is read.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from decodedrift.models.recorded.adapters.base import Adapter, Raw, address, meta, told

TOKEN_ID = re.compile(r"token_id:(\d+)")  # vLLM's --return-tokens-as-token-ids
BYTES = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")  # OpenAI's completions, of half a character
KEPT = ("id", "model", "system_fingerprint", "created", "usage", "service_tier")
PARTS = ("reasoning_content", "reasoning", "tool_calls")  # of a text, which a server may take out of it
SPLIT = "the server took reasoning or tool calls out of the text; switch its parsers off, or have token ids returned"

UNCUT = "its prompt was echoed, and where that ends is not known; give the request's `prompt`, or ask without `echo`"

Named = tuple[Any, float | None]  # a token by its id, text or bytes, and ln p


class Echo(NamedTuple):
    """How much of a completion is its prompt; characters: None where the text does not tell."""

    tokens: int
    characters: int | None


def _lines(raw: Raw) -> list[dict[str, Any]]:
    if raw.get("choices") is None:
        return [address(raw) | {"error": _reason(raw["error"]), "meta": meta(raw, *KEPT)}]
    return [_line(raw, choice) for choice in sorted(raw["choices"], key=lambda c: c.get("index") or 0)]


def _line(raw: Raw, choice: Raw) -> dict[str, Any]:
    line = address(raw) | {"meta": meta(raw, *KEPT), "finish_reason": choice.get("finish_reason")}
    line["stop_reason"] = choice.get("stop_reason", choice.get("matched_stop"))
    line["run"] = raw.get("run") or choice.get("index") or 0
    message = choice.get("message")
    line["text"] = choice["text"] if message is None else message.get("content") or ""
    split = message is not None and any(message.get(part) for part in PARTS)
    if (ids := choice.get("prompt_token_ids") or raw.get("prompt_token_ids")) is not None:
        line["prompt_token_ids"] = ids
    chosen, tops = _shown(choice.get("logprobs") or {})
    if (echo := None if message is not None else _echoed(raw, choice, len(chosen))) is None:
        echo = Echo(0, 0)
    elif echo.characters is None:
        line["error"] = UNCUT
    line["text"] = line["text"][echo.characters :]
    chosen, tops = chosen[echo.tokens :], tops and tops[echo.tokens :]
    tokens = [name for name, _ in chosen]
    ids = choice.get("token_ids")
    if tokens and all(isinstance(name, int) for name in tokens):
        ids = tokens if ids is None else ids
    elif tokens and (ids is None or len(ids) == len(tokens)):
        line["tokens"] = tokens
    if ids is not None:
        line["token_ids"] = ids
    if split:
        line["text"] = None
        if "token_ids" not in line and "tokens" not in line:
            line["error"] = SPLIT
    if tokens and len(tokens) == len(line.get("token_ids", tokens)):
        line |= {"logprobs": [p for _, p in chosen], "top_logprobs": tops}
    return line


def _echoed(raw: Raw, choice: Raw, shown: int) -> Echo | None:
    """What of a completion is its prompt (`echo`), by the prompt's text, or by the counts under `usage`.

    Where the request does not say whether it asked for one, the counts alone tell: a text may begin with its prompt.
    """
    offsets = (choice.get("logprobs") or {}).get("text_offset") or []
    usage, asked, prompt = raw.get("usage") or {}, raw.get("echo"), raw.get("prompt")
    read, new = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    counted = bool(read) and shown == read + new and len(raw["choices"]) == 1
    if asked is False or not (asked or counted):
        return None
    if isinstance(prompt, str) and prompt and choice["text"].startswith(prompt):
        begin = next((n for n, offset in enumerate(offsets) if offset >= len(prompt)), shown)
        if begin == shown or offsets[begin] == len(prompt):
            return Echo(begin, len(prompt))
    if not counted:
        return Echo(0, None)
    return Echo(read, offsets[read] if read < shown else len(choice["text"]))


def _shown(logprobs: Raw) -> tuple[list[Named], list[list[Named]] | None]:
    """Chosen tokens, and the likeliest of each position; the two shapes of completions and of chats."""
    if logprobs.get("content") is not None:
        content = logprobs["content"]
        tops = [[_entry(e) for e in entry.get("top_logprobs") or ()] for entry in content]
        return [_entry(entry) for entry in content], _known(tops)
    chosen = zip(logprobs.get("tokens") or (), logprobs.get("token_logprobs") or (), strict=True)
    every = logprobs.get("top_logprobs")
    tops = [[(_name(t), told(p)) for t, p in (top or {}).items()] for top in every or ()]
    return [(_name(token), told(p)) for token, p in chosen], _known(tops) if every else None


def _known(tops: list[list[Named]]) -> list[list[Named]] | None:
    """Without what is not told; None where nothing is left."""
    tops = [[(name, p) for name, p in top if p is not None] for top in tops]
    return tops if any(tops) else None


def _entry(entry: Raw) -> Named:
    name = _name(entry["token"])
    if isinstance(entry.get("id"), int):
        name = entry["id"]
    elif isinstance(name, str) and entry.get("bytes"):
        name = list(entry["bytes"])
    return name, told(entry.get("logprob"))


def _name(token: str) -> int | str | list[int]:
    if match := TOKEN_ID.fullmatch(token):
        return int(match[1])
    if match := BYTES.fullmatch(token):
        return list(bytes.fromhex(match[1].replace("\\x", "")))
    return token


def _reason(error: Any) -> str:
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)


def _knows(raw: Raw) -> bool:
    return isinstance(raw.get("choices"), list) or (isinstance(raw.get("error"), dict) and "choices" not in raw)


OPENAI = Adapter("openai", "a response of OpenAI's completions or chat, or of a server of the same", _knows, _lines)
