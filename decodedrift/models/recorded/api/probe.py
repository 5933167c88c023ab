"""What an endpoint is and what it can be asked: found once, by asking, before anything is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from decodedrift.core.records import InputError
from decodedrift.models.recorded.adapters import adapted
from decodedrift.models.recorded.api.bodies import (
    IDS,
    NEUTRAL,
    OTHERWISE,
    Question,
    body,
    needed,
    questions,
    sets_neutral,
    shown,
)
from decodedrift.models.recorded.api.client import Answer, Endpoint, Refused

NOT_TAKEN = (  # an answer to the question as it was asked, not to this moment; 500: llama-cpp-python, of a wrong field
    400, 404, 405, 413, 422, 500, 501,
)  # fmt: skip
VERSIONS = {
    "vllm": ("/version", "version"),
    "sglang": ("/get_server_info", "version"),
    "llamacpp": ("/props", "build_info"),
}
OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp", "me": "llama-cpp-python (a guess)"}
LISTED = 50  # models of a list that are kept
KINDS = {False: "completions", True: "chat"}
LIMITS = ("max_tokens", "max_completion_tokens")  # what the number of tokens is called
TOLD = ("token_ids", "tokens", "text", "logprobs", "top_logprobs", "prompt_token_ids")


@dataclass(frozen=True)
class Capable:
    """What one kind of request (completion or chat) can say. taken: further fields; refused: those that were refused,
    with the reason; limit: what the number of tokens is called; gives: what came back beside a text."""

    taken: Mapping[str, Any]
    refused: Mapping[str, str]
    limit: str
    gives: tuple[str, ...]


async def engine(endpoint: Endpoint) -> dict[str, Any]:
    """What the server says of itself: its name where its list of models tells, its version, the models."""
    listed: Any = {}
    with suppress(Refused):
        listed = await endpoint.get("/models")
    rows = listed.get("data") if isinstance(listed, dict) else None
    models = [row for row in rows if isinstance(row, dict)][:LISTED] if isinstance(rows, list) else []
    owner = next((str(m["owned_by"]) for m in models if m.get("owned_by")), "")
    found: dict[str, Any] = {"name": OWNERS.get(owner, owner) or "unknown", "version": None}
    if owner in VERSIONS:
        page, key = VERSIONS[owner]
        parts = urlsplit(endpoint.url)
        with suppress(Refused):
            told = await endpoint.get(f"{parts.scheme}://{parts.netloc}{page}")
            found["version"] = str(told[key])[:100] if isinstance(told, dict) and key in told else None
    return found | {"models": sorted(str(m.get("id"))[:200] for m in models)}


async def capabilities(endpoint: Endpoint, plan: Any) -> dict[str, Capable]:
    """What each kind of request that a plan needs can say, by `completions` and `chat`.

    Raises:
        InputError: the endpoint does not answer, or refuses what the plan cannot do without.
    """
    first: dict[bool, Question] = {}
    for question in sorted(questions(plan), key=lambda question: sets_neutral(question.cell[0])):
        first.setdefault(question.chat, question)  # if possible one that sets nothing of what is to be found
    return {KINDS[chat]: await _capable(endpoint, plan, question) for chat, question in first.items()}


async def _capable(endpoint: Endpoint, plan: Any, question: Question) -> Capable:
    short, must = plan.having(max_new_tokens=1), needed(plan)

    async def tried(fields: Mapping[str, Any], limit: str) -> Answer:
        """The answer to fields; a 500 that comes twice at once is about those beyond `must`, and no moment's."""
        asked = body(question, short, fields, limit)
        for last in (False, True) if len(fields) > len(must) else ():
            try:
                return await endpoint.post(question.chat, asked, once=True)
            except Refused as refused:
                if refused.status in NOT_TAKEN and (last or refused.status != 500):
                    raise
                if refused.status != 500:
                    break
        return await endpoint.post(question.chat, asked)

    groups = [{k: v} for k, v in (NEUTRAL | IDS).items()] + [shown(question.chat, plan.top_logprobs)]
    every = {k: v for group in groups for k, v in group.items()}
    reasons: dict[str, Refused] = {}
    for fields, limit in ((must | every, LIMITS[0]), *((must, limit) for limit in LIMITS)):
        try:
            answer = await tried(fields, limit)
            break
        except Refused as refused:
            reasons[f"{limit} {len(fields)}"] = refused
            if refused.status not in NOT_TAKEN:
                raise InputError(f"{endpoint.url}: cannot be asked ({refused})") from None
    else:
        raise InputError(f"{endpoint.url}: cannot be asked so ({list(reasons.values())[1]})")
    if not reasons:
        return Capable(every, {}, limit, _gives(answer))
    taken, declined = dict[str, Any](), dict[str, str]()
    for group in groups:
        for way in (group, *({k: v} for k, v in OTHERWISE.items() if k in group)):
            try:
                await tried(must | taken | way, limit)
                taken |= way
                break
            except Refused as refused:
                declined |= dict.fromkeys(way, str(refused))
    answer = await tried(must | taken, limit)
    return Capable(taken, {k: v for k, v in declined.items() if k not in taken}, limit, _gives(answer))


def _gives(answer: Answer) -> tuple[str, ...]:
    """What of a completion came back."""
    (completion,) = adapted(answer.content, "the endpoint's answer")[:1] or (None,)
    if completion is None:
        raise InputError("the endpoint's answer: holds no completion")
    return tuple(name for name in TOLD if getattr(completion, name) is not None)
