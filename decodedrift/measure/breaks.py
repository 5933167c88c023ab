"""Where inside a model its numbers end: the first module that gives, or is given, what is no number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from decodedrift.core.records import VariantError
from decodedrift.measure.bench import Bench
from decodedrift.measure.nonfinite import sides
from decodedrift.measure.passes import Pass, Passage
from decodedrift.models import inside, steps
from decodedrift.models.load import Loaded


def look(bench: Bench, model: Loaded, candidate: Pass, reference: Pass, read: Iterable[Passage]) -> None:
    """Where a candidate breaks, by the shortest text that broke it and not the reference."""
    _read(bench, model, _of_candidate(bench, candidate, reference, read))


def look_reference(bench: Bench, model: Loaded, reference: Pass, read: Iterable[Passage]) -> None:
    """Where the reference itself breaks, by the shortest text that broke it."""
    prompts = bench.world.prompts
    texts: list[tuple[int, ...]] = [
        (*prompts[key.prompt_id], *trace.token_ids)
        for key, trace in reference.traces.items() if trace.finish == "nonfinite"
    ]  # fmt: skip
    for passage in read:
        lost = np.isnan(reference.own_nll.get(passage.key, np.zeros(0)))
        if lost.any():
            texts.append((*passage.reading.context, *passage.reading.continuation[: int(lost.argmax())]))
    _read(bench, model, texts)


def _read(bench: Bench, model: Loaded, texts: Sequence[tuple[int, ...]]) -> None:
    """Reads the shortest of these again, once in a run.

    The fact `breaks` of the variant then has the module, empty where none is met: the text, read by itself and as a
    whole, does not break it. tensor: `input` where the module is given it, and no module gave it: it came up in
    between, or as an input was rounded. own: whether the module has weights that are no numbers.
    """
    if not texts or "breaks" in model.facts:
        return
    text = min(texts, key=len)
    first: list[tuple[str, str]] = []

    def see(name: str, depth: int | None, inputs: list[Tensor], output: Tensor) -> None:
        if first:
            return
        if not all(bool((tensor < float("inf")).all()) for tensor in inputs):  # a mask is -inf, and NaN is not less
            first.append((name, "input"))
        elif output.is_floating_point() and not bool(output.isfinite().all()):
            first.append((name, "output"))

    try:
        labels = inside.labels(model)
        with steps.reading(model), inside.watched(model, see):
            steps.read_whole(model, [text], [(len(text) - 1, len(text))], pad=bench.world.vocab.pad)
    except VariantError:  # a compiled model, or one whose layers cannot be told
        return
    module, tensor = first[0] if first else ("", "")
    paths = [path for path, label in labels.items() if label == module.partition("#")[0]]
    found = dict(model.model.named_modules())
    own = any(not bool(p.isfinite().all()) for path in paths for p in found[path].parameters() if p.is_floating_point())
    model.facts["breaks"] = {"module": module, "tensor": tensor, "own": own}


def _of_candidate(bench: Bench, candidate: Pass, reference: Pass, read: Iterable[Passage]) -> list[tuple[int, ...]]:
    """Texts after which the candidate has no logits and the reference has."""
    texts: list[tuple[int, ...]] = []
    prompts = bench.world.side(candidate.variant.name).prompts
    for key, trace in candidate.traces.items():
        ours = reference.traces.get(key)
        both = ours is not None and ours.finish == "nonfinite" and len(ours.token_ids) <= len(trace.token_ids)
        if trace.finish == "nonfinite" and not both:
            texts.append((*prompts[key.prompt_id], *trace.token_ids))
    for passage in read:
        frame = candidate.positions.get(passage.key)
        if frame is None or not (frame["nonfinite"] > 0).any():
            continue
        marked = sides(frame.reset_index(drop=True))
        mine = marked.index[marked["candidate_breaks"] & ~marked["reference_breaks"]]
        if len(mine):
            texts.append((*passage.reading.context, *passage.reading.continuation[: int(mine[0])]))
    return texts
