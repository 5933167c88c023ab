"""A file of completions while it is recorded: a line a completion, on disk as it comes, and a killed one goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from decodedrift.core.files import atomic, writing
from decodedrift.core.formats import path_of, read_json
from decodedrift.core.records import InputError, Prompt, plain, shortened
from decodedrift.core.versions import version
from decodedrift.models.recorded.completion import Completion
from decodedrift.models.recorded.lines import HEADER, as_line, completion_of

FORMAT = 1
ENGINE = "engine."  # what a server says of itself
UNTOLD = {"unknown", "None", "[]"}  # where it did not say, as a server that was still loading

Done = tuple[str | None, int | None, str | None, int]  # strategy, seed, prompt id, run


@dataclass
class Writer:
    """One file. header: what it says of itself, empty while it is new.

    done: (strategy, seed, prompt id, run) of what is recorded already; what failed is not, and is asked again.
    sessions: how often it was taken up before.
    """

    path: Path
    stream: IO[bytes]
    header: dict[str, Any] = field(default_factory=dict)
    done: set[Done] = field(default_factory=set)
    identity: dict[str, Any] = field(default_factory=dict)
    sessions: int = 0

    def identify(self, identity: Mapping[str, Any]) -> None:
        """What is recorded, and how: a file that goes on must have been begun so.

        Raises:
            InputError: names the first thing that differs.
        """
        self.identity = {"format": FORMAT, "version": version(), **json.loads(json.dumps(plain(identity)))}
        if not self.header:
            return
        asked, there = flat(self.identity), flat({key: self.header.get(key) for key in self.identity})
        for key in dict.fromkeys([*asked, *there]):
            told = key.startswith(ENGINE) and {str(v) for v in (asked.get(key), there.get(key))} & UNTOLD
            if asked.get(key) != there.get(key) and not told:
                raise InputError(
                    f"--out {self.path}: is a recording with {key} {shortened(there.get(key))}, and this one has "
                    f"{shortened(asked.get(key))}; ask for the same, or name another file"
                )
        more = {key: v for key, v in self.identity.get("engine", {}).items() if str(v) not in UNTOLD}
        if more.keys() and (engine := {**self.header["engine"], **more}) != self.header["engine"]:
            self.header["engine"] = engine
            self._again()

    def _again(self) -> None:
        """Writes the file anew with the header as it is by now."""
        self.stream.seek(0)
        lines = self.stream.read().partition(b"\n")[2]
        with atomic(self.path) as part:
            part.write_bytes(json.dumps({HEADER: self.header}).encode() + b"\n" + lines)
        self.stream.close()
        self.stream = open(self.path, "ab+")  # noqa: SIM115 - as long as the recording

    def begin(self, **about: Any) -> None:
        """Writes the header with what is known of the engine by now; nothing where there is one."""
        if not self.header:
            self.header = {**self.identity, **json.loads(json.dumps(plain(about)))}
            self._line({HEADER: self.header})

    def write(self, completion: Completion) -> None:
        """Appends a completion; once it returns, no end of the process loses it."""
        self._line(as_line(completion))
        if completion.error is None:
            self.done.add(key_of(completion))

    def _line(self, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, ensure_ascii=True, allow_nan=False)
        with writing(self.path):
            self.stream.write(text.encode() + b"\n")
            self.stream.flush()


def key_of(completion: Completion) -> Done:
    """What a completion is known by."""
    return completion.strategy, completion.seed, completion.prompt_id, completion.run


def prompts_hash(prompts: tuple[Prompt, ...]) -> str:
    """SHA-256 of prompts in their order."""
    return hashlib.sha256(json.dumps(plain(prompts), sort_keys=True).encode()).hexdigest()


@contextmanager
def recording(path: str | Path) -> Iterator[Writer]:
    """A file that completions are appended to: a new one, or one of the same recording, which goes on.

    Raises:
        InputError: the file holds something else, another process writes it, or it cannot be written.
    """
    target = path_of(path, "--out")
    if target.suffix != ".jsonl":
        raise InputError(f"--out {path}: is recorded as .jsonl; name it so")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target):
        with writing(target):
            stream = open(target, "ab+")  # noqa: SIM115 - what fails inside is not the file's
        writer = Writer(target, stream)
        try:
            _read_back(writer)
            yield writer
        finally:
            writer.stream.close()
            if target.stat().st_size == 0:
                target.unlink()


def _read_back(writer: Writer) -> None:
    """Header and keys of what is in the file; a last line that a kill cut off is taken away."""
    writer.stream.seek(0)
    content = writer.stream.read()
    whole = content[: content.rfind(b"\n") + 1]
    lines = whole.decode("utf-8", "replace").split("\n")[:-1]
    first = read_json(lines[0], str(writer.path)) if lines else {}
    stored = first.get(HEADER) if isinstance(first, dict) else None
    if content and lines and not isinstance(stored, dict):
        raise InputError(f"--out {writer.path}: is there and is no recording; name another file")
    if content and not lines and not content.startswith(json.dumps({HEADER: 0})[:-2].encode()):
        raise InputError(f"--out {writer.path}: is there and is no recording; name another file")
    writer.header = stored or {}
    for number, line in enumerate(lines[1:], 2):
        completion = completion_of(read_json(line, str(writer.path), number), f"{writer.path}:{number}")
        writer.sessions = max(writer.sessions, int(completion.meta.get("session", 0)) + 1)
        if completion.error is None:
            writer.done.add(key_of(completion))
    os.truncate(writer.stream.fileno(), len(whole))


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested tables as one, `plan.max_new_tokens` and so on."""
    if not isinstance(value, Mapping):
        return {name: value}
    parts = (flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items())
    return {key: inner for part in parts for key, inner in part.items()}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock beside the file while it is written; the system frees it however the process ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(path.name + ".lock"), blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"--out {path}: another decodedrift records into it; wait, or name another file") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--out {path}: cannot be written ({reason}); name another file") from None
    try:
        yield
    finally:
        lock.release()
        path.with_name(path.name + ".lock").unlink(missing_ok=True)
