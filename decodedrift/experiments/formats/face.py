"""`formats` as Python calls it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import Prompt, Variant
from decodedrift.experiments.formats.kinds import DEFAULT
from decodedrift.experiments.running import nondefault, run
from decodedrift.experiments.study import Study

Path = str | PathLike[str]


def formats(
    model: Any = "demo",
    *,
    formats: str | Sequence[str] = DEFAULT,
    tokenizer: Any = None,
    revision: str | None = None,
    reference: str | Variant = "fp32",
    prompts: Path | Sequence[str | Prompt | dict[str, Any]] | None = None,
    prompt_ids: str | Sequence[str] | None = None,
    limit: int | None = None,
    prompts_per_job: int | None = None,
    chat_template: bool = False,
    device: str = "auto",
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
    """Holds a model's weights, and its activations while it reads the prompts, against number formats.

    Args:
        formats: names with their scales, as `fp8-e4m3:scale=none`, `int4:group=32,zero=true`.
        reference: fp32 or fp64, what the model runs in.
        model, tokenizer, out, resume, progress: as of `compare`; every other keyword is an option of the command.

    Raises:
        InputError: it cannot be done as asked; the message is one line with the culprit and the mend.
    """
    given = nondefault(_formats, locals())
    return run("formats", given, tokenizer, out, resume, progress)  # type: ignore[arg-type]


_formats = formats  # within the function its name is the argument's
