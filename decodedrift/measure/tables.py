"""What a job leaves: tidy rows, with one explicit column order and type per table (docs/metrics.md, "The tables")."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from decodedrift.measure.formattables import FORMAT_TABLES
from decodedrift.measure.metrics import TOKEN_METRICS, TRACE_METRICS
from decodedrift.measure.metrics.base import INTEGERS
from decodedrift.measure.traintables import TRAIN_TABLES
from decodedrift.numerics.ratios import BANDS

# facts of which the largest of all jobs counts
LARGEST = ("batch_size", "cut_ids", "cut_reference_mass", "cut_candidate_mass")
CELL = ["model", "reference", "candidate", "role", "strategy"]
KEYS = [*CELL, "seed", "prompt_id"]
REPEATED = ["model", "variant", "vary", "strategy"]
CONTROLS = ("self", "floor")  # roles of what is held against itself
TOKEN_CAUSES = ("near_tie", "draw", "shift", "truncation")  # of a divergence of two tokens that both sides chose
LAYOUTS = DECODED, FORCED, STEPPED = "decoded", "forced", "stepped"  # how the logits of a distance were computed
PARTS = ("positions", "alternatives", "recorded", "steps")  # too long for CSV: a folder of Parquet parts
UNFOLDED = ("alternatives",)  # no mean is made of it and it is the longest: read only by who asks
_EMPTY: dict[Any, pd.DataFrame] = {}
TEXTS = pd.StringDtype("python", na_value=np.nan)  # pandas' default, Arrow, cannot hold a lone surrogate

WORDS = {  # columns from which a text could be read; what --no-text leaves empty
    "prompt", "text", "token_ids", "token_id", "token", "reference_token_id", "candidate_token_id", "cast_token_id",
    "reference_token", "candidate_token", "original_token_id", "injected_token_id", "expected", "reference_answer",
    "candidate_answer",
}  # fmt: skip

TABLES: dict[str, dict[str, str]] = {
    "traces": {
        **dict.fromkeys(["model", "variant", "role", "strategy"], "str"), "seed": INTEGERS, "prompt_id": "str",
        "prompt": "str", "tags": "str", "text": "str", "token_ids": "str", "n_tokens": INTEGERS, "finish": "str",
        "logprob_sum": "float64", "perplexity_self": "float64", "perplexity_judge": "float64",
        "min_margin": "float64", "nonfinite": INTEGERS,
    },
    "divergences": {
        **dict.fromkeys(CELL, "str"), "seed": INTEGERS, "prompt_id": "str",
        **{name: metric.column for name, metric in TRACE_METRICS.items() if not metric.after},
        "reference_token_id": INTEGERS, "candidate_token_id": INTEGERS, "reference_token": "str",
        "candidate_token": "str", "reference_margin": "float64", "candidate_margin": "float64",
        "reference_gap": "float64", "candidate_gap": "float64", "swing": "float64", "logprob_gap": "float64",
        "gap_over_error": "float64", "gap_ulps": "float64", "layout": "str", "cause": "str",
        "at_end": INTEGERS, "search_error": INTEGERS,
        **{name: metric.column for name, metric in TRACE_METRICS.items() if metric.after}, "nonfinite": INTEGERS,
    },
    "positions": {
        **dict.fromkeys(CELL, "str"), "seed": INTEGERS, "prompt_id": "str", "position": INTEGERS,
        "token_id": INTEGERS, "token": "str", "layout": "str",
        **{name: metric.column for name, metric in TOKEN_METRICS.items()},
    },
    "alternatives": {
        **dict.fromkeys(CELL, "str"), "seed": INTEGERS, "prompt_id": "str", "position": INTEGERS, "variant": "str",
        "pass": "str", "rank": INTEGERS, "token_id": INTEGERS, "logprob": "float64",
    },
    "judged": {
        **dict.fromkeys(CELL, "str"), "seed": INTEGERS, "prompt_id": "str", "tokens": INTEGERS,
        "sequence_logratio": "float64", "logratio_square": "float64", "k3": "float64",
        **dict.fromkeys((f"ratio_out_{band}" for band in BANDS), INTEGERS),
        "difr": "float64", "difr_tokens": INTEGERS,
    },
    "recorded": {
        **dict.fromkeys(CELL, "str"), "seed": INTEGERS, "prompt_id": "str", "position": INTEGERS,
        "token_id": INTEGERS, "token": "str", "gap": "float64", "rank": INTEGERS, "nll_reference": "float64",
        "cast_token_id": INTEGERS, "cast_gap": "float64", "nll_cast": "float64", "logprob": "float64",
        "shown": INTEGERS, "kl_shown": "float64", "missing_reference": "float64", "missing_candidate": "float64",
    },
    "checks": {
        **dict.fromkeys(CELL, "str"), "seed": INTEGERS, "prompt_id": "str",
        **dict.fromkeys(["expected", "reference_answer", "candidate_answer"], "str"),
        "reference_right": INTEGERS, "candidate_right": INTEGERS, "flip": "str", "diverged": INTEGERS,
    },
    "injection": {
        **dict.fromkeys(CELL, "str"), "seed": INTEGERS, "prompt_id": "str", "position": INTEGERS,
        "original_token_id": INTEGERS, "injected_token_id": INTEGERS, "recovered": INTEGERS,
        "recovery_lag": INTEGERS, "agreement": "float64", "trajectory_share": "float64",
        "distance_injected": INTEGERS, "distance_reference": INTEGERS, "second_divergence": INTEGERS,
        "second_compared": INTEGERS, "token_ids": "str",
    },
    "steps": {
        **dict.fromkeys(CELL, "str"), "seed": INTEGERS, "prompt_id": "str", "position": INTEGERS,
        "e0": "float64", "e1": "float64", "kl_reference_text": "float64", "kl_candidate_text": "float64",
        "after": INTEGERS,
    },
    "layers": {
        **dict.fromkeys(CELL, "str"), "seed": INTEGERS, "prompt_id": "str", "depth": INTEGERS, "module": "str",
        "tokens": INTEGERS, "error_square": "float64", "reference_square": "float64", "error_max": "float64",
        "first_module": "str",
    },
    "repeats": {
        **dict.fromkeys(REPEATED, "str"), "seed": INTEGERS, "prompt_id": "str", "run": INTEGERS, "setting": "str",
        "unique_id": INTEGERS, "first_divergence": INTEGERS, "n_tokens": INTEGERS, "finish": "str", "loop": INTEGERS,
        "logits": "str", "right": INTEGERS, "text": "str", "token_ids": "str", "compared_by": "str",
    },
    "spread": {
        **dict.fromkeys(REPEATED, "str"), "seed": INTEGERS, "prompt_id": "str", "positions": INTEGERS,
        "top1_prob_std": "float64", "noise_square": "float64", "error_square": "float64",
    },
    "routing": {
        **dict.fromkeys([*CELL, "layer"], "str"), **dict.fromkeys(["experts", "chosen", "tokens"], INTEGERS),
        **dict.fromkeys(
            ["changed", "agreement", "margin", "margin_changed", "error", "within_error", "kl", "kl_replayed",
             "routing_ratio"], "float64",
        ),
    },
    **TRAIN_TABLES,
    **FORMAT_TABLES,
    "tokens": {"token_id": INTEGERS, "token": "str", "bytes": "str"},
    "timings": {
        "job": "str", "variant": "str", "strategy": "str", "phase": "str", "seconds": "float64", "tokens": INTEGERS,
    },
    "failures": {
        **dict.fromkeys(["model", "variant", "strategy"], "str"), "seed": INTEGERS, "prompt_id": "str",
        "stage": "str", "status": "str", "error": "str",
    },
}  # fmt: skip


@dataclass
class JobResult:
    """The rows of one finished job.

    rows: by table, dicts, or ready frames where there are many. batch_size: the plan's batch size as it had to be
    lowered for this job, None where it was not. path: how sequences were read, and why (`probe.Route.facts`).
    """

    key: str
    rows: dict[str, list[Any]] = field(default_factory=lambda: {table: [] for table in TABLES})
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch_size: int | None = None
    path: dict[str, Any] = field(default_factory=dict)
    spilled_bytes: int = 0

    def timed(self, variant: str, strategy: str, phase: str, begin: float, tokens: int) -> None:
        """One row of timings, from a `time.perf_counter()` taken at the beginning."""
        seconds = time.perf_counter() - begin
        row = {"variant": variant, "strategy": strategy, "phase": phase, "seconds": seconds, "tokens": tokens}
        self.rows["timings"].append({"job": self.key} | row)

    def fail(
        self, model: str, variant: str, stage: str, status: str, error: str, strategy: str = "", prompt_id: str = ""
    ) -> None:
        """One row of failures."""
        row = {"model": model, "variant": variant, "strategy": strategy, "prompt_id": prompt_id or None}
        self.rows["failures"].append(row | {"stage": stage, "status": status, "error": error})

    def frame(self, table: str) -> pd.DataFrame:
        """One table of this job, typed.

        Raises:
            ValueError: a row has a key that is no column; what it says would be lost.
        """
        rows = self.rows[table]
        if unknown := {key for row in rows for key in row} - set(TABLES[table]):
            raise ValueError(f"{table}: no column for {sorted(unknown)}; choices: {', '.join(TABLES[table])}")
        if not rows:
            return empty(table)
        if isinstance(rows[0], pd.DataFrame):
            return typed(pd.concat(rows, ignore_index=True), table)
        columns = {c: pd.Series([row.get(c) for row in rows], dtype="object") for c in TABLES[table]}
        return typed(pd.DataFrame(columns), table)


def token_rows(result: JobResult, vocab: Any, injected: bool = False) -> list[dict[str, Any]]:
    """Text and bytes of every token id in a job's traces and alternatives, for readers without the tokenizer.

    injected: those of the texts that went on from a replaced token too.
    """
    rows = [*result.rows["traces"], *result.rows["repeats"], *(result.rows["injection"] if injected else ())]
    met = {int(i) for row in rows for i in row["token_ids"].split()}
    for part in result.rows["alternatives"]:
        met.update(part["token_id"].tolist())
    return [{"token_id": i, "token": vocab.token(i), "bytes": vocab.token_bytes(i).hex(" ")} for i in sorted(met)]


@dataclass
class Gathered:
    """The jobs of a run put together: every table, and what was read back of each variant.

    batch_sizes: by job, where one was lowered. path: how all jobs read their sequences. spilled_bytes: of logits that
    waited in files, over all jobs.
    """

    frames: dict[str, pd.DataFrame]
    facts: dict[str, Any] = field(default_factory=dict)
    batch_sizes: dict[str, int] = field(default_factory=dict)
    path: dict[str, Any] = field(default_factory=dict)
    spilled_bytes: int = 0

    def note(
        self, key: str, facts: Mapping[str, Any], batch_size: int | None, path: Mapping[str, Any], spilled_bytes: int
    ) -> None:
        """Takes in what one job says beside its rows."""
        for name, latest in facts.items():
            before = self.facts.get(name, {})
            self.facts[name] = latest | {c: max(before[c], latest.get(c, 0.0)) for c in LARGEST if c in before}
            if "breaks" in before:  # the first job that met it has looked
                self.facts[name]["breaks"] = before["breaks"]
            if "idle_knobs" in before and "idle_knobs" in latest:  # one that engaged in any job did
                self.facts[name]["idle_knobs"] = [k for k in latest["idle_knobs"] if k in before["idle_knobs"]]
        self.path |= path
        self.spilled_bytes += spilled_bytes
        if batch_size is not None:
            self.batch_sizes[key] = batch_size

    def variants(self) -> dict[str, Any]:
        """The facts by variant, each with how many times its weights were loaded in these jobs, and in what time."""
        rows = self.frames["timings"]
        loads = rows[rows["phase"] == "load"].groupby("variant")["seconds"]
        count, seconds = loads.count().to_dict(), loads.sum().to_dict()
        return {
            name: facts | {"loads": count.get(name, 0), "load_seconds": seconds.get(name, 0.0)}
            for name, facts in self.facts.items()
        }


def gathered(results: Sequence[JobResult]) -> Gathered:
    """Jobs that were kept in memory."""
    whole = Gathered({t: joined((r.frame(t) for r in results), t) for t in TABLES})
    for result in results:
        whole.note(result.key, result.facts, result.batch_size, result.path, result.spilled_bytes)
    return whole


def joined(parts: Iterable[pd.DataFrame], table: str) -> pd.DataFrame:
    """Parts as one table; empty ones are left out, whose columns would only unsettle the types."""
    filled = [p for p in parts if len(p)]
    return pd.concat(filled, ignore_index=True) if filled else empty(table)


FOLD_TEXTS = (
    "model", "reference", "candidate", "role", "strategy", "bucket", "variant", "text", "other", "compounding_note",
    "growth_note", "layout", "law", "flip_note", "strategies", "wording", "wording_note", "quality", "quality_note",
    "module", "first_module", "answers", "answers_note", "convention", "vary", "prompt_id", "compared_by",
    "recorded_in", "rounding", "rounding_note", "gap_max_prompt", "cast_gap_max_prompt", "arm", "held_against",
    "what", "tensor", "kind", "format", "added_in", "overflow_at", "flushed_at", "headroom_at",
)  # fmt: skip


def of_one_layout(positions: pd.DataFrame) -> pd.DataFrame:
    """The positions as they are, for a fold: distances of two layouts are never averaged.

    Rows of runs before there was a `layout` are forced.

    Raises:
        ValueError: a candidate and strategy has rows of several layouts.
    """
    if positions["layout"].nunique() > 1:
        layouts = positions["layout"].fillna(FORCED).groupby([positions[c] for c in CELL], sort=False)
        for key, names in layouts.unique().items():
            if len(names) > 1:
                raise ValueError(f"{key[2]} {key[4]}: a fold is over one layout, not over {' and '.join(names)}")
    return positions


def layout_of(cell: pd.DataFrame) -> str | None:
    """How the logits of a cell's positions were read; None without positions."""
    return str(cell["layout"].fillna(FORCED).iloc[0]) if len(cell) else None


TEXTS_OF = {"answer": ("texts",)}  # columns of one fold that are numbers elsewhere


def fold(rows: list[dict[str, Any]], columns: list[str] | None = None, name: str = "") -> pd.DataFrame:
    """The rows of a fold as a frame: texts are texts, the rest numbers. name: of the fold, where TEXTS_OF has it."""
    frame = pd.DataFrame({c: [row.get(c) for row in rows] for c in columns or (rows[0] if rows else FOLD_TEXTS[:5])})
    for column in frame.columns:
        if column in FOLD_TEXTS or column in TEXTS_OF.get(name, ()):
            frame[column] = frame[column].astype(TEXTS)
        elif frame[column].dtype == "object":
            frame[column] = frame[column].astype("float64")
    return frame


def typed(frame: pd.DataFrame, table: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table's columns, or some of them, in order with their types; absent ones are made empty."""
    series = {}
    for name in columns or TABLES[table]:
        kind = TABLES[table][name]
        values = frame[name] if name in frame else pd.Series([None] * len(frame), dtype="object")
        if kind == INTEGERS:
            values = pd.to_numeric(values)
        series[name] = values.astype({"str": TEXTS}.get(kind, kind))
    return pd.DataFrame(series, columns=list(series), copy=False)


def empty(table: str) -> pd.DataFrame:
    """A table without rows, typed once in a process: most tables of a job are."""
    key = (table, *TABLES[table].items())
    if key not in _EMPTY:
        _EMPTY[key] = typed(pd.DataFrame(), table)
    return _EMPTY[key].copy()
