"""Text to ids and back: the tokenizer's own defaults, the stop ids, the window."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from ctypes import c_ulong, py_object, pythonapi
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from decodedrift.checkpoints import Checkpoint, quiet
from decodedrift.records import InputError, Prompt
from decodedrift.secrecy import excerpt

TEMPLATE_SECONDS = 10.0  # a chat template is a program of the model's authors, and need not end
BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")  # SentencePiece's byte fallback
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer with the ids that generation needs. The reference's serves every variant.

    eos: stop ids, empty if there are none. pad: what finished rows are fed. window: the longest sequence, or None.
    size: the model's vocabulary; a tokenizer of another model may make ids beyond it.
    """

    tokenizer: Any
    eos: tuple[int, ...]
    pad: int
    bos: int | None
    window: int | None
    size: int

    def encode(self, text: str, *, chat: bool = False) -> list[int]:
        """Ids by the tokenizer's own defaults, a trailing EOS removed; as a user's turn with `chat`."""
        special = True
        if chat:
            text = timed(TEMPLATE_SECONDS, partial(self._as_turn, text))
            special = False  # the template already holds its BOS
        ids = list(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        return ids[: self._kept(ids, text)] if special else ids

    def _as_turn(self, text: str) -> str:
        turn = [{"role": "user", "content": text}]
        return str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))

    def _kept(self, ids: Sequence[int], text: str) -> int:
        """How many ids are the text's: an EOS that the tokenizer added at the end is none of it."""
        count = len(ids)
        while count and ids[count - 1] == self.tokenizer.eos_token_id and not text.endswith(self.tokenizer.eos_token):
            count -= 1
        return count

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a continuation, special tokens kept, nothing tidied."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def token(self, token_id: int) -> str:
        """One token as text; bytes that are no text of their own come out as U+FFFD."""
        return self.decode([token_id])

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of a token, also of one that is only part of a character; empty where they are not known."""
        text = self.token(token_id)
        if "\ufffd" not in text:
            return text.encode("utf-8", "replace")
        piece = str(self.tokenizer.convert_ids_to_tokens(token_id))
        if found := BYTE_PIECE.fullmatch(piece):
            return bytes([int(found[1], 16)])
        known = _byte_level()
        raw = bytes(known[c] for c in piece) if all(c in known for c in piece) else b""
        return raw if raw.decode("utf-8", "replace") == text else b""

    def spans(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """Ids of a real text with their character spans (None where the tokenizer has none)."""
        with quiet():
            try:
                found = self.tokenizer(text, return_offsets_mapping=True)
            except (NotImplementedError, ValueError):
                return self.encode(text), None
        special = set(self.tokenizer.all_special_ids)
        ids = list(found["input_ids"])
        ids = ids[: self._kept(ids, text)]
        offsets = [(0, 0) if i in special else tuple(o) for i, o in zip(ids, found["offset_mapping"], strict=False)]
        return ids, offsets


@cache
def _byte_level() -> dict[str, int]:
    """GPT-2's alphabet, in which byte-level tokenizers write their pieces: character -> byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {char: byte for byte, char in bytes_to_unicode().items()}


def vocabulary(checkpoint: Checkpoint, ignore_eos: bool = False) -> Vocabulary:
    """Reads tokenizer, stop ids and window.

    Raises:
        InputError: no tokenizer files (transformers then makes an *empty* one), or none that can be read.
    """
    tokenizer = checkpoint.tokenizer or _tokenizer(checkpoint)
    config = checkpoint.config.get_text_config(decoder=True)
    generation = _generation_config(checkpoint)
    said = (generation.eos_token_id, config.eos_token_id, tokenizer.eos_token_id)
    eos = next((ids for value in said if (ids := _ids(value, checkpoint.name))), ())
    first = next(iter(eos), 0)
    pad = next((p for p in (generation.pad_token_id, tokenizer.pad_token_id) if p is not None), first)
    pad = next((p for p in (pad, first) if 0 <= p < config.vocab_size), 0)
    window = next(
        (
            w
            for a in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
            if (w := getattr(config, a, None))
        ),
        None,
    )
    return Vocabulary(tokenizer, () if ignore_eos else eos, pad, tokenizer.bos_token_id, window, config.vocab_size)


def same_vocabulary(reference: Vocabulary, candidate: Checkpoint, name: str) -> None:
    """Refuses a candidate checkpoint whose token-to-id map differs from the reference's.

    Raises:
        InputError: naming how many entries differ and one of them.
    """
    ours, theirs = reference.tokenizer.get_vocab(), (candidate.tokenizer or _tokenizer(candidate)).get_vocab()
    if ours == theirs:
        return
    differing = sorted(t for t in set(ours) | set(theirs) if ours.get(t) != theirs.get(t))
    raise InputError(
        f"{name}: {candidate.name} has another vocabulary than the reference ({len(differing)} tokens differ, "
        f"for example {differing[0]!r}); only checkpoints over the same vocabulary can be compared"
    )


def encode_prompts(vocab: Vocabulary, prompts: Sequence[Prompt], chat: bool) -> dict[str, list[int] | str]:
    """Prompt id -> token ids, or the reason in words why it cannot run."""
    if chat and not getattr(vocab.tokenizer, "chat_template", None):
        raise InputError("--chat-template: this model's tokenizer has no chat template; leave the option out")
    found: dict[str, list[int] | str] = {}
    with quiet():  # of a prompt beyond the window, which is refused in words of our own
        for prompt in prompts:
            found[prompt.id] = _encoded(vocab, prompt.text, chat)
    return found


def _encoded(vocab: Vocabulary, text: str, chat: bool) -> list[int] | str:
    if SURROGATE.search(text):
        return "the prompt holds an unpaired surrogate (half a character), which no tokenizer reads; correct the text"
    try:
        ids = vocab.encode(text, chat=chat)
    except TimeoutError as error:
        raise InputError(f"--chat-template: the model's template failed: {error}; leave the option out") from None
    except Exception as error:  # a chat template is a program of the model's authors: it raises what it likes
        what = "chat template" if chat else "tokenizer"
        return f"the {what} refuses it ({excerpt(error, 120)})"
    if not ids:
        return "the prompt is empty after tokenization; give it some text"
    return strange(vocab, ids) or ids


def strange(vocab: Vocabulary, ids: Sequence[int]) -> str | None:
    """Why ids are no ids of the model, or None: an embedding would be read beyond its end."""
    if max(ids, default=0) < vocab.size:
        return None
    return (
        f"token id {max(ids)} is beyond the model's vocabulary of {vocab.size}: "
        "the tokenizer in its folder belongs to another model"
    )


def too_long(vocab: Vocabulary, ids: Sequence[int], max_new_tokens: int) -> str | None:
    """Why a prompt does not fit, or None. It fits if prompt + max_new_tokens <= window."""
    if vocab.window is None or len(ids) + max_new_tokens <= vocab.window:
        return None
    return (
        f"{len(ids)} prompt tokens + {max_new_tokens} new ones exceed the model's window of {vocab.window}; "
        "shorten the prompt or lower --max-new-tokens"
    )


def _tokenizer(checkpoint: Checkpoint) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.source, **checkpoint.arguments)
    except Exception as error:  # a missing, broken or foreign tokenizer raises almost anything
        text = excerpt(error, 140)
        raise InputError(f"{checkpoint.name}: its tokenizer cannot be loaded ({text})") from None
    if not tokenizer("hello world", add_special_tokens=False)["input_ids"]:
        if set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
            kind = type(tokenizer).__name__
            raise InputError(
                f"{checkpoint.name}: its tokenizer is read as a {kind}, which makes no token of 'hello world'; "
                "save one of that class, or give compare() model and tokenizer as objects"
            )
        raise InputError(f"{checkpoint.name}: no tokenizer files (tokenizer.json); save the tokenizer beside the model")
    return tokenizer


def _generation_config(checkpoint: Checkpoint) -> Any:
    from transformers import GenerationConfig

    if checkpoint.module is not None:
        return checkpoint.module.generation_config or GenerationConfig()
    try:
        with quiet():
            return GenerationConfig.from_pretrained(checkpoint.source, **checkpoint.arguments)
    except OSError as error:
        if "valid JSON" in str(error):  # the same type as for a file that is not there
            raise InputError(f"{checkpoint.name}: its generation_config.json is not valid JSON") from None
        return GenerationConfig.from_model_config(checkpoint.config)
    except Exception as error:
        text = excerpt(error, 140)
        raise InputError(f"{checkpoint.name}: its generation_config.json cannot be used ({text})") from None


def _ids(value: Any, name: str) -> tuple[int, ...]:
    """Stop ids, given as one or as several.

    Raises:
        InputError: something else.
    """
    ids = value if isinstance(value, (list, tuple)) else () if value is None else (value,)
    if not all(isinstance(i, int) for i in ids):
        raise InputError(f"{name}: eos_token_id in its configuration must be an id or a list of ids, not {value!r}")
    return tuple(ids)


def timed(seconds: float, work: Callable[[], str]) -> str:
    """What `work` returns, in a thread of its own that is stopped when its time is over; works off the main thread.

    Raises:
        TimeoutError: it took longer. Whatever `work` raises is raised here.
    """
    found: list[str] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
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
    return found[0]
