"""One Job -> its rows: each prompt completed again and again by every variant, while one thing varies.

Prompts run in batches of the plan's size, filled up with rows of other prompts where there are too few. Of a batch all
prompts are measured at once, but where the other rows are what varies: then each prompt has runs of its own.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from decodedrift.core.progress import Progress
from decodedrift.core.records import Cell, InputError, Job, Key, Trace
from decodedrift.decoding.loop import generate
from decodedrift.decoding.spool import Spool
from decodedrift.decoding.strategies import parse_strategies
from decodedrift.experiments.repeat.readings import Readings
from decodedrift.experiments.repeat.recorded import check_file, write_recorded
from decodedrift.experiments.repeat.rows import Completion, write
from decodedrift.experiments.repeat.sources import Batch, Seats, batches, refused, seated
from decodedrift.experiments.repeat.varying import CONTROL
from decodedrift.measure.bench import Bench
from decodedrift.measure.bits import Digests
from decodedrift.measure.checks import ready
from decodedrift.measure.tables import JobResult, token_rows
from decodedrift.models import budget
from decodedrift.models.load import Loaded
from decodedrift.models.world import World

SEEDS = 4  # of the control: so many draws at temperature 1


def execute(job: Job, world: World, progress: Progress | None = None, spill: str | None = None) -> JobResult:
    """Runs one job. A candidate that fails is a row of `failures`; the others finish.

    Raises:
        InputError: the reference cannot run.
    """
    with Spool(budget.spool_bytes(world), spill) as spool, ExitStack() as resident:
        bench = Bench(job, world, progress or Progress(), spool, batched=True)
        if world.plan.here:  # type: ignore[attr-defined]
            _run(bench, resident)
        bench.result.rows["tokens"] = token_rows(bench.result, world.vocab)  # before ids that may be of other tokens
        for variant in world.plan.candidates:
            if variant.recorded:
                write_recorded(bench, variant)
    return bench.result


def _run(bench: Bench, resident: ExitStack) -> None:
    """The variants that run here."""
    model = bench.open_reference(resident)
    reference = Repetition(bench, model)
    reference.run(control=bench.job.first)
    readings = Readings(bench, reference.texts)
    readings.begin(model)
    if not budget.both_fit(bench.world):
        resident.close()
    for variant in bench.plan.running[1:]:
        with (
            bench.guarded(variant.name, "load"),
            bench.open(variant) as model,
            bench.guarded(variant.name, "run"),
        ):
            Repetition(bench, model).run()
            readings.compare(model)


def check(world: World) -> None:
    """What varies can vary in every variant.

    Raises:
        InputError: names what cannot.
    """
    plan: Any = world.plan
    ready(plan.answers_by, world.code)
    for item in plan.here:
        for variant in plan.running:
            if reason := refused(item, variant, world.others.get(variant.name, world.checkpoint)):
                raise InputError(f"--vary {item.label}: {variant.name}: {reason}")
    for variant in plan.candidates:
        if variant.recorded and not variant.endpoint:
            check_file(world.repeated[variant.name], plan)


@dataclass
class Repetition:
    """One variant's runs in one job.

    completions: by what varied and key, in the order of the runs. texts: of the first batch as it stands.
    """

    bench: Bench
    model: Loaded
    completions: dict[tuple[str, Key], list[Completion]] = field(default_factory=dict)
    texts: dict[Key, tuple[int, ...]] = field(default_factory=dict)

    def run(self, control: bool = False) -> None:
        """Everything that varies, batch by batch; control: other seeds too."""
        bench, size = self.bench, self.bench.size(self.model.variant)
        pool = {p: tuple(ids) for p, ids in bench.world.prompts.items()}
        window = (bench.world.vocab.window or sys.maxsize) - bench.plan.max_new_tokens
        for begin in range(0, len(bench.order), size):
            prompts = {p.id: pool[p.id] for p in bench.order[begin : begin + size]}
            seats = seated(prompts, size, pool, bench.plan.runs, window)  # type: ignore[attr-defined]
            for cells in bench.groups():
                self.vary(seats, cells)
            if control and not begin:
                self.other_seeds(seats)
        write(bench, self.model.variant.name, self.completions)

    def vary(self, seats: Seats, cells: list[Cell]) -> None:
        """The runs of one batch of prompts."""
        plan: Any = self.bench.plan
        base = self.completed(seats.base(""), cells, "as it stands")
        self.texts = self.texts or {key: completion.token_ids or () for key, completion in base.items()}
        for item in plan.here:
            with self.bench.guarded(self.model.variant.name, item.label):
                checkpoint = self.bench.world.others.get(self.model.variant.name, self.bench.world.checkpoint)
                for batch in batches(seats, item, self.model, checkpoint):
                    written = base if batch.base else self.completed(batch, cells, item.label)
                    for key, completion in written.items():
                        several = self.completions.setdefault((item.label, key), [])
                        several.append(completion.set(batch.setting))

    def other_seeds(self, seats: Seats) -> None:
        """The control: draws at temperature 1 under several seeds, which must not all be the same text."""
        (strategy,) = parse_strategies("sample")
        for seed in range(SEEDS):
            for key, completion in self.completed(seats.base(""), [(strategy, seed)], CONTROL).items():
                several = self.completions.setdefault((CONTROL, key._replace(seed=0)), [])
                several.append(completion.set(f"seed {seed}"))

    def completed(self, batch: Batch, cells: list[Cell], phase: str) -> dict[Key, Completion]:
        """The measured rows of one batch, run."""
        bench, name = self.bench, self.model.variant.name
        bench.progress.batch()
        digests = Digests(cells, list(batch.rows), batch.measured)
        bench.progress.start(name, phase, len(batch.rows) * len(cells) * bench.plan.max_new_tokens)
        begin = time.perf_counter()
        with batch.running(self.model) as model:
            output = generate(
                model, bench.world.vocab, batch.rows, cells, bench.plan.max_new_tokens,
                wanted=batch.measured, see=digests.see, tick=bench.progress.tick,
            )  # fmt: skip
        bench.progress.stop()
        tokens = sum(len(trace.token_ids) for trace in output.traces.values())
        bench.result.timed(name, cells[0][0].label if len(cells) == 1 else "all strategies", phase, begin, tokens)
        wanted = {key: trace for key, trace in output.traces.items() if key.prompt_id in batch.measured}
        return {key: self._completion(trace, output.tops.get(key), digests) for key, trace in wanted.items()}

    def _completion(self, trace: Trace, tops: Any, digests: Digests) -> Completion:
        top = np.exp(tops.log_p[:, 0]) if tops is not None and len(tops) else np.empty(0)
        return Completion(trace.token_ids, trace.finish, digests.of(trace.key, len(trace.token_ids)), top)
