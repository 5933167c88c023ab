"""The controls of a run: the reference again, every candidate in another batch layout, plain casts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from decodedrift.core.batches import whole
from decodedrift.core.records import Trace
from decodedrift.experiments.compare.floors import FLOOR_FILLER, FLOOR_PROMPTS, floor_of
from decodedrift.experiments.compare.reading import read_against
from decodedrift.measure.bench import Bench
from decodedrift.measure.passes import Pass
from decodedrift.measure.tables import FORCED, STEPPED
from decodedrift.models.load import Loaded
from decodedrift.models.longrope import switch

CONTROL_TOKENS = 16  # of each text that the self control writes again: whether the same bits come out shows in these


def self_control(bench: Bench, model: Loaded, reference: Pass) -> Pass:
    """The reference again, on the first batch of prompts: what differs here is no candidate's doing.

    Its text is held against the beginning of the reference's. What it reads it reads whole: a shorter text is another
    layout, in which the same logits have other last bits. Of a text whose logits all repeat the beginning is measured.
    """
    size = bench.size(reference.variant)
    again = Pass(reference.name, reference.variant, "self", layout=reference.layout)
    bench.free_run(model, again, batch_size=size, watch=reference.traces, batches=1, tokens=CONTROL_TOKENS)
    first = {p.id for p in bench.order[:size]}
    texts = bench.passages(reference.traces, only={key for key in reference.traces if key.prompt_id in first})
    read_against(bench, model, again, reference, texts, until=CONTROL_TOKENS)
    searches = {s.label for s, _ in bench.plan.cells if s.searches}
    whole = {key: trace for key, trace in reference.traces.items() if key.strategy in searches}
    again.against = replace(reference, traces={k: beginning(t) for k, t in reference.traces.items()} | whole)
    return again


def beginning(trace: Trace) -> Trace:
    """A text as far as the self control writes it again."""
    if len(trace.token_ids) <= CONTROL_TOKENS:
        return trace
    return replace(trace, token_ids=trace.token_ids[:CONTROL_TOKENS], finish="length", nonfinite=0)


def stepped_control(bench: Bench, model: Loaded, stepped: Pass) -> Pass:
    """The reference reads its own text token by token again, on the first batch of prompts."""
    again = Pass(f"{stepped.name} (stepped)", stepped.variant, "self", against=stepped)
    first = {p.id for p in bench.order[: bench.size(stepped.variant)]}
    texts = bench.passages(stepped.traces, only={key for key in stepped.traces if key.prompt_id in first})
    read_against(bench, model, again, stepped, texts, stored=STEPPED, layout=STEPPED, until=CONTROL_TOKENS)
    return again


def floored(bench: Bench) -> set[str]:
    """The prompts of a job that floors are measured on."""
    return {p.id for p in bench.plan.prompts[:FLOOR_PROMPTS]} & {p.id for p in bench.job.prompts}


def relayout(model: Loaded, size: int) -> tuple[int, int]:
    """(prompts in a batch, filler) of the floor of a candidate that runs in batches of a size: never both its own.

    On a CPU the same batches filled wider have other bits in every text. On a GPU it is the rows of a batch that choose
    the kernels. Filler there is none of where a batch's length chooses the rotary factors, or where nothing is padded
    on the left.
    """
    filler = FLOOR_FILLER if switch(model.model.config) is None and model.path != "plain" else 0
    return floor_of(size, filler > 0 and model.device.type == "cpu").size, filler


def relaid(bench: Bench, model: Loaded) -> set[str]:
    """The prompts that a candidate's floor is measured on: of `floored` not one that is alone in both layouts."""
    here, own = floored(bench), bench.size(model.variant)
    order, (size, _) = [p.id for p in bench.order], relayout(model, own)
    alone = _alone(order, own)
    return here - (alone if size == own else alone & _alone([p for p in order if p in here], size))


def _alone(order: list[str], size: int) -> set[str]:
    """Who is alone in a batch, of prompts in batches of a size."""
    return set(order[-1:] if len(order) % size == 1 else order if size == 1 else ())


def noise_floor(bench: Bench, model: Loaded, same: Pass, reference: Pass) -> Pass:
    """A candidate against itself in another layout: what batching alone does to it.

    What it read over a prefill of the prompts is read so in the same batches filled wider, and whole in other batches:
    a sequence that is read whole has the same bits in many a batch. For that reason what it read whole is read over a
    prefill; where the model cannot do so nothing is read. What it read token by token is read so again. Of its own
    batches whole ones run, so that each text has as much more filler; only the prompts of `relaid` are kept.
    """
    own = bench.size(model.variant)
    size, filler = relayout(model, own)
    measured = relaid(bench, model)
    run = whole([p.id for p in bench.order], own, measured) if size == own else measured
    model = replace(model, facts={}, filler=filler)  # what this pass shows is no fact of the variant
    other = replace(model.variant, batch_size=size)
    name = _floor_name(same.name, None if size == own else size, filler, [v.name for v in bench.plan.candidates])
    floor = Pass(name, other, "floor", against=same, batch_size=size)
    bench.free_run(model, floor, batch_size=size, watch=same.traces, only=run)
    groups = bench.passages(reference.traces, only=floor.traces) if same.reads == STEPPED else []
    for group in bench.passages(reference.traces) if same.reads == FORCED else ():
        batches = bench.read_batches(model, group)
        if size == own:
            kept = [batch for batch, _ in batches if any(p.key.prompt_id in measured for p in batch)]
            groups.append([replace(p, shared=True) for batch in kept for p in batch])
            continue
        for shared in (False, True):
            texts = [p for batch, over in batches if over != shared for p in batch if p.key in floor.traces]
            groups.append([replace(p, shared=shared) for p in texts])
    read_against(bench, model, floor, same, [group for group in groups if group], stored=same.keep_logits)
    floor.traces = {key: trace for key, trace in floor.traces.items() if key.prompt_id in measured}
    floor.positions = {key: frame for key, frame in floor.positions.items() if key.prompt_id in measured}
    return floor


def _floor_name(name: str, size: int | None, filler: int, candidates: Sequence[str]) -> str:
    """What a candidate's floor is called: in batches of another size if any, and so much wider.

    Tables tell floors by their names: where another candidate has this one in batches of that size, whose own it is.
    """
    notes = [f"{filler} wider"] if filler else []
    if size is None:
        return f"{name} ({', '.join(notes)})"
    floor = _in_batches(name, size)
    if any(_in_batches(other, size) == floor for other in candidates if other != name):
        notes.append(f"beside {name}")
    return f"{floor} ({', '.join(notes)})" if notes else floor


def _in_batches(name: str, size: int) -> str:
    """A variant's name in batches of a size: its own knob turned, or one more."""
    floor, turned = re.subn(r"(?<=[:,])batch_size=[^,]*", f"batch_size={size}", name)
    return floor if turned else f"{name}{',' if ':' in name else ':'}batch_size={size}"


def read_cast(bench: Bench, model: Loaded, reference: Pass) -> Pass:
    """A plain cast reads the reference's text at once, on the floors' prompts: what rounding to its type does."""
    cast = Pass(model.variant.name, model.variant, "cast")
    only = {key for key in reference.traces if key.prompt_id in floored(bench)}
    read_against(bench, model, cast, reference, bench.passages(reference.traces, only=only), layout=FORCED)
    return cast
