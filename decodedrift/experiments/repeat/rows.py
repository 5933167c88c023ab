"""The completions of a prompt as rows: repeats.csv and spread.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from decodedrift.core.records import Key, Trace
from decodedrift.measure.bench import Bench
from decodedrift.measure.checks import UndecidedError
from decodedrift.numerics import sequences


@dataclass(frozen=True)
class Completion:
    """One run of a prompt. logits: the digest of what its tokens were chosen from. top: the probability of the first
    token at each position, float64 [T], empty for beams. setting: what was varied."""

    trace: Trace
    logits: str
    top: np.ndarray
    setting: str = ""

    def set(self, setting: str) -> Completion:
        """The same, under another setting."""
        return replace(self, setting=setting)


def write(bench: Bench, variant: str, completions: Mapping[tuple[str, Key], Sequence[Completion]]) -> None:
    """Rows of one variant's completions, in the order of the file."""
    place = {prompt.id: n for n, prompt in enumerate(bench.job.prompts)}
    labels = list(dict.fromkeys(label for label, _ in completions))
    for (label, key), several in sorted(
        completions.items(), key=lambda item: (labels.index(item[0][0]), place[item[0][1].prompt_id])
    ):
        keys = {"model": bench.plan.model, "variant": variant, "vary": label} | key._asdict()
        right = _right(bench, variant, key, several)
        made = zip(rows(several, bench.world.vocab), right, strict=True)
        bench.result.rows["repeats"] += [keys | row | {"right": flag} for row, flag in made]
        bench.result.rows["spread"].append(keys | spread(several))
        if broken := sum(each.trace.finish == "nonfinite" for each in several):
            text = f"{broken} of {len(several)} completions end at logits that are no numbers"
            bench.result.fail(bench.plan.model, variant, label, "nonfinite", text, key.strategy, key.prompt_id)


def rows(several: Sequence[Completion], vocab: Any) -> list[dict[str, Any]]:
    """A row per completion, without keys. unique_id: 0 for the first text, then in the order in which texts appear."""
    texts = [each.trace.token_ids for each in several]
    ids = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    return [
        {
            "run": n, "setting": each.setting, "unique_id": ids[each.trace.token_ids],
            "first_divergence": sequences.first_divergence(texts[0], each.trace.token_ids),
            "n_tokens": len(each.trace.token_ids), "finish": each.trace.finish,
            "loop": sequences.loop_period(each.trace.token_ids) or 0, "logits": each.logits,
            "text": vocab.decode(each.trace.token_ids), "token_ids": " ".join(map(str, each.trace.token_ids)),
        }
        for n, each in enumerate(several)
    ]  # fmt: skip


def spread(several: Sequence[Completion]) -> dict[str, Any]:
    """How far the probability of the first token spreads over the runs, the mean of the positions that all share.

    The last of these is the one at which the first two texts part: it is read after the same tokens.
    """
    texts = [each.trace.token_ids for each in several]
    shared = min(sequences.shared_prefix(texts) + 1, *(len(each.top) for each in several))
    if len(several) < 2 or not shared:
        return {"positions": 0, "top1_prob_std": None}
    tops = np.stack([each.top[:shared] for each in several])
    deviations = np.where(np.ptp(tops, axis=0) == 0, 0.0, tops.std(axis=0, ddof=1))  # equal ones have none, exactly
    return {"positions": shared, "top1_prob_std": float(deviations.mean())}


def _right(bench: Bench, variant: str, key: Key, several: Sequence[Completion]) -> list[int | None]:
    """Whether each completion holds the prompt's answer; None of all where that was not asked, or is undecided."""
    plan: Any = bench.plan
    check, answer = plan.answers_by, next(p.answer for p in bench.job.prompts if p.id == key.prompt_id)
    if check is None or answer is None:
        return [None] * len(several)
    try:
        return [int(check(bench.world.vocab.words(each.trace.token_ids), answer).right) for each in several]
    except UndecidedError as error:
        bench.result.fail(plan.model, variant, "check", "failed", str(error), key.strategy, key.prompt_id)
        return [None] * len(several)
