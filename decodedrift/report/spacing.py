"""From token ids to their text, with the spaces that a token read by itself has lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd


def decoder(tokens: pd.DataFrame, traces: pd.DataFrame) -> Callable[[Sequence[int]], str]:
    """From ids to their text: by the table of tokens, and by these traces, whose texts have the lost spaces."""
    octets = _octets(tokens)
    lost = _lost(octets, traces)
    pieces = {i: b" " + piece if i in lost else piece for i, piece in octets.items()}
    return lambda ids: b"".join(pieces.get(i, f"⟨{i}⟩".encode()) for i in ids).decode("utf-8", "replace")


def spaceless(tokens: pd.DataFrame, traces: pd.DataFrame) -> set[int]:
    """The ids whose text in the table of tokens lacks the space that these traces have in front of it.

    A token by itself may have lost it: vocabularies of words, and SentencePiece in older runs.
    """
    return _lost(_octets(tokens), traces)


def _octets(tokens: pd.DataFrame) -> dict[int, bytes]:
    return {
        int(row.token_id): bytes.fromhex(row.bytes)
        if isinstance(row.bytes, str) and row.bytes
        else str(row.token).encode("utf-8", "replace")
        for row in tokens.itertuples()
    }


def _lost(octets: Mapping[int, bytes], traces: pd.DataFrame) -> set[int]:
    """Reads each text token by token, as far as it can be followed."""
    lost: set[int] = set()
    for row in traces.dropna(subset=["token_ids", "text"]).itertuples():
        text, at = row.text.encode("utf-8", "replace"), 0
        for index, token_id in enumerate(map(int, row.token_ids.split())):
            piece = octets.get(token_id, b"")
            if index == 0 and not text.startswith(piece):
                piece = piece.removeprefix(b" ")  # which a text's decoder drops at its beginning
            elif index and not (piece and text.startswith(piece, at)) and text.startswith(b" " + piece, at):
                lost.add(token_id)
                piece = b" " + piece
            if not text.startswith(piece, at):
                break
            at += len(piece)
    return lost
