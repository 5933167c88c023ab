"""One Job -> its rows: the prompts are read one by one, and all that is held on the way is counted and let go.

The weights are counted in a run's first job.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict

import numpy as np
from torch import Tensor

from decodedrift.core.estimate import READING
from decodedrift.core.progress import Progress
from decodedrift.core.records import Job
from decodedrift.decoding.spool import Spool
from decodedrift.experiments.formats.counting import LOWEST, Counts
from decodedrift.experiments.formats.norms import FORMAT, OWN, Squares
from decodedrift.experiments.formats.places import SQUARES, WEIGHTS, Place, Places, Seen
from decodedrift.measure.bench import Bench
from decodedrift.measure.tables import JobResult
from decodedrift.models import budget, inside, steps
from decodedrift.models.load import Loaded
from decodedrift.models.world import World


def execute(job: Job, world: World, progress: Progress | None = None, spill: str | None = None) -> JobResult:
    """Runs one job.

    Raises:
        InputError: the model cannot run.
    """
    with Spool(budget.spool_bytes(world), spill) as spool, ExitStack() as resident:
        bench = Bench(job, world, progress or Progress(), spool)
        model = bench.open_reference(resident)
        name = model.variant.name
        with bench.guarded(name, "formats"):
            places = Places(model)
            table = Tally(bench)
            for place, tensor in places.weights():
                if job.first:
                    with bench.guarded(name, WEIGHTS):
                        table.add(place, tensor)
            if job.first and places.unread:
                bench.result.fail(bench.plan.model, name, WEIGHTS, "failed", places.unread)
            table.read(model, places)
            table.write()
    return bench.result


class Tally:
    """The counts of one job, by place, and of each norm its squared sums."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.kinds = bench.plan.kinds  # type: ignore[attr-defined]
        self.counts: dict[Place, Counts] = {}
        self.squares: dict[str, Squares] = {}

    def add(self, place: Place, tensor: Tensor) -> None:
        """More of what is at a place."""
        self.counts.setdefault(place, Counts(self.kinds)).add(tensor)

    def read(self, model: Loaded, places: Places) -> None:
        """The prompts, one by one: no padding is ever there, and a token that breaks the model spoils no other text."""
        bench = self.bench
        texts = [tuple(bench.world.prompts[prompt.id]) for prompt in bench.order]
        begin, tokens = time.perf_counter(), sum(map(len, texts))
        bench.progress.start(model.variant.name, READING, tokens)

        def square(name: str, given: Tensor) -> None:
            self.squares.setdefault(name, Squares(places.modules[name])).add(given)

        for text in texts:
            bench.progress.batch()
            seen = Seen(places, self.add, square)
            with steps.reading(model), inside.watched(model, seen.see):
                steps.read_whole(model, [text], [(0, len(text))], pad=bench.world.vocab.pad)
            bench.progress.tick(len(text))
        bench.progress.stop()
        bench.result.timed(model.variant.name, "", "read", begin, tokens)

    def write(self) -> None:
        """Everything as rows."""
        rows, model = self.bench.result.rows, self.bench.plan.model
        binades: dict[tuple[str, str], np.ndarray] = {}
        for place, counts in self.counts.items():
            keys = {"model": model} | asdict(place)
            rows["tensors"].append(keys | counts.range.row())
            for kind, rounding in zip(self.kinds, counts.roundings, strict=True):
                rows["roundings"].append(keys | {"format": kind.label} | asdict(rounding))
            several = binades.setdefault((place.what, place.kind), np.zeros_like(counts.range.binades))
            several += counts.range.binades
        for (what, kind), numbers in binades.items():
            keys = {"model": model, "what": what, "kind": kind}
            rows["binades"] += [
                keys | {"binade": int(n) + LOWEST, "numbers": int(numbers[n])} for n in np.flatnonzero(numbers)
            ]
        for name, squares in self.squares.items():
            keys = {"model": model} | asdict(Place(SQUARES, name, "sum", "norm"))
            rows["tensors"].append(keys | squares.counts.range.row() | {"added_in": squares.added_in})
            if squares.added_in == OWN and any(kind.label == FORMAT for kind in self.kinds):
                lost = {"numbers": squares.tokens, "overflow": squares.lost}
                rows["roundings"].append(keys | {"format": FORMAT} | lost)
