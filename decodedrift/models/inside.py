"""What happens inside a model while it reads: every module's inputs and output, by hooks that change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from decodedrift.core.records import VariantError
from decodedrift.models.compilation import compiled
from decodedrift.models.load import Loaded

EMBEDDING, NORMED, HEAD = "embedding", "before the head", "head"
See = Callable[[str, int | None, list[Tensor], Tensor], None]


def layers(loaded: Loaded) -> tuple[str, int]:
    """(name, length) of the list of decoder layers: the only list of as many modules as the configuration has layers.

    Raises:
        VariantError: there is none, or it cannot be told which it is.
    """
    count = loaded.model.config.get_text_config(decoder=True).num_hidden_layers
    lists = [
        name
        for name, module in loaded.model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    ]
    least = min((name.count(".") for name in lists), default=0)
    outermost = [name for name in lists if name.count(".") == least]
    if len(outermost) != 1:
        kind = type(loaded.model).__name__
        raise VariantError(f"{loaded.variant.name}: which modules of {kind} are its layers cannot be told")
    return outermost[0], count


def labels(loaded: Loaded) -> dict[str, str]:
    """Path of a module -> its name here: EMBEDDING, HEAD, else from the list of layers on (`layers.3.mlp.up_proj`).

    Raises:
        VariantError: see `layers`.
    """
    prefix = layers(loaded)[0].rpartition(".")[0]
    special = {id(loaded.model.get_output_embeddings()): HEAD, id(loaded.model.get_input_embeddings()): EMBEDDING}
    return {
        path: special.get(id(module)) or (path.removeprefix(f"{prefix}.") if prefix else path)
        for path, module in loaded.model.named_modules()
    }


@contextmanager
def watched(loaded: Loaded, see: See) -> Iterator[None]:
    """While it is open, `see` is told of every module that ends its work, inner ones first.

    Names begin at the list of layers (`layers.3.mlp.up_proj`), so that a model inside another has the same; a second
    call of the same module in one forward pass is `NAME#2`.

    Args:
        see: (name, depth, inputs, output). depth: -1 of the embedding, a layer's number, one and two more than the last
            of what the head reads (`NORMED`, which has no inputs) and of its logits; None elsewhere. inputs: the
            floating tensors among a module's arguments (of the embedding the ids). output: the first tensor it gives.

    Raises:
        VariantError: a compiled model, which calls no hooks, or one whose layers cannot be told.
    """
    if compiled(loaded.model):
        raise VariantError(f"{loaded.variant.name}: a compiled model does not show what happens inside")
    blocks, count = layers(loaded)
    prefix, head = blocks.rpartition(".")[0], loaded.model.get_output_embeddings()
    calls: dict[str, int] = {}
    names = labels(loaded)
    own = blocks.removeprefix(f"{prefix}.")
    depths = {EMBEDDING: -1, HEAD: count + 1} | {f"{own}.{n}": n for n in range(count)}

    def hook(name: str, module: torch.nn.Module) -> Callable[..., None]:
        """What a module calls as it ends its work."""

        def done(_: Any, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            result = next(tensors(output), None)
            if result is None:
                return
            calls[name] = calls.get(name, 0) + 1
            # whole numbers are ids, which are equal, or positions and masks, which a layout may share between rows
            given = (*tensors(arguments), *tensors(tuple(named.values())))
            inputs = [tensor for tensor in given if tensor.is_floating_point() or name == EMBEDDING]
            if module is head:
                see(NORMED, count, [], inputs[0])
            told = name if calls[name] == 1 else f"{name}#{calls[name]}"
            see(told, depths.get(told), inputs, result)

        return done

    handles = [loaded.model.register_forward_pre_hook(lambda *_: calls.clear())]
    for name, module in loaded.model.named_modules():
        if name and not isinstance(module, torch.nn.ModuleList):
            handles.append(module.register_forward_hook(hook(names[name], module), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a value, of tuples and lists the tensors in them; a cache and other objects are passed over."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            if isinstance(item, Tensor):
                yield item
    elif hasattr(value, "to_tuple"):  # transformers' outputs
        yield from tensors(value.to_tuple())
