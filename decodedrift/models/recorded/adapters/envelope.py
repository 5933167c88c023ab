"""A response within a line of somebody's log: our own keys beside it, a request, or the output of a batch API."""

from __future__ import annotations

from typing import Any

from decodedrift.models.recorded.adapters.base import Raw

OF_REQUEST = ("prompt", "messages", "seed", "echo")  # that address a completion, or say what is in it
OF_BATCH = ("request", "response", "custom_id", "error", "id")


def opened(raw: Raw) -> Raw:
    """The response with what addresses it; anything else as it is.

    A line of a batch's output is {custom_id, response: {status_code, body}, error}: the custom id is the prompt's.
    """
    response = raw.get("response")
    if not isinstance(response, dict):
        failed = raw.get("custom_id") is not None and raw.get("error")
        return {"error": _told(raw["error"]), "prompt_id": raw["custom_id"]} if failed else raw
    request = raw.get("request") if isinstance(raw.get("request"), dict) else {}
    beside: dict[str, Any] = {key: request[key] for key in OF_REQUEST if request and request.get(key) is not None}
    if isinstance(beside.get("prompt"), list):
        beside["prompt_token_ids"] = beside.pop("prompt")
    if raw.get("custom_id") is not None:
        beside["prompt_id"] = raw["custom_id"]
    beside |= {key: value for key, value in raw.items() if key not in OF_BATCH}
    body = response.get("body")
    return {**(body if isinstance(body, dict) else response), **beside}


def _told(error: Any) -> str:
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)
