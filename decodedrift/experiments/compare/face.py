"""`compare` as Python calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import Prompt, Strategy, Text, Variant
from decodedrift.experiments.running import nondefault, run
from decodedrift.experiments.study import Study

Path = str | PathLike[str]


def compare(
    model: Any = "demo",
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    reference: str | Variant = "fp32",
    candidates: str | Variant | Sequence[str | Variant] | Mapping[str, Any] | None = None,
    judge: Any = None,
    strategies: str | Strategy | Sequence[str | Strategy] = ("greedy", "beam", "top-k", "top-p"),
    prompts: Path | Sequence[str | Prompt | dict[str, Any]] | None = None,
    texts: Path | Text | Sequence[Path | Text | dict[str, Any]] = (),
    prompt_ids: str | Sequence[str] | None = None,
    limit: int | None = None,
    context: int | None = None,
    stride: int | None = None,
    convention: str = "sliding",
    max_new_tokens: int = 64,
    seeds: int | Sequence[int] = (0,),
    coupling: str = "gumbel",
    batch_size: int = 8,
    prompts_per_job: int | None = None,
    layout: str = "mixed",
    chat_template: bool = False,
    ignore_eos: bool = False,
    default_text: bool = True,
    noise_floor: bool = True,
    inject: bool = False,
    decompose: bool = False,
    where: bool = False,
    mode: str = "exact",
    continued: bool = False,
    as_deployed: bool = False,
    reference_run: Path | None = None,
    keep_logits: bool = False,
    near_tie_below: float = 0.1,
    answer_check: str | None = None,
    equivalence: float = 0.02,
    trust_check_code: bool = False,
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
    """Runs the same prompts through a reference and its candidates, and measures where and how far they part.

    Every keyword but the last four is an option of `decodedrift compare`, whose help says what it does.

    Args:
        model: `demo`, a folder, a hub id, or one in memory (with `tokenizer`): copied, and left as it was, as is torch.
        candidates: as on the command line, or by name, {"name": other}: each a text, or a model in memory, which is
            copied too and reads the reference's tokens.
        out: a new folder for the run; None keeps everything in memory (`study.save(folder)` writes it later).
        resume: go on with the run in `out` if one was begun there: its finished jobs are not run again.
        progress: told how far the run is; True shows it on stderr: a bar, or a line a minute in a notebook.

    Raises:
        InputError: the run cannot be made as asked; the message is one line with the culprit and the mend.

    Example:
        >>> import decodedrift as dd
        >>> study = dd.compare("demo", candidates=["bf16"], strategies=["greedy"], limit=2, max_new_tokens=4)
        >>> list(study.answer["candidate"])
        ['bf16']
    """
    return run("compare", nondefault(compare, locals()), tokenizer, out, resume, progress)  # type: ignore[arg-type]
