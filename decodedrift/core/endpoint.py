"""How an endpoint is asked: options of every command that asks one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator

from decodedrift.core.formats import read_json
from decodedrift.core.notation import number, whole
from decodedrift.core.options import ENDPOINT, option
from decodedrift.core.records import InputError, Variant, shortened
from decodedrift.core.settings import Settings, Whole


def _body(value: Any) -> dict[str, Any]:
    """A JSON object, as text or as a table."""
    if isinstance(value, str):
        try:
            value = read_json(value, "it")
        except InputError as error:
            raise ValueError(f"must be a JSON object such as '{{\"cache_prompt\": false}}' ({error})") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a JSON object, not {shortened(value)}")
    return dict(value)


def _variable(value: Any) -> str:
    """The name of a variable; what is none may be a key, and is not repeated."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("names the environment variable that holds the key, such as MY_API_KEY")
    return value


class EndpointSettings(Settings):
    """How an endpoint is asked. concurrency, delay and body move its texts; what decides whether they come does not."""

    def asked_of(self, variant: Variant) -> dict[str, Self]:
        """What an endpoint among the candidates is asked, by the name under which its answers are kept."""
        return {variant.name: self}

    def check_endpoints(self) -> None:
        """What is of endpoints is given where there is one, and what they answer is kept.

        Raises:
            InputError: else.
        """
        if any(v.endpoint for v in self.variants):
            if self.no_text:
                raise InputError("--no-text: what an endpoint answers is kept as it is; leave --no-text out")
        elif name := next(self.given_to_endpoints(), None):
            raise InputError(f"{name} is of an endpoint, NAME=URL#MODEL, and no candidate is one; leave it out")

    def given_to_endpoints(self) -> Iterator[str]:
        """The flags of what is asked of endpoints and is not what it is when nobody asks."""
        for name in EndpointSettings.options():
            if name not in Settings.options() and getattr(self, name) != type(self).model_fields[name].default:
                yield self.flag(name)

    api_key_env: Annotated[str, BeforeValidator(_variable)] | None = option(
        None, "Environment variable that holds the endpoint's key.", ENDPOINT, "NAME", changes_rows=False
    )
    concurrency: Whole = option(1, "Requests at a time, which it may batch.", ENDPOINT, "N")
    top_logprobs: Annotated[int, BeforeValidator(whole(0, 100))] = option(
        5, "Top tokens to ask it for at each position.", ENDPOINT, "N", rare=True, label="Top tokens asked for"
    )
    body: Annotated[dict[str, Any], BeforeValidator(_body)] = option(
        {}, "Further fields of every request.", ENDPOINT, "JSON", rare=True
    )
    delay: Annotated[float, BeforeValidator(number(0, 3600))] = option(
        0.0, "Seconds between two requests.", ENDPOINT, "S", rare=True
    )
    deadline: Annotated[float, BeforeValidator(number(0, 86400, open_low=True))] = option(
        600.0, "Seconds that a request may take, retries and all.", ENDPOINT, "S", rare=True, changes_rows=False
    )
    retries: Annotated[int, BeforeValidator(whole(0, 100))] = option(
        4, "Further tries after 429, 5xx or a lost connection.", ENDPOINT, "N", rare=True, changes_rows=False
    )
