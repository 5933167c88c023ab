"""Where a model comes from: the bundled one, a folder, the hub, or memory; and every refusal that needs no weights."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from decodedrift.core.notation import base_and_adapter
from decodedrift.core.records import InputError, shortened
from decodedrift.core.secrecy import excerpt
from decodedrift.models.sources import adapter, gguf, hub
from decodedrift.models.sources.packed import SPELLED, in_headers, packed, parts, quantization_of, types
from decodedrift.models.sources.quantized import Quantization, check_installed, quantization
from decodedrift.models.sources.quiet import quiet
from decodedrift.models.sources.weightfiles import check_no_pointer, headers, local_files

DRAWN = "configuration"  # a kind of source that has no weights: they are drawn when it is trained
DEMO = Path(__file__).parents[2] / "data" / "demo"
REFUSED = {
    "cpmant": "it reads its context both ways, so that what follows changes what came before",
    "gemma4_assistant": "it reads the states of the model that it assists",
    "gemma4_unified_assistant": "it reads the states of the model that it assists",
    "prophetnet": "it predicts several tokens at once, and what follows changes what came before",
    "reformer": "its hashed attention depends on the whole length, so that what follows changes what came before",
    "xlm": "it fills in a masked token that its generation appends",
    "xlnet": "it reads both ways, and fills in a token that its generation appends",
}
"""Families of causal LMs whose logits at a token are no function of the tokens up to it, by model_type."""
WINDOWS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")  # what configurations call it
# families that count positions from the one after the pad id's: so many fewer are left than the configuration says
AFTER_PAD = (
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "xmod",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A model that was found and can be loaded. Nothing of its weights has been read but the file headers.

    source: what `from_pretrained` gets. commit: the hub commit that is pinned for every later read. module: the model
    itself, for one already in memory (it is copied before any conversion). adapter: put on it once it is loaded.
    """

    name: str
    source: str
    kind: str
    config: Any
    commit: str | None = None
    trust_remote_code: bool = False
    local_files_only: bool = False
    files: tuple[str, ...] = ()
    stamps: tuple[tuple[int, int], ...] = ()
    adapter: adapter.Adapter | None = None
    module: Any = field(default=None, repr=False, compare=False)
    tokenizer: Any = field(default=None, repr=False, compare=False)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that every `from_pretrained` of this checkpoint takes, trust passed explicitly."""
        flags: dict[str, Any] = {"gguf_file": os.path.basename(self.files[0])} if self.kind == "gguf" else {}
        flags |= {"trust_remote_code": self.trust_remote_code, "local_files_only": self.local_files_only}
        return flags | ({"revision": self.commit} if self.commit else {})

    @cached_property
    def stored(self) -> dict[str, int]:
        """Elements by stored dtype, e.g. {"F32": 2700000}, read from the safetensors headers (or from memory)."""
        counts: dict[str, int] = {}
        if self.module is not None:
            counts = {SPELLED.get(name, name): n for name, n in types(self.module).items()}
        for _, dtype, shape in self.headers():
            counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
        return counts

    @cached_property
    def quantization(self) -> Quantization | None:
        """How its weights are quantized, None where they are plain, or are when they are loaded (as a GGUF's)."""
        return quantization_of(self.config, self.module) if self.kind != "gguf" else None

    @cached_property
    def parameters(self) -> int:
        """Weights, however they are packed."""
        if self.module is not None:
            return packed(self.module).total
        return in_headers(self.headers(), self.quantization.bits if self.quantization else None)[1]

    @property
    def bytes(self) -> int:
        """Of its weights as they are stored."""
        if self.module is not None:
            tensors = (*self.module.parameters(), *self.module.buffers())
            return sum(part.numel() * part.element_size() for t in tensors for _, part in parts("", t))
        return sum(size for size, _ in self.stamps)

    @property
    def window(self) -> int | None:
        """The longest sequence that it reads, None where its configuration sets no end (or one of -1, as XLNet's)."""
        config = self.config.get_text_config(decoder=True)
        sizes = [getattr(config, name, None) for name in WINDOWS]
        offset = (config.pad_token_id or 0) + 1 if config.model_type in AFTER_PAD else 0
        return next((size - offset for size in sizes if isinstance(size, int) and size > 0), None)

    def headers(self) -> Iterator[tuple[str, str, list[int]]]:
        """(name, dtype, shape) of every stored tensor.

        Raises:
            InputError: a broken or truncated file, which is named.
        """
        yield from headers(self.files)

    def path(self, file: str) -> Path | None:
        """Where a file of the folder, or of the hub, is on this machine; None where there is no such file.

        Raises:
            InputError: it cannot be downloaded, or is the pointer that git keeps in its place.
        """
        if self.kind == "hub":
            return hub.fetched(self, file)
        if self.kind == "gguf":  # all in one; what lies beside it is another's
            return None
        path = Path(self.source) / file
        if not path.is_file():
            return None
        check_no_pointer(path)
        return path

    def check_unchanged(self) -> None:
        """Two variants loaded from different weights would be compared as one model.

        Raises:
            InputError: a weight file changed since it was found.
        """
        on_top = self.adapter.files if self.adapter else ()
        for path, before in zip((*self.files, *on_top), self.stamps, strict=True):
            if stamp(path) != before:
                raise InputError(f"{path} changed while the run was under way; run again when it is complete")


def find(
    name: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    weightless: bool = False,
) -> Checkpoint:
    """Finds a model by the name a user types: `demo`, a folder, a file, a hub id; a LoRA adapter, or BASE+ADAPTER.

    Args:
        weightless: whether a config.json is a model: there is the configuration alone, and the tokenizer beside it.

    Raises:
        InputError: it does not exist, cannot be reached, has no weights, or is no causal language model.
    """
    pair = base_and_adapter(name)
    if pair is not None or adapter.is_local(name):
        return _adapted(name, pair, revision, trust_remote_code, allow_pickle)
    if name == "demo":
        source, kind, commit, offline = str(DEMO), "bundled", None, False
    elif gguf.is_gguf(name):
        source, kind, commit, offline = os.path.dirname(os.path.expanduser(name)) or ".", "gguf", None, False
        gguf.check_readable(name)
    elif name.endswith(".json") and os.path.isfile(os.path.expanduser(name)):
        if not weightless:
            ways = "name a saved model's folder, or train it with --from-scratch"
            raise InputError(f"{name}: a configuration without weights; {ways}")
        source, kind, commit, offline = os.path.dirname(os.path.expanduser(name)) or ".", DRAWN, None, False
    elif os.path.exists(os.path.expanduser(name)):
        source, kind, commit, offline = os.path.expanduser(name), "folder", None, False
    elif name.endswith(gguf.SUFFIX):
        raise InputError(f"{name}: no such file")
    else:
        kind, source = "hub", name
        commit, offline = hub.pinned(name, revision)
    if revision is not None and kind != "hub":
        raise InputError(f"--revision {revision}: {name} is a {kind} model, which has no revisions; leave it out")
    if kind in ("bundled", "folder") and not os.path.isfile(os.path.join(source, "config.json")):
        raise InputError(f"{name}: not the folder of a saved HuggingFace model (no config.json in it)")
    files: tuple[str, ...] = (os.path.expanduser(name),) if kind == "gguf" else ()
    checkpoint = Checkpoint(name, source, kind, None, commit, trust_remote_code, offline, files)
    if kind == "hub" and checkpoint.path(adapter.CONFIG) is not None:
        return _adapted(name, None, revision, trust_remote_code, allow_pickle)
    checkpoint.path("config.json")
    config = _config(checkpoint)
    check_causal(name, config, trust_remote_code)
    if (found := quantization(config)) is not None:
        check_installed(name, found)
    if kind == "hub":
        files = hub.weight_files(checkpoint, allow_pickle)
    elif kind not in ("gguf", DRAWN):
        files = local_files(name, Path(source), allow_pickle)
    return replace(checkpoint, config=config, files=files, stamps=tuple(stamp(f) for f in files))


def _adapted(
    name: str, pair: tuple[str, str] | None, revision: str | None, trust_remote_code: bool, allow_pickle: bool
) -> Checkpoint:
    """A base with an adapter. A revision is the adapter's, and of one in a local folder its base's."""
    on_hub = pair is not None and not os.path.isdir(os.path.expanduser(pair[1]))
    tuned = adapter.find(pair[1] if pair else name, revision if on_hub or not pair else None, allow_pickle)
    source = pair[0] if pair else tuned.base
    if not source:
        raise InputError(f"{name}: its {adapter.CONFIG} names no base (base_model_name_or_path); write BASE+ADAPTER")
    own = revision if tuned.commit is None else None if pair else tuned.base_revision
    try:
        base = find(source, own, trust_remote_code, allow_pickle)
    except InputError as error:
        ways = "" if pair else ", which its configuration names; or write BASE+ADAPTER"
        raise InputError(f"{name}: its base{ways}: {error}") from None
    adapter.check(tuned, base)
    return replace(base, name=name, adapter=tuned, stamps=(*base.stamps, *(stamp(f) for f in tuned.files)))


def stamp(path: str) -> tuple[int, int]:
    """(size, modification time in ns) of a file; (-1, -1) where it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def in_memory(model: Any, tokenizer: Any, name: str | None = None) -> Checkpoint:
    """A model and tokenizer that the caller already holds."""
    from decodedrift.models.sources.copies import check_copyable

    if not hasattr(model, "config"):
        raise InputError(f"--model: a folder, a hub id or a transformers model, not {shortened(str(model))}")
    if tokenizer is None:
        raise InputError("a model in memory needs its tokenizer too: compare(model, tokenizer=tokenizer, ...)")
    check_causal("the given model", model.config, True)
    check_copyable(model)
    label = name or getattr(model.config, "_name_or_path", "") or type(model).__name__
    return Checkpoint(str(label), str(label), "memory", model.config, module=model, tokenizer=tokenizer)


def check_causal(name: str, config: Any, trusted: bool) -> None:
    """Refuses what is not a decoder-only causal LM, from the config alone.

    BERT loads as a "causal LM" with one log line; its checkpoint says what it is in `architectures`.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{name}: an encoder-decoder model ({config.model_type}); decodedrift needs a causal LM")
    remote = trusted and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not remote:
        raise InputError(f"{name}: transformers has no causal LM of type {config.model_type!r}")
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    classes = {name for value in names for name in ([value] if isinstance(value, str) else value)}
    architectures = getattr(config, "architectures", None) or []
    if architectures and not remote and not any(a in classes for a in architectures):
        raise InputError(f"{name}: {architectures[0]} is not a causal language model; give one that generates text")
    if reason := REFUSED.get(config.model_type):
        raise InputError(f"{name}: {config.model_type} cannot be read token by token ({reason}); give another model")
    if _reads_both_ways(config):
        raise InputError(f"{name}: {config.model_type} here is bidirectional (it sees what follows); give a causal LM")


def _reads_both_ways(config: Any) -> bool:
    """Whether the config says that attention is not causal; GPT-NeoX is, and leaves `is_decoder` at False."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING or config.model_type == "bert-generation"
    return (
        (masked and not (getattr(config, "is_decoder", False) or getattr(config, "causal", False)))
        or getattr(config, "is_causal", True) is False
        or getattr(config, "use_bidirectional_attention", False) is True
    )


def _config(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    try:
        with quiet():
            place = os.path.expanduser(checkpoint.name) if checkpoint.kind == DRAWN else checkpoint.source
            return AutoConfig.from_pretrained(place, **checkpoint.arguments)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more, all about this one file
        text = " ".join(str(error).split()).replace(os.path.join(checkpoint.source, ""), "")
        if "trust_remote_code" in text:
            hint = "add --trust-remote-code if you trust its authors"
            raise InputError(f"{checkpoint.name} needs code of its own; {hint}") from None
        raise InputError(f"{checkpoint.name}: its config.json cannot be used ({excerpt(text, 140)})") from None
