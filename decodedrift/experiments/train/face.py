"""`train` as Python calls it."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import Prompt, Strategy, Text
from decodedrift.experiments.running import nondefault, run
from decodedrift.experiments.study import Study

Path = str | PathLike[str]


def train(
    model: Any = "demo",
    *,
    arms: str | Sequence[str] = ("fp64", "fp32", "bf16", "bf16:master=true", "autocast-bf16"),
    reference_arm: str | None = None,
    texts: Path | Text | Sequence[Path | Text | dict[str, str]] = (),
    steps: int = 100,
    optimizer: str = "adamw",
    lr: float = 3e-4,
    clip: float | str | None = 1.0,
    batch_size: int = 4,
    context: int = 64,
    accumulate: int = 1,
    from_scratch: bool = False,
    seeds: int | Sequence[int] = (0,),
    tokenizer: Any = None,
    revision: str | None = None,
    strategies: str | Strategy | Sequence[str | Strategy] = ("greedy",),
    prompts: Path | Sequence[str | Prompt | dict[str, Any]] | None = None,
    prompt_ids: str | Sequence[str] | None = None,
    limit: int | None = None,
    max_new_tokens: int = 64,
    controls: bool = True,
    compare: bool = True,
    keep_checkpoints: bool = False,
    lstm: bool = False,
    every: int = 25,
    chat_template: bool = False,
    ignore_eos: bool = False,
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
    """Trains a model in several precisions side by side: the same first weights, the same batches in the same order.

    Args:
        arms: fp64, fp32, bf16, fp16, autocast-bf16, autocast-fp16, with :master=true (float32 weights and moments, of
            which 16-bit copies run), :loss_scale=none|dynamic|NUMBER, :rounding=nearest|stochastic|kahan.
        reference_arm: the arm that distances are from, the first where none is named.
        texts: what is learnt, but for the last tenth of each, on which perplexity is measured.
        clip: the norm that gradients are clipped to; None for no clipping.
        accumulate: batches whose gradients make a step.
        controls: a butterfly (an fp32 arm whose first weights are moved by one ulp), another order of the batches, and
            fp32 again, which must be equal to the bit.
        compare: whether what the trained arms write is compared, in fp32, in a run of its own below `out`.
        every: steps that a kill can lose.
        model, tokenizer, out, resume, progress: as of `compare`; every other keyword is an option of the command.

    Raises:
        InputError: it cannot be done as asked; the message is one line with the culprit and the mend.
    """
    return run("train", nondefault(train, locals()), tokenizer, out, resume, progress)  # type: ignore[arg-type]
