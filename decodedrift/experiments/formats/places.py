"""Where a model's numbers are: its weights, and what its modules take and give while it reads, by kind of module."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from decodedrift.core.records import InputError
from decodedrift.models import inside
from decodedrift.models.load import Loaded, measurable
from decodedrift.models.precisions.walk import weights

WEIGHTS, ACTIVATIONS, SQUARES = "weights", "activations", "squares"
KINDS = ("embedding", "norm", "attention", "mlp", "residual", "head", "other")
ATTENTION = re.compile(r"attn|attention", re.I)
MLP = re.compile(r"mlp|ffn|feed_?forward|expert|moe|(^|\.)fc\w*$", re.I)


def kind_of(name: str, module: Any, layer: bool) -> str:
    """A module's kind: of an own place, by its class, or by its path.

    Args:
        name: as of `inside.labels`. layer: whether it is a decoder layer, whose output is the residual stream.
    """
    if name in (inside.EMBEDDING, inside.HEAD):
        return name
    if layer:
        return "residual"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    if is_norm(module):
        return "norm"
    return "attention" if ATTENTION.search(name) else "mlp" if MLP.search(name) else "other"


def is_norm(module: Any) -> bool:
    """Whether a module normalises, by the name of its class."""
    return "norm" in type(module).__name__.lower()


@dataclass(frozen=True)
class Place:
    """Where a tensor is. what: WEIGHTS, ACTIVATIONS or SQUARES; tensor: a weight's own name, `input` or `output`."""

    what: str
    module: str
    tensor: str
    kind: str


@dataclass
class Places:
    """A loaded model's modules by name, with their kinds.

    layers: names of the decoder layers. around: of the modules that hold all of these, and give what a last norm gave.
    products: of those that hold a matrix. unread: why not all of these are known.
    """

    loaded: Loaded
    labels: dict[str, str] = field(init=False)
    modules: dict[str, Any] = field(init=False)
    layers: set[str] = field(init=False)
    around: set[str] = field(init=False)
    products: set[str] = field(init=False)
    unread: str = ""

    def __post_init__(self) -> None:
        self.labels = inside.labels(self.loaded)
        found = dict(self.loaded.model.named_modules())
        self.modules = {label: found[path] for path, label in self.labels.items()}
        blocks, count = inside.layers(self.loaded)
        self.layers = {self.labels[f"{blocks}.{n}"] for n in range(count)}
        self.around = {label for path, label in self.labels.items() if f"{blocks}.".startswith(f"{path}.")}
        self.products = set()

    def kind(self, label: str) -> str:
        """Of the module of a name."""
        return kind_of(label, self.modules.get(label), label in self.layers)

    def weights(self) -> Iterator[tuple[Place, Tensor]]:
        """Every parameter once, [..., outputs, inputs] where it is a matrix; a row is what one output is a sum over."""
        rows: dict[int, Callable[[], Tensor]] = {}
        try:
            for weight in weights(self.loaded.model, "formats", head=True, tables=True):
                self.products.add(self.labels[weight.path])
                shape, dim = weight.shape, weight.dim
                rows[id(weight.tensor)] = lambda t=weight.tensor, s=shape, d=dim: t.data.reshape(s).movedim(d, -1)  # type: ignore[misc]
        except InputError as error:
            self.unread = f"{error}; rows are the last dimension there"
        for name, parameter in self.loaded.model.named_parameters():
            if parameter.is_floating_point():
                path, _, own = name.rpartition(".")
                label = self.labels.get(path, path)
                place = Place(WEIGHTS, label, own, self.kind(label))
                yield place, rows.get(id(parameter), lambda p=parameter: p.data)()  # type: ignore[misc]


@dataclass
class Seen:
    """What is told of one reading, each tensor once: one that a module hands on as it got it is not new."""

    places: Places
    add: Callable[[Place, Tensor], None]
    square: Callable[[str, Tensor], None]
    told: dict[int, weakref.ref[Tensor]] = field(default_factory=dict)

    def see(self, name: str, depth: int | None, inputs: list[Tensor], output: Tensor) -> None:
        """As of `inside.watched`. Inputs are told of products of matrices alone: others' are what a module gave."""
        label = name.partition("#")[0]
        if name == inside.NORMED or label in self.places.around:
            return
        kind = self.places.kind(label)
        given = inputs[0] if inputs and inputs[0].is_floating_point() else None  # of an embedding they are ids
        new = label in self.places.products and given is not None and self._new(given)
        if given is not None and new and not (label == inside.HEAD and self._copy(given)):
            self.add(Place(ACTIVATIONS, label, "input", kind), given)
        if kind == "norm" and given is not None:
            self.square(label, given)
        if output.is_floating_point() and (self._new(output) or depth is not None):
            self.add(Place(ACTIVATIONS, label, "output", kind), output)

    def _new(self, tensor: Tensor) -> bool:
        """Whether this very tensor was not told before."""
        before = self.told.get(id(tensor))
        self.told[id(tensor)] = weakref.ref(tensor)
        return before is None or before() is not tensor

    def _copy(self, tensor: Tensor) -> bool:
        """Whether it is what another tensor is that was told of: the head reads a copy of chosen positions."""
        others = [other for reference in self.told.values() if (other := reference()) is not None]
        return any(o is not tensor and o.shape == tensor.shape and torch.equal(o, tensor) for o in others)


def squared_sums(tensor: Tensor) -> Tensor:
    """Of each token the sum of the squares, float64 [tokens]."""
    rows = measurable(tensor.detach()).reshape(-1, tensor.shape[-1]).double()
    return rows.square().sum(-1)
