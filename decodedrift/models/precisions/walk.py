"""The weights that a precision rounds, and the modules whose inputs it rounds: found, rounded, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from decodedrift.core.records import InputError
from decodedrift.models.precisions.base import Rounded
from decodedrift.models.precisions.inputs import RoundedInputs
from decodedrift.models.precisions.losses import Losses

if TYPE_CHECKING:
    import torch

LAYOUTS = {
    "AriaGroupedExpertsGemm": 1,
    "InklingSharedExperts": 2,
    "JetMoeParallelExperts": 2,
    "Llama4TextExperts": 1,
    "LongcatFlashExperts": 2,
}
"""The input dimension of fused expert weights, [experts, ., .], whose modules do not declare it."""

NAMED = 3  # modules that are named where some are left out
CHOICES = 12  # groups that are named where none fits


@dataclass(frozen=True)
class Weight:
    """A matrix, or a matrix for each of a module's fused experts, in whatever layout it is kept.

    path: of its module. shape: to read it in. dim: its input dimension there.
    """

    path: str
    module: Any
    tensor: torch.Tensor
    shape: torch.Size
    dim: int

    @property
    def width(self) -> int:
        """How many inputs one output is a sum over."""
        return self.shape[self.dim]

    def rows(self) -> torch.Tensor:
        """[..., outputs, inputs] in float32."""
        return self.tensor.data.reshape(self.shape).movedim(self.dim, -1).float()

    def put(self, rows: torch.Tensor) -> None:
        """Takes rows, in the weight's own layout and type."""
        turned = rows.movedim(-1, self.dim).reshape(self.tensor.shape)
        self.tensor.data = turned.to(self.tensor.dtype).contiguous()


@dataclass(frozen=True)
class Scheme:
    """How a precision rounds.

    words: for users, how. weights: rows [..., outputs, inputs] in float32 -> the same, rounded and dequantized. bits:
    of a weight in rows of a width, scales included. inputs: activations [..., inputs], rounded and dequantized
    likewise, None where a format is of weights alone; how, in input_words. block: what must divide a row. fallback: for
    rows that it does not divide; without one they stay as they are.
    """

    words: str
    weights: Callable[[torch.Tensor], torch.Tensor]
    bits: Callable[[int], float]
    inputs: Callable[[torch.Tensor], torch.Tensor] | None = None
    input_words: str = ""
    block: int = 1
    fallback: Scheme | None = None


@dataclass
class Counts:
    """What was rounded, by elements. left: elements of each module that the scheme could not take, by its path."""

    parameters: int = 0
    modules: int = 0
    bits: float = 0.0
    losses: Losses = field(default_factory=Losses)
    left: dict[str, int] = field(default_factory=dict)

    def put(self, weight: Weight, scheme: Scheme) -> None:
        """Rounds a weight in place."""
        old = weight.rows()
        new = scheme.weights(old)
        weight.put(new)
        self.losses.add(weight.path, old, new)


def convert(
    model: Any, name: str, scheme_of: Callable[[Weight], Scheme], options: Mapping[str, Any], *, tables: bool = False
) -> Rounded:
    """Rounds weights in place, the inputs of their products whenever the model runs, or both.

    Args:
        name: the precision's.
        scheme_of: how a weight and its inputs are rounded.
        options: `round` (weights, inputs, all) and `head` of the precision.
        tables: the head goes with the embedding, tied or not; else a tied head is refused.

    Raises:
        InputError: see `schemed`; inputs that are out of reach.
    """
    ladder, counts = options["round"], Counts()
    pairs = schemed(model, name, scheme_of, options, tables=tables)
    inputs, taken, done = list[tuple[Weight, Scheme]](), list[Scheme](), set[int]()
    for weight, scheme in pairs:
        fits = weight.width % scheme.block == 0
        used = scheme if fits else scheme.fallback
        if not fits:
            counts.left[weight.path] = counts.left.get(weight.path, 0) + weight.tensor.numel()
        if used is None:
            continue
        inputs.append((weight, used))
        taken += [used] if fits else []
        if ladder == "inputs" or id(weight.tensor) in done:
            continue
        done.add(id(weight.tensor))
        counts.put(weight, used)
        if fits:
            counts.parameters += weight.tensor.numel()
            counts.modules += 1
            counts.bits += weight.tensor.numel() * used.bits(weight.width)
    if ladder != "weights":
        round_inputs(f"{name}:round={ladder}", model, [(w, used.inputs) for w, used in inputs if used.inputs])
    details = {"scheme": _words(taken, ladder), "round": ladder, "head": options["head"]}
    return Rounded(counts.parameters, counts.modules, details | _details(model, counts, pairs[0][1].fallback))


def schemed(
    model: Any, name: str, scheme_of: Callable[[Weight], Scheme], options: Mapping[str, Any], *, tables: bool = False
) -> list[tuple[Weight, Scheme]]:
    """Each weight to be rounded and how: by shapes alone, so that a model without its weights will do.

    Raises:
        InputError: nothing found that could be rounded, with the groups that could, or a head that is tied.
    """
    pairs = [(weight, scheme_of(weight)) for weight in weights(model, name, head=options["head"], tables=tables)]
    if not pairs:
        raise InputError(f"{name}: this model has no linear or expert weights to quantize; nothing would be rounded")
    if not any(weight.width % scheme.block == 0 for weight, scheme in pairs):
        widths = sorted({weight.width for weight, _ in pairs})
        fits = [str(n) for n in range(2, widths[-1] + 1) if any(width % n == 0 for width in widths)]
        more = ", ..." if len(fits) > CHOICES else ""
        choices = f"group= takes what divides one: {', '.join(fits[:CHOICES])}{more}"
        mend = choices if "group" in options else "nothing would be quantized"
        rows = ", ".join(map(str, widths))
        raise InputError(f"{name}: {pairs[0][1].block} divides no row of this model (of {rows} inputs); {mend}")
    return pairs


def round_inputs(name: str, model: Any, pairs: list[tuple[Weight, Callable[[torch.Tensor], torch.Tensor]]]) -> None:
    """Puts a rounding before each module that multiplies by one of these weights; an embedding multiplies nothing.

    Raises:
        InputError: fused experts, whose second product has its inputs computed in between.
    """
    import torch

    for weight, rounding in pairs:
        if len(weight.shape) == 3:
            raise InputError(
                f"{name}: {weight.path} computes the inputs of its experts' last product within itself, where nothing "
                "can round them; use round=weights"
            )
        if not isinstance(weight.module, torch.nn.Embedding):
            weight.module.register_forward_pre_hook(RoundedInputs(rounding))


def _words(schemes: list[Scheme], ladder: str) -> str:
    """What was done, for users."""
    of_weights, of_inputs = ("; ".join(dict.fromkeys(w)) for w in zip(*((s.words, s.input_words) for s in schemes)))
    if ladder == "weights":
        return f"{of_weights}, weights only"
    return f"inputs only: {of_inputs}" if ladder == "inputs" else f"{of_weights}; inputs: {of_inputs}"


def _details(model: Any, counts: Counts, fallback: Scheme | None) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if counts.parameters:
        details |= {
            "bits_per_weight": counts.bits / counts.parameters,
            "rounded_share": counts.losses.changed / sum(p.numel() for p in model.parameters()),
        } | counts.losses.facts()
    if counts.left:
        details |= {
            "left_out_modules": len(counts.left),
            "left_out_parameters": sum(counts.left.values()),
            "left_out_as": fallback.words if fallback else None,
            "left_out": list(counts.left)[:NAMED],
        }
    return details


def weights(model: Any, name: str, *, head: bool, tables: bool = False) -> Iterator[Weight]:
    """Every Linear's weight (GPT-2's Conv1D was turned into one on load) and every fused expert tensor.

    The output head stays, as `load_in_8bit` leaves it; `head` takes an untied one too, and with `tables` the embedding
    with it, which is the head itself where they are tied. An adapter's matrices stay, as in a quantized base.

    Raises:
        InputError: `head` of a tied head without `tables`; a weight that is computed; a layout that is not declared.
    """
    import torch

    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = output is not None and embedding is not None and output.weight is embedding.weight
    if head and tied and not tables:
        raise InputError(f"{name}:head=true: this model's head is its embedding (tied); leave head=true out")
    aside = _beside(model) | (set(map(id, output.modules())) if output is not None and not head else set())
    for path, module in model.named_modules():
        if id(module) in aside:
            continue
        if module is embedding and head and tables and not tied:
            yield Weight(path, module, module.weight, module.weight.shape, 1)
        if isinstance(module, torch.nn.Linear) and "weight" not in module._parameters:
            raise InputError(f"{name}: the weight of {path} is computed as it runs; remove the parametrization")
        for tensor, shape, dim in _own(module, name):
            yield Weight(path, module, tensor, shape, dim)


def _beside(model: Any) -> set[int]:
    """Ids of the modules that peft put beside a layer, and of a layer in whose place it runs a trained copy."""
    ids = set[int]()
    for module in model.modules():
        parts = module._modules
        names = getattr(module, "adapter_layer_names", ()) if "base_layer" in parts else ()
        names = ("original_module",) if {"original_module", "modules_to_save"} <= set(parts) else names
        ids |= {id(inner) for name in names if parts.get(name) is not None for inner in parts[name].modules()}
    return ids


def _own(module: Any, name: str) -> list[tuple[torch.Tensor, torch.Size, int]]:
    """The module's own weights, the shape to read them in and its input dimension.

    Of biases, norms, embeddings, convolutions and routers: none.

    Raises:
        InputError: fused experts whose layout transformers does not declare.
    """
    import torch

    if isinstance(module, torch.nn.Linear):
        return [(module.weight, module.weight.shape, 1)]
    kind = type(module).__name__
    if kind == "Conv1D":  # one that hooks keep as it is
        return [(module.weight, module.weight.shape, 0)]
    if kind == "DbrxExpertGLU":  # holds its experts one below the other: [experts * ffn, hidden]
        shape = torch.Size((module.moe_num_experts, module.ffn_hidden_size, module.hidden_size))
        return [(module.w1, shape, 2), (module.v1, shape, 2), (module.w2, shape, 1)]
    fused = [p for p in module.parameters(recurse=False) if p.dim() == 3]
    if not fused or "Experts" not in kind:
        return []
    if kind not in LAYOUTS and not hasattr(module, "is_transposed"):
        raise InputError(f"{name}: the layout of {kind}'s fused weights is not declared; leave {name} out")
    # transformers' expert modules hold [experts, out, in], or [experts, in, out] where they say so
    dim = LAYOUTS.get(kind) or (1 if module.is_transposed else 2)
    return [(p, p.shape, dim) for p in fused]
