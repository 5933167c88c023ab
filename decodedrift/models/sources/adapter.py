"""LoRA adapters: found beside their base, checked against its shapes, put on it by peft, merged where that is asked."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from decodedrift.core.records import InputError, VariantError
from decodedrift.core.secrecy import excerpt
from decodedrift.models.precisions.floating import NAMES, cast, losses
from decodedrift.models.sources import hub
from decodedrift.models.sources.quiet import quiet as loggers_quiet
from decodedrift.models.sources.weightfiles import check_no_pointer, headers

CONFIG, SAFE, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
FACTS, MERGED_SHARE = "_decodedrift_adapter", "_decodedrift_merged_share"


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter that was found; of its weights only the headers were read.

    source: a folder or hub id. folder: on this machine. config: its adapter_config.json. base, base_revision: what it
    names as its base. commit: on the hub, pinned. files: configuration and weights.
    """

    name: str
    source: str
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    folder: str = ""
    files: tuple[str, ...] = ()
    commit: str | None = None
    local_files_only: bool = False

    @property
    def base(self) -> str:
        """The base that its configuration names; empty where it names none."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def base_revision(self) -> str | None:
        """Of that base, on the hub."""
        return self.config.get("revision") or None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every stored tensor, by name."""
        return {name: tuple(shape) for name, _, shape in headers(self.files[1:])}


def is_local(name: str) -> bool:
    """Whether a name is a folder that holds an adapter. transformers takes it for one too, whatever else is in it."""
    return os.path.isfile(os.path.join(os.path.expanduser(name), CONFIG))


def find(name: str, revision: str | None, allow_pickle: bool) -> Adapter:
    """Finds an adapter by its folder or hub id.

    Raises:
        InputError: there is none, peft is missing, it is not LoRA, or its weights are pickled.
    """
    source = os.path.expanduser(name)
    if os.path.isdir(source):
        paths = {file: Path(source, file) for file in (CONFIG, SAFE, PICKLED) if Path(source, file).is_file()}
        adapter = Adapter(name, source)
    else:
        commit, offline = hub.pinned(name, revision)
        adapter = Adapter(name, source, commit=commit, local_files_only=offline)
        fetched = {file: hub.fetched(adapter, file) for file in (CONFIG, SAFE, *([PICKLED] if allow_pickle else []))}
        paths = {file: path for file, path in fetched.items() if path is not None}
    if CONFIG not in paths:
        raise InputError(f"{name}: no adapter (no {CONFIG} in it); write BASE+ADAPTER with a LoRA adapter of peft")
    if importlib.util.find_spec("peft") is None:
        raise InputError(f"{name}: a LoRA adapter, which needs peft: pip install 'decodedrift[lora]'")
    weights = paths.get(SAFE) or (paths.get(PICKLED) if allow_pickle else None)
    if weights is None and PICKLED in paths:
        mend = "save it as safetensors (model.save_pretrained(folder)), or add --allow-pickle"
        raise InputError(f"{name}: only pickled weights ({PICKLED}), a format that can run code; {mend}")
    if weights is None:
        raise InputError(f"{name}: no {SAFE} beside its {CONFIG}")
    check_no_pointer(weights)
    config, files = _config(name, paths[CONFIG]), (str(paths[CONFIG]), str(weights))
    return Adapter(name, source, config, str(weights.parent), files, adapter.commit, adapter.local_files_only)


def check(adapter: Adapter, base: Any) -> None:
    """Refuses an adapter that does not fit its base, by shapes alone.

    Args:
        base: its Checkpoint.

    Raises:
        InputError: names a matrix that has no place, or another shape.
    """
    from transformers import AutoModelForCausalLM

    if base.adapter is not None:
        raise InputError(f"{adapter.name}: its base {base.name} is an adapter itself; merge that first")
    with quiet():
        pass  # imports all that it can run on, which speaks too
    with torch.device("meta"), quiet():
        model = AutoModelForCausalLM.from_config(base.config, trust_remote_code=base.trust_remote_code)
        config = _lora(adapter)
        config.init_lora_weights = False  # some are decompositions of the base's weights, which are not here
        try:
            wrapped = _peft().get_peft_model(model, config)
        except (ValueError, TypeError, KeyError, RuntimeError, NotImplementedError) as error:
            raise InputError(f"{adapter.name}: does not fit its base {base.name} ({excerpt(error, 140)})") from None
    _check_fits(adapter, base.name, wrapped)


def attached(model: Any, adapter: Adapter, merge: str | None, dtype: torch.dtype, name: str) -> Any:
    """A base with its adapter, as peft runs it: matrices of 16-bit bases in float32, products added to the base's.

    Args:
        merge: None or `none`; else the products are added to the weights, in the type that the base was read in.
        dtype: the type to run merged weights in, unless the base is quantized.
        name: the variant's.

    Raises:
        VariantError: peft cannot put it on, or merge it.
    """
    try:
        with quiet():
            wrapped = _peft().PeftModel.from_pretrained(model, adapter.folder, config=_lora(adapter))
            _check_fits(adapter, "its base", wrapped)
            facts = described(wrapped) or {}
            if merge not in (None, "none"):
                facts |= {"untied": True} if _untied(wrapped.get_base_model()) else {}
            base = wrapped.get_base_model() if merge in (None, "none") else wrapped.merge_and_unload()
    except (ImportError, ValueError, TypeError, AttributeError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, InputError) or "allocate" in str(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        raise VariantError(f"{name}: {adapter.name} cannot be put on its base ({excerpt(error, 180)})") from error
    if merge not in (None, "none"):
        facts |= {"merge": merge, "merged": described(base) is None}
        if getattr(base.config, "quantization_config", None) is None:
            if merge == "fp32":
                share = losses(((n, p.detach()) for n, p in base.named_parameters()), dtype).share
                setattr(base, MERGED_SHARE, {NAMES[dtype]: share})
            cast(base, dtype)
    setattr(base, FACTS, facts)
    return base


def described(model: Any) -> dict[str, Any] | None:
    """What a LoRA adapter on a model is, read from its modules; None where there is none.

    rank, alpha, scaling: one number, or the sorted ones that occur. zero_modules: those whose product is zero whatever
    they are given. parameters: all that it brings to its modules. dtypes: of its matrices. dora_modules: those whose
    sum is scaled to a length of its own (DoRA); replaced: modules that were trained whole; both where there are any.
    """
    if (kept := getattr(model, FACTS, None)) is not None:
        return dict(kept)
    layers = [m for m in model.modules() if hasattr(m, "base_layer") and getattr(m, "lora_A", None) is not None]
    active = [(m, name) for m in layers for name in m.active_adapters if name in m.scaling]
    if not active:
        return None
    pairs = [_matrices(module, name) for module, name in active]
    dora = sum(name in getattr(module, "lora_magnitude_vector", ()) for module, name in active)
    replaced = [
        path.removeprefix("base_model.model.")
        for path, module in model.named_modules()
        if isinstance(copies := getattr(module, "modules_to_save", None), torch.nn.ModuleDict)
        and {*copies} & {*module.active_adapters}
    ]
    more = ({"dora_modules": dora} if dora else {}) | ({"replaced": replaced} if replaced else {})
    return more | {
        "rank": _values(m.r[n] for m, n in active),
        "alpha": _values(m.lora_alpha[n] for m, n in active),
        "scaling": _values(m.scaling[n] for m, n in active),
        "modules": len(active),
        "zero_modules": sum(not all(bool(t.any()) for t in pair) for pair in pairs),
        "parameters": sum(t.numel() for module, name in active for t in _brought(module, name)),
        "dtypes": sorted({NAMES.get(t.dtype, str(t.dtype)) for pair in pairs for t in pair}),
        "merge": "none",
        "merged": any(bool(m.merged) for m, _ in active),
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is said by peft either, which warns of what is checked and told here."""
    with loggers_quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _peft() -> Any:
    """peft, at whose import the libraries that it tries speak up."""
    with quiet():
        import peft
    return peft


def _untied(base: Any) -> bool:
    """Gives the head a weight of its own where it shares the embedding's and one of the two is adapted.

    Merged into the one matrix, the products of the one would act in the other too.
    """
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    first, head = (getattr(end, "base_layer", end) for end in ends)
    if head is None or head.weight is not first.weight or not any(hasattr(end, "base_layer") for end in ends):
        return False
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    base.config.tie_word_embeddings = False
    return True


def _brought(module: Any, name: str) -> Iterator[torch.Tensor]:
    """All tensors of an adapter in a module of its: matrices, their biases, lengths."""
    kinds = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
    for part in (getattr(module, kind, {}) for kind in kinds):
        if name in part:
            yield from part[name].parameters() if isinstance(part[name], torch.nn.Module) else [part[name]]


def _matrices(module: Any, name: str) -> list[torch.Tensor]:
    linear = [part[name].weight for part in (module.lora_A, module.lora_B) if name in part]
    return linear or [module.lora_embedding_A[name], module.lora_embedding_B[name]]


def _values(numbers: Any) -> Any:
    different = sorted(set(numbers))
    return different[0] if len(different) == 1 else different


def _lora(adapter: Adapter) -> Any:
    try:
        config = _peft().PeftConfig.from_pretrained(adapter.folder)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise InputError(f"{adapter.name}: its {CONFIG} cannot be used ({excerpt(error, 140)})") from None
    config.inference_mode = True
    return config


def _config(name: str, path: Path) -> dict[str, Any]:
    """What an adapter_config.json says, refused where it is no LoRA adapter of a causal language model."""
    check_no_pointer(path)
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: its {CONFIG} cannot be used ({excerpt(error, 80)})") from None
    if not isinstance(config, dict):
        raise InputError(f"{name}: its {CONFIG} cannot be used (no table)")
    if (kind := config.get("peft_type")) != "LORA":
        raise InputError(f"{name}: an adapter of type {kind}; only LoRA adapters can be read")
    if (task := config.get("task_type")) not in (None, "CAUSAL_LM"):
        raise InputError(f"{name}: an adapter for {task}, not for causal language models (CAUSAL_LM)")
    if config.get("alora_invocation_tokens"):
        raise InputError(f"{name}: acts on some tokens alone (alora_invocation_tokens), which cannot be compared here")
    return config


def _check_fits(adapter: Adapter, base: str, wrapped: Any) -> None:
    """Every stored matrix has its place, and every place its matrix: peft itself leaves out what does not fit."""
    stored = adapter.shapes
    state = {name: tuple(t.shape) for name, t in wrapped.state_dict().items()}
    own = _peft().get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    needed = {n: tuple(t.shape) for n, t in own.items()}
    places = state | needed
    for name in sorted(stored):
        if name not in places:
            raise InputError(f"{adapter.name}: does not fit {base}, which has no place for {name}")
        if places[name] != stored[name]:
            there, here = list(places[name]), list(stored[name])
            raise InputError(f"{adapter.name}: does not fit {base}: {name} is {here}, and would have to be {there}")
    if missing := sorted(set(needed) - set(stored)):
        raise InputError(f"{adapter.name}: its weights lack {len(missing)} matrices, for example {missing[0]}")
