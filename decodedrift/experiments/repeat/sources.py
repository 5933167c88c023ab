"""What varies between two runs of a prompt, as batches: everything but the one thing is the first run's.

The first run of each source is the batch as it stands, run once for all of them; only a rerun runs it again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from decodedrift.core.records import Variant, VariantError
from decodedrift.experiments.repeat.varying import RERUN, Varying
from decodedrift.models import capacity, experts, summation
from decodedrift.models.knobs.experts import EXPERTS, KERNELS
from decodedrift.models.load import Loaded

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """One forward batch. rows: token ids by the name of the row, in order; measured: the rows that count.

    setting: what was varied, in words. running: the state in which the model runs it. base: it is the batch as it
    stands, of which a run may be there already.
    """

    rows: Mapping[str, Ids]
    measured: tuple[str, ...]
    setting: str
    running: Callable[[Loaded], AbstractContextManager[Loaded]] = nullcontext
    base: bool = False


@dataclass(frozen=True)
class Seats:
    """A batch as it stands, and what its rows may be exchanged for.

    rows: the prompts that are measured, then rows that fill the batch up. pool: all prompts of the run. runs: how many
    completions are wanted. room: tokens of filler that a row has place for.
    """

    rows: Mapping[str, Ids]
    measured: tuple[str, ...]
    pool: Mapping[str, Ids]
    runs: int
    room: int

    def base(self, setting: str) -> Batch:
        """It as it stands."""
        return Batch(self.rows, self.measured, setting, base=True)


def seated(prompts: Mapping[str, Ids], size: int, pool: Mapping[str, Ids], runs: int, window: int) -> Seats:
    """Prompts as a batch of `size` rows: where there are fewer, other rows of their lengths fill it up.

    Args:
        window: tokens that a row may take before it generates.
    """
    rows, ids = dict(prompts), list(prompts)
    for seat in range(len(prompts), size):
        like = ids[seat % len(ids)]
        rows[_unused(f"beside {seat}", pool)] = told(pool, like, len(prompts[like]), f"seat {seat}")
    return Seats(rows, tuple(ids), pool, runs, window - max(map(len, rows.values())))


def told(pool: Mapping[str, Ids], but: str, length: int, draw: str) -> Ids:
    """So many tokens of another prompt, cut or repeated: its first token, then the others from a place on.

    Args:
        pool: prompts by id; `but` is taken only where there is no other. draw: names the choice, the same for ever.
    """
    generator = random.Random(f"{but}\0{draw}")
    first, *rest = pool[generator.choice([p for p in pool if p != but] or [but])]
    begin = generator.randrange(len(rest)) if rest else 0
    turned = [*rest[begin:], *rest[:begin]] or [first]
    return (first, *(turned[i % len(turned)] for i in range(length - 1)))


def batches(seats: Seats, varying: Varying, model: Loaded, checkpoint: Any) -> Iterator[Batch]:
    """The batches of one thing that varies, in the order of their runs.

    Raises:
        VariantError: it cannot vary here.
    """
    if varying.source.neighbours and len(seats.rows) == 1:
        raise VariantError("a batch of one has no other rows")
    if varying.name == "experts":
        return _experts(seats, kernels(model.variant, checkpoint))
    if varying.name == "capacity":
        return _limited(seats, model, varying.params["factor"])
    return MADE[varying.name](seats, model)


def _rerun(seats: Seats, model: Loaded) -> Iterator[Batch]:
    yield seats.base("as it stands")
    for number in range(1, seats.runs):
        yield Batch(seats.rows, seats.measured, f"again, {number}")


def _sizes(seats: Seats, model: Loaded) -> Iterator[Batch]:
    """Batches of 1, 2, 4, ... rows, then the sizes between; the others are as long, so that no padding comes in."""
    largest = len(seats.rows)
    powers = [2**n for n in range(largest.bit_length()) if 2**n <= largest]
    sizes = [*powers, *(n for n in range(1, largest + 1) if n not in powers)][: seats.runs]
    for prompt in seats.measured:
        ids = seats.rows[prompt]
        beside = [told(seats.pool, prompt, len(ids), f"size {n}") for n in range(1, largest)]
        names = [_unused(f"beside {n}", seats.pool) for n in range(1, largest)]
        for size in sizes:
            others = dict(zip(names[: size - 1], beside, strict=False))
            yield Batch({prompt: ids, **others}, (prompt,), f"batch of {size}")


def _companions(seats: Seats, model: Loaded) -> Iterator[Batch]:
    yield seats.base("as it stands")
    for prompt in seats.measured:
        for number in range(1, seats.runs):
            rows = {
                row: ids if row == prompt else told(seats.pool, prompt, len(ids), f"run {number}, {place}")
                for place, (row, ids) in enumerate(seats.rows.items())
            }
            yield Batch(rows, (prompt,), f"companions {number}")


def _order(seats: Seats, model: Loaded) -> Iterator[Batch]:
    """Every row at every place in turn, then places drawn at random."""
    names = list(seats.rows)
    yield seats.base("as it stands")
    for number in range(1, seats.runs):
        places = [*names[number:], *names[:number]]
        if number >= len(names):
            random.Random(f"order {number}").shuffle(places := list(names))
        yield Batch({name: seats.rows[name] for name in places}, seats.measured, f"order {number}")


def _padding(seats: Seats, model: Loaded) -> Iterator[Batch]:
    if model.path == "plain":
        raise VariantError("its texts are read whole and without a cache, with no filler on the left")
    longest = max(map(len, seats.rows.values()))
    for extra in range(min(seats.runs, seats.room + 1)):
        knobs = {"padding": f"multiple:{longest + extra}"}
        yield Batch(seats.rows, seats.measured, f"{extra} filler", _turned(knobs=knobs))


def _threads(seats: Seats, model: Loaded) -> Iterator[Batch]:
    for threads in range(1, min(seats.runs, max(2, os.cpu_count() or 1)) + 1):
        yield Batch(seats.rows, seats.measured, f"threads {threads}", _turned(threads=threads))


def _limited(seats: Seats, model: Loaded, factor: float) -> Iterator[Batch]:
    """Other companions, all under one limit, the batch as it stands too."""
    for batch in _companions(seats, model):
        yield replace(batch, base=False, running=lambda model: _capacity(model, factor))


@contextmanager
def _capacity(model: Loaded, factor: float) -> Iterator[Loaded]:
    with capacity.limited(model, factor) as limit:
        yield model
    told = model.facts.setdefault("capacity", {}).setdefault(f"{factor:g}", {"choices": 0, "dropped": 0})
    told["choices"] += limit.choices
    told["dropped"] += limit.dropped


def _sums(seats: Seats, model: Loaded) -> Iterator[Batch]:
    yield seats.base("as it stands")
    for number in range(1, seats.runs):
        running = partial(_reordered, seed=number)
        yield Batch(seats.rows, seats.measured, f"summation {number}", running)


@contextmanager
def _reordered(model: Loaded, seed: int) -> Iterator[Loaded]:
    with summation.reordered(model, seed):
        yield model


MADE: dict[str, Callable[[Seats, Loaded], Iterator[Batch]]] = {
    RERUN: _rerun,
    "batch": _sizes,
    "companions": _companions,
    "order": _order,
    "padding": _padding,
    "threads": _threads,
    "summation": _sums,
}


def refused(varying: Varying, variant: Variant, checkpoint: Any) -> str | None:
    """Why something cannot vary in a variant; asked before weights load."""
    if varying.name == "experts":
        return None if kernels(variant, checkpoint) else _why_not(variant, checkpoint, KERNELS[0])
    if varying.name == "capacity":
        return experts.refused(checkpoint)
    return summation.refused(checkpoint.config) if varying.name == "summation" else None


def kernels(variant: Variant, checkpoint: Any) -> list[str]:
    """The kernels of a mixture of experts that a variant can run."""
    return [kernel for kernel in KERNELS if not _why_not(variant, checkpoint, kernel)]


def _why_not(variant: Variant, checkpoint: Any, kernel: str) -> str | None:
    assert EXPERTS.refused is not None
    return EXPERTS.refused(variant, checkpoint, kernel)


def _experts(seats: Seats, names: Sequence[str]) -> Iterator[Batch]:
    for kernel in names[: seats.runs]:
        yield Batch(seats.rows, seats.measured, kernel, partial(_kernel, kernel=kernel))


@contextmanager
def _kernel(model: Loaded, kernel: str) -> Iterator[Loaded]:
    before = model.model.config._experts_implementation
    model.model.set_experts_implementation(kernel)
    try:
        yield model
    finally:
        model.model.set_experts_implementation(before)


def _turned(**changes: Any) -> Callable[[Loaded], AbstractContextManager[Loaded]]:
    """The same weights, with a variant's knobs turned otherwise while they run."""

    def running(model: Loaded) -> AbstractContextManager[Loaded]:
        knobs = {**model.variant.knobs, **changes.get("knobs", {})}
        return nullcontext(replace(model, variant=replace(model.variant, **changes | {"knobs": knobs})))

    return running


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """A name that no prompt has."""
    return name if name not in taken else _unused(f"{name}'", taken)
