"""What others have counted, as they published it: it stands beside our figures and enters none of them."""

from __future__ import annotations

from typing import NamedTuple

SOURCE = "Sherman Chann, Non-determinism in GPT-4 is caused by Sparse MoE, 152334H's blog, August 2023"
RUNS = 30


class Published(NamedTuple):
    """Unique completions of RUNS at temperature 0. counts: by trial, where several were published."""

    model: str
    tokens: int
    unique: float
    counts: tuple[int, ...] = ()


CHANN = (
    Published("gpt-4", 128, 11.67, (12, 11, 12)),
    Published("gpt-3.5-turbo", 128, 3.67),
    Published("text-davinci-003", 128, 3.0),
    Published("text-davinci-001", 128, 2.0),
    Published("davinci-instruct-beta", 128, 1.0),
    Published("davinci", 128, 1.0),
)
AT_256 = (30, 9, 5, 2)  # at 256 tokens, before the end token was banned by logit_bias; in the order published
WHAT_DIFFERS = (
    "Counted on hosted models, whose hardware, batches and neighbours are not known, from texts and not from token "
    "ids. Here the machine, the batch and its other rows are known, and one of them varies at a time."
)
