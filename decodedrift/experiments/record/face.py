"""`record` as Python calls it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path as Folder
from typing import Any

from decodedrift.core.progress import Bars, Progress
from decodedrift.core.records import InputError, Prompt, Strategy, Variant
from decodedrift.core.settings import make_settings
from decodedrift.experiments.record.running import recorded
from decodedrift.experiments.record.settings import RecordSettings
from decodedrift.experiments.running import in_keywords, nondefault

Path = str | PathLike[str]


def record(
    model: Any = None,
    *,
    out: Path,
    tokenizer: Any = None,
    revision: str | None = None,
    reference: str | Variant = "fp32",
    strategies: str | Strategy | Sequence[str | Strategy] = ("greedy",),
    prompts: Path | Sequence[str | Prompt | dict[str, Any]] | None = None,
    prompt_ids: str | Sequence[str] | None = None,
    limit: int | None = None,
    max_new_tokens: int = 64,
    seeds: int | Sequence[int] = (0,),
    runs: int = 1,
    coupling: str = "gumbel",
    batch_size: int = 8,
    prompts_per_job: int | None = None,
    layout: str = "mixed",
    chat_template: bool = False,
    ignore_eos: bool = False,
    endpoint: str | None = None,
    precision: str | None = None,
    api_key_env: str | None = None,
    concurrency: int = 1,
    top_logprobs: int = 5,
    body: dict[str, Any] = {},  # noqa: B006 - it is only read
    delay: float = 0.0,
    deadline: float = 600.0,
    retries: int = 4,
    device: str = "auto",
    device_map: str | None = None,
    threads: int | None = None,
    memory_bytes: int | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress | bool | None = None,
) -> Folder:
    """Records what a model writes, here or behind an endpoint, and returns the file, which `compare` takes as a side.

    Args:
        out: a new .jsonl file, or one of the same recording, which goes on. What failed is a line in it, and is asked
            for again.
        model: as of `compare`, where None is the demo model; or the name that an endpoint serves.
        tokenizer, progress: as of `compare`; every other keyword is an option of the command, `reference` its
            --variant.

    Raises:
        InputError: it cannot be done as asked; the message is one line with the culprit and the mend.
    """
    values = nondefault(record, locals())
    shown = (Bars() if progress else Progress()) if isinstance(progress, bool) or progress is None else progress
    try:
        return recorded(make_settings(RecordSettings, values), Folder(out), shown, tokenizer).path
    except InputError as error:
        raise InputError(in_keywords(str(error), RecordSettings)) from error.__cause__
