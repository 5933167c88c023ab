"""A real text as windows to be teacher forced, by docs/metrics.md's rule: each token scored once, as late as can be."""

from __future__ import annotations

from dataclasses import dataclass

from decodedrift.core.records import InputError, Reading, Text
from decodedrift.models.text.vocabulary import Vocabulary

DEFAULT_CONTEXT = 1024
BUNDLED_CONTEXT = 256  # a bundled text is short, and its windows are the clusters of its errors


@dataclass(frozen=True)
class Window:
    """One window: what is read, and where its scored tokens begin in the text.

    key: `text#index`, the prompt_id of its rows and the cluster of its errors.
    """

    key: str
    reading: Reading
    start: int


@dataclass(frozen=True)
class WindowedText:
    """A tokenized text.

    scored_bytes: UTF-8 bytes of the scored tokens' characters, None without character spans. dropped_characters: those
    of the text that the tokenizer makes no token of. words: of the text, where a convention counts them.
    dropped_tokens: those at the end that fill no window.
    """

    name: str
    windows: tuple[Window, ...]
    tokens: int
    scored_bytes: int | None
    dropped_characters: int
    words: int | None = None
    dropped_tokens: int = 0


def sizes(
    context: int | None, stride: int | None, vocab: Vocabulary, default: int = DEFAULT_CONTEXT
) -> tuple[int, int]:
    """(context, stride) with the defaults: min(smallest window, default) and half of it.

    Raises:
        InputError: a context beyond the window of a model, or a stride beyond the context.
    """
    size = size_of(context, vocab, default)
    step = max(1, size // 2) if stride is None else stride
    if step > size:
        raise InputError(f"--stride {step} is larger than the context {size}: tokens would be skipped")
    return size, step


def size_of(context: int | None, vocab: Vocabulary, default: int) -> int:
    """Tokens per window, by default min(smallest window, default).

    Raises:
        InputError: a context beyond the window of a model.
    """
    window = vocab.window
    size = min(window or default, default) if context is None else context
    if window is not None and size > window:
        raise InputError(f"--context {size} exceeds {vocab.narrowest}'s window of {window}")
    return size


def cut(text: Text, vocab: Vocabulary, context: int, stride: int) -> WindowedText:
    """Tokenizes a text once and cuts it: window w covers [w stride, w stride + context).

    In each, the tokens that no earlier window scored are scored, except the window's own first token. No BOS is added
    to later windows.

    Raises:
        InputError: fewer than two tokens.
    """
    ids, spans = vocab.spans(text.text)
    if len(ids) < 2:
        raise InputError(f"text {text.name}: fewer than two tokens; there is nothing to score")
    windows: list[Window] = []
    scored: list[int] = []
    covered = 0
    for index, begin in enumerate(range(0, len(ids), stride)):
        end = min(begin + context, len(ids))
        first = max(covered, begin + 1)
        if first < end:
            reading = Reading(tuple(ids[begin:first]), tuple(ids[first:end]))
            windows.append(Window(f"{text.name}#{index}", reading, first))
            scored.extend(range(first, end))
        covered = end
        if end == len(ids):
            break
    size = covered_bytes(text.text, spans, scored)
    return WindowedText(text.name, tuple(windows), len(scored), size, vocab.dropped(text.text))


def covered_bytes(text: str, spans: list[tuple[int, int]] | None, scored: list[int]) -> int | None:
    """Bytes of the union of character spans: byte-level tokens may share a character, and it counts once."""
    if spans is None:
        return None
    total, reached = 0, 0
    for index in scored:
        begin, end = spans[index]
        begin = max(begin, reached)
        if end > begin:
            total += len(text[begin:end].encode("utf-8", "surrogatepass"))
            reached = end
    return total
