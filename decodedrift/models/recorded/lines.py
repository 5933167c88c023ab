"""The line that a completion is in a file: the one definition of the format, checked, and written back as it is read.

`docs/recorded.md` tells it in words; `decodedrift/data/recorded.schema.json` is made of it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from decodedrift.core.records import InputError, nearest, plain, shortened
from decodedrift.models.recorded.completion import Completion, Token

HEADER = "decodedrift"  # the only key of a file's first line, where it tells of itself
HALF = re.compile("[\ud800-\udfff]")  # of a pair, which JSON's escapes may hold and UTF-8 does not
SLACK = 0.01  # nats above zero that a log-probability of a rounded softmax may have


def _pair(value: Any) -> Any:
    """(token, ln p) of a list of the two, or of {id | token | bytes, logprob}, as engines write it."""
    if not isinstance(value, Mapping):
        return tuple(value) if isinstance(value, list) else value
    token = next((value[key] for key in ("id", "bytes", "token") if value.get(key) is not None), None)
    return token, value.get("logprob")


def _pairs(value: Any) -> Any:
    """The pairs of one position: an object's keys are token ids in decimal."""
    if isinstance(value, Mapping):
        return [(int(key) if str(key).isdecimal() else key, p) for key, p in value.items()]
    return [_pair(v) for v in value] if isinstance(value, (list, tuple)) else value


def _named(value: Any) -> Any:
    """A number is a name as it is written, as in a file of prompts."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Id = Annotated[int, Field(ge=0)]
PromptId = Annotated[str, BeforeValidator(_named), Field(min_length=1)]
Byte = Annotated[int, Field(ge=0, le=255)]
Name = Id | str | Annotated[list[Byte], Field(min_length=1)]
LogProb = Annotated[float, Field(le=SLACK, allow_inf_nan=False)]
Pairs = Annotated[list[tuple[Name, LogProb]], BeforeValidator(_pairs)]


class Line(BaseModel):
    """One completion. It names its prompt (`prompt_id`, `prompt`, `messages` or `prompt_token_ids`) and has
    `token_ids`, `tokens` or `text`, or an `error`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, title="A completion of another engine")

    prompt_id: PromptId | None = Field(None, description="The prompt's id in the run.")
    prompt: str | None = Field(None, description="The prompt's text.")
    messages: list[dict[str, Any]] | None = Field(None, description="A conversation: {role, content} turns.")
    prompt_token_ids: list[Id] | None = Field(None, description="The ids that the engine read, BOS included.")
    token_ids: list[Id] | None = Field(None, description="The ids that it generated.")
    text: str | None = Field(None, description="The text that it generated; without ids it is encoded again.")
    tokens: list[str | list[Byte]] | None = Field(
        None, description="The tokens that it generated, each by its text or by a list of its bytes, without ids."
    )
    logprobs: list[LogProb | None] | None = Field(
        None, description="ln p of each generated token, in nats, from the raw logits; null where it is not known."
    )
    top_logprobs: list[Pairs | None] | None = Field(
        None,
        description="The likeliest tokens at each position: pairs [token, ln p], a token being an id, a text, or a "
        "list of bytes.",
    )
    finish_reason: str | None = Field(None, description="stop, length, abort, or as the engine says it.")
    stop_reason: Id | str | None = Field(None, description="The stop token's id, or the stop string.")
    strategy: str | None = Field(None, description="A strategy of the run, such as greedy.")
    seed: Id | None = Field(None, description="The seed of a sampling strategy.")
    run: Id | None = Field(None, description="Which repetition, from 0.")
    error: str | None = Field(None, min_length=1, description="Why there is no text.")
    meta: dict[str, Any] = Field({}, description="Anything else; it is kept.")


def completion_of(line: Mapping[str, Any], place: str) -> Completion:
    """A line as a completion; what is null counts as left out.

    Raises:
        InputError: names the place and the value.
    """
    given = {key: value for key, value in line.items() if value is not None}
    if unknown := next((key for key in given if key not in Line.model_fields), None):
        close = nearest(str(unknown), tuple(Line.model_fields))
        raise InputError(
            f"{place}: the key {unknown!r} is none of a recorded line ({close}); put what is your own under `meta`"
        )
    try:
        read = Line(**given)
    except ValidationError as error:
        raise InputError(f"{place}: {_first(error)}") from None
    if problem := _problem(read):
        raise InputError(f"{place}: {problem}")
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v := getattr(read, name), list) else v for name in Line.model_fields
    }
    values |= {"place": place, "run": read.run or 0}
    if read.tokens is not None:
        values["tokens"] = tuple(map(_token, read.tokens))
    if read.top_logprobs is not None:
        values["top_logprobs"] = tuple(map(_top, read.top_logprobs))
    return Completion(**values)


def as_line(completion: Completion) -> dict[str, Any]:
    """A completion as its line, ready for JSON: the fields that it has, by their names."""
    line: dict[str, Any] = {}
    for f in fields(Completion):
        value = getattr(completion, f.name)
        if f.name != "place" and value is not None and value != {}:
            line[f.name] = plain(value)
    if completion.tokens is not None:
        line["tokens"] = [_written(token) for token in completion.tokens]
    if completion.top_logprobs is not None:
        line["top_logprobs"] = [[[_written(t), p] for t, p in top.items()] for top in completion.top_logprobs]
    return line


def schema() -> dict[str, Any]:
    """The format of a line as a JSON Schema."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Line.model_json_schema(),
        "anyOf": [{"required": [name]} for name in ("token_ids", "tokens", "text", "error")],
    }


def _token(name: int | str | list[int]) -> Token:
    return bytes(name) if isinstance(name, list) else name


def _top(pairs: list[tuple[Any, float]] | None) -> dict[Token, float]:
    """Pairs as a table, without a text that stands for two tokens: it names neither."""
    named = [(_token(name), p) for name, p in pairs or ()]
    if len(table := dict(named)) == len(named):
        return table
    counts = Counter(name for name, _ in named)
    return {name: p for name, p in named if counts[name] == 1}


def _written(token: Token) -> int | str | list[int]:
    return list(token) if isinstance(token, bytes) else token


def _problem(line: Line) -> str | None:
    """What is wrong with values that are right one by one, or None."""
    if line.token_ids is None and line.tokens is None and line.text is None and line.error is None:
        return "there is no `token_ids`, `tokens`, `text` or `error` in it; give what was generated"
    words = ["strategy", "error"] + ["text"] * (line.token_ids is None)
    for name in words:
        if half := HALF.search(getattr(line, name) or ""):
            return (
                f"{name} has half a character at {half.start()} (U+{ord(half[0]):04X}, a lone surrogate), which is no "
                f"text; give token_ids, or the whole character"
            )
    if line.messages is not None and not all(isinstance(m.get("role"), str) for m in line.messages):
        return "messages: every turn needs a text under `role`"
    lists = {name: len(v) for name in ("token_ids", "tokens") if (v := getattr(line, name)) is not None}
    for name in ("logprobs", "top_logprobs"):
        if (values := getattr(line, name)) is not None:
            if not lists:
                return (
                    f"{name} belong to tokens, and there is no `token_ids` or `tokens`; give them, or leave {name} out"
                )
            lists[name] = len(values)
    if len(set(lists.values())) > 1:
        counts = ", ".join(f"{name} has {count}" for name, count in lists.items())
        return f"as many of each are needed, and {counts}"
    for n, pairs in enumerate(line.top_logprobs or ()):
        ids = [name for name, _ in pairs or () if isinstance(name, int)]
        if len(set(ids)) < len(ids):
            return f"top_logprobs[{n}] has the token {Counter(ids).most_common(1)[0][0]} twice"
    return None


def _first(error: ValidationError) -> str:
    """The first of a line's errors: `token_ids[4] is -1: ...`."""
    first = error.errors()[0]
    inside = (p for p in first["loc"][1:] if isinstance(p, int))
    where = f"{first['loc'][0]}{''.join(f'[{p}]' for p in inside)}"
    value = first["input"]
    probability = "logprobs" in str(first["loc"][0])
    if probability and isinstance(value, float) and (value > SLACK or math.isnan(value)):
        return f"{where} is {value}: a log-probability is at most 0 (nats); null stands for one that is not known"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{where} is {shortened(value)}: {message.removeprefix('input ')}"
