"""The same function in another order of summation: hidden units, heads and the residual stream, permuted consistently.

What one machine adds up in one order another adds up in another; here one machine does both. Hidden units change places
in both matrices of a feed-forward layer; heads of one group of keys and values change places among themselves, and
whole groups do; the channels of the residual stream change places in all that writes to it and reads from it. In exact
arithmetic no logit moves. That this holds is not believed of a model, but shown in float64 before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from decodedrift.core.records import VariantError
from decodedrift.models.compilation import compiled
from decodedrift.models.load import Loaded
from decodedrift.models.precisions.floating import KeepDouble, cast, unavailable
from decodedrift.models.rewrites import PLAIN
from decodedrift.models.sources.copies import copied
from decodedrift.models.sources.quiet import quiet

LEGAL = 1e-12  # of the largest logit: float64 over a few hundred layers stays far below
FACT = "summation"
TOKENS = 24  # in each of two rows, which a proof reads


@dataclass(frozen=True)
class Orders:
    """int64 permutations, place -> which of the old ones stands there.

    residual: [width]. hidden, query, keys: one a layer, over hidden units, and over the outputs of the query and of the
    key and value projections, whole heads together.
    """

    residual: Tensor
    hidden: tuple[Tensor, ...]
    query: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]


Places = dict[str, tuple[Tensor | None, ...]]  # parameter -> a permutation for each dimension, None: as it is


def _llama(config: Any, orders: Orders) -> Places:
    """Also Mistral, Qwen2 and Qwen3, whose norms of queries and keys are the same for every head."""
    res = orders.residual
    places: Places = {"model.embed_tokens.weight": (None, res), "model.norm.weight": (res,)}
    places["lm_head.weight"] = (None, res)
    for n, (hidden, query, keys) in enumerate(zip(orders.hidden, orders.query, orders.keys, strict=True)):
        into = {"self_attn.q_proj": query, "self_attn.k_proj": keys, "self_attn.v_proj": keys}
        into |= {"mlp.gate_proj": hidden, "mlp.up_proj": hidden}
        out = {"self_attn.o_proj": query, "mlp.down_proj": hidden}
        layer: Places = {"input_layernorm.weight": (res,), "post_attention_layernorm.weight": (res,)}
        layer |= {"self_attn.q_norm.weight": (None,), "self_attn.k_norm.weight": (None,)}
        for name, order in into.items():
            layer |= {f"{name}.weight": (order, res), f"{name}.bias": (order,)}
        for name, order in out.items():
            layer |= {f"{name}.weight": (res, order), f"{name}.bias": (res,)}
        places |= {f"model.layers.{n}.{name}": order for name, order in layer.items()}
    return places


def _gpt2(config: Any, orders: Orders) -> Places:
    """Its projections are Linear here, [outputs, inputs] (`rewrites`)."""
    res = orders.residual
    places: Places = {f"transformer.{name}.weight": (None, res) for name in ("wte", "wpe")}
    places |= {f"transformer.ln_f.{part}": (res,) for part in ("weight", "bias")} | {"lm_head.weight": (None, res)}
    for n, (hidden, query) in enumerate(zip(orders.hidden, orders.query, strict=True)):
        three = torch.cat([query + part * len(query) for part in range(3)])  # queries, keys, values
        layer: Places = {f"{norm}.{part}": (res,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
        for name, rows, columns in (
            ("attn.c_attn", three, res),
            ("attn.c_proj", res, query),
            ("mlp.c_fc", hidden, res),
            ("mlp.c_proj", res, hidden),
        ):
            layer |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
        places |= {f"transformer.h.{n}.{name}": order for name, order in layer.items()}
    return places


MAPS: Mapping[str, Callable[[Any, Orders], Places]] = {
    "llama": _llama, "mistral": _llama, "qwen2": _llama, "qwen3": _llama, "gpt2": _gpt2,
}  # fmt: skip


def refused(config: Any) -> str | None:
    """Why no other order of summation is known for a model of this configuration; None where one is."""
    kind = config.get_text_config(decoder=True).model_type
    if kind in MAPS:
        return None
    return f"which of the weights of {kind} change places together is not known; choices: {', '.join(MAPS)}"


@contextmanager
def reordered(loaded: Loaded, seed: int) -> Iterator[None]:
    """While it is open, a model adds up in the order of this seed; on leaving it has the weights that it had.

    The first time its legality is shown (`legality`) and becomes a fact of the variant. No storage is written to: the
    permuted weights stand beside the others. To be opened outside `steps.reading`, whose knobs change what is computed.

    Raises:
        VariantError: a family whose map is not known, weights that it does not name, or that a backend packed; compiled
            code; or a function that is not the same.
    """
    if FACT not in loaded.facts:
        loaded.facts[FACT] = {"legality": legality(loaded, seed)}
    with _permuted(loaded.model, _checked(loaded, seed)):
        yield


def legality(loaded: Loaded, seed: int) -> float:
    """How far a float64 copy moves when it is reordered: max |z' - z| / max |z| over the logits of two texts.

    Raises:
        VariantError: of `reordered`; above LEGAL.
    """
    places = _checked(loaded, seed)
    if why := unavailable("fp64", loaded.device.type):
        raise VariantError(f"{loaded.variant.name}: another order of summation is shown in float64: {why}")
    twin = copied(loaded.model)
    cast(twin, torch.float64)
    ids = torch.arange(1, 2 * TOKENS + 1, device=loaded.device).reshape(2, -1) * 7919
    ids = ids % twin.get_input_embeddings().weight.shape[0]
    with torch.inference_mode(), KeepDouble(), quiet():
        plain = twin(input_ids=ids, use_cache=False).logits.clone()
        for path, parameter in twin.named_parameters():  # it is not put back: no second copy is held beside it
            parameter.data = _moved(parameter, places[path])
        moved = twin(input_ids=ids, use_cache=False).logits
    distance = float((moved - plain).abs().max() / plain.abs().max())
    if not distance <= LEGAL:
        raise VariantError(
            f"{loaded.variant.name}: its sums cannot be reordered: in float64 the logits move by {distance:.1e} of the "
            f"largest, and {LEGAL:.0e} is rounding; leave summation out of --vary"
        )
    return distance


def _checked(loaded: Loaded, seed: int) -> Places:
    """The places of a model's parameters.

    Raises:
        VariantError: of `reordered`.
    """
    model, name = loaded.model, loaded.variant.name
    if why := refused(model.config):
        raise VariantError(f"{name}: {why}")
    if compiled(model):
        raise VariantError(f"{name}: compiled code may hold the weights as they were; leave compile out")
    config = model.config.get_text_config(decoder=True)
    places = MAPS[config.model_type](config, orders(config, seed))
    for path, parameter in model.named_parameters():
        order = places.get(path, ())
        fits = len(order) == parameter.dim() and all(
            part is None or len(part) == size for part, size in zip(order, parameter.shape, strict=True)
        )
        if type(parameter) not in PLAIN or not parameter.is_floating_point() or not fits:
            raise VariantError(f"{name}: {path} is no weight that {config.model_type} has; its sums stay as they are")
    return places


def orders(config: Any, seed: int) -> Orders:
    """Permutations from a seed.

    Heads change places within their group, and groups as a whole with their keys and values.
    """
    generator = torch.Generator().manual_seed(seed)
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    width = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    residual = torch.randperm(config.hidden_size, generator=generator)
    hidden, query, keys = [], [], []
    for _ in range(config.num_hidden_layers):
        hidden.append(torch.randperm(width, generator=generator))
        order = torch.randperm(groups, generator=generator)
        own = [group * (heads // groups) + torch.randperm(heads // groups, generator=generator) for group in order]
        query.append(_spread(torch.cat(own), size))
        keys.append(_spread(order, size))
    return Orders(residual, tuple(hidden), tuple(query), tuple(keys))


def _spread(heads: Tensor, size: int) -> Tensor:
    """A permutation of heads as one of their channels."""
    return (heads[:, None] * size + torch.arange(size)).reshape(-1)


def _moved(parameter: Any, order: tuple[Tensor | None, ...]) -> Tensor:
    """A parameter's values in their new places."""
    moved: Tensor = parameter.data
    for dim, places in enumerate(order):
        moved = moved if places is None else moved.index_select(dim, places.to(moved.device))
    return moved


@contextmanager
def _permuted(model: Any, places: Places) -> Iterator[None]:
    """While it is open, parameters stand in their new places."""
    before: list[tuple[Any, Tensor]] = []
    try:
        with torch.inference_mode(False), torch.no_grad():
            for path, parameter in model.named_parameters():
                before.append((parameter, parameter.data))
                parameter.data = _moved(parameter, places[path])
        yield
    finally:
        for parameter, data in before:
            parameter.data = data
