"""The controls of a run: the reference again, every candidate in another batch layout, plain casts."""

from __future__ import annotations

from dataclasses import replace

from decodedrift.experiments.compare.reading import read_against
from decodedrift.experiments.compare.settings import FLOOR_PROMPTS
from decodedrift.measure.bench import Bench
from decodedrift.measure.passes import Pass
from decodedrift.models.load import Loaded


def self_control(bench: Bench, model: Loaded, reference: Pass) -> Pass:
    """The reference again, on the first batch of prompts: what differs here is no candidate's doing."""
    again = Pass(reference.name, reference.variant, "self")
    bench.free_run(model, again, batch_size=bench.size(reference.variant), watch=reference.traces, batches=1)
    read_against(bench, model, again, reference, bench.passages(reference.traces, only=again.traces))
    return again


def floored(bench: Bench) -> set[str]:
    """The prompts of a job that floors are measured on."""
    return {p.id for p in bench.plan.prompts[:FLOOR_PROMPTS]} & {p.id for p in bench.job.prompts}


def noise_floor(bench: Bench, model: Loaded, same: Pass, reference: Pass) -> Pass:
    """A candidate against itself in another layout: what batching alone does to it."""
    model = replace(model, facts={})  # what this pass shows is no fact of the variant
    size = 1 if bench.size(model.variant) > 1 else 4
    other = replace(model.variant, batch_size=size)
    name = f"{same.name}{',' if ':' in same.name else ':'}batch_size={size}"
    floor = Pass(name, other, "floor", against=same, batch_size=size)
    bench.free_run(model, floor, batch_size=size, watch=same.traces, only=floored(bench))
    groups = bench.passages(reference.traces, only=floor.traces)
    read_against(bench, model, floor, reference, groups, stored=same.keep_logits)
    return floor


def read_cast(bench: Bench, model: Loaded, reference: Pass) -> Pass:
    """A plain cast reads the reference's text on the floors' prompts: what rounding to its type alone does."""
    cast = Pass(model.variant.name, model.variant, "cast")
    only = {key for key in reference.traces if key.prompt_id in floored(bench)}
    read_against(bench, model, cast, reference, bench.passages(reference.traces, only=only))
    return cast
