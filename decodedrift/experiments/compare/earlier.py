"""A job's reference as an earlier run has it: its texts, and its logits bit for bit where that run kept them.

Where it did not, the reference reads its texts again, which gives the logits of every position in the layout `forced`.
What it chose its tokens by is then computed from these, as nobody has the scores of the pass that wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from decodedrift.core.formats import path_of
from decodedrift.core.records import InputError, Key, Trace
from decodedrift.decoding.choosers import ScoreLog
from decodedrift.decoding.penalties import along, scored
from decodedrift.decoding.preferences import Preferences
from decodedrift.decoding.strategies.base import kind_of
from decodedrift.decoding.warping import warp
from decodedrift.measure.bench import Bench
from decodedrift.measure.kept import Damaged, Kept
from decodedrift.measure.passes import Pass, Passage, See, nll
from decodedrift.measure.tables import FORCED, JobResult
from decodedrift.models.load import Loaded
from decodedrift.runs.earlier import OPTION, kept_file
from decodedrift.runs.places import KEPT, where
from decodedrift.runs.runfolder import open_stored
from decodedrift.runs.tablefiles import read_tables

WRITTEN = ("logprob_sum", "perplexity_self", "min_margin", "nonfinite")  # of the pass that wrote a text


def file_to_keep(bench: Bench, spill: str | None) -> Path | None:
    """Where a job's reference is to be kept, if it is.

    Raises:
        InputError: there is no run folder.
    """
    plan: Any = bench.plan
    if not plan.keep_logits:
        return None
    if spill is None:
        raise InputError("--keep-logits keeps them in the run's folder: name one with --out")
    return Path(spill) / KEPT / kept_file(plan, bench.job)


def earlier_of(bench: Bench) -> Earlier | None:
    """What an earlier run has of a job's reference; None of a text that it did not read, or where none is named.

    Raises:
        InputError: it has not what is needed.
    """
    plan: Any = bench.plan
    if (folder := plan.reference_run) is None:
        return None
    stored = open_stored(folder)
    size = stored.environment["generation"]["batch_size"]
    if plan.batch_size != size:
        raise InputError(
            f"{OPTION} {folder}: batches of {size} do not fit the memory here, and others would move the reference; "
            "raise --memory, or leave it out"
        )
    facts = stored.environment.get("variants", {}).get(stored.plan["reference"]["name"], {})
    path = where(path_of(folder), KEPT) / kept_file(plan, bench.job)
    if stored.plan.get("keep_logits") and path.is_file():
        return Earlier(bench, facts, Kept(path))
    if not bench.job.prompts:
        return None
    if stored.plan.get("keep_logits"):
        raise Damaged(f"{path}: missing; put it back, or make that run again")
    traces = read_tables(path_of(folder), ["traces"])["traces"]
    traces = traces[(traces["role"] == "reference") & traces["prompt_id"].isin([p.id for p in bench.job.prompts])]
    rows = {Key(row["strategy"], int(row["seed"]), row["prompt_id"]): row for row in traces.to_dict("records")}
    limits = bench.limits
    why = "its own settings choose its tokens" if bench.world.side(plan.reference.name).settings else ""
    if any(row["n_tokens"] > limits.get(key.prompt_id, row["n_tokens"]) for key, row in rows.items()):
        why = "its texts are longer than what can be read again"
    if why:
        raise InputError(f"{OPTION} {folder}: {why}; make that run again with --keep-logits")
    return Earlier(bench, facts, None, rows)


@dataclass
class Earlier:
    """facts: what was read back of the reference there. rows: of its traces, where its logits were not kept."""

    bench: Bench
    facts: Mapping[str, Any]
    kept: Kept | None
    rows: Mapping[Key, Mapping[str, Any]] | None = None

    def restore(self, model: Loaded, reference: Pass) -> None:
        """The reference's texts, with all that is kept of the pass that wrote them."""
        for name, value in self.facts.items():
            model.facts.setdefault(name, value)
        if self.kept:
            self.kept.lend(self.bench.spool)
            if self.bench.job.prompts:
                self.kept.restore(reference, self.bench.world.prompts)
        for key, row in (self.rows or {}).items():
            ids = () if pd.isna(row["token_ids"]) else tuple(map(int, row["token_ids"].split()))
            margin, broken = float(row["min_margin"]), int(row["nonfinite"])
            reference.traces[key] = Trace(
                key.prompt_id, key.strategy, key.seed, ids, (), (), row["finish"], broken, margin
            )
            reference.layout = FORCED

    def scoring(self, reference: Pass, see: See) -> See:
        """Who looks on while the reference reads: where no scores are kept they are taken from the reading."""
        if self.rows is None:
            return see

        def look(passage: Passage, logits: Tensor, preferences: Preferences | None) -> None:
            self.score(reference, passage, logits, preferences)
            see(passage, logits, preferences)

        return look

    def score(self, reference: Pass, passage: Passage, logits: Tensor, preferences: Preferences | None) -> None:
        """One text's scores, as its reading has them: of the token that it took, and of every other."""
        assert passage.strategy is not None
        key, strategy, tokens = passage.key, passage.strategy, passage.reading.continuation
        context = self.bench.world.prompts[key.prompt_id]
        margins: tuple[float, ...] = (math.nan,) * (0 if strategy.searches else len(tokens))
        if not strategy.searches:
            log = ScoreLog([], [], logits[range(len(tokens)), list(tokens)].double().tolist(), context)
            chosen: list[float] = []
            if preferences is not None:
                chosen = preferences.text_score.tolist()
                margins = tuple((preferences.scores[:, 0] - preferences.scores[:, 1]).tolist())
                self._note_all(log, passage, logits)
            reference.generated.logs[key], reference.generated.scores[key] = log, (chosen, [])
        losses = tuple((-nll(logits, tokens)).tolist())
        reference.traces[key] = replace(reference.traces[key], logprobs=losses, margins=margins)

    def _note_all(self, log: ScoreLog, passage: Passage, logits: Tensor) -> None:
        """The scores of every token at each position, as `ScoreLog` has them."""
        strategy, (_, seed, prompt_id) = passage.strategy, passage.key
        assert strategy is not None
        tokens = passage.reading.continuation
        said = along(log.context, tokens, logits.device) if strategy.penalised else None
        if kind_of(strategy).allowed is None:
            name = ("scores", self.bench.plan.reference.name, passage.key)
            self.bench.spool.put(name, scored(logits, strategy, said))
            log.logits = self.bench.spool.get(name)
            return
        clean = torch.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=-math.inf)
        for t in range(len(tokens)):
            allowed = warp(clean[t : t + 1], strategy, None if said is None else said[t : t + 1])
            scores = allowed.scores(strategy, [(seed, prompt_id, t)], logits.shape[-1])
            log.allowed.append((allowed.ids[0].cpu(), scores[0].cpu()))

    def as_written(self, result: JobResult) -> None:
        """Puts back, of texts that were read again, what the pass that wrote them came to."""
        for row in result.rows["traces"] if self.rows else ():
            if row["role"] == "reference":
                there = self.rows[Key(row["strategy"], row["seed"], row["prompt_id"])]  # type: ignore[index]
                row |= {name: there[name] for name in WRITTEN}
