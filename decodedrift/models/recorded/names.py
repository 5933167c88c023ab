"""From what an engine shows of tokens and texts back to ids, only where one id alone can be meant.

An engine names a token by its text as its own detokenizer has it: with the space that it begins with or without, as a
piece of the vocabulary, or as bytes. A name that could be of two ids is of neither, unless the other names of a
completion say how this engine shows tokens, or its text leaves one id alone (`spelling.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from decodedrift.models.recorded.completion import Token
from decodedrift.models.recorded.spelling import spelled

if TYPE_CHECKING:
    from decodedrift.models.text.vocabulary import Vocabulary

LOST = "\ufffd"  # what bytes that are no text decode to
PIECES, SPACED = "pieces", "spaced"  # how an engine shows tokens: as the vocabulary has them; with their spaces
BEHIND = 64  # ids at the end of a part of a text that may be others in the whole: merges reach a few tokens back
CHARACTERS = 8  # of a token, that a first part of a text allows for
ANCHOR = "="  # a text before another, which keeps a tokenizer from adding a space in front of it


class Names:
    """The ids of a vocabulary by everything that an engine may call them."""

    def __init__(self, vocab: Vocabulary) -> None:
        self.vocab = vocab

    def of(self, name: Token, shown: str = "") -> frozenset[int]:
        """The ids that a token's name may mean; none where it holds what its bytes were lost in.

        shown: how the engine shows tokens, as `shown` says; empty where that is not known.
        """
        if isinstance(name, int):
            return frozenset([name])
        raw = _octets(name)
        if shown == PIECES:
            return frozenset([self._pieces[raw]] if raw in self._pieces else [])
        ids = frozenset() if LOST.encode() in raw else self._table.get(raw, frozenset())
        return frozenset(i for i in ids if self.vocab.token_bytes(i) == raw) if shown == SPACED else ids

    def shown(self, tokens: Sequence[Token]) -> str:
        """PIECES or SPACED, where some of a completion's tokens tell how its engine shows all of them; else empty."""
        from decodedrift.models.text.vocabulary import BYTE_PIECE, METASPACE

        names = [_octets(token) for token in tokens if not isinstance(token, int)]
        texts = [token for token in tokens if isinstance(token, str)]
        if any(METASPACE in text or BYTE_PIECE.fullmatch(text) for text in texts):
            return PIECES if all(name in self._pieces for name in names) else ""
        spaced = [name for name in names if name[:1] == b" " and name[1:].strip() and name in self._table]
        whole = all(self.vocab.token_bytes(i) == name for name in spaced for i in self._table[name])
        return SPACED if spaced and whole else ""

    def spaced_at_first(self, first: Iterable[Token]) -> bool:
        """Whether the tokens of a completion's first position show their spaces, which a detokenizer may drop there."""
        return any(_octets(token)[:1] == b" " for token in first if not isinstance(token, int))

    def ids(
        self, tokens: Sequence[Token], text: str | None = None, first: Iterable[Token] = ()
    ) -> tuple[int, ...] | None:
        """The ids of tokens of which no others are possible, else None.

        Args:
            text: what the engine says that they are together, where it does.
            first: all tokens that it shows at the first position.
        """
        if (ids := _alone([self.of(token) for token in tokens])) is not None:
            return ids
        shown = self.shown(tokens)
        named = [self.of(token, shown) for token in tokens]
        if shown == SPACED and named and not self.spaced_at_first(first):
            named[0] = self.of(tokens[0])
        ids = _alone(named) if shown else None
        if ids is not None and (text is None or self.says(ids, text)):
            return ids
        return None if text is None else spelled(self._spellings(tokens), _octets(text))

    def says(self, ids: Sequence[int], text: str) -> bool:
        """Whether ids decode to a text; white space at the ends and special tokens aside."""
        return text.strip() in (self.vocab.decode(ids).strip(), self.vocab.words(ids).strip())

    def _spellings(self, tokens: Sequence[Token]) -> Iterator[list[tuple[int, bytes]]]:
        """For each token its ids with what they may be in a text: a special one nothing, the first less its space."""
        special = set(self.vocab.tokenizer.all_special_ids)
        for place, token in enumerate(tokens):
            lost = not isinstance(token, int) and LOST.encode() in _octets(token)
            pairs = [(i, self.vocab.token_bytes(i)) for i in (self._broken if lost else self.of(token))]
            pairs += [(i, b"") for i, _ in pairs if i in special]
            if place == 0:
                pairs += [(i, part[1:]) for i, part in pairs if part[:1] == b" "]
            yield pairs

    def top(
        self, top: Mapping[Token, float], chosen: Token | None, chosen_id: int, shown: str = ""
    ) -> tuple[dict[int, float], int]:
        """(id -> ln p, how many are left out) of one position, where the chosen token's id is known by other means."""
        table: dict[int, float] = {}
        for name, p in top.items():
            ids = frozenset([chosen_id]) if chosen is not None and name == chosen else self.of(name, shown)
            if len(ids) == 1:
                table[next(iter(ids))] = p
        return table, len(top) - len(table)

    def encoded(self, prompt: Sequence[int], text: str, most: int | None = None) -> tuple[int, ...] | None:
        """Ids of a text that follows a prompt, as the tokenizer makes them; None where none decode to it.

        They decode to it behind the prompt, or, where a decoder puts spaces between words, by themselves.

        Args:
            most: how many ids are needed; of a text of more, at least so many are those of the whole text.
        """
        needed, refused = (most or 0) + BEHIND, 0
        length = len(text) if most is None else needed * CHARACTERS
        while length < len(text) and refused < 2:  # once may be because of where it was cut
            ids = self._encoded(tuple(prompt), text[:length])
            if ids is not None and len(ids) >= needed:
                return ids[:-BEHIND]
            refused += ids is None
            length *= 4
        return None if refused > 1 else self._encoded(tuple(prompt), text)

    def _encoded(self, prompt: tuple[int, ...], text: str) -> tuple[int, ...] | None:
        whole, encodings = self.vocab.decode(prompt) + text, list[tuple[int, ...]]()
        for ids in self._encodings(prompt, text):
            if ids not in encodings and self.vocab.decode((*prompt, *ids)) == whole:
                return ids
            encodings.append(ids)
        return next((ids for ids in encodings if self.vocab.decode(ids) == text), None)

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
            for name in {self.vocab.token_bytes(token), *map(_octets, texts)}:
                table.setdefault(name, set()).add(token)
        return {name: frozenset(ids) for name, ids in (fallback | pieces).items()}

    @cached_property
    def _pieces(self) -> dict[bytes, int]:
        """Piece of the vocabulary -> id."""
        names = self.vocab.tokenizer.get_vocab()
        return {_octets(str(name)): int(token) for name, token in names.items()}

    @cached_property
    def _broken(self) -> tuple[int, ...]:
        """The ids that are no text by themselves, whose bytes are known."""
        ids = range(len(self.vocab.tokenizer))
        return tuple(i for i in ids if LOST in self.vocab.token(i) and self.vocab.token_bytes(i))


def _octets(name: str | bytes) -> bytes:
    return name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name


def _alone(named: Sequence[frozenset[int]]) -> tuple[int, ...] | None:
    """The one id of each, where each has one alone."""
    ids = tuple(next(iter(names)) for names in named if len(names) == 1)
    return ids if len(ids) == len(named) else None
