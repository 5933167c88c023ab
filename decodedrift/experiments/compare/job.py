"""One Job -> JobResult. The reference comes first and last; every candidate in between meets it in the same layout.

The reference generates and reads its own tokens; its scores and logits wait in a spool. Each candidate generates, reads
the reference's tokens, is reduced to rows at once and freed. Last, the reference judges the candidates' continuations.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from decodedrift.core.files import disk_failed
from decodedrift.core.progress import Progress, Silent
from decodedrift.core.records import Cell, InputError, Job, Key, Prompt, Reading, Trace, Variant, VariantError
from decodedrift.decoding.batches import by_length, filed
from decodedrift.decoding.loop import generate
from decodedrift.decoding.spoilt import force
from decodedrift.decoding.spool import Spool
from decodedrift.experiments.compare import controls, screening
from decodedrift.experiments.compare.decompose import Decomposition, begun
from decodedrift.experiments.compare.judging import judge, read_own_beams
from decodedrift.measure import injection, passes
from decodedrift.measure.passes import Pass, Passage, See, unseen
from decodedrift.measure.tables import JobResult
from decodedrift.models.knobs import idle
from decodedrift.models.load import Loaded, told
from decodedrift.models.longrope import left_out
from decodedrift.models.probe import AnotherPath
from decodedrift.models.world import World


def execute(job: Job, world: World, progress: Progress | None = None, spill: str | None = None) -> JobResult:
    """Runs one job. A candidate that fails is a row of `failures`; the others finish.

    Raises:
        InputError: the reference itself cannot run; nothing can be held against it.
    """
    run = JobRun(job, world, progress or Silent())
    with Spool(world.spool_bytes, spill) as spool, ExitStack() as resident:
        run.spool = spool
        reference = run.open_reference(resident)
        run.read_reference(reference)
        if job.first and job.prompts:
            controls.self_control(run, reference)
        if world.plan.decompose and job.prompts:
            run.decomposition = begun(run, reference)
        if not world.both_fit:
            resident.close()
        for variant in world.plan.candidates:
            run.attempt(variant)
        if any(done.whole for done in run.passes.values()):
            if not world.both_fit:
                reference = run.open_reference(resident)
            for key, done in [(key, done) for key, done in run.passes.items() if done.whole]:
                with run.guarded(done.variant.name, "judge", lose=key):
                    judge(run, reference, done)
                if world.plan.inject and key in run.passes:
                    injection.of_candidate(run, reference, done)
        run.reference.judged = run.reference.own_nll
        begin = time.perf_counter()
        for done in (*run.passes.values(), run.reference):
            passes.write(done, run.reference, run.plan, job.prompts, world.vocab, run.result)
            if run.decomposition:
                run.decomposition.rows(done)
        run.result.tokens = passes.token_rows(run.result, world.vocab)
        run.result.timed("", "", "write", begin, sum(len(f) for f in run.result.positions))
        run.result.spilled_bytes = spool.spilled_bytes
    return run.result


@dataclass
class JobRun:
    """One job while it runs. order: its prompts as they enter all batches. limits: see `World.readable`."""

    job: Job
    world: World
    progress: Progress
    order: list[Prompt] = field(init=False)
    limits: dict[str, int] = field(init=False)
    result: JobResult = field(init=False)
    spool: Spool = field(init=False)
    reference: Pass = field(init=False)
    decomposition: Decomposition | None = None
    passes: dict[tuple[str, str], Pass] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.result = JobResult(self.job.key)
        self.plan = self.world.plan
        self.order = by_length(self.job.prompts, lambda p: len(self.world.prompts[p.id]), self.plan.batch_size)
        self.limits = self.world.readable([p.id for p in self.order])

    def open_reference(self, stack: ExitStack) -> Loaded:
        """Loads the reference; what fails here fails the run."""
        try:
            return stack.enter_context(self.opened(self.plan.reference))
        except VariantError as error:
            raise InputError(f"the reference cannot run: {error}") from error

    @contextmanager
    def opened(self, variant: Variant) -> Iterator[Loaded]:
        """A loaded variant, its loading timed and its facts recorded."""
        begin, held = time.perf_counter(), variant.name in self.world.kept
        with self.world.load(variant) as model:
            if not held:
                self.result.timed(variant.name, "", "load", begin, 0)
            batched = self.size(variant) > 1 or self.plan.noise_floor or self.plan.continued
            self.world.route.admit(model, self.world.vocab, batched=batched, first=not self.result.facts)
            self.result.facts[variant.name] = model.facts
            yield model

    def groups(self) -> list[list[Cell]]:
        """The (strategy, seed) cells that share one decoding pass."""
        cells = self.plan.cells
        return [cells] if self.plan.layout == "mixed" else [[cell] for cell in cells]

    def free_run(
        self,
        model: Loaded,
        into: Pass,
        *,
        batch_size: int,
        watch: Mapping[Key, Trace] | None = None,
        keep_scores: bool = False,
        batches: int | None = None,
        inject: Mapping[Key, tuple[int, int]] | None = None,
    ) -> None:
        """Generates with every strategy, batch by batch, into a Pass; with `inject` only the batches it concerns."""
        prompts = [(p.id, self.world.prompts[p.id]) for p in self.order]
        watched = {key: trace.token_ids for key, trace in (watch or {}).items()}
        for cells in self.groups():
            label = cells[0][0].label if len(cells) == 1 else "all strategies"
            chunks = [prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)][:batches]
            if inject is not None:
                chunks = [c for c in chunks if any((s.label, n, p) in inject for s, n in cells for p, _ in c)]
            total = sum(map(len, chunks)) * len(cells) * self.plan.max_new_tokens
            self.progress.start(into.name, label, total)
            begin, made = time.perf_counter(), 0
            for chunk in chunks:
                self.progress.batch()
                done = generate(
                    model, self.world.vocab, dict(chunk), cells, self.plan.max_new_tokens,
                    watch=watched, keep_scores=keep_scores, inject=inject, tick=self.progress.tick,
                )  # fmt: skip
                for key, log in done.logs.items():
                    if log.logits:  # greedy scores are whole rows of logits: they wait in the spool, not in memory
                        self.spool.put(("scores", into.name, key), torch.stack(list(log.logits)))
                        log.logits = self.spool.get(("scores", into.name, key))
                into.add(done)
                made += sum(len(t.token_ids) for t in done.traces.values())
            self.progress.stop()
            self.result.timed(into.name, label, "generate" if inject is None else "inject", begin, made)
        into.traces = filed(into.traces, self.job.prompts)

    def passages(self, traces: Mapping[Key, Trace], only: Collection[Key] | None = None) -> list[list[Passage]]:
        """Traces (or some of them) as sequences to be read; the cells of a group read each prompt once, together.

        Beams keep to themselves: their gaps hold four readings against each other, which must share one layout.
        """
        found = []
        for group in self.groups():
            for cells in ([c for c in group if not c[0].searches], *([c] for c in group if c[0].searches)):
                found.append([p for cell in cells for p in self.read_of(cell, traces) if only is None or p.key in only])
        return [group for group in found if group]

    def read_of(self, cell: Cell, traces: Mapping[Key, Trace]) -> Iterator[Passage]:
        """One cell's traces as passages, in the order of the batches."""
        for prompt in self.order:
            key = Key(cell[0].label, cell[1], prompt.id)
            ids = traces[key].token_ids if key in traces else ()
            if cut := ids[: self.limits.get(prompt.id)]:
                context = tuple(self.world.prompts[prompt.id])
                yield Passage(key, Reading(context, cut), cell[0], whole=cut == ids)

    def read_by_all(self) -> list[list[Passage]]:
        """What every variant reads: the reference's tokens, or this job's windows of a text."""
        if self.job.text is None:
            return self.passages(self.reference.traces)
        windows = self.world.texts[self.job.text].windows[slice(*self.job.windows)]
        return [[Passage(Key("text", 0, w.key), w.reading, None, w.start) for w in windows]]

    def size(self, variant: Variant) -> int:
        """A variant's batch size: its own, or the plan's."""
        return variant.batch_size or self.plan.batch_size

    def read_reference(self, model: Loaded) -> None:
        """The reference generates, reads its own tokens, and leaves its scores and logits in the spool."""
        self.reference = Pass(self.plan.reference.name, self.plan.reference, "reference")
        if self.job.prompts:
            self.free_run(model, self.reference, batch_size=self.size(self.plan.reference), keep_scores=True)
        passes.note_nonfinite(self.reference, self.plan.model, self.reference.name, self.result)
        for label, text in left_out(self.reference.traces.values(), self.limits).items():
            self.result.fail(self.plan.model, self.reference.name, "score", "skipped", text, label)
        see = screening.of_reference(self) if self.plan.mode == "screen" and self.job.prompts else unseen
        begin, count = time.perf_counter(), 0
        for group in self.read_by_all():
            for passage, logits in self.forced(model, group):
                self.spool.put(("logits", passage.key), logits)
                tokens = passage.reading.continuation
                own = self.reference.preferences[passage.key] = passage.prefer(logits)
                see(passage, logits, own)
                losses = passes.nll(logits, tokens)
                if passage.whole:
                    self.reference.own_nll[passage.key] = losses
                if passage.strategy is not None:
                    self.reference.forced_tops[passage.key] = passes.tops_of(logits, tokens, losses)
                count += len(passage.reading.continuation)
        self.result.timed(self.reference.name, "", "score", begin, count)

    def forced(
        self, model: Loaded, group: list[Passage], batch_size: int | None = None
    ) -> Iterator[tuple[Passage, Tensor]]:
        """(passage, logits) for one group of passages, batched like the variant's generation."""
        width = model.model.get_input_embeddings().weight.shape[0]
        kept = passes.readable(group, width)
        for label, count in (Counter(p.key.strategy for p in group) - Counter(p.key.strategy for p in kept)).items():
            text = f"{count} sequences hold ids beyond this variant's {width} embeddings; not read"
            self.result.fail(self.plan.model, model.variant.name, "score", "skipped", text, label)
        readings = [p.reading for p in kept]
        self.progress.start(model.variant.name, "reading", sum(len(r.continuation) for r in readings))
        size, vocab = batch_size or self.size(model.variant), self.world.vocab
        for index, logits in force(model, readings, size, vocab.pad, vocab.window):
            self.progress.tick(len(readings[index].continuation))
            self.progress.batch()
            yield kept[index], logits
        self.progress.stop()

    def measure(
        self, model: Loaded, into: Pass, groups: list[list[Passage]], stored: str = "logits", see: See = unseen
    ) -> None:
        """A variant reads the reference's tokens and is reduced to position rows against what waits in the spool.

        see: shown each passage with the variant's logits and the strategy's preferences.
        """
        begin, count = time.perf_counter(), 0
        for group in groups:
            for passage, logits in self.forced(model, group, into.batch_size):
                if into.keep_logits:
                    self.spool.put((into.keep_logits, passage.key), logits)
                reference = self.spool.get((stored, passage.key))
                ours = self.reference.preferences[passage.key] if stored == "logits" else passage.prefer(reference)
                theirs = ours and passage.prefer(logits, ours)
                frame = passes.positions(passage, reference, logits, ours, theirs, self.world.vocab)
                into.positions[passage.key] = frame
                see(passage, logits, theirs)
                if reference.shape[-1] != logits.shape[-1]:
                    passes.note_cut(self.result.facts[model.variant.name], reference, logits)
                if into.role == "candidate" and passage.strategy is not None:
                    losses = frame["nll_candidate"].to_numpy()
                    into.forced_tops[passage.key] = passes.tops_of(logits, passage.reading.continuation, losses)
                count += len(frame)
        into.positions = filed(into.positions, self.job.prompts)
        self.result.timed(into.name, "", "score", begin, count)

    @contextmanager
    def guarded(self, variant: str, stage: str, lose: tuple[str, str] | None = None) -> Iterator[None]:
        """What goes wrong inside is this variant's failure, recorded, and nobody else's. `lose`: a pass it spoils."""
        try:
            yield
        except Exception as error:  # model code and backends raise anything, IndexError and KeyError included
            self.progress.stop()
            if disk_failed(error) or isinstance(error, AnotherPath):
                raise
            self.passes.pop(lose or ("", ""), None)
            self.result.fail(self.plan.model, variant, stage, *told(error))

    def attempt(self, variant: Variant) -> None:
        """One candidate, from loading to rows."""
        with self.guarded(variant.name, "load"), self.opened(variant) as model, self.guarded(variant.name, "run"):
            self.candidate(model)
            model.facts["idle_knobs"] = idle(variant, self.plan.reference, self.result.facts)

    def candidate(self, model: Loaded) -> None:
        """A candidate generates and reads the reference's tokens."""
        variant = model.variant
        done = Pass(variant.name, variant, "candidate")
        floor = self.plan.noise_floor and variant.precision == variant.compute and not variant.model
        done.keep_logits = f"floor {variant.name}" if floor else ""
        if self.plan.mode == "screen":
            self.measure(model, done, self.read_by_all(), see=screening.predicting(done))
            screening.carry_on(self, model, done)
        else:
            if self.job.prompts:
                size, watch = self.size(variant), self.reference.traces
                self.free_run(model, done, batch_size=size, watch=watch, keep_scores=floor)
            self.measure(model, done, self.read_by_all())
        if self.decomposition:
            with self.guarded(variant.name, "decompose"):
                self.decomposition.read(model, done)
        if any(s.searches for s, _ in self.plan.cells) and self.job.prompts:
            read_own_beams(self, model, done)
        passes.note_nonfinite(done, self.plan.model, self.reference.name, self.result)
        self.passes[("candidate", variant.name)] = done
        if floor and self.job.prompts:
            controls.noise_floor(self, model, done)
