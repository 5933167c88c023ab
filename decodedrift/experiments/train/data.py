"""What is read: the texts cut into learnt and held out, and the batches, a function of seed and step alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decodedrift.core.records import InputError, Text
from decodedrift.models.sources.quiet import quiet

HELD_OUT = 0.1  # of each text's characters, its end
MOST_HELD_OUT = 16_384  # tokens that are read at the end


@dataclass(frozen=True)
class Material:
    """ids: int64 [n] of what is learnt, all texts one behind another. windows: ids [1, <= context + 1] held out."""

    ids: Tensor
    windows: list[Tensor]
    held_out: tuple[Text, ...]

    def batches(self, seed: int, step: int, batch_size: int, context: int, accumulate: int) -> list[Tensor]:
        """The batches of a step: ids [batch_size, context + 1] each, from places that are drawn."""
        draws = np.random.Generator(np.random.Philox(key=[seed, step]))
        starts = draws.integers(0, len(self.ids) - context, size=(accumulate, batch_size))
        return [torch.stack([self.ids[at : at + context + 1] for at in several]) for several in starts]


def material(plan: Any, vocab: Any) -> Material:
    """The texts as ids.

    Raises:
        InputError: they are too short for a sequence.
    """
    context, learnt, ends = int(plan.context), [], []
    for text in plan.texts:
        cut = int(len(text.text) * (1 - HELD_OUT))
        with quiet():  # of a text beyond the window, which is cut
            learnt.append(vocab.ids(text.text[:cut]))
        ends.append(Text(f"{text.name}, held out", text.text[cut:]))
    ids = torch.tensor([i for part in learnt for i in part], dtype=torch.long)
    if len(ids) <= context:
        raise InputError(
            f"--text: {len(ids)} tokens to learn from are less than a sequence of --context {context} and the token "
            "after it; give a longer text"
        )
    held = [torch.tensor(vocab.ids(text.text), dtype=torch.long) for text in ends]
    return Material(ids, list(_windows(held, context)), tuple(text for text in ends if text.text.strip()))


def _windows(texts: Sequence[Tensor], context: int) -> list[Tensor]:
    """Windows one behind another; each predicts what follows its first token."""
    windows = [ids[None, at : at + context + 1] for ids in texts for at in range(0, len(ids) - 1, context)]
    return windows[: max(1, MOST_HELD_OUT // context)]


def other_order(seed: int, steps: int) -> list[int]:
    """The steps in another order: step n of that control reads what step order[n] of the others does."""
    draws = np.random.Generator(np.random.Philox(key=[seed, 2**63]))
    return [int(n) for n in draws.permutation(steps)]
