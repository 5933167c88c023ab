"""A checkpoint's tokenizer: found, read, and refused by name where it is none, or not the reference's."""

from __future__ import annotations

import json
from typing import Any

from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt
from decodedrift.models.sources import gguf
from decodedrift.models.sources.checkpoints import Checkpoint
from decodedrift.models.sources.quiet import quiet

FILE = "tokenizer.json"
FILES = (
    FILE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
)  # fmt: skip


def tokenizer_of(checkpoint: Checkpoint) -> Any:
    """The tokenizer in a checkpoint's folder, or the one that came with a model in memory.

    Raises:
        InputError: no tokenizer files (transformers then makes an *empty* one), or none that can be read.
    """
    return _read(checkpoint) if checkpoint.tokenizer is None else checkpoint.tokenizer


def check_same_vocabulary(tokenizer: Any, candidate: Checkpoint, name: str) -> Any:
    """The candidate's own tokenizer, whose token-to-id map is the reference's, or that and some more tokens, or fewer.

    Raises:
        InputError: the maps differ otherwise; names how many entries do and one of them.
    """
    own = tokenizer if candidate.kind == "gguf" else tokenizer_of(candidate)  # a GGUF's is not read
    ours = tokenizer.get_vocab()
    theirs = gguf.vocabulary(*candidate.files) if candidate.kind == "gguf" else own.get_vocab()
    if not theirs or ours.items() <= theirs.items() or theirs.items() <= ours.items():  # a GGUF may hold none
        return own
    differing = sorted(t for t in set(ours) | set(theirs) if ours.get(t) != theirs.get(t))
    raise InputError(
        f"{name}: {candidate.name} has another vocabulary than the reference ({len(differing)} tokens differ, "
        f"for example {differing[0]!r}); one vocabulary must be the other, or it and more"
    )


def _read(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    if checkpoint.kind not in ("hub", "gguf"):
        _check_files(checkpoint)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.source, **checkpoint.arguments)
    except Exception as error:  # a missing, broken or foreign tokenizer raises almost anything
        text = excerpt(error, 140)
        if "trust_remote_code" in str(error):
            hint = "add --trust-remote-code if you trust its authors"
            raise InputError(f"{checkpoint.name}: its tokenizer needs code of its own; {hint}") from None
        raise InputError(f"{checkpoint.name}: its tokenizer cannot be loaded ({text})") from None
    if not tokenizer("hello world", add_special_tokens=False)["input_ids"]:
        if set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
            kind = type(tokenizer).__name__
            raise InputError(
                f"{checkpoint.name}: its tokenizer is read as a {kind}, which makes no token of 'hello world'; "
                "save one of that class, or give compare() model and tokenizer as objects"
            )
        raise InputError(f"{checkpoint.name}: no tokenizer files ({FILE}); save the tokenizer beside the model")
    return tokenizer


def _check_files(checkpoint: Checkpoint) -> None:
    """Refuses what transformers would read as another tokenizer, or refuse without naming the file."""
    paths = {name: path for name in FILES if (path := checkpoint.path(name))}
    if FILE not in paths:
        return
    try:
        content = json.loads(paths[FILE].read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        fault = excerpt(error, 80)
        raise InputError(f"{checkpoint.name}: its tokenizer cannot be loaded ({FILE} is not valid: {fault})") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise InputError(
            f"{checkpoint.name}: its tokenizer cannot be loaded ({FILE} holds no tokenizer: there is no table `model` "
            "in it); copy or download it again"
        )
