"""Local, state and path error of one job (`--decompose`): when each part is read, and the rows of `steps/`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from decodedrift.core.records import Key
from decodedrift.decoding.tops import CHUNK
from decodedrift.experiments.compare.handover import Handover
from decodedrift.experiments.compare.judging import parts
from decodedrift.measure.divergence import comparable
from decodedrift.measure.metrics.token import LogitPair, kl
from decodedrift.measure.passes import Pass, Passage, keyed
from decodedrift.models.load import Loaded
from decodedrift.models.precisions.floating import NAMES
from decodedrift.numerics import sequences

if TYPE_CHECKING:
    from decodedrift.experiments.compare.job import JobRun


@dataclass
class Decomposition:
    """One job's parts of the error.

    handover: None where the reference's KV cache cannot be handed over; the path is measured all the same.
    """

    run: JobRun
    handover: Handover | None = None
    errors: dict[str, dict[Key, dict[str, np.ndarray]]] = field(default_factory=dict)
    read_own: set[tuple[str, Key]] = field(default_factory=set)
    path: dict[tuple[str, Key], np.ndarray] = field(default_factory=dict)

    def record(self, reference: Loaded) -> None:
        """The reference reads its texts step by step."""
        run = self.run
        texts = {key: trace.token_ids for key, trace in run.reference.traces.items()}
        prompts = {p.id: run.world.prompts[p.id] for p in run.order}
        made = Handover(
            run.spool, run.world.vocab, prompts, run.groups(), texts, run.size(run.plan.reference), run.progress.tick
        )
        with self.timed(reference.variant.name, 1):
            made.record(reference)
        self.handover = made

    def read(self, model: Loaded, done: Pass) -> None:
        """A candidate reads its own text, for the path, and the reference's on either cache."""
        size = self.run.size(self.run.plan.reference)
        for group in parts(self.run, done):
            if not all(self.run.reference.wrote(p) for p in group):
                for passage, logits in self.run.forced(model, group, size):
                    self.run.spool.put(("own", done.name, passage.key), logits)
                    self.read_own.add((done.name, passage.key))
        if self.handover is not None:
            with self.timed(done.name, 2):
                self.errors[done.name] = self.handover.errors(model)

    @contextmanager
    def timed(self, name: str, passes: int) -> Iterator[None]:
        """Passes over the reference's texts, step by step, as one phase."""
        begin, texts = time.perf_counter(), self.run.reference.traces.values()
        tokens = passes * sum(len(t.token_ids) for t in texts)
        self.run.progress.start(name, "step by step", tokens)
        yield
        self.run.progress.stop()
        self.run.result.timed(name, "", "decompose", begin, tokens)

    def judged(self, done: Pass, passage: Passage, logits: Tensor) -> None:
        """KL(p_R||p_C) of both reading the candidate's text; `logits` are the reference's."""
        if done.role != "candidate" or (done.name, passage.key) not in self.read_own:
            return
        own = self.run.spool.get(("own", done.name, passage.key)).to(logits.device)
        tokens = torch.tensor(passage.reading.continuation, device=logits.device)
        pair = LogitPair(logits, own, tokens, NAMES[own.dtype])
        parts = [kl(pair.rows(t, min(t + CHUNK, len(tokens)))).cpu() for t in range(0, len(tokens), CHUNK)]
        self.path[done.name, passage.key] = torch.cat(parts).numpy()

    def rows(self, done: Pass) -> None:
        """Adds a finished candidate's rows to the job's result; a part that failed leaves its columns empty."""
        if done.role != "candidate":
            return
        strategies = {s.label: s for s, _ in self.run.plan.cells}
        pair = {"model": self.run.plan.model, "reference": self.run.reference.name, "candidate": done.name}
        for key, frame in done.positions.items():
            if key not in done.traces:
                continue
            reference, own = self.run.reference.traces[key], done.traces[key]
            ours, its = reference.token_ids, own.token_ids
            kl_shared = frame["kl"].to_numpy(float)
            kl_own = kl_shared if ours == its else self.path.get((done.name, key), np.empty(0))
            same = comparable(reference, own, strategies[key.strategy])
            parted = None if same is None else sequences.first_divergence(ours, same)
            n = max(len(ours), len(its))
            columns: dict[str, Any] = {"position": np.arange(n)}
            errors = self.errors.get(done.name, {}).get(key, {})
            columns |= {name: _padded(errors.get(name, np.empty(0)), n) for name in ("e0", "e1")}
            columns |= {"kl_reference_text": _padded(kl_shared, n), "kl_candidate_text": _padded(kl_own, n)}
            columns["after"] = (np.arange(n) > (n if parted is None else parted)).astype(int)
            named = pair | {"role": done.role} | key._asdict()
            self.run.result.steps.append(keyed(named, pd.DataFrame(columns)))


def begun(run: JobRun, reference: Loaded) -> Decomposition:
    """The reference's part; where its cache cannot be handed over that is a failure of this part alone."""
    made = Decomposition(run)
    with run.guarded(reference.variant.name, "decompose"):
        made.record(reference)
    return made


def _padded(values: np.ndarray, n: int) -> np.ndarray:
    return np.concatenate([values, np.full(n - len(values), np.nan)])
