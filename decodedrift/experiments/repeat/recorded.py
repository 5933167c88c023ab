"""What endpoints answered and files hold, repetition by repetition, as rows: no model of theirs runs here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from decodedrift.core.records import InputError, Key, Variant
from decodedrift.experiments.repeat.rows import Completion, write
from decodedrift.experiments.repeat.varying import CONCURRENCY, RERUN
from decodedrift.measure.bench import Bench
from decodedrift.models.recorded import completion as recorded
from decodedrift.models.recorded.repeated import Repeated

WORDLESS = "it has no text, and of other completions of its prompt nothing else is known"
MISSING = "the file has no completion of it"


def check_file(file: Repeated, plan: Any) -> None:
    """A recorded file repeats its prompts, in the way that is asked for.

    Raises:
        InputError: it does not.
    """
    if max(map(len, file.completions.values())) < 2:
        raise InputError(
            f"{file.path}: has one completion of each prompt, which is no repetition; record it with --runs 2"
        )
    if (label := label_of(file)) not in plan.vary:
        raise InputError(f"{file.path}: was recorded {file.at_a_time} at a time; add {label} to --vary")


def label_of(file: Repeated) -> str:
    """What varied between the repetitions of a file."""
    return RERUN if file.at_a_time == 1 else CONCURRENCY


def write_recorded(bench: Bench, variant: Variant) -> None:
    """Rows of one endpoint or file: of this job's prompts, as many runs as are asked for; failures are rows too."""
    plan: Any = bench.plan
    completions: dict[tuple[str, Key], list[Completion]] = {}
    facts: dict[str, Any] = {}
    keys = [Key(s.label, seed, p.id) for s, seed in plan.cells for p in bench.job.prompts]
    for label, file in _files(bench, variant):
        facts[label] = _told(file)
        for key in keys if not variant.endpoint else (key for key in keys if key in file.completions):
            good, reasons = _sorted(file.completions.get(key, ())[: plan.runs])
            for reason in reasons:
                bench.result.fail(plan.model, variant.name, label, "failed", reason, key.strategy, key.prompt_id)
            if good:
                completions[label, key] = good
    bench.result.facts[variant.name] = {"repeated": facts}
    write(bench, variant.name, completions)


def _sorted(lines: Sequence[recorded.Completion]) -> tuple[list[Completion], list[str]]:
    """The completions that can be told apart, and why the others cannot."""
    reasons = [line.error for line in lines if line.error is not None] if lines else [MISSING]
    good = [_completion(line) for line in lines if line.error is None]
    if all(each.token_ids is not None for each in good):
        return good, reasons
    worded = [each for each in good if each.text is not None]
    return worded, reasons + [WORDLESS] * (len(good) - len(worded))


def _files(bench: Bench, variant: Variant) -> Iterator[tuple[str, Repeated]]:
    """What varied, and the file that says what came of it."""
    plan: Any = bench.plan
    if not variant.endpoint:
        file = bench.world.repeated[variant.name]
        yield label_of(file), file
        return
    for name in plan.asked_of(variant):
        yield name.removeprefix(f"{variant.name} "), bench.world.repeated[name]


def _completion(line: recorded.Completion) -> Completion:
    usage = line.meta.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    tops = [max(p for p in table.values()) for table in line.top_logprobs or () if table]
    complete = line.token_ids is not None and len(tops) == len(line.token_ids)
    return Completion(
        token_ids=line.token_ids,
        finish=line.finish_reason or "unknown",
        logits=None,
        top=np.exp(np.array(tops)) if complete else np.empty(0),
        text=_text(line),
        setting=f"run {line.run}",
        length=count if isinstance(count, int) else None,
    )


def _text(line: recorded.Completion) -> str | None:
    """As it was given, else its tokens' names joined."""
    if line.text is not None or line.tokens is None or not all(isinstance(token, str) for token in line.tokens):
        return line.text
    return "".join(map(str, line.tokens))


def _told(file: Repeated) -> dict[str, Any]:
    """What the reader of a run must know of a file, JSON-ready."""
    return {
        "at_a_time": file.at_a_time, "engine": file.header.get("engine"), "model": file.header.get("model"),
        "unmatched": {reason: len(places) for reason, places in file.unmatched.items()},
    }  # fmt: skip
