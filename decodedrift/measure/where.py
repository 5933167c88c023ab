"""Where an error enters (`--where`): the hidden states of both sides after every layer, and the first bit that differs.

Both read the reference's texts whole, each in batches of its own size, padded as it pads.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from decodedrift.core.records import Key, Variant
from decodedrift.measure.bench import Bench
from decodedrift.measure.passes import Pass
from decodedrift.models import inside, steps
from decodedrift.models.knobs import padding, unread
from decodedrift.models.load import Loaded

PROMPTS = 8  # of a run's, the first
Bits = dict[str, tuple[bytes, bytes]]


@dataclass
class Where:
    """One job's part. bits: of the reference, by text, a digest of every module's inputs and output."""

    bench: Bench
    reference: Pass
    bits: dict[Key, Bits] = field(default_factory=dict)

    def texts(self) -> dict[Key, tuple[int, ...]]:
        """Prompt and continuation of the first of a prompt's traces, of the prompts of this job that are looked at."""
        chosen: dict[str, tuple[Key, tuple[int, ...]]] = {}
        for prompt in [p for p in self.bench.plan.prompts[:PROMPTS] if p in self.bench.job.prompts]:
            for key, trace in self.reference.traces.items():
                if key.prompt_id == prompt.id and trace.token_ids:
                    kept = trace.token_ids[: self.bench.limits.get(prompt.id)]
                    chosen.setdefault(prompt.id, (key, (*self.bench.world.prompts[prompt.id], *kept)))
        return {key: text for key, text in chosen.values() if len(text) > 1}

    def record(self, model: Loaded) -> None:
        """The reference reads, and what it holds after every layer waits; in a run's first job it reads again."""
        with self.timed(model):
            for keys, rows in self.read(model, self.bench.size(self.reference.variant)):
                for key, row in zip(keys, rows, strict=True):
                    self.bits[key] = row.bits
                    for place, states in row.states.items():
                        self.bench.spool.put(("where", place, key), states)
        if self.bench.job.first:
            self.compare(model, self.reference.variant, "self")

    def compare(self, model: Loaded, variant: Variant, role: str = "candidate") -> None:
        """A candidate reads, and each of its layers becomes a row; none where a reading does not use its knobs."""
        if unread(variant, self.bench.plan.reference):
            return
        told = variant.compute == self.reference.variant.compute  # otherwise the first bit differs in the embedding
        with self.timed(model):
            for keys, rows in self.read(model, self.bench.size(variant)):
                for key, row in zip(keys, rows, strict=True):
                    first = first_apart(self.bits[key], row.bits) if told else ""
                    self.rows(variant, role, key, row, first)

    def rows(self, variant: Variant, role: str, key: Key, row: Row, first: str) -> None:
        """The rows of one text."""
        keys = {"model": self.bench.plan.model, "reference": self.reference.name, "candidate": variant.name}
        for (depth, module), states in row.states.items():
            ours = self.bench.spool.get(("where", (depth, module), key)).double()
            width = min(ours.shape[-1], states.shape[-1])  # heads may be padded
            ours, theirs = ours[..., :width], states.double()[..., :width]
            error = theirs - ours
            self.bench.result.rows["layers"].append(
                keys | {"role": role} | key._asdict() | {
                    "depth": depth, "module": module, "tokens": len(ours),
                    "error_square": float(error.square().mean()), "reference_square": float(ours.square().mean()),
                    "error_max": float(error.abs().max()), "first_module": first,
                }
            )  # fmt: skip

    def read(self, model: Loaded, size: int) -> Iterator[tuple[list[Key], list[Row]]]:
        """Batches of texts, each with what was seen of it."""
        texts = list(self.texts().items())
        for begin in range(0, len(texts), size):
            batch = texts[begin : begin + size]
            ids = [text for _, text in batch]
            width, begins = padding.layout(model, [len(text) for text in ids], given=True)
            kept = min(begins), max(begin + len(text) for text, begin in zip(ids, begins, strict=True))
            rows = [Row(len(text), width, begin, kept) for text, begin in zip(ids, begins, strict=True)]

            def see(name: str, depth: int | None, inputs: list[Tensor], output: Tensor, rows: list[Row] = rows) -> None:
                for at, row in enumerate(rows):
                    row.see(name, depth, at, inputs, output, len(rows))

            with steps.reading(model), inside.watched(model, see):
                steps.read_whole(model, ids, [(0, len(text)) for text in ids], pad=self.bench.world.vocab.pad)
            yield [key for key, _ in batch], rows

    @contextmanager
    def timed(self, model: Loaded) -> Iterator[None]:
        """A reading as one phase."""
        begin, tokens = time.perf_counter(), sum(map(len, self.texts().values()))
        self.bench.progress.start(model.variant.name, "looking inside", tokens)
        try:
            yield
        finally:
            self.bench.progress.stop()
        self.bench.result.timed(model.variant.name, "", "where", begin, tokens)


@dataclass
class Row:
    """What was seen of one text, of `length` tokens from `begin` on in a batch of `width`.

    kept: the first and last place of the batch that the head reads, where it does not read all.

    states: by (depth, module), [tokens, channels] in the module's own type.
    """

    length: int
    width: int
    begin: int
    kept: tuple[int, int]
    states: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    bits: Bits = field(default_factory=dict)

    def see(self, name: str, depth: int | None, at: int, inputs: Sequence[Tensor], output: Tensor, rows: int) -> None:
        """Keeps of a module what belongs to this text; of one whose tensors are not [rows, width, ...] nothing."""
        mine = self._of(output, at, rows)
        if mine is None:
            return
        if depth is not None:
            self.states[depth, name] = mine.to("cpu", copy=True)
        parts = (self._of(tensor, at, rows) for tensor in inputs)
        given = [part for part in parts if part is not None]
        if given:
            self.bits[name] = (_digest(given), _digest([mine]))

    def _of(self, tensor: Tensor, at: int, rows: int) -> Tensor | None:
        """The part of a module's tensor that belongs to one row's own tokens; None where it has no such part."""
        end = self.begin + self.length
        if tensor.dim() >= 2 and tensor.shape[:2] == (rows, self.width):
            return tensor[at, self.begin : end]
        if tensor.dim() >= 2 and tensor.shape[:2] == (rows, self.kept[1] - self.kept[0]):
            return tensor[at, self.begin - self.kept[0] : end - self.kept[0]]
        if tensor.dim() >= 2 and tensor.shape[0] == rows * self.width:  # experts and some projections see one long row
            return tensor[at * self.width + self.begin : at * self.width + end]
        return None


def first_apart(ours: Bits, theirs: Bits) -> str:
    """The first module whose inputs are equal bit for bit and whose output is not; inner ones come before outer ones.

    Empty where there is none: nothing differs, or it differs where it cannot be seen.
    """
    pairs = ((name, ours[name], bits) for name, bits in theirs.items() if name in ours)
    return next((name for name, own, other in pairs if own[0] == other[0] and own[1] != other[1]), "")


def _digest(parts: Sequence[Tensor]) -> bytes:
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(str(part.dtype).encode())
        total.update(part.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.digest()
