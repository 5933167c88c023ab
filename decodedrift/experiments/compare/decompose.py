"""Local, state and path error of one job (`--decompose`): when each part is read, and the rows of `steps/`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decodedrift.core.records import Key, Variant
from decodedrift.decoding.tops import CHUNK
from decodedrift.experiments.compare.handover import Handover
from decodedrift.measure.bench import Bench
from decodedrift.measure.divergence import comparable
from decodedrift.measure.metrics.token import LogitPair, kl
from decodedrift.measure.passes import Pass, Passage
from decodedrift.measure.stacked import Part, stacked
from decodedrift.models.knobs import unread
from decodedrift.models.load import Loaded
from decodedrift.models.precisions.floating import NAMES
from decodedrift.numerics import sequences


@dataclass
class Decomposition:
    """One job's parts of the error.

    handover: None where the reference could not read its texts step by step; the path is measured all the same.
    """

    bench: Bench
    reference: Pass
    handover: Handover | None = None
    errors: dict[str, dict[Key, dict[str, np.ndarray]]] = field(default_factory=dict)
    read_own: set[tuple[str, Key]] = field(default_factory=set)
    path: dict[tuple[str, Key], np.ndarray] = field(default_factory=dict)

    def record(self, reference: Loaded) -> None:
        """The reference reads its texts step by step."""
        bench = self.bench
        texts = {key: trace.token_ids for key, trace in self.reference.traces.items()}
        prompts = {p.id: bench.world.prompts[p.id] for p in bench.order}
        handover = Handover(
            bench.spool,
            bench.world.vocab,
            prompts,
            bench.groups(),
            texts,
            bench.size(self.reference.variant),
            bench.progress.tick,
        )
        with self.timed(reference.variant.name, 1):
            handover.record(_apart(reference))
        self.handover = handover
        self.refuse(reference, handover.refusal)

    def read(self, model: Loaded, candidate: Pass) -> None:
        """A candidate reads its own text, for the path, and the reference's on either cache."""
        size = self.bench.size(self.reference.variant)
        for group in self.bench.continuations(candidate):
            if not all(self.reference.wrote(p) for p in group):
                for passage, logits in self.bench.logits(model, group, size):
                    self.bench.spool.put(("own", candidate.name, passage.key), logits)
                    self.read_own.add((candidate.name, passage.key))
        if self.handover is not None:
            with self.timed(candidate.name, 2):
                self.errors[candidate.name], refusal = self.handover.errors(_apart(model))
            self.refuse(model, "" if self.handover.refusal else refusal)

    def refuse(self, model: Loaded, why: str) -> None:
        """Tells why a variant has no e0: a fact where its own knobs leave nothing to hand over, else a failure."""
        turned = unread(model.variant, Variant("", model.variant.precision))
        if why and turned:
            model.facts["no_local_error"] = why
        elif why:
            self.bench.result.fail(self.bench.plan.model, model.variant.name, "decompose", "failed", why)

    @contextmanager
    def timed(self, name: str, passes: int) -> Iterator[None]:
        """Passes over the reference's texts, step by step, as one phase."""
        begin, texts = time.perf_counter(), self.reference.traces.values()
        tokens = passes * sum(len(t.token_ids) for t in texts)
        self.bench.progress.start(name, "step by step", tokens)
        yield
        self.bench.progress.stop()
        self.bench.result.timed(name, "", "decompose", begin, tokens)

    def judge(self, candidate: Pass, passage: Passage, logits: Tensor) -> None:
        """KL(p_R||p_C) of both reading the candidate's text; `logits` are the reference's."""
        if candidate.role != "candidate" or (candidate.name, passage.key) not in self.read_own:
            return
        own_logits = self.bench.spool.get(("own", candidate.name, passage.key)).to(logits.device)
        tokens = torch.tensor(passage.reading.continuation, device=logits.device)
        pair = LogitPair(logits, own_logits, tokens, NAMES[own_logits.dtype])
        parts = [kl(pair.rows(t, min(t + CHUNK, len(tokens)))).cpu() for t in range(0, len(tokens), CHUNK)]
        self.path[candidate.name, passage.key] = torch.cat(parts).numpy()

    def rows(self, candidate: Pass) -> None:
        """Adds a finished candidate's rows to the job's result; a part that failed leaves its columns empty."""
        if candidate.role != "candidate":
            return
        strategies = {s.label: s for s, _ in self.bench.plan.cells}
        pair = {"model": self.bench.plan.model, "reference": self.reference.name, "candidate": candidate.name}
        parts: list[Part] = []
        for key, frame in candidate.positions.items():
            if key not in candidate.traces:
                continue
            reference, trace = self.reference.traces[key], candidate.traces[key]
            ours, its = reference.token_ids, trace.token_ids
            kl_shared = frame["kl"].to_numpy(float)
            kl_own = kl_shared if ours == its else self.path.get((candidate.name, key), np.empty(0))
            same = comparable(reference, trace, strategies[key.strategy])
            parted = None if same is None else sequences.first_divergence(ours, same)
            n = max(len(ours), len(its))
            columns: dict[str, Any] = {"position": np.arange(n)}
            errors = self.errors.get(candidate.name, {}).get(key, {})
            columns |= {name: _padded(errors.get(name, np.empty(0)), n) for name in ("e0", "e1")}
            columns |= {"kl_reference_text": _padded(kl_shared, n), "kl_candidate_text": _padded(kl_own, n)}
            columns["after"] = (np.arange(n) > (n if parted is None else parted)).astype(int)
            keys = pair | {"role": candidate.role} | key._asdict()
            parts.append((keys, columns))
        if parts:
            self.bench.result.rows["steps"].append(stacked(parts))


def _apart(model: Loaded) -> Loaded:
    """A variant in these readings, whose batches are the reference's: what they show is no fact of it."""
    return replace(model, facts={})


def _padded(values: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([values, np.full(n - len(values), np.nan)])
