"""One Job -> its rows. The reference comes first and last; every candidate in between meets it in the same layout.

The reference generates and reads its own tokens; its scores and logits wait in a spool. Each candidate generates, reads
the reference's tokens, is reduced to rows at once and freed. Last, the reference judges the candidates' continuations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError, Job, Variant
from decodedrift.decoding.spool import Spool
from decodedrift.experiments.compare import checking, controls, recorded, screening
from decodedrift.experiments.compare.decompose import Decomposition
from decodedrift.experiments.compare.earlier import Earlier, earlier_of, file_to_keep
from decodedrift.experiments.compare.judging import judge, judged_rows, read_own_beams
from decodedrift.experiments.compare.reading import read_against, read_by_all, read_reference, step_reference
from decodedrift.measure import breaks, injection, passes
from decodedrift.measure.bench import Bench
from decodedrift.measure.checks import ready
from decodedrift.measure.kept import Damaged, keep
from decodedrift.measure.passes import Pass
from decodedrift.measure.tables import FORCED, STEPPED, JobResult, token_rows
from decodedrift.measure.where import Where
from decodedrift.models import budget
from decodedrift.models.knobs import idle, unread
from decodedrift.models.load import Loaded
from decodedrift.models.longrope import switch
from decodedrift.models.world import World


def execute(job: Job, world: World, progress: Progress | None = None, spill: str | None = None) -> JobResult:
    """Runs one job. A candidate that fails is a row of `failures`; the others finish.

    What an earlier run kept of the reference is such a row, too, where it is damaged; in the first job it ends the run.

    Raises:
        InputError: the reference itself cannot run; nothing can be held against it.
    """
    plan: Any = world.plan
    with Spool(budget.spool_bytes(world), spill) as spool, ExitStack() as resident:
        bench = Bench(job, world, progress or Progress(), spool, batched=plan.noise_floor or plan.continued)
        try:
            earlier = earlier_of(bench)
        except Damaged as error:
            if job.first:  # nothing is lost by ending here
                raise
            for prompt_id in [p.id for p in job.prompts] or [""]:
                bench.result.fail(plan.model, plan.reference.name, "read", "failed", str(error), "", prompt_id)
            return bench.result
        run = Comparison(bench, Pass(plan.reference.name, plan.reference, "reference"), earlier=earlier)
        to_keep = file_to_keep(bench, spill)
        model = bench.open_reference(resident)
        run.begin(model)
        if to_keep:
            keep(to_keep, run.reference, spool)
        if not budget.both_fit(world):
            resident.close()
        for variant in plan.candidates:
            if not variant.recorded:
                run.attempt(variant, run.candidate)
            elif job.prompts:
                run.keep(run.take(variant).side)
        floored = plan.casts if controls.floored(bench) else ()
        for variant in dict.fromkeys((*floored, *(plan.recorded_casts if job.prompts else ()))):
            run.attempt(variant, run.cast)
        if any(side.whole for side in run.passes.values()):
            if not budget.both_fit(world):
                model = bench.open_reference(resident)
            run.judge(model)
        return run.rows()


def check(world: World) -> None:
    """Screening rests on one reading of each text being what generates it.

    Raises:
        InputError: a text passes the length at which the model becomes another function, a candidate turns a knob that
            a reading does not use, or the code that checks answers does not load.
    """
    plan, at = world.plan, switch(world.checkpoint.config)
    ready(plan.answers_by, world.code)  # type: ignore[attr-defined]
    check_drafts(plan)
    for variant in plan.candidates if plan.mode == "screen" else ():  # type: ignore[attr-defined]
        if knobs := unread(variant, plan.reference):
            raise InputError(
                f"--mode screen: {variant.name} turns {knobs[0]}, which acts while tokens are generated and not where "
                "a text is read; leave it or --mode screen out"
            )
    past = [p for p, ids in world.prompts.items() if at is not None and len(ids) + plan.max_new_tokens > at.length]
    if plan.mode == "screen" and at is not None and past:  # type: ignore[attr-defined]
        raise InputError(
            f"--mode screen: prompt {past[0]} and its new tokens pass {at.length} tokens, where the model's rotary "
            "factors change, and one reading is another function; lower --max-new-tokens or leave --mode screen out"
        )


def check_drafts(plan: Any) -> None:
    """A draft is followed by greedy decoding alone, and what it does is held against a reference without one.

    Raises:
        InputError: names the variant.
    """
    others = [s.label for s in plan.strategies if s.samples or s.searches]
    for variant in (v for v in plan.running if "assisted" in v.knobs):
        if variant == plan.reader:
            raise InputError(f"--reference {variant.name}: the reference has no draft; give it to a candidate")
        if others:
            why = f"a draft is followed greedily, not by {others[0]}; use --strategies greedy"
            raise InputError(f"variant {variant.name}: {why}")


@dataclass
class Comparison:
    """The passes of one job: the reference's, and by (role, name) what is held against it.

    stepped: the reference as candidates are held against it that read its text token by token, where there are any.
    """

    bench: Bench
    reference: Pass
    stepped: Pass | None = None
    earlier: Earlier | None = None
    passes: dict[tuple[str, str], Pass] = field(default_factory=dict)
    decomposition: Decomposition | None = None
    inside: Where | None = None
    recordings: dict[str, recorded.Recording] = field(default_factory=dict)

    @property
    def plan(self) -> Any:
        """What was asked (`CompareSettings`)."""
        return self.bench.plan

    def keep(self, side: Pass) -> None:
        """A pass whose rows are to be written."""
        self.passes[side.role, side.name] = side

    def begin(self, model: Loaded) -> None:
        """The reference's part; in a run's first job with its control, and its part of the decomposition."""
        if self.reference.variant.recorded:
            self.reference = self.take(self.reference.variant).side
            return
        screens = self.plan.mode == "screen" and self.bench.job.prompts
        floor = screening.floor_of(self.reference) if screens else None
        if floor is not None:
            self.keep(floor)
        see = screening.predicting(floor) if floor else passes.unseen
        read_reference(self.bench, model, self.reference, see, self.earlier)
        with self.bench.guarded(model.variant.name, "where"):
            read = (passage for group in read_by_all(self.bench, self.reference) for passage in group)
            breaks.look_reference(self.bench, model, self.reference, read)
        first = self.bench.job.first and self.bench.job.prompts
        if first:
            self.keep(controls.self_control(self.bench, model, self.reference))
        stepping = [v for v in self.plan.running[1:] if self.bench.layout_of(v) == STEPPED]
        if any(v.use_cache or self.bench.job.prompts for v in stepping):  # of a text no step reads all before it
            self.stepped = step_reference(self.bench, model, self.reference)
            if first:
                self.keep(controls.stepped_control(self.bench, model, self.stepped))
        if self.plan.decompose and self.bench.job.prompts:
            self.decomposition = Decomposition(self.bench, self.reference)
            with self.bench.guarded(model.variant.name, "decompose"):
                self.decomposition.record(model)
        if self.plan.where and self.bench.job.prompts:
            with self.bench.guarded(model.variant.name, "where"):
                inside = Where(self.bench, self.reference)
                inside.record(model)
                self.inside = inside

    def attempt(self, variant: Variant, part: Callable[[Loaded], None]) -> None:
        """One candidate's (or cast's) part, from loading to rows."""
        with (
            self.bench.guarded(variant.name, "load"),
            self.bench.open(variant) as model,
            self.bench.guarded(variant.name, "run"),
        ):
            part(model)
            model.facts["idle_knobs"] = idle(variant, self.plan.reader, self.bench.result.facts)

    def candidate(self, model: Loaded) -> None:
        """A candidate generates and reads the reference's tokens."""
        bench, variant, prompts = self.bench, model.variant, self.bench.job.prompts
        layout = bench.layout_of(variant)
        steps = layout == STEPPED
        candidate = Pass(variant.name, variant, "candidate", against=self.stepped if steps else None)
        floor = self.plan.noise_floor and bool(layout and controls.relaid(bench, model))
        candidate.keep_logits = f"floor {variant.name}" if floor else ""
        groups = read_by_all(bench, self.reference)
        if self.plan.mode == "screen":
            read_against(bench, model, candidate, self.reference, groups, see=screening.predicting(candidate))
            screening.carry_on(bench, model, candidate, self.reference, self.plan.continued)
        else:
            if prompts:
                watched = self.reference.traces
                bench.free_run(model, candidate, batch_size=bench.size(variant), watch=watched, keep_scores=floor)
            against, stored = (self.reference, "logits") if candidate.against is None else (candidate.against, STEPPED)
            read_against(bench, model, candidate, against, groups, stored=stored)
        if self.decomposition and layout:
            with bench.guarded(variant.name, "decompose"):
                self.decomposition.read(model, candidate)
        if self.inside:
            with bench.guarded(variant.name, "where"):
                self.inside.compare(model, variant)
        if any(s.searches for s, _ in self.plan.cells) and prompts and layout == FORCED:
            read_own_beams(bench, model, candidate, self.reference)
        with bench.guarded(variant.name, "where"):
            breaks.look(bench, model, candidate, self.reference, (passage for group in groups for passage in group))
        passes.note_nonfinite(candidate, self.plan.model, self.reference.name, bench.result)
        self.keep(candidate)
        if floor:
            self.keep(controls.noise_floor(bench, model, candidate, self.reference))
            bench.spool.drop(candidate.keep_logits)
            candidate.preferences.clear()

    def take(self, variant: Variant) -> recorded.Recording:
        """A side that another engine wrote: its texts wait for the reader."""
        against = None if variant == self.plan.reference else self.reference
        self.recordings[variant.name] = recorded.recording(self.bench, variant, against)
        return self.recordings[variant.name]

    def cast(self, model: Loaded) -> None:
        """A plain cast reads the reference's text, for candidates of its type that run here, and recorded ones."""
        if model.variant in self.plan.casts and controls.floored(self.bench):
            self.keep(controls.read_cast(self.bench, model, self.reference))
        recorded.read_cast(self.bench, model, list(self.recordings.values()))

    def judge(self, model: Loaded) -> None:
        """The reader reads what others wrote, and goes on from their tokens where it was asked to."""
        if self.reference.variant.recorded:
            recorded.judge(self.bench, model, self.recordings[self.reference.name], list(self.passes.values()))
            self.reference.own_nll = self.reference.judge_nll
        for key, candidate in [(key, candidate) for key, candidate in self.passes.items() if candidate.whole]:
            with self.bench.guarded(candidate.variant.name, "judge", lose=lambda key=key: self.passes.pop(key)):  # type: ignore[misc]
                if candidate.variant.recorded:
                    recorded.judge(self.bench, model, self.recordings[candidate.name])
                else:
                    judge(self.bench, model, candidate, self.reference, self.decomposition)
            if self.plan.inject and key in self.passes:
                injection.of_candidate(self.bench, model, candidate, self.reference)

    def rows(self) -> JobResult:
        """All passes as rows."""
        bench, result, vocab = self.bench, self.bench.result, self.bench.world.vocab
        result.rows["judged"] = [
            {"model": self.plan.model} | row
            for side in self.passes.values()
            for row in judged_rows(side, self.reference)
        ]
        self.reference.judge_nll = self.reference.own_nll
        begin = time.perf_counter()
        for side in (*self.passes.values(), self.reference):
            passes.write(side, self.reference, self.plan, bench.job.prompts, vocab, result, self.plan.near_tie_below)
            if self.decomposition:
                self.decomposition.rows(side)
        for recording in self.recordings.values():
            recorded.write(recording, self.plan.model, self.plan.reader.name, vocab, result)
        if self.earlier:
            self.earlier.as_written(result)
        checking.check(bench, self.reference, list(self.passes.values()))
        result.rows["tokens"] = token_rows(result, vocab)
        result.timed("", "", "write", begin, sum(len(f) for f in result.rows["positions"]))
        result.spilled_bytes = bench.spool.spilled_bytes
        return result
