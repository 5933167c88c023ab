"""The negative control of a model in memory: what is measured is the copy, and not the model that it was made from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from decodedrift.core.records import VariantError
from decodedrift.models.precisions.floating import NAMES
from decodedrift.models.rewrites import PLAIN
from decodedrift.models.sources.copies import replaced
from decodedrift.models.sources.packed import parts


def control(
    model: Any, name: str, logits: Callable[[], Tensor], models: list[Any], autocast: str = "off"
) -> dict[str, Any]:
    """The negative control: logits of the copy come from its own weights, and from none of the given models'.

    One forward is watched for the weights that it reads. Then the final norm's weight is doubled, and one in every
    module that carries a `forward` or hooks of its own; each must move the logits. The given models are not touched:
    that nothing of theirs is read says more than changing them would. What is compiled runs uncompiled here.

    Args:
        model: the copy, as it will be measured; its weights are put back bit by bit.
        name: the variant's.
        logits: one forward of it over a few tokens.
        models: those that it was copied from.
        autocast: the type that the variant itself asks torch.autocast for.

    Returns:
        For the variant's facts: `weight` that was doubled, how far that `moved` the logits (None: not finite, or only
        packed weights, nothing can be said), the same for `modules`.

    Raises:
        VariantError: the copy reads a given model, computes under autocast, or does not move.
    """
    by_name, places = dict(model.named_parameters()), {_place(t) for _, t in _tensors(model)}
    others = {_place(t): label for one in models for label, t in _tensors(one) if _place(t) not in places}
    watch = Watch(others, {_place(p): label for label, p in by_name.items()})
    with _uncompiled():
        with watch, Autocast(next(model.parameters()).device.type, autocast) as foreign, _calls(model) as calls:
            base = logits()
        if fault := _fault(model, watch, foreign):
            raise VariantError(f"{name}: {fault}")
        weight = _final(model, watch.reads, base)
        facts: dict[str, Any] = {
            "weight": weight,
            "moved": None,
            "modules": [],
        }
        if not bool(torch.isfinite(base).all()):
            return facts
        facts["moved"] = _shift(logits, by_name[weight], base)
        if not facts["moved"]:
            raise VariantError(
                f"{name}: {weight} of its copy doubled moves no logit: something else than the copy runs"
            )
        for path, weights in _carriers(model, set(watch.reads), calls):
            plain = [w for w in weights if type(by_name[w]) in PLAIN]  # of what a backend packed nothing is doubled
            if weights and not plain:
                facts["modules"].append({"module": path, "weight": weights[0], "moved": None})
                continue
            tried = ((w, _shift(logits, by_name[w], base)) for w in plain)
            witness = next(((w, shift) for w, shift in tried if shift), None)
            if witness is None:
                lack = f"no weight of its copy's {path or 'model'} moves a logit when doubled"
                raise VariantError(
                    f"{name}: {lack}: its forward or hook runs something else; give the model without it"
                )
            facts["modules"].append({"module": path, "weight": witness[0], "moved": witness[1]})
    return facts


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which weights a forward reads, in order; by where they lie, since a view or a closure hides a name.

    foreign: the first weight of a given model that was read.
    """

    supports_higher_order_operators = True  # flex attention is one

    def __init__(self, others: Mapping[int, str], ours: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.others, self.ours = others, ours
        self.foreign, self.reads = "", list[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in (*args, *(kwargs or {}).values()):
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, Tensor) and (place := _place(tensor)):
                    self.foreign = self.foreign or self.others.get(place, "")
                    if place in self.ours:
                        self.reads.append(self.ours[place])
        return func(*args, **(kwargs or {}))


class Autocast(TorchFunctionMode):
    """Notes whether anything runs under another autocast on a device than was asked for; beneath torch's functions
    that can no longer be seen."""

    def __init__(self, device: str, asked: str = "off") -> None:
        super().__init__()
        self.device, self.asked, self.on = device, asked, False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kind = NAMES.get(torch.get_autocast_dtype(self.device)) if torch.is_autocast_enabled(self.device) else "off"
        self.on = self.on or kind not in ("off", self.asked)
        return func(*args, **(kwargs or {}))


def _fault(model: Any, watch: Watch, autocast: Autocast) -> str:
    suspects = [path or "the model" for path, module in model.named_modules() if any(True for _ in replaced(module))]
    where = f"; see the forward or hooks of {', '.join(suspects[:3])}" if suspects else ""
    if watch.foreign:
        return f"its copy reads {watch.foreign} of the given model, so that no variant would be measured{where}"
    if autocast.on:
        return f"it computes under torch.autocast, whatever a variant asks for{where}; give the model without it"
    return "" if watch.reads else f"its copy reads none of its own weights: something else than the copy runs{where}"


def _final(model: Any, reads: list[str], base: Tensor) -> str:
    """The final norm's weight: the last one-dimensional one that is read before the head's; without any, the head's."""
    by_name = dict(model.named_parameters())
    head = getattr(model.get_output_embeddings(), "weight", None)
    last = next((n for n in reversed(reads) if head is not None and _place(by_name[n]) == _place(head)), reads[-1])
    if not bool(base.any()) or not bool(next(parts("", by_name[last]))[1].float().any()):
        return last  # zeros stay zeros, whatever the norm does
    before = reads[: len(reads) - reads[::-1].index(last)]
    norms = [n for n in before if by_name[n].dim() == 1 and not n.endswith("bias")]
    return norms[-1] if norms else last


@contextmanager
def _calls(model: Any) -> Iterator[set[str]]:
    """Paths of the modules with a `forward` or hooks of their own that are called inside."""
    paths: set[str] = set()

    def noting(path: str) -> Callable[[Module, Any], None]:
        return lambda module, args: paths.add(path)

    carriers = [(path, m) for path, m in model.named_modules() if _customised(m)]
    handles = [module.register_forward_pre_hook(noting(path)) for path, module in carriers]
    try:
        yield paths
    finally:
        for handle in handles:
            handle.remove()


def _customised(module: Module) -> bool:
    return any(name in ("forward", "hook") for name, _ in replaced(module))


def _carriers(model: Any, read: set[str], calls: set[str]) -> Iterator[tuple[str, list[str]]]:
    """(path, weights that were read) of the innermost modules with a `forward` or hooks of their own that took part.

    Experts to which no token was sent take no part. One that was called and whose weights nobody read has none here.
    """
    parts: dict[str, list[str]] = {}
    names = {id(weight): name for name, weight in model.named_parameters()}  # a tied one has the first of its names
    for path, module in model.named_modules():
        weights = [names[id(weight)] for weight in module.parameters()] if _customised(module) else []
        if names_read := [name for name in weights if name in read]:
            parts[path] = names_read
        elif weights and path in calls:
            parts[path] = []
    for path, names_read in parts.items():
        if not any(other != path and other.startswith(path and f"{path}.") for other in parts):
            yield path, names_read


def _shift(logits: Callable[[], Tensor], weight: torch.nn.Parameter, base: Tensor) -> float:
    """How far the logits move where a weight is doubled (zeros: made one); it may be shared, so another is put in."""
    values = weight.data
    weight.data = torch.where(values == 0, torch.ones_like(values), values * 2)
    try:
        shift = (logits().float() - base.float()).abs()
    finally:
        weight.data = values
    return float(shift.nan_to_num(nan=torch.finfo(torch.float32).max).max())


def _uncompiled() -> Any:
    """Compiled code run as it was written: it has the same weights, and compiling costs minutes."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _tensors(model: Any) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _place(tensor: Tensor) -> int:
    """The address of a tensor's memory; 0 where it has none."""
    _, tensor = next(parts("", tensor))  # a subclass has none of its own
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return 0
    return tensor.untyped_storage().data_ptr()
