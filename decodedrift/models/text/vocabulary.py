"""Text to ids and back: the tokenizer's own defaults, the stop ids, the window."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_ulong, py_object, pythonapi
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from decodedrift.core.records import InputError, Prompt
from decodedrift.core.secrecy import excerpt
from decodedrift.models.sources.checkpoints import Checkpoint
from decodedrift.models.sources.quiet import quiet
from decodedrift.models.text.fewest import byte_level, bytes_per_token
from decodedrift.models.text.stops import stop_and_pad
from decodedrift.models.text.tokenizer import tokenizer_of

TEMPLATE_SECONDS = 10.0  # a chat template is a program of the model's authors, and need not end
BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")  # SentencePiece's byte fallback
METASPACE = "\u2581"  # SentencePiece's sign for a space
NEAR = 8  # characters to either side, in which most characters show that they are no dropped ones
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer with the ids that generation needs. The reference's serves every variant.

    eos: stop ids, empty if there are none. pad: what finished rows are fed. window: the longest sequence that every
    variant reads, or None; narrowest: whose it is. size: the smallest vocabulary of a variant; a tokenizer of another
    model may make ids beyond it; smallest: whose it is.
    """

    tokenizer: Any
    eos: tuple[int, ...]
    pad: int
    bos: int | None
    window: int | None
    size: int
    narrowest: str = "the model"
    smallest: str = "the model"

    def encode(self, text: str, *, chat: bool = False) -> list[int]:
        """Ids by the tokenizer's own defaults, a trailing EOS removed; as a user's turn with `chat`."""
        return self.ids(self.rendered([user_turn(text)]), special=False) if chat else self.ids(text)

    def ids(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a text as it is, with what the tokenizer adds in front unless told not to (a template has its own)."""
        ids = list(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        return ids[: self._length(ids, text)] if special else ids

    def rendered(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The turns of a conversation as the tokenizer's chat template writes them, up to where the model answers.

        Raises:
            TimeoutError: the template does not end. Whatever it raises is raised here.
        """
        return timed(TEMPLATE_SECONDS, partial(self._rendered, messages))

    @cached_property
    def bytes_per_token(self) -> int | None:
        """The most bytes of a text that a token can stand for, None where there is no bound."""
        return bytes_per_token(self.tokenizer)

    def _rendered(self, messages: Sequence[Mapping[str, Any]]) -> str:
        turns = [dict(turn) for turn in messages]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _length(self, ids: Sequence[int], text: str) -> int:
        """How many ids are the text's: an EOS that the tokenizer added at the end is none of it."""
        count = len(ids)
        while count and ids[count - 1] == self.tokenizer.eos_token_id and not text.endswith(self.tokenizer.eos_token):
            count -= 1
        return count

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a continuation, special tokens kept, nothing tidied."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def words(self, ids: Sequence[int]) -> str:
        """The text of a continuation for whoever reads it as an answer: no special token, nor the stop that ends it."""
        ids = list(ids[:-1] if ids and ids[-1] in self.eos else ids)
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token(self, token_id: int) -> str:
        """One token as text; bytes that are no text of their own come out as U+FFFD.

        SentencePiece's decoders drop the space that a text begins with; it is part of the token.
        """
        text = self.decode([token_id])
        spaced = str(self.tokenizer.convert_ids_to_tokens(token_id)).replace(METASPACE, " ")
        return spaced if spaced == f" {text}" else text

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of a token, also of one that is only part of a character; empty where they are not known."""
        text = self.token(token_id)
        if "\ufffd" not in text:
            return text.encode("utf-8", "replace")
        piece = str(self.tokenizer.convert_ids_to_tokens(token_id))
        if match := BYTE_PIECE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        table = byte_level()
        raw = bytes(table[c] for c in piece) if all(c in table for c in piece) else b""
        return raw if raw.decode("utf-8", "replace") == text else b""

    def spans(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """Ids of a real text with their character spans (None where the tokenizer has none)."""
        with quiet():
            try:
                encoding = self.tokenizer(text, return_offsets_mapping=True)
            except (NotImplementedError, ValueError):
                return self.encode(text), None
        special = set(self.tokenizer.all_special_ids)
        ids = list(encoding["input_ids"])
        ids = ids[: self._length(ids, text)]
        offsets = [(0, 0) if i in special else tuple(o) for i, o in zip(ids, encoding["offset_mapping"], strict=False)]
        return ids, offsets

    def dropped(self, text: str) -> int:
        """How many characters of a text the tokenizer drops: those that can be taken out of it and change no token.

        Spans do not tell: behind a dropped character those of tokenizers are shifted.
        """

        def ids(piece: str) -> list[int]:
            return list(self.tokenizer(piece, add_special_tokens=False)["input_ids"])

        count = 0
        with quiet():
            for character in dict.fromkeys(text):
                at = text.index(character)
                near = text[max(0, at - NEAR) : at + NEAR]
                if ids(near) == ids(near.replace(character, "")) and ids(text) == ids(text.replace(character, "")):
                    count += text.count(character)
        return count


def vocabulary(checkpoint: Checkpoint, ignore_eos: bool = False) -> Vocabulary:
    """Reads tokenizer, stop ids and window.

    Raises:
        InputError: no tokenizer files (transformers then makes an *empty* one), or none that can be read.
    """
    tokenizer = tokenizer_of(checkpoint)
    eos, pad = stop_and_pad(checkpoint, tokenizer)
    size = checkpoint.config.get_text_config(decoder=True).vocab_size
    return Vocabulary(tokenizer, () if ignore_eos else eos, pad, tokenizer.bos_token_id, checkpoint.window, size)


def narrowed(vocab: Vocabulary, others: Mapping[str, Checkpoint]) -> Vocabulary:
    """The vocabulary with the smallest window and size of all: a candidate checkpoint reads what the reference does.

    Past its window a model with learned positions ends in an error, and one with rotary positions says nothing.
    """
    for name, checkpoint in others.items():
        if checkpoint.window is not None and (vocab.window is None or checkpoint.window < vocab.window):
            vocab = replace(vocab, window=checkpoint.window, narrowest=f"candidate {name}")
        size = checkpoint.config.get_text_config(decoder=True).vocab_size
        if size < vocab.size:
            pad = vocab.pad if vocab.pad < size else next((i for i in vocab.eos if i < size), 0)
            vocab = replace(vocab, size=size, pad=pad, smallest=f"candidate {name}")
    return vocab


def encode_prompts(
    vocab: Vocabulary, prompts: Sequence[Prompt], chat: bool, max_new_tokens: int = 0
) -> dict[str, list[int] | str]:
    """Prompt id -> token ids, or the reason in words why it cannot run."""
    if not getattr(vocab.tokenizer, "chat_template", None):
        if chat:
            raise InputError("--chat-template: this model's tokenizer has no chat template; leave the option out")
        if turns := next((prompt.id for prompt in prompts if prompt.messages is not None), None):
            raise InputError(
                f"prompt {turns} is given as messages, and this model's tokenizer has no chat template; name one "
                "that has with --model, or give its text (which is read without the turns' markers)"
            )
    encoded: dict[str, list[int] | str] = {}
    with quiet():  # of a prompt beyond the window, which is refused in words of our own
        for prompt in prompts:
            ids = _encoded(vocab, prompt, chat, max_new_tokens)
            encoded[prompt.id] = ids if isinstance(ids, str) else too_long(vocab, len(ids), max_new_tokens) or ids
    return encoded


def user_turn(text: str) -> dict[str, str]:
    """A text as what a user says."""
    return {"role": "user", "content": text}


def _encoded(vocab: Vocabulary, prompt: Prompt, chat: bool, max_new_tokens: int) -> list[int] | str:
    if (given := prompt.prompt_token_ids) is not None:
        beyond = f"token id {max(given)} is beyond {vocab.smallest}'s vocabulary of {vocab.size}; correct the ids"
        return list(given) if max(given) < vocab.size else beyond
    chat = chat or prompt.messages is not None
    if any(SURROGATE.search(text) for text in prompt.contents):
        return "the prompt holds an unpaired surrogate (half a character), which no tokenizer reads; correct the text"
    try:
        text = vocab.rendered(prompt.messages or [user_turn(prompt.text)]) if chat else prompt.text
        fewest = fewest_tokens(vocab, text)
        if fewest and (reason := too_long(vocab, fewest, max_new_tokens)):
            return f"at least {reason}"
        ids = vocab.ids(text, special=not chat)
    except TimeoutError as error:
        option, mend = (
            ("--chat-template", "leave the option out")
            if prompt.messages is None
            else (f"prompt {prompt.id}", "give its text")
        )
        raise InputError(f"{option}: the model's template failed: {error}; {mend}") from None
    except Exception as error:  # a chat template is a program of the model's authors: it raises what it likes
        what = "chat template" if chat else "tokenizer"
        return f"the {what} refuses it ({excerpt(error, 120)})"
    if not ids:
        return "the prompt is empty after tokenization; give it some text"
    return strange(vocab, ids) or ids


def fewest_tokens(vocab: Vocabulary, text: str) -> int:
    """A number of tokens that a text cannot fall short of, told without reading it: 0 where nothing is known."""
    if vocab.window is None or len(text) <= vocab.window or vocab.bytes_per_token is None:
        return 0
    return len(text.encode("utf-8", "replace")) // vocab.bytes_per_token


def strange(vocab: Vocabulary, ids: Sequence[int]) -> str | None:
    """Why ids are no ids of the model, or None: an embedding would be read beyond its end."""
    if max(ids, default=0) < vocab.size:
        return None
    beyond = f"token id {max(ids)} is beyond {vocab.smallest}'s vocabulary of {vocab.size}"
    return (
        f"{beyond}: the tokenizer in its folder belongs to another model" if vocab.smallest == "the model" else beyond
    )


def too_long(vocab: Vocabulary, tokens: int, max_new_tokens: int) -> str | None:
    """Why a prompt of so many tokens does not fit, or None. It fits if prompt + max_new_tokens <= window."""
    if vocab.window is None or tokens + max_new_tokens <= vocab.window:
        return None
    return (
        f"{tokens} prompt tokens + {max_new_tokens} new ones exceed {vocab.narrowest}'s window of {vocab.window}; "
        "shorten the prompt or lower --max-new-tokens"
    )


def timed(seconds: float, work: Callable[[], str]) -> str:
    """What `work` returns, in a thread of its own that is stopped when its time is over; works off the main thread.

    Raises:
        TimeoutError: it took longer. Whatever `work` raises is raised here.
    """
    results: list[str] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        pythonapi.PyThreadState_SetAsyncExc(c_ulong(thread.ident or 0), py_object(SystemExit))
        raise TimeoutError(f"it did not end within {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]
