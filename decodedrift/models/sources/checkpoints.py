"""Where a model comes from: the bundled one, a folder, the hub, or memory; and every refusal that needs no weights."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt
from decodedrift.models.sources.weightfiles import PICKLED, SAFE, check_no_pointer, headers, local_files, shards

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
WAYS_ON = "use --model demo (bundled, offline) or a local folder"


@dataclass(frozen=True)
class Checkpoint:
    """A model that was found and can be loaded. Nothing of its weights has been read but the file headers.

    source: what `from_pretrained` gets. commit: the hub commit that is pinned for every later read. module: the model
    itself, for one already in memory (it is copied before any conversion).
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
    module: Any = field(default=None, repr=False, compare=False)
    tokenizer: Any = field(default=None, repr=False, compare=False)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that every `from_pretrained` of this checkpoint takes, trust passed explicitly."""
        flags: dict[str, Any] = {"trust_remote_code": self.trust_remote_code, "local_files_only": self.local_files_only}
        return flags | ({"revision": self.commit} if self.commit else {})

    @cached_property
    def stored(self) -> dict[str, int]:
        """Elements by stored dtype, e.g. {"F32": 2700000}, read from the safetensors headers (or from memory)."""
        counts: dict[str, int] = {}
        if self.module is not None:
            for parameter in self.module.parameters():
                name = str(parameter.dtype).removeprefix("torch.")
                name = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}.get(name, name)
                counts[name] = counts.get(name, 0) + parameter.numel()
        for _, dtype, shape in self.headers():
            counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
        return counts

    @property
    def parameters(self) -> int:
        """Stored elements."""
        return sum(self.stored.values())

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
            return _from_hub(self, file)
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
        for path, before in zip(self.files, self.stamps, strict=True):
            if stamp(path) != before:
                raise InputError(f"{path} changed while the run was under way; run again when it is complete")


def find(
    name: str, revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False
) -> Checkpoint:
    """Finds a model by the name a user types: `demo`, a folder, or a hub id.

    Raises:
        InputError: it does not exist, cannot be reached, or is no causal language model.
    """
    if name == "demo":
        source, kind, commit, offline = str(DEMO), "bundled", None, False
    elif os.path.exists(os.path.expanduser(name)):
        source, kind, commit, offline = os.path.expanduser(name), "folder", None, False
    else:
        kind, source = "hub", name
        commit, offline = _pin_on_hub(name, revision)
    if revision is not None and kind != "hub":
        raise InputError(f"--revision {revision}: {name} is a {kind} model, which has no revisions; leave it out")
    if kind != "hub" and not os.path.isfile(os.path.join(source, "config.json")):
        raise InputError(f"{name}: not the folder of a saved HuggingFace model (no config.json in it)")
    checkpoint = Checkpoint(name, source, kind, None, commit, trust_remote_code, offline)
    checkpoint.path("config.json")
    config = _config(checkpoint)
    check_causal(name, config, trust_remote_code)
    files = local_files(name, Path(source), allow_pickle) if kind != "hub" else _hub_files(checkpoint, allow_pickle)
    return replace(checkpoint, config=config, files=files, stamps=tuple(stamp(f) for f in files))


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
        raise InputError(f"--model: a folder, a hub id or a transformers model, not {str(model)[:60]!r}")
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


@contextmanager
def quiet() -> Iterator[None]:
    """transformers' and the hub's own bars and warnings, held back: what matters becomes an error of ours."""
    import logging

    from transformers.utils import logging as hf_logging

    hub = logging.getLogger("huggingface_hub")
    level, hub_level, bars = hf_logging.get_verbosity(), hub.level, hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.CRITICAL)
    hub.setLevel(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            hf_logging.enable_progress_bar()


def _config(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(checkpoint.source, **checkpoint.arguments)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more, all about this one file
        text = " ".join(str(error).split()).replace(os.path.join(checkpoint.source, ""), "")
        if "trust_remote_code" in text:
            hint = "add --trust-remote-code if you trust its authors"
            raise InputError(f"{checkpoint.name} needs code of its own; {hint}") from None
        raise InputError(f"{checkpoint.name}: its config.json cannot be used ({excerpt(text, 140)})") from None


def _pin_on_hub(name: str, revision: str | None) -> tuple[str | None, bool]:
    """(commit, offline): the hub's commit for a revision; offline where only the local cache can answer."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub import errors as hub

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name):
        raise InputError(f"{name}: no such folder, and not a hub id (OWNER/MODEL); {WAYS_ON}")
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            return HfApi().model_info(name, revision=revision, timeout=20).sha, False
        except hub.GatedRepoError:
            raise InputError(f"{name} is gated on the hub: accept its terms there and log in (hf auth login)") from None
        except hub.RepositoryNotFoundError:
            raise InputError(f"{name}: no such folder here and no such model on the hub (or it is private)") from None
        except hub.RevisionNotFoundError:
            raise InputError(f"{name} has no revision {revision!r} on the hub") from None
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            reason = f"HTTP {status}" if status else type(error).__name__
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    if isinstance(cached, str):
        return Path(cached).parent.name, True
    raise InputError(f"{name}: no such folder here, and the model hub cannot be reached ({reason}); {WAYS_ON}")


def _from_hub(checkpoint: Checkpoint, file: str) -> Path | None:
    from transformers.utils import cached_file

    try:
        with quiet():
            path = cached_file(
                checkpoint.source, file, revision=checkpoint.commit, local_files_only=checkpoint.local_files_only,
                _raise_exceptions_for_missing_entries=False,
            )  # fmt: skip
    except OSError as error:
        if checkpoint.local_files_only:
            return None
        raise InputError(f"{checkpoint.name}: downloading {file} failed ({excerpt(error, 120)})") from None
    return Path(path) if path else None


def _hub_files(checkpoint: Checkpoint, allow_pickle: bool) -> tuple[str, ...]:
    for name in (SAFE, PICKLED) if allow_pickle else (SAFE,):
        if single := checkpoint.path(name):
            return (str(single),)
        if index := checkpoint.path(f"{name}.index.json"):
            return tuple(str(path) for s in shards(index) if (path := checkpoint.path(s)))
    mend = "" if allow_pickle else "; add --allow-pickle to read its .bin"
    place = "the hub's cache here" if checkpoint.local_files_only else "the hub"
    raise InputError(f"{checkpoint.name}: {place} has no safetensors for it, only formats that can run code{mend}")
