"""What is read beside the runs: choices of experts, and the noise of two orders of summation, over the same texts.

The texts are the reference's of a job's first batch as it stands; every variant reads them whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from decodedrift.core.records import Key
from decodedrift.measure import routing
from decodedrift.measure.bench import Bench
from decodedrift.models import experts, steps, summation
from decodedrift.models.load import Loaded
from decodedrift.models.variants import on_device, parse_variants

SUMMATION = "summation"
EXACT = "fp64"


@dataclass
class Readings:
    """One job's. written: the reference's texts by key; of several strategies those of the first count.

    ours: the reference's choices of experts, of a mixture. exact: logits of the texts in float64.
    """

    bench: Bench
    written: Mapping[Key, tuple[int, ...]]
    texts: list[tuple[int, ...]] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    ours: list[routing.Routed] = field(default_factory=list)
    exact: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        first = next(iter(self.written))[:2]
        self.written = {key: ids for key, ids in self.written.items() if key[:2] == first and len(ids) > 1}
        for key, ids in self.written.items():
            context = tuple(self.bench.world.prompts[key.prompt_id])
            self.texts.append((*context, *ids[:-1]))
            self.spans.append((len(context) - 1, len(context) - 1 + len(ids)))

    def begin(self, model: Loaded) -> None:
        """The reference's part."""
        plan: Any = self.bench.plan
        if not self.texts:
            return
        if len(plan.running) > 1 and experts.refused(self.bench.world.checkpoint) is None:
            with self.bench.guarded(model.variant.name, "routing"):
                self.ours = self._routed(model)
        if any(item.name == SUMMATION for item in plan.varying):
            (variant,) = parse_variants(EXACT)
            with self.bench.guarded(EXACT, SUMMATION), self.bench.open(on_device(plan.device, variant)) as exact:
                self.exact = self._read(exact)
            self.noise(model)

    def compare(self, model: Loaded) -> None:
        """A candidate's part."""
        if self.ours:
            with self.bench.guarded(model.variant.name, "routing"):
                theirs = self._routed(model)
                made = routing.rows(self.ours, theirs, self._routed(model, self.ours))
                key = next(iter(self.written))
                keys = {
                    "model": self.bench.plan.model, "reference": self.bench.plan.reference.name,
                    "candidate": model.variant.name, "role": "candidate", "strategy": key.strategy,
                }  # fmt: skip
                self.bench.result.rows["routing"] += [keys | row for row in made]
        self.noise(model)

    def noise(self, model: Loaded) -> None:
        """Two orders of summation against each other, and each against float64: sums of squares, by prompt."""
        if not self.exact or model.variant.compute == EXACT or model.variant.name in self.bench.world.others:
            return
        with self.bench.guarded(model.variant.name, SUMMATION):
            sides = []
            for seed in (1, 2):
                with summation.reordered(model, seed):
                    sides.append(self._read(model))
            for key, first, second, exact in zip(self.written, *sides, self.exact, strict=True):
                errors = [_square(side, exact) for side in (first, second)]
                squares = {"noise_square": _square(first, second), "error_square": sum(errors) / 2}
                for row in self.bench.result.rows["spread"]:
                    if (row["variant"], row["vary"], row["prompt_id"]) == (
                        model.variant.name,
                        SUMMATION,
                        key.prompt_id,
                    ):
                        row |= squares

    def _routed(self, model: Loaded, replay: Sequence[routing.Routed] | None = None) -> list[routing.Routed]:
        size, pad = self.bench.size(model.variant), self.bench.world.vocab.pad
        return routing.read(model, self.texts, self.spans, size=size, pad=pad, replay=replay)

    def _read(self, model: Loaded) -> list[Tensor]:
        """Logits [T, vocab] of each text's new tokens."""
        size, every = self.bench.size(self.bench.plan.reference), []
        with steps.reading(model):
            for begin in range(0, len(self.texts), size):
                part = slice(begin, begin + size)
                read = steps.read_whole(model, self.texts[part], self.spans[part], pad=self.bench.world.vocab.pad)
                every += [logits.to("cpu", copy=True) for logits in read]
        return every


def _square(one: Tensor, other: Tensor) -> float:
    """Sum of squares of what two logits [T, vocab] differ by, each position less its mean."""
    apart = one.double() - other.double()
    return float((apart - apart.mean(-1, keepdim=True)).square().sum())
