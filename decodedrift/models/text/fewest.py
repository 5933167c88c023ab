"""How few tokens a text can be, told from its bytes: what is far too long is refused before minutes go into reading it.

The bound is sound or there is none. A tokenizer that drops, strips or joins without end (WordLevel's and WordPiece's
unknown words, spaces that are collapsed, characters that no token covers) can make one token of any text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

KEEPING = ("ByteLevel", "Metaspace", "Digits", "Split", "Punctuation")  # pre-tokenizers that lose nothing
NFC = 9  # composing a text shortens it to a ninth at most: to a third, as K for the Kelvin sign, and again, as a Hangul


@cache
def byte_level() -> dict[str, int]:
    """GPT-2's alphabet, in which byte-level tokenizers write their pieces: character -> byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {char: byte for byte, char in bytes_to_unicode().items()}


def bytes_per_token(tokenizer: Any) -> int | None:
    """The most UTF-8 bytes of a text that one token can stand for; None where no such bound is known to hold."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not type(tokenizer).__module__.startswith("transformers."):  # foreign code may do anything
        return None
    does = json.loads(backend.to_str())
    model, added = does["model"], does["added_tokens"]
    splitters = list(_steps(does["pre_tokenizer"], "pretokenizers"))
    shrinking = _shrinking(does["normalizer"])
    if (
        model["type"] != "BPE"
        or shrinking is None
        or model.get("continuing_subword_prefix")
        or model.get("end_of_word_suffix")
        or any(token["lstrip"] or token["rstrip"] for token in added)
        or any(s["type"] not in KEEPING or s.get("behavior") == "Removed" for s in splitters)
    ):
        return None
    pieces = model["vocab"]
    if any(s["type"] == "ByteLevel" for s in splitters):
        whole, longest = set(byte_level()), max(map(len, pieces), default=0)
    else:
        whole = {f"<0x{byte:02X}>" for byte in range(256)} if model["byte_fallback"] else set()
        longest = max((len(piece.encode("utf-8", "replace")) for piece in pieces), default=0)
    if not whole or not whole <= set(pieces):
        return None
    return shrinking * max(longest, *(len(token["content"].encode("utf-8", "replace")) for token in added), 1)


def _steps(step: Mapping[str, Any] | None, name: str) -> Iterator[Mapping[str, Any]]:
    """A normalizer or pre-tokenizer as its single steps."""
    if step is not None and step["type"] == "Sequence":
        for inner in step[name]:
            yield from _steps(inner, name)
    elif step is not None:
        yield step


def _shrinking(normalizer: Mapping[str, Any] | None) -> int | None:
    """How many times longer a text can be than what the normalizer makes of it; None where that has no bound."""
    times = 1
    for step in _steps(normalizer, "normalizers"):
        if step["type"] == "NFC":
            times *= NFC
        elif step["type"] == "Replace" and "String" in step["pattern"]:
            if len(step["content"].encode()) < len(step["pattern"]["String"].encode()):
                return None
        elif step["type"] != "Prepend":
            return None
    return times
