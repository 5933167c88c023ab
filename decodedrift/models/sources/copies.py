"""A model in memory is copied before it is measured; what a copy would not take over is refused by name.

`copy.deepcopy` binds bound methods and partials to the copy, but it never copies a function: a `forward` or a hook that
holds the given model goes on running it, whatever the copy is cast to, and every variant would be the same.
"""

from __future__ import annotations

import copy
import dis
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor
from torch.nn import Module

from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt
from decodedrift.models.precisions.inputs import RoundedInputs

MOVERS = ("to", "cuda", "npu", "xpu", "mlu", "sdaa", "musa", "neuron")
DEPTH = 6  # how far a function's belongings are followed; what lies deeper is left to the control
GIVEN = "the given model"


def check_copyable(model: Any) -> None:
    """Refuses a model of which no true copy can be made.

    Raises:
        InputError: weights that are offloaded, spread over devices or no tensors; a bound method or hook.
    """
    weights = dict(model.named_parameters())
    if away := [name for name, p in weights.items() if p.is_meta]:
        raise InputError(
            f"{GIVEN}: {len(away)} of its weights are not in memory (offloaded), for example {away[0]}; "
            "load it whole, on one device"
        )
    if len(devices := sorted({str(p.device) for p in weights.values()})) > 1:
        raise InputError(f"{GIVEN}: its weights are spread over {', '.join(devices)}; load it on one device")
    for path, module in model.named_modules():
        if callable(weight := getattr(module, "weight", None)) and not isinstance(weight, Module):
            raise InputError(
                f"{GIVEN}: {path} holds weights that {type(module).__module__.partition('.')[0]} packed away "
                "(quantize_dynamic), which cannot be read; give it as it was before, or use torchao's quantize_"
            )
        if vars(module).get("_compiled_call_impl") is not None:
            raise InputError(
                f"{path or GIVEN}: compiled in place (`compile()`), which no copy takes over; give torch.compile(model)"
            )
    parts = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    for path, module in model.named_modules():
        for name, value in replaced(module):
            if name not in MOVERS and _holds(value, parts):
                raise InputError(_refusal(path, name, value))


def copied(model: Any, memo: dict[int, Any] | None = None) -> Any:
    """A deep copy that can be moved: accelerate's warnings on `to` and `cuda` would move the given model instead.

    Raises:
        InputError: it holds what cannot be copied.
    """
    try:
        twin = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:
        if "allocate" in str(error):
            raise  # memory, which others know how to tell
        raise InputError(
            f"{GIVEN} cannot be copied ({excerpt(error, 120)}); give one that copy.deepcopy copies"
        ) from None
    for module in twin.modules():
        for name in MOVERS:
            vars(module).pop(name, None)
    return twin


def replaced(module: Module) -> Iterator[tuple[str, Any]]:
    """(name, function) of methods and hooks that a copy of this very module takes over, its class and our own aside."""
    state = vars(module)
    with suppress(RuntimeError):  # a parametrized module has no state to give away; it is copied by its attributes
        state = module.__getstate__()  # type: ignore[assignment, no-untyped-call]
    for name, value in state.items():
        if callable(value) and hasattr(type(module), name):
            yield name, value
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        yield from (("hook", hook) for hook in state.get(name, {}).values() if not isinstance(hook, RoundedInputs))


def _holds(value: Any, parts: set[int]) -> bool:
    """Whether a part of the model hangs on a function, which a copy leaves as it is."""
    visited: set[tuple[int, bool]] = set()
    layer = [(value, False)]  # whether we come from a function
    for _ in range(DEPTH):
        below = []
        for part, fixed in layer:
            if fixed and id(part) in parts:
                return True
            if isinstance(part, (Module, Tensor, ModuleType, type, str, bytes)) or (id(part), fixed) in visited:
                continue
            visited.add((id(part), fixed))
            below += [(child, fixed or isinstance(part, FunctionType)) for child in _belongings(part)]
        layer = below
    return False


def _belongings(value: Any) -> list[Any]:
    parts = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, FunctionType):
        named = {i.argval for i in dis.get_instructions(value) if i.opname == "LOAD_GLOBAL"}
        used = [value.__globals__.get(name) for name in named]
        parts += [g for g in used if isinstance(g, (Module, Tensor, MethodType))]
        parts += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # not filled yet
                parts.append(cell.cell_contents)
    elif isinstance(value, MethodType):
        parts += [value.__func__, value.__self__]
    elif isinstance(value, partial):
        parts += [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, Mapping):
        parts += value.values()
    elif isinstance(value, (list, tuple, set)):
        parts += value
    return parts


def _refusal(path: str, name: str, value: Any) -> str:
    where = f"{path}.{name}" if path and name != "hook" else path or name
    if name == "hook":
        what = f"a hook on {path or 'it'} ({getattr(value, '__qualname__', type(value).__name__)})"
        return f"{GIVEN}: {what} holds the model itself, and would go on reading it in every copy; take the hook off"
    mend = f"give the model before its {name} is replaced"
    if hasattr(value, "_torchdynamo_orig_callable"):
        mend += ", or torch.compile(model) as a whole"
    return f"{GIVEN}: its {where} was replaced by a function that runs this model in place of any copy; {mend}"
