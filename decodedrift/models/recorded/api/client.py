"""One endpoint: requests that carry the key and nothing of this machine, bounded in bytes and in time.

The key is read from the environment by the name of its variable. It goes to the endpoint's own host alone (no redirect
is followed), and is taken out of everything that comes back, so that no server can write it into a file or a message.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from decodedrift.core.records import InputError, shortened
from decodedrift.core.secrecy import HIDDEN, excerpt

MOST_BYTES = 64 * 2**20  # of one answer: 4,096 tokens with 20 top tokens each are about 8 MiB
INSTALL = 'asking an endpoint needs the openai client: pip install "decodedrift[api]"'
SENT = {"host", "accept", "content-type", "content-length", "connection", "user-agent"}  # and authorization
KEPT = ("server", "openai-processing-ms", "openai-version", "x-request-id")  # headers of an answer
WORDS = 300  # characters of a reason


class Refused(RuntimeError):
    """What an endpoint answered instead of a completion. status: of HTTP, 0 where no answer came."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """content: the JSON object. retries: requests that failed before it. headers: those of KEPT that it has."""

    content: dict[str, Any]
    retries: int
    headers: Mapping[str, str]


def checked_url(url: str, option: str = "--endpoint") -> str:
    """An endpoint's URL, without the slash at its end.

    Raises:
        InputError: it is none, or holds what may be a secret.
    """
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known or re.search(r"[\x00-\x20\x7f]", url):
        raise InputError(f"{option}: must be a URL such as http://127.0.0.1:8000/v1, not {shortened(excerpt(url, 80))}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(f"{option}: a URL with a password or parameters is kept nowhere; give the key by --api-key-env")
    return url.rstrip("/")


def key_of(name: str | None) -> str:
    """The key in the variable of a name; empty where no name is given.

    Raises:
        InputError: there is no such variable, or it holds what no request can carry; neither is repeated.
    """
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise InputError("--api-key-env: no environment variable of that name is set; export it first")
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise InputError("--api-key-env: what this variable holds is no key (it has a space or a control character)")
    return key


class Endpoint:
    """A connection to one endpoint; used within one event loop, as a context.

    deadline: seconds that one question may take, with its retries.
    """

    def __init__(self, url: str, key: str, *, deadline: float, retries: int, most_bytes: int = MOST_BYTES) -> None:
        try:
            import openai
        except ImportError:
            raise InputError(INSTALL) from None
        self.url, self.deadline, self._key = url, deadline, key
        http = _guarded(openai.DefaultAsyncHttpxClient, self._hidden_bytes, bool(key), most_bytes)
        self._openai = openai
        self._client = openai.AsyncOpenAI(
            api_key=key or "none", base_url=url, timeout=deadline, max_retries=retries, http_client=http
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *gone: object) -> None:
        await self._client.close()

    async def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """An answer to a request.

        Raises:
            Refused: none that can be used came in time.
        """
        return await self._asked(self._client.post, path, body=dict(body))

    async def get(self, path: str) -> Answer:
        """A page; path: below the endpoint's URL, or a whole URL."""
        return await self._asked(self._client.get, path)

    async def _asked(self, method: Any, path: str, **more: Any) -> Answer:
        openai = self._openai
        try:
            async with asyncio.timeout(self.deadline):
                response = await method(path, cast_to=openai.DefaultAsyncHttpxClient.__mro__[0] and _raw(), **more)
        except TimeoutError:
            raise Refused(0, f"no answer within {self.deadline:g} s") from None
        except openai.APIStatusError as error:
            raise Refused(error.status_code, self._reason(error)) from None
        except openai.APIError as error:
            cause = error.__cause__ or error
            raise Refused(0, self.hidden(excerpt(f"{type(cause).__name__}: {cause}", WORDS))) from None
        return self._read(response)
