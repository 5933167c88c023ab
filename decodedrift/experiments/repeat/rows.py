"""The completions of a prompt as rows: repeats.csv and spread.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from decodedrift.core.records import Key
from decodedrift.experiments.repeat.varying import BY_IDS, BY_TEXT
from decodedrift.measure.bench import Bench
from decodedrift.measure.checks import UndecidedError
from decodedrift.numerics import sequences


@dataclass(frozen=True)
class Completion:
    """One run of a prompt.

    token_ids: None where the engine tells none. logits: the digest of what the tokens were chosen from, None where that
    is not seen. top: the probability of the top token at each position, float64 [T], empty where it is not known.
    text: as its engine gave it, None for what the ids decode to. setting: what was varied. length: tokens, where an
    engine counts them and does not tell them.
    """

    token_ids: tuple[int, ...] | None
    finish: str
    logits: str | None
    top: np.ndarray
    text: str | None = None
    setting: str = ""
    length: int | None = None

    def set(self, setting: str) -> Completion:
        """The same, under another setting."""
        return replace(self, setting=setting)

    @property
    def n_tokens(self) -> int | None:
        """How many tokens it has."""
        return self.length if self.token_ids is None else len(self.token_ids)

    def words(self, vocab: Any) -> str:
        """Its text without special tokens."""
        return vocab.words(self.token_ids) if self.text is None else self.text


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
        if broken := sum(each.finish == "nonfinite" for each in several):
            text = f"{broken} of {len(several)} completions end at logits that are no numbers"
            bench.result.fail(bench.plan.model, variant, label, "nonfinite", text, key.strategy, key.prompt_id)


def rows(several: Sequence[Completion], vocab: Any) -> list[dict[str, Any]]:
    """A row per completion, without keys; by texts where of some no ids are known.

    unique_id: 0 for the first text, then in the order in which texts appear."""
    known = [each.token_ids for each in several if each.token_ids is not None]
    by = BY_IDS if len(known) == len(several) else BY_TEXT
    texts = known if by == BY_IDS else [each.text for each in several]
    numbers = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    made = [
        {
            "run": n, "setting": each.setting, "unique_id": numbers[text], "n_tokens": each.n_tokens,
            "finish": each.finish, "logits": each.logits, "compared_by": by,
            "text": vocab.decode(each.token_ids) if each.text is None else each.text,
        }
        for n, (each, text) in enumerate(zip(several, texts, strict=True))
    ]  # fmt: skip
    for row, ids in zip(made, known if by == BY_IDS else (), strict=False):
        row |= {
            "first_divergence": sequences.first_divergence(known[0], ids),
            "loop": sequences.loop_period(ids) or 0, "token_ids": " ".join(map(str, ids)),
        }  # fmt: skip
    return made


def spread(several: Sequence[Completion]) -> dict[str, Any]:
    """How far the probability of the top token spreads over the runs, the mean of the positions that all share.

    The last of these is the one at which the first two texts part: it is read after the same tokens.
    """
    texts = [each.token_ids for each in several if each.token_ids is not None]
    if len(several) < 2 or len(texts) < len(several):
        return {"positions": 0, "top1_prob_std": None}
    shared = min(sequences.shared_prefix(texts) + 1, *(len(each.top) for each in several))
    if not shared:
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
        return [int(check(each.words(bench.world.vocab), answer).right) for each in several]
    except UndecidedError as error:
        bench.result.fail(plan.model, variant, "check", "failed", str(error), key.strategy, key.prompt_id)
        return [None] * len(several)
