"""What a chooser notes of its rows, a tensor a step on the model's device, and the records that it becomes at the end.

Nothing here looks at a value while rows are decoded: a step of a hundred rows costs what one of one row does, and a GPU
is not waited for. A row's records are what was noted of it while it was alive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decodedrift.decoding.tops import COUNT, Tops


@dataclass
class Notes:
    """Notes of n rows, a list of one tensor a step for each name. They are of all rows, whether or not they are alive.

    steps: small tensors [n] or [n, k]. rows: what is kept for the host as it comes, [n, vocab], on the CPU.
    """

    steps: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    rows: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def add(self, **noted: Tensor) -> None:
        """One step's tensors by name."""
        for name, tensor in noted.items():
            self.steps[name].append(tensor)

    def keep(self, **noted: Tensor) -> None:
        """One step's tensors by name, moved to the CPU as they are; where that is a copy, nothing waits for it."""
        for name, tensor in noted.items():
            kept = tensor.to("cpu", non_blocking=True)
            self.rows[name].append(kept.clone() if kept is tensor else kept)

    def of(self, name: str) -> Tensor:
        """All steps of a small note, [steps, n, ...] on the CPU; [0, 0] of one that was never made."""
        return torch.stack(self.steps[name]).cpu() if self.steps[name] else torch.empty(0, 0)

    def lists(self, name: str, lengths: Sequence[int]) -> list[list[Any]]:
        """A note's values of each row, as many as it was alive for."""
        values = self.of(name)
        if not values.numel():
            return [[] for _ in lengths]
        wide = values.double() if values.is_floating_point() else values
        return [row[:length] for row, length in zip(wide.T.tolist(), lengths, strict=True)]

    def tops(self, lengths: Sequence[int]) -> list[Tops]:
        """The top tokens of each row, from notes of `tops.largest` and `log_total`."""
        values, ids, log_total = (self.of(name) for name in ("top_values", "top_ids", "log_total"))
        if not values.numel():
            return [Tops(np.empty((0, COUNT), dtype=np.int64), np.empty((0, COUNT))) for _ in lengths]
        log_p = (values.double() - log_total[..., None]).numpy()
        return [Tops(ids[:n, row].numpy(), log_p[:n, row]) for row, n in enumerate(lengths)]
