"""What a prompt may be instead of a text: the turns of a conversation, or token ids; and the files that hold tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decodedrift.core.records import InputError, shortened
from decodedrift.core.secrecy import excerpt

TEXT, MESSAGES, IDS = "prompt", "messages", "prompt_token_ids"


def given_as(entry: Mapping[str, Any], where: str) -> str:
    """Which of the three an entry is; a plan.json has the text that was read beside the other two.

    Raises:
        InputError: several of them.
    """
    names = [name for name in (TEXT, MESSAGES, IDS) if entry.get(name) is not None]
    if len(names) > 1:
        raise InputError(f"{where}: a prompt under `{names[0]}` and one under `{names[1]}`; keep one of them")
    return names[0] if names else TEXT


def checked_messages(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """The turns of a conversation, each {role, content}, other keys as the chat template takes them.

    Raises:
        InputError: names the turn.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(f"{where}: `messages` is a list of {{role, content}}, not {shortened(value)}")
    turns = []
    for number, turn in enumerate(value):
        given = {k: v for k, v in turn.items() if v is not None} if isinstance(turn, Mapping) else {}
        if not all(isinstance(given.get(key), str) for key in ("role", "content")):
            raise InputError(f"{where}: messages[{number}] needs texts under `role` and `content`")
        turns.append(given)
    try:
        json.dumps(turns)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: `messages` cannot be written as JSON ({error})") from None
    return tuple(turns)


def checked_ids(value: Any, where: str) -> tuple[int, ...]:
    """Token ids, which are used as they are.

    Raises:
        InputError: none, or something that is no id.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(f"{where}: `{IDS}` is a list of token ids, not {shortened(value)}")
    for number, token in enumerate(value):
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise InputError(f"{where}: {IDS}[{number}] is no token id: {shortened(token)}")
    return tuple(value)


def parquet_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a Parquet file, those of its columns that are ours or nearly so.

    Raises:
        InputError: it is no Parquet file.
    """
    import pyarrow.parquet as pq

    try:
        names = [name for name in pq.read_schema(path).names if name.strip().lower() in columns]
        rows: list[dict[str, Any]] = pq.read_table(path, columns=names).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are of these
        raise InputError(f"--prompts {path}: not a Parquet file that can be read ({excerpt(error, 80)})") from None
    return rows
