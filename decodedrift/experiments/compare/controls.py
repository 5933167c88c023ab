"""The two controls of a run: the reference against itself, and a floating type against itself in another layout."""

from __future__ import annotations

from dataclasses import replace

from decodedrift.experiments.compare.reading import read_against
from decodedrift.measure.bench import Bench
from decodedrift.measure.passes import Pass
from decodedrift.models.load import Loaded


def self_control(bench: Bench, model: Loaded, reference: Pass) -> Pass:
    """The reference again, on the first batch of prompts: what differs here is no candidate's doing."""
    again = Pass(reference.name, reference.variant, "self")
    bench.free_run(model, again, batch_size=bench.size(reference.variant), watch=reference.traces, batches=1)
    read_against(bench, model, again, reference, bench.passages(reference.traces, only=again.traces))
    return again


def noise_floor(bench: Bench, model: Loaded, same: Pass, reference: Pass) -> Pass:
    """A dtype against itself in another layout: what batching alone does to it."""
    model = replace(model, facts={})  # what this pass shows is no fact of the variant
    size = 1 if bench.size(model.variant) > 1 else 4
    other = replace(model.variant, batch_size=size)
    name = f"{same.name}{',' if ':' in same.name else ':'}batch_size={size}"
    floor = Pass(name, other, "floor", against=same, batch_size=size)
    bench.free_run(model, floor, batch_size=size, watch=same.traces)
    read_against(bench, model, floor, reference, bench.passages(reference.traces), stored=same.keep_logits)
    return floor
