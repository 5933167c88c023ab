"""The two controls of a run: the reference against itself, and a floating type against itself in another layout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from decodedrift.measure.passes import Pass
from decodedrift.models.load import Loaded

if TYPE_CHECKING:
    from decodedrift.experiments.compare.job import JobRun


def self_control(run: JobRun, model: Loaded) -> None:
    """The reference again, on the first batch of prompts: what differs here is no candidate's doing."""
    size = run.size(run.plan.reference)
    again = Pass(run.reference.name, run.plan.reference, "self")
    run.free_run(model, again, batch_size=size, watch=run.reference.traces, batches=1)
    run.measure(model, again, run.passages(run.reference.traces, only=again.traces))
    run.passes[("self", again.name)] = again


def noise_floor(run: JobRun, model: Loaded, same: Pass) -> None:
    """A dtype against itself in another layout: what batching alone does to it."""
    model = replace(model, facts={})  # what this pass shows is no fact of the variant
    size = 1 if run.size(model.variant) > 1 else 4
    other = replace(model.variant, batch_size=size)
    name = f"{same.name}{',' if ':' in same.name else ':'}batch_size={size}"
    floor = Pass(name, other, "floor", against=same, batch_size=size)
    run.free_run(model, floor, batch_size=size, watch=same.traces)
    run.measure(model, floor, run.passages(run.reference.traces), stored=same.keep_logits)
    run.passes[("floor", name)] = floor
