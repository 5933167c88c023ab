"""Local and state error: the reference's text read token by token, on the reference's KV cache and on one's own.

docs/metrics.md defines both. The reference reads its own texts one token at a time; its logits and its cache wait in
the spool. A candidate reads the same texts twice in the same layout: on its own cache (e1), and with all that is cached
before each token overwritten by the reference's, cast to the candidate's type, so that it computes that one position
alone (e0). Equal arithmetic on both sides makes both exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decodedrift.core.records import Cell, Key, VariantError
from decodedrift.decoding.loop import decode
from decodedrift.decoding.scripted import Given
from decodedrift.decoding.spool import Spool
from decodedrift.measure.metrics.token import LogitPair, logit_gap_rms
from decodedrift.models.kvcache import PLAIN_LAYERS
from decodedrift.models.load import Loaded
from decodedrift.models.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Batch:
    """Texts that are read together; their rows are cells x prompts, as in the generating pass."""

    index: int
    prompts: Mapping[str, Sequence[int]]
    cells: Sequence[Cell]

    def rows(self, cell: Cell) -> list[Key]:
        """The rows of one (strategy, seed)."""
        return [Key(cell[0].label, cell[1], p) for p in self.prompts]


@dataclass
class Handover:
    """The reference's texts of one job, to be read step by step.

    Prompts are prefilled less their last token, which is the first to be read: the error at position 0 is that of one
    token as well. A prompt of one token is itself that token, with nothing cached before it.

    Args:
        prompts: prompt id -> token ids. texts: (strategy, seed, prompt id) -> the reference's continuation.
        groups: the cells that share a pass. tick: told the number of rows advanced.
    """

    spool: Spool
    vocab: Vocabulary
    prompts: Mapping[str, Sequence[int]]
    groups: Sequence[Sequence[Cell]]
    texts: Mapping[Key, Sequence[int]]
    batch_size: int
    tick: Callable[[int], None] = lambda rows: None
    refusal: str = ""

    def record(self, reference: Loaded) -> None:
        """The reference reads its texts; its logits and, where they can be handed over, its caches are put away."""
        for batch in self.batches():
            layers: list[Any] = []
            prefilled: list[int] = []

            def put(cell: Cell, step: int, logits: Tensor, index: int = batch.index) -> None:
                self.spool.put(("step", index, cell, step), logits)

            def hold(cache: Any, layers: list[Any] = layers, prefilled: list[int] = prefilled) -> None:
                try:
                    layers[:] = layers_of(cache)
                    prefilled.append(int(layers[0].get_seq_length()))
                except CannotHandOver as error:
                    self.refusal = str(error)

            self._read(reference, batch, put, hold)
            for n, layer in enumerate(layers):
                length = int(layer.get_seq_length())
                self.spool.put(("keys", batch.index, n), layer.keys[:, :, :length])
                self.spool.put(("values", batch.index, n), layer.values[:, :, :length])
            self.spool.put(("layers", batch.index), torch.tensor([len(layers), *prefilled[:1]]))

    def errors(self, candidate: Loaded) -> tuple[dict[Key, dict[str, np.ndarray]], str]:
        """e0 and e1 (logit_gap_rms, float64 [T]) at every position of the reference's texts; why there is no e0.

        Raises:
            VariantError: the candidate cannot read the reference's tokens.
        """
        width = candidate.model.get_input_embeddings().weight.shape[0]
        if any(max(text, default=0) >= width for text in self.texts.values()):
            raise VariantError(f"the reference's texts hold ids beyond this variant's {width} embeddings")
        own = self._errors(candidate, lambda batch: lambda cache: None)
        alone, refusal = {key: np.full(len(text), np.nan) for key, text in self.texts.items()}, self.refusal
        if not refusal:
            try:
                alone = self._errors(candidate, self._overwriting)
            except CannotHandOver as error:
                refusal = str(error)
        return {key: {"e0": alone[key], "e1": own[key]} for key in self.texts}, refusal

    def _errors(self, candidate: Loaded, before: Callable[[Batch], Callable[[Any], None]]) -> dict[Key, np.ndarray]:
        """One reading of every text; `before` is shown the cache before each step."""
        gaps = {key: np.full(len(text), np.nan) for key, text in self.texts.items()}
        for batch in self.batches():

            def measure(cell: Cell, step: int, logits: Tensor, batch: Batch = batch) -> None:
                for key, position, gap in self._gaps(batch, cell, step, logits):
                    gaps[key][position] = gap

            self._read(candidate, batch, measure, before(batch))
        return gaps

    def batches(self) -> Iterator[Batch]:
        """The batches of the generating pass, in its order."""
        names = list(self.prompts)
        starts = range(0, len(names), self.batch_size)
        for index, (cells, start) in enumerate((cells, start) for cells in self.groups for start in starts):
            part = {p: self.prompts[p] for p in names[start : start + self.batch_size]}
            yield Batch(index, part, cells)

    def _read(
        self, model: Loaded, batch: Batch, see: Callable[[Cell, int, Tensor], None], before: Callable[[Any], None]
    ) -> None:
        """One pass over a batch's texts; `see` is shown every step's logits."""
        cut = {name: len(ids) - self._first(name) for name, ids in batch.prompts.items()}
        choosers = []
        for cell in batch.cells:
            texts = [
                (*batch.prompts[key.prompt_id][cut[key.prompt_id] :], *self.texts.get(key, ()))
                for key in batch.rows(cell)
            ]
            choosers.append(Given(texts, self.vocab.pad, partial(see, cell)))
        steps = max(len(text) for chooser in choosers for text in chooser.texts)
        prompts = {name: ids[: cut[name]] for name, ids in batch.prompts.items()}
        decode(model, self.vocab, prompts, choosers, steps, before=before, tick=self.tick)

    def _first(self, prompt: str) -> int:
        """The step whose logits predict the first token of a prompt's text."""
        return int(len(self.prompts[prompt]) > 1)

    def _gaps(self, batch: Batch, cell: Cell, step: int, logits: Tensor) -> Iterator[tuple[Key, int, float]]:
        """(key, position, error) of each row whose text has a token at this step."""
        reference = self.spool.get(("step", batch.index, cell, step)).to(logits.device)
        none = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        gaps = logit_gap_rms(LogitPair(reference, logits, none, "fp32")).tolist()
        for key, gap in zip(batch.rows(cell), gaps, strict=True):
            position = step - self._first(key.prompt_id)
            if 0 <= position < len(self.texts.get(key, ())):
                yield key, position, gap

    def _overwriting(self, batch: Batch) -> Callable[[Any], None]:
        """Puts the reference's keys and values in place of what the candidate has cached since the last step."""
        length = wider = 0

        def overwrite(cache: Any) -> None:
            """From where the last step ended; CannotHandOver where the shapes differ."""
            nonlocal length, wider
            layers = layers_of(cache)
            count, *prefilled = self.spool.get(("layers", batch.index)).tolist()
            if len(layers) != count:
                raise CannotHandOver(f"its KV cache has {len(layers)} layers, the reference's {count}: no handing over")
            end = int(layers[0].get_seq_length())
            if not length:  # prompts may be padded to another width, on their left
                wider = end - prefilled[0]
                length = max(wider, 0)
            rounding = getattr(cache, "rounding", None) or (lambda states: states)
            for n, layer in enumerate(layers):
                for name, states in (("keys", layer.keys), ("values", layer.values)):
                    theirs = self.spool.get((name, batch.index, n))
                    shapes = [tuple(t.shape[i] for i in (0, 1, 3)) for t in (states, theirs)]
                    if shapes[0] != shapes[1]:
                        sizes = " x ".join(map(str, shapes[0][1:])), " x ".join(map(str, shapes[1][1:]))
                        raise CannotHandOver(f"its KV cache is {sizes[0]} (heads x size), the reference's {sizes[1]}")
                    handed = theirs[:, :, length - wider : end - wider].to(states.device, states.dtype)
                    states[:, :, length:end] = rounding(handed)
            length = end

        return overwrite


class CannotHandOver(VariantError):
    """A KV cache that another's keys and values do not fit into, or that does not hold them as they are."""


def layers_of(cache: Any) -> list[Any]:
    """A cache's layers, which hold plain keys and values [rows, heads, tokens, size] of every token.

    Raises:
        CannotHandOver: there is no cache, or it is of another kind.
    """
    if cache is None:
        raise CannotHandOver("there is no KV cache to hand over (use_cache=false, or a model without one)")
    layers = list(getattr(cache, "layers", ()))
    other = [type(layer).__name__ for layer in layers if type(layer) not in PLAIN_LAYERS]
    if other or not layers or getattr(cache, "offloading", False):
        kind = other[0] if other else type(cache).__name__
        raise CannotHandOver(f"its KV cache cannot be handed over: {kind} is not plain keys and values of every token")
    return layers
