"""The place where a job's variants run: loaded, let write, let read, in batches that are the same for all of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from decodedrift.core.batches import by_length, filed
from decodedrift.core.estimate import READING
from decodedrift.core.files import disk_failed
from decodedrift.core.progress import Progress
from decodedrift.core.records import Cell, InputError, Job, Key, Prompt, Reading, Trace, Variant, VariantError
from decodedrift.core.settings import Settings
from decodedrift.decoding.forcing import batches
from decodedrift.decoding.loop import generate
from decodedrift.decoding.spoilt import force
from decodedrift.decoding.spool import Spool
from decodedrift.decoding.stepping import step
from decodedrift.measure import passes
from decodedrift.measure.passes import Pass, Passage
from decodedrift.measure.tables import FORCED, STEPPED, JobResult
from decodedrift.models.drafting import drafted
from decodedrift.models.knobs import KNOBS, unread
from decodedrift.models.load import Loaded, status_and_reason
from decodedrift.models.probe import AnotherPath
from decodedrift.models.world import World

STEPWISE = "token by token"  # what a phase is called that reads so


@dataclass
class Bench:
    """One job while it runs.

    batched: whether rows share forward passes even where a batch is one prompt. order: the job's prompts as they enter
    all batches. limits: see `World.readable`. result: the rows so far.
    """

    job: Job
    world: World
    progress: Progress
    spool: Spool
    batched: bool = False
    plan: Settings = field(init=False)
    order: list[Prompt] = field(init=False)
    limits: dict[str, int] = field(init=False)
    result: JobResult = field(init=False)

    def __post_init__(self) -> None:
        self.result = JobResult(self.job.key)
        self.plan = self.world.plan
        self.order = by_length(self.job.prompts, lambda p: len(self.world.prompts[p.id]), self.plan.batch_size)
        self.limits = self.world.readable_tokens([p.id for p in self.order])

    def open_reference(self, stack: ExitStack) -> Loaded:
        """Loads the reference; what fails here fails the run."""
        try:
            return stack.enter_context(self.open(self.plan.reader))
        except VariantError as error:
            raise InputError(f"the reference cannot run: {error}") from error

    @contextmanager
    def open(self, variant: Variant) -> Iterator[Loaded]:
        """A loaded variant, its loading timed and its facts recorded."""
        begin, resident = time.perf_counter(), variant.name in self.world.resident
        with self.world.load(variant) as model, drafted(model, self.world.drafts.get(variant.name)):
            if not resident:
                self.result.timed(variant.name, "", "load", begin, 0)
            batched = self.size(variant) > 1 or self.batched
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
        tokens: int | None = None,
        only: Collection[str] | None = None,
        inject: Mapping[Key, tuple[int, int]] | None = None,
    ) -> None:
        """Generates with every strategy, batch by batch, into a Pass; with `inject` only the batches it concerns.

        only: ids of the prompts, None for all of the job. tokens: so many at most, in the layout of the whole. A search
        that is cut off is another one: there it leaves no text, and by itself it is not cut off.
        """
        side = self.world.side(model.variant.name)
        prompts = [(p.id, side.prompts[p.id]) for p in self.order if only is None or p.id in only]
        batch_size = 1 if model.draft is not None else batch_size  # as transformers assists
        watched = {key: trace.token_ids for key, trace in (watch or {}).items()}
        for cells in self.groups():
            label = cells[0][0].label if len(cells) == 1 else "all strategies"
            chunks = [prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)][:batches]
            if inject is not None:
                chunks = [c for c in chunks if any((s.label, n, p) in inject for s, n in cells for p, _ in c)]
            searches, steps = {s.label for s, _ in cells if s.searches}, self.plan.max_new_tokens
            if tokens is not None and not all(s.searches for s, _ in cells):
                steps = min(tokens, steps)
            total = sum(map(len, chunks)) * len(cells) * steps
            self.progress.start(into.name, label, total)
            begin, count = time.perf_counter(), 0
            for chunk in chunks:
                self.progress.batch()
                output = generate(
                    model, side.vocab, dict(chunk), cells, steps,
                    watch=watched, keep_scores=keep_scores, inject=inject, tick=self.progress.tick,
                    room=self.plan.max_new_tokens,
                    processes=side.processes(model.device, self.plan.max_new_tokens),
                )  # fmt: skip
                for key, log in output.logs.items():
                    if log.logits:  # greedy scores are whole rows of logits: they wait in the spool, not in memory
                        self.spool.put(("scores", into.name, key), torch.stack(list(log.logits)))
                        log.logits = self.spool.get(("scores", into.name, key))
                if steps < self.plan.max_new_tokens:
                    output.traces = {key: trace for key, trace in output.traces.items() if key.strategy not in searches}
                into.add(output)
                count += sum(len(t.token_ids) for t in output.traces.values())
            self.progress.stop()
            self.result.timed(into.name, label, "generate" if inject is None else "inject", begin, count)
        into.traces = filed(into.traces, self.job.prompts)

    def passages(self, traces: Mapping[Key, Trace], only: Collection[Key] | None = None) -> list[list[Passage]]:
        """Traces (or some of them) as sequences to be read; the cells of a group read each prompt once, together.

        Beams keep to themselves: their gaps hold four readings against each other, which must share one layout.
        """
        parts = []
        for group in self.groups():
            for cells in ([c for c in group if not c[0].searches], *([c] for c in group if c[0].searches)):
                parts.append([p for cell in cells for p in self.read_of(cell, traces) if only is None or p.key in only])
        return [group for group in parts if group]

    def continuations(self, source: Pass) -> Iterator[list[Passage]]:
        """A pass's own continuations, in batches of the size that the reference has."""
        size = self.size(self.plan.reader)
        for start in range(0, len(self.order), size):
            batch = {p.id for p in self.order[start : start + size]}
            alike = {key for key in source.traces if self.world.reads(source.variant.name, key.prompt_id)}
            yield from self.passages(source.traces, only={key for key in alike if key.prompt_id in batch})

    def read_of(self, cell: Cell, traces: Mapping[Key, Trace]) -> Iterator[Passage]:
        """One cell's traces as passages, in the order of the batches."""
        for prompt in self.order:
            key = Key(cell[0].label, cell[1], prompt.id)
            ids = traces[key].token_ids if key in traces else ()
            if cut := ids[: self.limits.get(prompt.id)]:
                context = tuple(self.world.prompts[prompt.id])
                yield Passage(key, Reading(context, cut, prompt.id), cell[0], whole=cut == ids)

    def size(self, variant: Variant) -> int:
        """A variant's batch size: its own, or the plan's."""
        return variant.batch_size or self.plan.batch_size

    def layout_of(self, variant: Variant) -> str:
        """How a variant reads given tokens: token by token where reading them at once would not use its knobs.

        Empty where that would not either: then it reads none.
        """
        acting = unread(variant, self.plan.reader)
        if not all(KNOBS[name].stepped for name in acting):
            return ""
        return STEPPED if acting else FORCED

    def logits(
        self, model: Loaded, group: list[Passage], batch_size: int | None = None, layout: str | None = None
    ) -> Iterator[tuple[Passage, Tensor]]:
        """(passage, logits) for one group of passages, batched like the variant's generation.

        Args:
            layout: FORCED or STEPPED, `layout_of` the variant where it is not given.

        Of windows of a text none are read token by token where each token would take a reading of all before it.
        """
        layout = layout or self.layout_of(model.variant)
        if not layout:
            return
        if layout == STEPPED and group[0].strategy is None and not self.keeps_cache(model):
            return
        if group[0].strategy is not None:
            group = [p for p in group if self.world.reads(model.variant.name, p.key.prompt_id)]
        if not group:
            return
        width = _width(model)
        texts = passes.readable(group, width)
        for label, count in (Counter(p.key.strategy for p in group) - Counter(p.key.strategy for p in texts)).items():
            text = f"{count} sequences hold ids beyond this variant's {width} embeddings; not read"
            self.result.fail(self.plan.model, model.variant.name, "score", "skipped", text, label)
        readings = [p.reading for p in texts]
        what = READING if layout == FORCED else STEPWISE
        self.progress.start(model.variant.name, what, sum(len(r.continuation) for r in readings))
        size, vocab = batch_size or self.size(model.variant), self.world.vocab
        if layout == FORCED:
            every = force(model, readings, size, vocab.pad, vocab.window, group[0].shared)
        else:
            every = step(model, readings, size, vocab.pad, self.spool, vocab.window)
        for index, logits in every:
            self.progress.tick(len(readings[index].continuation))
            self.progress.batch()
            yield texts[index], logits
        self.progress.stop()

    def keeps_cache(self, model: Loaded) -> bool:
        """Whether a step of a variant, and one of the reference, reads one token and not all of them again."""
        return model.path != "plain" and model.variant.use_cache and self.plan.reader.use_cache

    def read_batches(self, model: Loaded, group: list[Passage]) -> list[tuple[list[Passage], bool]]:
        """The batches in which a variant, by `logits`, reads a group, and whether over a prefill of their contexts."""
        read = [p for p in group if self.world.reads(model.variant.name, p.key.prompt_id)]
        texts = passes.readable(read, _width(model))
        readings, size = [p.reading for p in texts], self.size(model.variant)
        layout = batches(readings, size, model.path, self.world.vocab.window)
        return [([texts[index] for index in indices], shared) for indices, shared in layout]

    @contextmanager
    def guarded(self, variant: str, stage: str, lose: Callable[[], object] = lambda: None) -> Iterator[None]:
        """What goes wrong inside is this variant's failure and nobody else's. `lose` takes away what it spoils."""
        try:
            yield
        except Exception as error:  # model code and backends raise anything, IndexError and KeyError included
            self.progress.stop()
            if disk_failed(error) or isinstance(error, AnotherPath):
                raise
            lose()
            self.result.fail(self.plan.model, variant, stage, *status_and_reason(error))


def _width(model: Loaded) -> int:
    """Ids that a model has an embedding of."""
    return int(model.model.get_input_embeddings().weight.shape[0])
