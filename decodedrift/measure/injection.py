"""One token of the reference's text replaced, within an ordinary pass of the same layout, and what it goes on to say.

Every row that nothing is put into, and every other row up to its replaced token, must come out as the reference wrote
it: that is checked in each pass, and a pass that fails it counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from decodedrift.core.records import Key, Trace, VariantError
from decodedrift.decoding.choosers import ScoreLog
from decodedrift.measure.bench import Bench
from decodedrift.measure.passes import Pass
from decodedrift.measure.trajectory import injection_row
from decodedrift.models.load import Loaded
from decodedrift.numerics import sequences

Put = tuple[int, int]  # (position, token id)


def divergence_tokens(bench: Bench, candidate: Pass, reference: Pass) -> dict[Key, Put]:
    """Where a candidate parted from the reference, and with which token; without pairs of which one has none there."""
    able = {s.label for s, _ in bench.plan.cells if s.injectable}
    tokens = {}
    for key, trace in candidate.traces.items():
        ours, its = reference.traces[key].token_ids, trace.token_ids
        t = sequences.first_divergence(ours, its)
        if key.strategy in able and t is not None and t < min(len(ours), len(its)):
            tokens[key] = (t, its[t])
    return tokens


def ranked(log: ScoreLog, position: int, rank: int) -> int | None:
    """The token that a strategy's own score puts at a rank (1 is its choice); None where it allows no such token."""
    if len(log.logits):
        scores, ids = log.logits[position], None
    elif position < len(log.allowed):
        ids, scores = log.allowed[position]
    else:
        return None
    if rank > len(scores):
        return None
    order = scores.sort(descending=True, stable=True)
    if not math.isfinite(float(order.values[rank - 1])):
        return None
    place = order.indices[rank - 1]
    return int(place if ids is None else ids[place])


def put_in(bench: Bench, model: Loaded, name: str, puts: Mapping[Key, Put], reference: Pass) -> dict[Key, Trace]:
    """The reference's texts with the wanted tokens in place, by key.

    Raises:
        VariantError: a row changed that nothing was put into.
    """
    into = Pass(name, bench.plan.reference, "injected")
    bench.free_run(model, into, batch_size=bench.size(bench.plan.reference), inject=puts)
    for key, trace in into.traces.items():
        if not _intact(reference.traces[key].token_ids, trace.token_ids, puts.get(key)):
            raise VariantError(
                f"injection: {key.strategy}, prompt {key.prompt_id} changed without or before its replaced token; rows "
                "of this model depend on their neighbours, so what this pass shows cannot be told from that"
            )
    return {key: into.traces[key] for key in puts}


def _intact(ours: tuple[int, ...], tokens: tuple[int, ...], put: Put | None) -> bool:
    """Whether a text is the reference's where it must be: all of it, or all before the token that was put in."""
    if put is None or ours[put[0]] == put[1]:
        return tokens == ours
    return tokens[: put[0] + 1] == (*ours[: put[0]], put[1])


def of_candidate(bench: Bench, model: Loaded, candidate: Pass, reference: Pass) -> None:
    """At each observed divergence the candidate's token is put into the reference's text; rows of injection.csv.

    Of the controls nothing is made; what goes wrong is a failure of this part alone.
    """
    puts = divergence_tokens(bench, candidate, reference) if candidate.role == "candidate" else {}
    if not puts:
        return
    with bench.guarded(candidate.variant.name, "inject"):
        for key, trace in put_in(bench, model, candidate.name, puts, reference).items():
            at, token = puts[key]
            sides = reference.traces[key].token_ids, trace.token_ids
            own_trace = candidate.traces[key]
            broken = any(t.finish == "nonfinite" for t in (reference.traces[key], trace, own_trace))
            row = injection_row(*sides, at, own_trace.token_ids, ended=token in bench.world.vocab.eos, broken=broken)
            bench.result.rows["injection"].append(
                keys(bench.plan.model, reference, candidate.name, candidate.role, key) | row
            )


def keys(model: str, reference: Pass, candidate: str, role: str, key: Key) -> dict[str, Any]:
    """The key columns of a row."""
    pair = {"model": model, "reference": reference.name, "candidate": candidate, "role": role}
    return pair | key._asdict()
