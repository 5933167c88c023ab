"""`inject` as Python calls it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import Prompt, Strategy, Variant
from decodedrift.experiments.running import nondefault, run
from decodedrift.experiments.study import Study

Path = str | PathLike[str]


def inject(
    model: Any = "demo",
    *,
    at: int | Sequence[int] = (20,),
    rank: int = 2,
    tokenizer: Any = None,
    revision: str | None = None,
    reference: str | Variant = "fp32",
    strategies: str | Strategy | Sequence[str | Strategy] = ("greedy", "top-p"),
    prompts: Path | Sequence[str | Prompt | dict[str, Any]] | None = None,
    prompt_ids: str | Sequence[str] | None = None,
    limit: int | None = None,
    max_new_tokens: int = 64,
    seeds: int | Sequence[int] = (0,),
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
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    no_text: bool = False,
    out: Path | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
) -> Study:
    """Replaces the token at each position of `at` by the one that the strategy ranks `rank`, and goes on from it.

    No candidate and no numerical error takes part: what follows is the drift that one wrong token causes by itself.

    Args:
        at: positions, 0-based; each is a pass of its own.
        rank: 2 is the runner-up; 1 the reference's own token, which must change nothing.
        model, tokenizer, out, resume, progress: as of `compare`; every other keyword is an option of the command.

    Raises:
        InputError: it cannot be done as asked; the message is one line with the culprit and the mend.
    """
    return run("inject", nondefault(inject, locals()), tokenizer, out, resume, progress)  # type: ignore[arg-type]
