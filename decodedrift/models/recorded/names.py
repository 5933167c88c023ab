"""From what an engine shows of tokens and texts back to ids, only where one id alone can be meant.

An engine names a token by its text as its own detokenizer has it: with the space that it begins with or without, as a
piece of the vocabulary, or as bytes. A name that could be of two ids is of neither. Where the names of a text are seen
to have their spaces, one without is of a token without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from decodedrift.models.recorded.completion import Token

if TYPE_CHECKING:
    from decodedrift.models.text.vocabulary import Vocabulary

LOST = "\ufffd"  # what bytes that are no text decode to
ANCHOR = "="  # a text before another, which keeps a tokenizer from adding a space in front of it


def bytes_of(name: str | bytes) -> bytes:
    """A token's name as bytes."""
    return name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name


def spaced(tokens: Sequence[Token], text: str | None, first: Iterable[Token]) -> list[bool]:
    """At which positions the names of a text's tokens have the spaces that these begin with.

    They do where names with a space make up the text. A detokenizer may leave the text's first out: there one must be
    shown, of the chosen token or of `first`, the others of that position.
    """
    names = [bytes_of(token) for token in tokens if not isinstance(token, int)]
    told = bool(text) and len(names) == len(tokens) and b"".join(names).startswith(bytes_of(text or ""))
    told = told and any(name.startswith(b" ") for name in names[1:])
    begin = [bytes_of(name) for name in (*tokens[:1], *first) if not isinstance(name, int)]
    return [told and any(name.startswith(b" ") for name in begin), *[told] * len(tokens)][: len(tokens)]


class Names:
    """The ids of a vocabulary by everything that an engine may call them."""

    def __init__(self, vocab: Vocabulary) -> None:
        self.vocab = vocab

    def of(self, name: Token, spaced: bool = False) -> frozenset[int]:
        """The ids that a token's name may mean; none where it holds what its bytes were lost in.

        Args:
            spaced: whether names here have the space that a token begins with.
        """
        if isinstance(name, int):
            return frozenset([name])
        raw = bytes_of(name)
        ids = frozenset() if LOST.encode() in raw else self._table.get(raw, frozenset())
        exact = frozenset(token for token in ids if self.vocab.token_bytes(token) == raw) if spaced else None
        return exact or ids

    def ids(self, tokens: Sequence[Token], spaced: Sequence[bool]) -> tuple[int, ...] | None:
        """The ids of tokens that are all named unambiguously, else None."""
        every = [self.of(token, full) for token, full in zip(tokens, spaced, strict=True)]
        return tuple(next(iter(ids)) for ids in every) if all(len(ids) == 1 for ids in every) else None

    def top(
        self, top: Mapping[Token, float], chosen: Token | None, chosen_id: int, spaced: bool = False
    ) -> tuple[dict[int, float], int]:
        """(id -> ln p, how many are left out) of one position, where the chosen token's id is known by other means."""
        table: dict[int, float] = {}
        for name, p in top.items():
            ids = frozenset([chosen_id]) if chosen is not None and name == chosen else self.of(name, spaced)
            if len(ids) == 1:
                table[next(iter(ids))] = p
        return table, len(top) - len(table)

    def encoded(self, prompt: Sequence[int], text: str) -> tuple[int, ...] | None:
        """Ids of a text that follows a prompt, as the tokenizer makes them; None where none decode to it.

        They decode to it behind the prompt, or, where a decoder puts spaces between words, by themselves.
        """
        encodings = list(dict.fromkeys(self._encodings(tuple(prompt), text)))
        whole = self.vocab.decode(prompt) + text
        behind = (ids for ids in encodings if self.vocab.decode((*prompt, *ids)) == whole)
        alone = (ids for ids in encodings if self.vocab.decode(ids) == text)
        return next(behind, next(alone, None))

    def _encodings(self, prompt: tuple[int, ...], text: str) -> Iterator[tuple[int, ...]]:
        """Together with the prompt, alone, and behind an anchor: a prompt's last token may merge with what follows."""
        special = set(self.vocab.tokenizer.all_special_ids)
        bare = next((prompt[n:] for n, token in enumerate(prompt) if token not in special), ())
        for before in (prompt, bare):
            together = tuple(self.vocab.ids(self.vocab.decode(before) + text, special=False))
            if together[: len(before)] == before:
                yield together[len(before) :]
        yield tuple(self.vocab.ids(text, special=False))
        anchor = tuple(self.vocab.ids(ANCHOR, special=False))
        behind = tuple(self.vocab.ids(ANCHOR + text, special=False))
        if behind[: len(anchor)] == anchor:
            yield behind[len(anchor) :]

    @cached_property
    def _table(self) -> dict[bytes, frozenset[int]]:
        """Name -> ids. A byte of a fallback stands in for a missing piece: it is meant where no piece has the name."""
        from decodedrift.models.text.vocabulary import BYTE_PIECE

        pieces: dict[bytes, set[int]] = {}
        fallback: dict[bytes, set[int]] = {}
        for token in range(len(self.vocab.tokenizer)):
            piece = str(self.vocab.tokenizer.convert_ids_to_tokens(token) or "")
            texts = (self.vocab.token(token), self.vocab.decode([token]), piece)
            table = fallback if BYTE_PIECE.fullmatch(piece) else pieces
            for name in {self.vocab.token_bytes(token), *(t.encode("utf-8", "surrogatepass") for t in texts)}:
                table.setdefault(name, set()).add(token)
        return {name: frozenset(ids) for name, ids in (fallback | pieces).items()}
