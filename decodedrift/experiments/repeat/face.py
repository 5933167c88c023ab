"""`repeat` as Python calls it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import Prompt, Strategy, Variant
from decodedrift.experiments.running import nondefault, run
from decodedrift.experiments.study import Study

Path = str | PathLike[str]


def repeat(
    model: Any = "demo",
    *,
    runs: int = 30,
    vary: str | Sequence[str] = ("rerun", "batch", "companions", "order"),
    tokenizer: Any = None,
    revision: str | None = None,
    reference: str | Variant = "fp32",
    candidates: str | Variant | Sequence[str | Variant] | dict[str, Any] | None = ("bf16",),
    strategies: str | Strategy | Sequence[str | Strategy] = ("greedy",),
    prompts: Path | Sequence[str | Prompt | dict[str, Any]] | None = None,
    prompt_ids: str | Sequence[str] | None = None,
    limit: int | None = None,
    max_new_tokens: int = 64,
    seeds: int | Sequence[int] = (0,),
    answer_check: str | None = None,
    trust_check_code: bool = False,
    coupling: str = "gumbel",
    batch_size: int = 8,
    prompts_per_job: int | None = None,
    layout: str = "mixed",
    chat_template: bool = False,
    ignore_eos: bool = False,
    device: str = "auto",
    device_map: str | None = None,
    threads: int | None = None,
    memory_bytes: int | None = None,
    workers: int | str = 1,
    executor: str = "local",
    ray_address: str | None = None,
    shard: str | None = None,
    api_key_env: str | None = None,
    concurrency: int = 8,
    top_logprobs: int = 5,
    body: dict[str, Any] = {},  # noqa: B006
    delay: float = 0.0,
    deadline: float = 600.0,
    retries: int = 4,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    no_text: bool = False,
    out: Path | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
) -> Study:
    """Asks each prompt `runs` times while one thing varies, and counts the different texts.

    Args:
        runs: completions of each prompt; fewer where what varies has fewer values (batch sizes, threads, kernels).
        vary: what varies, each by itself: nothing (rerun), the batch size, what the other rows say (companions), the
            place in the batch (order), padding, threads, experts; of an endpoint nothing (rerun), or what else it is
            asked meanwhile (concurrency).
        candidates: variants beside the reference; each is repeated by itself, nothing is held against the reference.
            An endpoint is `api=URL#MODEL`; a recorded file counts by its runs.
        concurrency: requests at a time where that varies; else an endpoint is asked for one text after another.
        model, tokenizer, out, resume, progress: as of `compare`; every other keyword is an option of the command.

    Raises:
        InputError: it cannot be done as asked; the message is one line with the culprit and the mend.
    """
    return run("repeat", nondefault(repeat, locals()), tokenizer, out, resume, progress)  # type: ignore[arg-type]
