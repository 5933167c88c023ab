"""One endpoint: requests that carry the key and nothing of this machine, bounded in bytes and in time.

The key is read from the environment by the name of its variable. It goes to the endpoint's own host alone (no redirect
is followed), and is taken out of everything that comes back, so that no server can write it into a file or a message.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

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
        raise InputError(f"{option}: no URL with a password or parameters is kept; give a key by --api-key-env")
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

    deadline: seconds that one question may take, with its retries. most_bytes: of one answer.
    """

    def __init__(self, url: str, key: str, *, deadline: float, retries: int, most_bytes: int = MOST_BYTES) -> None:
        self.url, self.deadline, self._key = url, deadline, key
        self._openai = client_library()
        http = _guarded(self._openai.DefaultAsyncHttpxClient, self._without_key, bool(key), most_bytes)
        self._client = self._openai.AsyncOpenAI(
            api_key=key or "none", base_url=url, timeout=deadline, max_retries=retries, http_client=http
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *gone: object) -> None:
        await self._client.close()

    async def post(self, chat: bool, body: Mapping[str, Any], *, once: bool = False) -> Answer:
        """The answer to a request for a completion, or for a chat's.

        Args:
            once: it is not tried again.

        Raises:
            Refused: none that can be used came in time.
        """
        own = ("model", "messages" if chat else "prompt")
        client = self._client.with_options(max_retries=0) if once else self._client
        kind = client.chat.completions if chat else client.completions
        further = {name: value for name, value in body.items() if name not in own}
        create = kind.with_raw_response.create
        response = await self._asked(create(**{name: body[name] for name in own}, extra_body=further))
        try:
            content = json.loads(response.content)
        except ValueError as error:
            raise Refused(0, f"its answer is no JSON ({excerpt(error, 80)})") from None
        if not isinstance(content, dict):
            raise Refused(0, "its answer is no JSON object")
        headers = {name: response.headers[name] for name in KEPT if name in response.headers}
        return Answer(content, response.retries_taken, headers)

    async def get(self, page: str) -> Any:
        """The JSON of a page, below the endpoint's URL or at a URL of its own; a server may still be loading.

        Raises:
            Refused: there is none.
        """
        return await self._asked(self._client.get(page, cast_to=object))

    async def _asked(self, answer: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self.deadline):
                return await answer
        except TimeoutError:
            raise Refused(0, f"no answer within {self.deadline:g} s") from None
        except self._openai.APIStatusError as error:
            raise Refused(error.status_code, self._reason(error)) from None
        except (self._openai.APIError, ValueError) as error:
            cause = error.__cause__ or error
            raise Refused(0, self._said(f"{type(cause).__name__}: {cause}")) from None

    def _reason(self, error: Any) -> str:
        """What an error page says, in a line."""
        if 300 <= error.status_code < 400:
            place = self._said(error.response.headers.get("location", ""))
            return f"HTTP {error.status_code}, a redirect to {place or 'nowhere'}, which is not followed; give that URL"
        body = error.body if isinstance(error.body, dict) else {}
        words = next((body[key] for key in ("message", "detail", "error") if body.get(key)), error.response.text)
        return f"HTTP {error.status_code}: {self._said(words) or 'no reason given'}"

    def _said(self, words: object) -> str:
        return excerpt(self._without_key(str(words).encode()).decode(), WORDS)

    def _without_key(self, content: bytes) -> bytes:
        """Bytes without the key, as it is and as JSON or a URL may spell it."""
        spellings = {self._key, json.dumps(self._key)[1:-1], self._key.replace("/", r"\/"), quote(self._key, safe="")}
        for spelling in spellings - {""}:
            content = content.replace(spelling.encode(), HIDDEN.encode())
        return content


def client_library() -> Any:
    """The openai package.

    Raises:
        InputError: it is not installed.
    """
    try:
        import openai
    except ImportError:
        raise InputError(INSTALL) from None
    return openai


def _guarded(base: Any, without_key: Callable[[bytes], bytes], keyed: bool, most: int) -> Any:
    """A client of HTTP that follows nothing, sends only SENT, and reads no more than it may."""
    sent = SENT | ({"authorization"} if keyed else set())

    class Guarded(base):  # type: ignore[misc]
        async def send(self, request: Any, **how: Any) -> Any:
            """A request's answer, read to its end or to the cap, without the key."""
            own = request.headers.copy()  # by which the openai client knows its request again
            for name in [name for name in own if name.lower() not in sent]:
                del request.headers[name]
            response = await super().send(request, **how | {"stream": True, "follow_redirects": False})
            request.headers = own
            content = bytearray()
            try:
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > most:
                        raise Refused(response.status_code, f"an answer of more than {most} bytes; it is not read")
            finally:
                await response.aclose()
            headers = {
                name: without_key(value.encode()).decode()
                for name, value in response.headers.items()
                if name.lower() not in ("content-encoding", "content-length", "transfer-encoding")
            }
            clean = without_key(bytes(content))
            return type(response)(response.status_code, headers=headers, content=clean, request=request)

    return Guarded()
