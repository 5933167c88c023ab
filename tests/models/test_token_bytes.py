"""tokens.csv: the text and bytes of every id, also of those that are only part of a character."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from decodedrift.models.sources.checkpoints import find
from decodedrift.models.text.vocabulary import vocabulary


def test_bytes_of_the_bundled_vocabulary() -> None:
    """Byte-level: every id has its bytes; put together in order they are the text again, whatever the cuts."""
    vocab = vocabulary(find("demo"))
    for i in range(vocab.size):
        assert vocab.token_bytes(i)
        assert vocab.token_bytes(i).decode("utf-8", "replace") == vocab.token(i)
    text = "naïve 兔子 🙂 — שלום\n"
    ids = vocab.encode(text)
    assert "\ufffd" in "".join(map(vocab.token, ids))
    assert b"".join(map(vocab.token_bytes, ids)).decode("utf-8") == text


def test_bytes_of_a_fallback_piece(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    vocab = vocabulary(find(str(saved())))
    assert vocab.token_bytes(5) == b"w5"
    monkeypatch.setattr(type(vocab), "token", lambda self, i: "\ufffd")
    monkeypatch.setattr(vocab.tokenizer, "convert_ids_to_tokens", lambda i: {1: "<0xE4>", 2: "äöü€"}[i])
    assert vocab.token_bytes(1) == b"\xe4"
    assert vocab.token_bytes(2) == b""
