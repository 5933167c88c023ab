"""A recorded file's completions as continuations of a run's prompts; what belongs to nothing is counted, and said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from decodedrift.core.records import InputError, Key
from decodedrift.models.recorded.addresses import Addresses
from decodedrift.models.recorded.completion import Completion, Recorded
from decodedrift.models.recorded.continuation import Continuation, Matched, OtherIds
from decodedrift.models.recorded.reader import Reader

if TYPE_CHECKING:
    from decodedrift.core.settings import Settings
    from decodedrift.models.text.vocabulary import Vocabulary


def match(recorded: Recorded, plan: Settings, vocab: Vocabulary, prompts: Mapping[str, Sequence[int]]) -> Matched:
    """What of a file belongs to a run.

    Args:
        plan: strategies, seeds, prompts and lengths of the run, resolved.
        vocab: the reference's.
        prompts: prompt id -> the ids that the reference reads.

    Raises:
        InputError: nothing belongs to it, or ids that the model has not.
    """
    addresses = Addresses(plan, vocab, prompts)
    groups, unmatched = grouped(recorded, addresses)
    reader = Reader(vocab, prompts, plan.max_new_tokens, bool(recorded.header.get("stop")))
    continuations: dict[Key, tuple[Continuation, ...]] = {}
    errors: dict[Key, str] = {}
    asked = [Key(s.label, seed, name) for s, seed in plan.cells for name in addresses.prompts]
    for key in (key for key in asked if key in groups):
        good, reasons = list[Continuation](), list[str]()
        for n, completion in enumerate(repetitions(groups[key])):
            run = reader.continuation(key, n, completion, compared=not good)
            if isinstance(run, str):
                reasons.append(run)
            else:
                good.append(run)
        if good:
            continuations[key] = tuple(good)
            reader.tally["failed"] += len(reasons)
        else:
            errors[key] = reasons[0]
    return Matched(
        path=recorded.path,
        sha256=recorded.sha256,
        header=recorded.header,
        continuations=continuations,
        errors=errors,
        missing=tuple(key for key in asked if key not in groups),
        unmatched={reason: tuple(places) for reason, places in unmatched.items()},
        other_ids=_other_ids(continuations, prompts),
        notes=reader.notes(),
    )


def grouped(recorded: Recorded, addresses: Addresses) -> tuple[dict[Key, list[Completion]], dict[str, list[str]]]:
    """Completions by what they belong to; and of those that belong to nothing the places, by the reason.

    Raises:
        InputError: nothing belongs to this run.
    """
    groups: dict[Key, list[Completion]] = {}
    unmatched: dict[str, list[str]] = {}
    for completion in recorded.completions:
        key = addresses.key(completion)
        if isinstance(key, str):
            unmatched.setdefault(key, []).append(completion.place)
        else:
            groups.setdefault(key, []).append(completion)
    if not groups:
        reason, places = max(unmatched.items(), key=lambda item: len(item[1]))
        raise InputError(f"{recorded.path}: none of its completions belongs to this run; {places[0]}: {reason}")
    return groups, unmatched


def repetitions(completions: Iterable[Completion]) -> list[Completion]:
    """Repetitions in order; of one repetition, what was recorded beats what failed."""
    completions = list(completions)
    done = {c.run for c in completions if c.error is None}
    kept = [c for c in completions if c.error is None or c.run not in done]
    return sorted(kept, key=lambda c: c.run)


def _other_ids(
    runs: Mapping[Key, Sequence[Continuation]], prompts: Mapping[str, Sequence[int]]
) -> tuple[OtherIds, ...]:
    """Where the engine read other ids of a prompt than the reference does, once for each prompt."""
    table: dict[str, OtherIds] = {}
    for continuation in (c for every in runs.values() for c in every):
        name, theirs = continuation.key.prompt_id, continuation.prompt_token_ids
        if continuation.same_prompt is False and theirs is not None and name not in table:
            ours = tuple(prompts[name])
            at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
            table[name] = OtherIds(name, continuation.place, at, ours[at:], theirs[at:])
    return tuple(table.values())
