"""What a checkpoint and its tokenizer are, as hashes: equal here, equal logits and equal ids."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from decodedrift.core.notation import base_and_adapter
from decodedrift.core.secrecy import home_shortened
from decodedrift.core.settings import Settings
from decodedrift.models.sources.checkpoints import Checkpoint
from decodedrift.models.sources.packed import parts

S = TypeVar("S", bound=Settings)


def described(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint for environment.json: what it is and the hashes of its weights and config; no path."""
    tuned = checkpoint.adapter
    return {
        "name": _shortened(checkpoint.name),
        "kind": checkpoint.kind,
        "commit": checkpoint.commit,
        "type": checkpoint.config.model_type,
        "stored_dtypes": checkpoint.stored,
        "config": config_hash(checkpoint.config),
        "files": weight_hashes(checkpoint),
    } | ({"adapter": _shortened(tuned.name), "adapter_commit": tuned.commit} if tuned else {})


def weight_hashes(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of each weight file by file name, or of a model in memory as a whole: what the run was really made on.

    The model's own code counts with its weights where it is trusted; on the hub the commit holds it.
    """
    if checkpoint.module is not None:
        digest = hashlib.sha256()
        for name, tensor in checkpoint.module.state_dict().items():
            for label, part in parts(name, tensor) if isinstance(tensor, torch.Tensor) else ():
                digest.update(f"{label} {part.dtype} {tuple(part.shape)}\n".encode())
                digest.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return {"in memory": digest.hexdigest()}
    hashes = {}
    has_code = checkpoint.kind == "folder" and checkpoint.trust_remote_code
    code = sorted(str(p) for p in Path(checkpoint.source).glob("*.py")) if has_code else []
    on_top = checkpoint.adapter.files if checkpoint.adapter else ()
    for path in (*checkpoint.files, *code, *on_top):
        with open(path, "rb") as handle:
            hashes[os.path.basename(path)] = hashlib.file_digest(handle, "sha256").hexdigest()
    return hashes


def config_hash(config: Any) -> str:
    """SHA-256 of a model's configuration, less what changes no logit: where it came from and who wrote it."""
    values = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    return _hash(values)


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of all that a fast tokenizer does; of the vocabulary, the special tokens and the template of another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    does = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    if backend is not None:
        does = {k: v for k, v in does.items() if k not in ("padding", "truncation")}  # the state of the last call
    return _hash([does, tokenizer.special_tokens_map, str(getattr(tokenizer, "chat_template", None))])


def without_home(plan: S) -> S:
    """The plan with the home folder shortened in every path that its tables and files would carry."""
    candidates = tuple(replace(c, model=c.model and _shortened(c.model)) for c in plan.candidates)
    return plan.having(model=_shortened(plan.model), candidates=candidates)


def within(
    folder: Path | None, plan: S, checkpoint: Checkpoint, others: Mapping[str, Checkpoint]
) -> tuple[S, Checkpoint, dict[str, Checkpoint]]:
    """The same with what lies in a folder named by its place there: names that hold wherever the folder is moved."""
    if folder is None:
        return plan, checkpoint, dict(others)
    root = Path(os.path.abspath(folder))

    def placed(name: str) -> str:
        path = Path(os.path.abspath(os.path.expanduser(name)))
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else name

    candidates = tuple(replace(c, model=c.model and placed(c.model)) for c in plan.candidates)
    plan = plan.having(model=placed(plan.model), candidates=candidates)
    one, *rest = (replace(each, name=placed(each.name)) for each in (checkpoint, *others.values()))
    return plan, one, dict(zip(others, rest, strict=True))


def _shortened(name: str) -> str:
    """A source without the home folder, in both parts of BASE+ADAPTER."""
    return "+".join(home_shortened(part) for part in base_and_adapter(name) or (name,))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
