"""tokens.csv: the text and bytes of every id, also of those that are only part of a character."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from decodedrift.models.sources.checkpoints import find
from decodedrift.models.text.vocabulary import Vocabulary, vocabulary


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


def test_a_token_keeps_the_space_that_sentencepiece_drops_at_a_beginning() -> None:
    pieces = ["<unk>", "he", "\u2581he", "\u2581", "\u2581\u2581", "<0xE4>"]
    core = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    core.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    vocab = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=core), (), 0, None, None, len(pieces))
    assert vocab.decode([2, 1, 2]) == "hehe he"
    assert [vocab.token(i) for i in range(1, 6)] == ["he", " he", " ", "  ", "\ufffd"]
    assert [vocab.token_bytes(i) for i in range(1, 6)] == [b"he", b" he", b" ", b"  ", b"\xe4"]


def test_bytes_of_a_fallback_piece(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    vocab = vocabulary(find(str(saved())))
    assert vocab.token_bytes(5) == b"w5"
    monkeypatch.setattr(type(vocab), "token", lambda self, i: "\ufffd")
    monkeypatch.setattr(vocab.tokenizer, "convert_ids_to_tokens", lambda i: {1: "<0xE4>", 2: "äöü€"}[i])
    assert vocab.token_bytes(1) == b"\xe4"
    assert vocab.token_bytes(2) == b""
