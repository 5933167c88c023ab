"""What the arms became, compared in float32 on prompts: survival, KL, and the answer of `compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from decodedrift.core.progress import Progress
from decodedrift.core.records import Variant
from decodedrift.experiments.running import run
from decodedrift.experiments.train.arms import AGAIN, BUTTERFLY
from decodedrift.experiments.train.data import Material

RUN_AS = "fp32"
FIGURES = {  # column of compare's summary -> ours
    "traces": "texts", "diverged": "diverged", "divergence_rate": "divergence_rate",
    "first_divergence_median": "first_divergence_median", "kl_mean": "kl",
}  # fmt: skip
ANSWER = ("wording", "wording_note", "ppl_change", "ppl_change_low", "ppl_change_high", "quality", "quality_note")


class Within(Progress):
    """Of a run within a run: only the place to stop is passed on."""

    def __init__(self, outer: Progress) -> None:
        self.outer = outer

    def start(self, variant: str, what: str, tokens: int) -> None:
        """Shown as a phase of the outer run."""
        self.outer.start(variant, what, tokens)

    def tick(self, tokens: int) -> None:
        """Passed on."""
        self.outer.tick(tokens)

    def batch(self) -> None:
        """Passed on."""
        self.outer.batch()

    def stop(self) -> None:
        """Passed on."""
        self.outer.stop()


def compared(
    plan: Any, learnt: Material, saved: Mapping[str, Path], base: Path, folder: Path | None, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Columns of `arms` by arm, of the first strategy; empty where the reference arm or all others broke.

    Args:
        saved: folders by arm. base: the folder in which they are named by their place, so that the names hold where
            that is moved, or merged with others. folder: where the comparison is written; None keeps it in memory.
    """
    reference = plan.reference_label
    names = [name for name in saved if name not in (reference, AGAIN)]
    if reference not in saved or not names:
        return {}
    study = run(
        "compare",
        {
            "model": str(saved[reference]), "reference": as_fp32(reference, None),
            "candidates": [as_fp32(name, saved[name]) for name in names], "strategies": list(plan.strategies),
            "prompts": list(plan.prompts), "texts": list(learnt.held_out), "default_text": False,
            "max_new_tokens": plan.max_new_tokens, "chat_template": plan.chat_template, "ignore_eos": plan.ignore_eos,
            "device": plan.device, "threads": plan.threads, "memory_bytes": plan.memory_bytes,
            "no_text": plan.no_text, "trust_remote_code": plan.trust_remote_code,
        },
        out=folder, resume=folder is not None, progress=Within(progress), base=base,
    )  # fmt: skip
    return figures(study.summary, study.answer, study.perplexity, names)


def as_fp32(name: str, folder: Path | None) -> Variant:
    """An arm's checkpoint, run in float32 whatever it was trained in."""
    return Variant(name, RUN_AS, compute=RUN_AS, model=str(folder) if folder is not None else None)


def figures(
    summary: pd.DataFrame, answer: pd.DataFrame, perplexity: pd.DataFrame, names: list[str]
) -> dict[str, dict[str, Any]]:
    """What `compare` says of each arm, and its KL as a multiple of the butterfly's."""
    told: dict[str, dict[str, Any]] = {}
    for name in names:
        rows = summary[(summary["role"] == "candidate") & (summary["candidate"] == name)]
        words = answer[answer["candidate"] == name]
        row = {ours: rows[theirs].iloc[0] for theirs, ours in FIGURES.items()} if len(rows) else {}
        row |= {column: words[column].iloc[0] for column in ANSWER} if len(words) else {}
        told[name] = {key: None if pd.isna(value) else value for key, value in row.items()}
    if floor := told.get(BUTTERFLY, {}).get("kl"):
        for row in told.values():
            row["kl_floors"] = row["kl"] / floor if row.get("kl") is not None else None
    return told
