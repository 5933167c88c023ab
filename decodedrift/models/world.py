"""What every job of a run shares: checkpoints, tokenizer, tokenized prompts and texts, and the memory to work in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from decodedrift.core.records import InputError, Plan, Variant
from decodedrift.models.footprint import NOTHING, Footprint
from decodedrift.models.load import Loaded, loaded
from decodedrift.models.longrope import readable, switch
from decodedrift.models.machine import available_memory
from decodedrift.models.precisions.floating import DTYPES
from decodedrift.models.probe import Route
from decodedrift.models.sources.checkpoints import Checkpoint, find
from decodedrift.models.text.tokenizer import check_same_vocabulary
from decodedrift.models.text.vocabulary import Vocabulary
from decodedrift.models.text.windows import WindowedText

SPOOL_SHARE = 0.25  # of the memory budget, for the reference's waiting logits; what exceeds it goes to files
WINDOW_BYTES = 2 * 2**30  # of reference logits that one job of text windows makes


@dataclass
class World:
    """Everything that was found and read before the first weight is loaded."""

    plan: Plan
    checkpoint: Checkpoint
    vocab: Vocabulary
    prompts: Mapping[str, Sequence[int]]
    texts: Mapping[str, WindowedText] = field(default_factory=dict)
    others: Mapping[str, Checkpoint] = field(default_factory=dict)
    memory: int = 8 * 2**30
    footprint: Footprint = NOTHING
    keeps: bool = False
    kept: dict[str, Loaded] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)
    route: Route = field(default_factory=Route)

    @contextmanager
    def load(self, variant: Variant) -> Iterator[Loaded]:
        """A variant's weights: kept from an earlier job, copied from the resident reference, or read from its files."""
        if variant.name in self.kept:
            yield self.kept[variant.name]
            return
        donor = self.kept.get(self.plan.reference.name) if variant.name not in self.others else None
        with ExitStack() as own:
            stack = self.stack if self.keeps else own
            checkpoint = self.others.get(variant.name, self.checkpoint)
            model = stack.enter_context(loaded(checkpoint, self._settled(variant), donor))
            if self.keeps or variant.name == self.plan.reference.name:
                self.kept[variant.name] = model
                stack.callback(self.kept.pop, variant.name)
            yield model

    def close(self) -> None:
        """Lets go of the weights that were kept from job to job."""
        self.stack.close()

    def _settled(self, variant: Variant) -> Variant:
        return replace(variant, device=variant.device or self.plan.device, threads=variant.threads or self.plan.threads)

    @property
    def width(self) -> int:
        """Vocabulary width of the logits."""
        return int(self.checkpoint.config.get_text_config(decoder=True).vocab_size)

    def weight_bytes(self, variant: Variant) -> int:
        """Memory of one variant's weights, from the file headers."""
        size = self.others.get(variant.name, self.checkpoint).parameters
        return size * DTYPES[variant.compute or "fp32"].itemsize

    @property
    def both_fit(self) -> bool:
        """Whether the reference can stay resident beside the largest candidate."""
        largest = max((self.weight_bytes(c) for c in self.plan.candidates), default=0)
        return self.weight_bytes(self.plan.reference) + largest + self.batch_bytes() <= self.memory * (1 - SPOOL_SHARE)

    @property
    def all_fit(self) -> bool:
        """Whether every variant's weights can stay in memory at once."""
        every = sum(self.weight_bytes(v) for v in (self.plan.reference, *self.plan.candidates))
        return every + self.batch_bytes() <= self.memory * (1 - SPOOL_SHARE)

    @property
    def resident(self) -> str:
        """Whose weights are in memory at once."""
        if self.keeps:
            return "every variant"
        return "both variants" if self.both_fit else "one variant"

    @property
    def spool_bytes(self) -> int:
        """Memory for the reference's waiting logits."""
        return int(self.memory * SPOOL_SHARE)

    def rows_per_prompt(self) -> int:
        """Rows that one prompt takes in a generating batch."""
        widths = [s.rows for s, _ in self.plan.cells]
        return sum(widths) if self.plan.layout == "mixed" else max(widths, default=1)

    def batch_bytes(self, batch_size: int | None = None) -> int:
        """A generous estimate of one generating batch: KV cache (twice: it is copied as it grows), float64 logits."""
        longest = max((len(ids) for ids in self.prompts.values()), default=0) + self.plan.max_new_tokens
        itemsize = max(DTYPES[v.compute or "fp32"].itemsize for v in (self.plan.reference, *self.plan.candidates))
        cache = 2 * self.footprint.elements(longest) * itemsize
        return int((batch_size or self.plan.batch_size) * self.rows_per_prompt() * (cache + self.width * 8 * 4))

    def readable(self, order: Sequence[str]) -> dict[str, int]:
        """How many new tokens can be read again, of the prompts where not all can; ids in the order of the batches."""
        variants = (self.plan.reference, *self.plan.candidates)
        most = max(v.batch_size or self.plan.batch_size for v in variants)
        return readable({p: len(self.prompts[p]) for p in order}, most, switch(self.checkpoint.config))

    def windows_per_job(self) -> int:
        """Text windows per job, so that their reference logits stay within a bound."""
        longest = max((len(w.reading.continuation) for t in self.texts.values() for w in t.windows), default=1)
        itemsize = DTYPES[self.plan.reference.compute or "fp32"].itemsize
        return max(1, WINDOW_BYTES // max(1, longest * self.width * itemsize))


def memory_budget(plan: Plan) -> int:
    """Bytes that may be used: what the plan declares, else 80 % of what is free."""
    return plan.memory_bytes or int(available_memory(plan.device) * 0.8)


def fitting_batch(world: World) -> int:
    """The plan's batch size, halved until a batch fits beside the weights. Decided before anything runs.

    Raises:
        InputError: not even one prompt fits.
    """
    room = world.memory * (1 - SPOOL_SHARE) - max(
        world.weight_bytes(v) for v in (world.plan.reference, *world.plan.candidates)
    )
    size = world.plan.batch_size
    while size > 1 and world.batch_bytes(size) > room:
        size //= 2
    if world.batch_bytes(size) > room:
        need = (world.memory - room + world.batch_bytes(1)) / 2**20
        raise InputError(
            f"--memory {world.memory / 2**20:.0f} MiB is too little: about {need:.0f} MiB are needed even with one "
            "prompt at a time; raise it, or lower --max-new-tokens or the number of beams"
        )
    return size


def other_checkpoints(plan: Plan, vocab: Vocabulary) -> dict[str, Checkpoint]:
    """The checkpoints of variants that bring their own, each found to share the reference's vocabulary."""
    found: dict[str, Checkpoint] = {}
    for variant in plan.candidates:
        if variant.model:
            found[variant.name] = find(variant.model, variant.revision, plan.trust_remote_code, plan.allow_pickle)
            check_same_vocabulary(vocab.tokenizer, found[variant.name], variant.name)
    return found
