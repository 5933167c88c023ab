"""A run against an earlier one of the same: is any figure worse than the earlier run's interval allows?

Worse (docs/runs.md): a candidate's `divergence_rate` under a strategy above the upper end of the earlier one's 95 %
interval, its `kl_mean` likewise, or a word of the answer that is bad and was not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from decodedrift.core.records import InputError, shortened

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study

# what decides whether two runs ask the same; the model's name may be another path, its weights another version
SAME = (
    "experiment", "mode", "continued", "reference", "candidates", "strategies", "seeds", "max_new_tokens", "prompts",
    "texts", "answer_check", "equivalence", "coupling", "ignore_eos", "chat_template", "context", "stride",
    "convention",
)  # fmt: skip
UNMEASURED = "not measured"
BAD = {
    "wording": ("more than noise", "nonfinite", "not compared"),
    "quality": ("worse",),
    "answers": ("worse", UNMEASURED),
}


def worse(study: Study, earlier: Study) -> tuple[list[str], int]:
    """What is worse in the run than in the earlier one, a sentence each; and how many figures were held against it.

    Raises:
        InputError: the two cannot be compared; names what they differ in.
    """
    refuse_another(study, earlier)
    figures = [*_rows(study, earlier), *_words(study, earlier)]
    return [sentence for sentence in figures if sentence], len(figures)


def refuse_another(study: Study, earlier: Study) -> None:
    """Raises InputError where the plans ask for other things."""
    where = f"--baseline {earlier.path}"
    if not study.plan.get("candidates") or study.experiment.name != earlier.experiment.name:
        raise InputError(f"{where}: a run of {study.experiment.name} has no baseline; give two runs of compare")
    for name in SAME:
        ours, theirs = ({**study.plan}.get(name), {**earlier.plan}.get(name))
        if ours != theirs:
            raise InputError(f"{where}: not a run of the same: {name} {_shown(theirs)} there, {_shown(ours)} here")
    ours, theirs = (s.environment.get("metrics_version") for s in (study, earlier))
    if ours != theirs:
        raise InputError(f"{where}: its figures are of metrics version {theirs}, these of {ours}; run it again")


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        names = [str(v.get("label") or v.get("name") or v.get("id")) if isinstance(v, dict) else str(v) for v in value]
        return shortened(", ".join(names), 60)
    return shortened(value.get("name") if isinstance(value, dict) else value, 60)


def _rows(study: Study, earlier: Study) -> Iterator[str]:
    keys = ["candidate", "strategy"]
    now, then = (
        {tuple(str(row[k]) for k in keys): row for row in s.summary.to_dict("records") if row["role"] == "candidate"}
        for s in (study, earlier)
    )
    for cell, before in then.items():
        after = now.get(cell, {})
        for column in ("divergence_rate", "kl_mean"):
            high = before[f"{column}_high"]
            bound = before[column] if math.isnan(high) else high
            if math.isnan(bound):
                continue
            value = after.get(column, math.nan)
            fine = not math.isnan(value) and value <= bound
            yield (
                ""
                if fine
                else (f"{' '.join(cell)}: {column} is {value:.6g}, and was {before[column]:.6g} (up to {bound:.6g})")
            )


def _words(study: Study, earlier: Study) -> Iterator[str]:
    now, then = ({str(row["candidate"]): row for row in s.answer.to_dict("records")} for s in (study, earlier))
    for name, before in then.items():
        for column, bad in BAD.items():
            if before.get(column, UNMEASURED) == UNMEASURED and column == "answers":  # nothing that could get worse
                continue
            after = now[name].get(column, UNMEASURED)
            fine = after not in bad or before[column] in bad
            yield "" if fine else f"{name}: {column} is {after!r}, and was {before[column]!r}"
