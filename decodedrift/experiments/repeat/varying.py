"""What may vary between the completions of a prompt: the names of `--vary`, listed without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from decodedrift.core.notation import Param, number, read_params, split_items
from decodedrift.core.records import InputError, nearest


@dataclass(frozen=True)
class Source:
    """One thing that may vary.

    about: in a line. params: as NAME:KEY=VALUE. neighbours: whether it takes other rows in the batch. all_rows: whether
    every prompt of a batch is measured in one run; else each has runs of its own, in which the others are companions.
    here: whether it can vary in a model that runs here; elsewhere: in an endpoint. beside: bytes of a parameter that
    are held beside the weights at most.
    """

    about: str
    params: Mapping[str, Param] = field(default_factory=dict)
    neighbours: bool = False
    all_rows: bool = True
    here: bool = True
    elsewhere: bool = False
    beside: int = 0


CONTROL = "seed"  # another seed at temperature 1: what must differ
SEEDS = "another seed (control)"  # what it is called where figures stand
RERUN, CONCURRENCY = "rerun", "concurrency"
VARY: dict[str, Source] = {
    RERUN: Source("nothing: the same batch, run again; an endpoint is asked one at a time", elsewhere=True),
    "batch": Source("the batch size: 1, 2, 4, 8, then those between", neighbours=True, all_rows=False),
    "companions": Source("what the other rows of the batch say, in the same lengths", neighbours=True, all_rows=False),
    "order": Source("the place in the batch", neighbours=True),
    "padding": Source("filler on the left: 0, 1, 2, ... tokens"),
    "threads": Source("CPU threads: 1, 2, ..."),
    "experts": Source("the kernel of a mixture of experts: eager, batched_mm, grouped_mm"),
    "capacity": Source(
        "companions, where an expert takes factor x tokens x choices / experts of a pass at most",
        {"factor": Param(number(0, 1e6, open_low=True), 1.0, "places of an expert over its even share")},
        neighbours=True,
        all_rows=False,
    ),
    "summation": Source(
        "the order of every sum: units, heads and residual basis permuted together",
        beside=10,  # a float64 copy as it is cast and permuted: 8.8 measured of fp32, 9.5 of bf16
    ),
    CONCURRENCY: Source("what else an endpoint is asked meanwhile: --concurrency", here=False, elsewhere=True),
}
BY_IDS, BY_TEXT = "token ids", "text"  # what completions are told apart by
DEFAULT = (RERUN, "batch", "companions", "order")


@dataclass(frozen=True)
class Varying:
    """An item of `--vary`: its name, and its parameters read. label: as asked, keys sorted."""

    name: str
    label: str
    params: Mapping[str, Any]

    @property
    def source(self) -> Source:
        """Its entry in VARY."""
        return VARY[self.name]


def parse_vary(given: str | Iterable[str]) -> list[Varying]:
    """`rerun,batch,capacity:factor=1.0` as what it names.

    Raises:
        InputError: an unknown name or parameter, or one of them twice.
    """
    every = []
    for item in split_items(given, lambda head: VARY[head].params if head in VARY else ()):
        if item.head not in VARY:
            raise InputError(f"unknown {item.head!r}; {nearest(item.head, tuple(VARY))}")
        values = read_params(item.head, item.params, VARY[item.head].params)
        every.append(Varying(item.head, item.label, values))
    return every


def name_of(label: str) -> str:
    """The name in a label."""
    return label.partition(":")[0]


def varies(label: str, recorded: bool) -> bool:
    """Whether what a label names can vary in a variant: one that runs here, or one that another engine wrote."""
    source = VARY[name_of(label)]
    return source.elsewhere if recorded else source.here
