"""checks.csv: each text of a prompt that has an answer, right or wrong on both sides, and what became of the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from decodedrift.core.records import Key, Trace
from decodedrift.measure.bench import Bench
from decodedrift.measure.checks import Check, Judged, UndecidedError
from decodedrift.measure.passes import Pass

LOST, WON, OTHER, SAME = "right_to_wrong", "wrong_to_right", "wrong_to_wrong", "same"


def flip(reference: Judged, candidate: Judged) -> str:
    """What became of an answer: lost, won, another wrong one, or the same as before."""
    if reference.right != candidate.right:
        return LOST if reference.right else WON
    return OTHER if not reference.right and reference.given != candidate.given else SAME


def check(bench: Bench, reference: Pass, sides: Sequence[Pass]) -> None:
    """Adds the rows of a job: one for each trace of a candidate whose prompt has an answer.

    Neither side is judged where the reference broke, whose text is not all it would have written.
    """
    plan: Any = bench.plan
    check, answers = plan.answers_by, {p.id: p.answer for p in bench.job.prompts if p.answer is not None}
    if check is None or not answers:
        return
    parted = {
        (row["candidate"], Key(row["strategy"], row["seed"], row["prompt_id"])): row["diverged"]
        for row in bench.result.rows["divergences"] if row["role"] == "candidate"
    }  # fmt: skip
    judge = _judge(bench, check, answers)
    for side in (side for side in sides if side.role == "candidate"):
        for key, trace in side.traces.items():
            if key.prompt_id not in answers:
                continue
            pair = [judge(reference.name, ours := reference.traces[key]), judge(side.name, trace)]
            told = None not in pair and ours.finish != "nonfinite" and trace.finish != "screened"
            bench.result.rows["checks"].append(
                {"model": plan.model, "reference": reference.name, "candidate": side.name, "role": side.role}
                | key._asdict()
                | {"expected": answers[key.prompt_id], "diverged": parted[side.name, key]}
                | (_told(*pair) if told else {})  # type: ignore[arg-type]
            )


def _told(reference: Judged, candidate: Judged) -> dict[str, Any]:
    return {
        "reference_answer": reference.given, "candidate_answer": candidate.given,
        "reference_right": int(reference.right), "candidate_right": int(candidate.right),
        "flip": flip(reference, candidate),
    }  # fmt: skip


def _judge(bench: Bench, check: Check, answers: dict[str, Any]) -> Callable[[str, Trace], Judged | None]:
    """A text's judgement; equal texts of a prompt are judged once, and none of a prompt on which the check failed."""
    judged: dict[tuple[str, str], Judged] = {}
    failed: set[str] = set()

    def judge(variant: str, trace: Trace) -> Judged | None:
        name, text = trace.prompt_id, bench.world.vocab.words(trace.token_ids)
        if (name, text) not in judged and name not in failed:
            try:
                judged[name, text] = check(text, answers[name])
            except UndecidedError as error:
                failed.add(name)
                bench.result.fail(bench.plan.model, variant, "check", "failed", str(error), trace.strategy, name)
        return None if name in failed else judged[name, text]

    return judge
