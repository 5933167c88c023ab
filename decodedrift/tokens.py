"""Text to ids and back: the tokenizer's own defaults, the stop ids, the window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from decodedrift.checkpoints import Checkpoint, quiet
from decodedrift.records import InputError, Prompt


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer with the ids that generation needs. The reference's serves every variant.

    eos: stop ids, empty if there are none. pad: what finished rows are fed. window: the longest sequence, or None.
    """

    tokenizer: Any
    eos: tuple[int, ...]
    pad: int
    bos: int | None
    window: int | None

    def encode(self, text: str, *, chat: bool = False) -> list[int]:
        """Ids by the tokenizer's own defaults, a trailing EOS removed; as a user's turn with `chat`."""
        special = True
        if chat:
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            special = False  # the template already holds its BOS
        ids = list(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        while (
            ids and special and ids[-1] == self.tokenizer.eos_token_id and not text.endswith(self.tokenizer.eos_token)
        ):
            ids.pop()
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a continuation, special tokens kept, nothing tidied."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def token(self, token_id: int) -> str:
        """One token as text; bytes that are no text of their own come out as U+FFFD."""
        return self.decode([token_id])

    def spans(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """Ids of a real text with their character spans (None where the tokenizer has none)."""
        with quiet():
            try:
                found = self.tokenizer(text, return_offsets_mapping=True)
            except (NotImplementedError, ValueError):
                return list(self.tokenizer(text)["input_ids"]), None
        special = set(self.tokenizer.all_special_ids)
        ids = list(found["input_ids"])
        offsets = [(0, 0) if i in special else tuple(o) for i, o in zip(ids, found["offset_mapping"], strict=True)]
        return ids, offsets


def vocabulary(checkpoint: Checkpoint, ignore_eos: bool = False) -> Vocabulary:
    """Reads tokenizer, stop ids and window.

    Raises:
        InputError: no tokenizer files (transformers then makes an *empty* one), or none that can be read.
    """
    tokenizer = checkpoint.tokenizer or _tokenizer(checkpoint)
    config = checkpoint.config.get_text_config(decoder=True)
    generation = _generation_config(checkpoint)
    eos = _ids(generation.eos_token_id) or _ids(config.eos_token_id) or _ids(tokenizer.eos_token_id)
    first = next(iter(eos), 0)
    pad = next((p for p in (generation.pad_token_id, tokenizer.pad_token_id) if p is not None), first)
    pad = pad if 0 <= pad < config.vocab_size else first
    window = next(
        (
            w
            for a in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
            if (w := getattr(config, a, None))
        ),
        None,
    )
    return Vocabulary(tokenizer, () if ignore_eos else eos, pad, tokenizer.bos_token_id, window)


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
    """Prompt id -> token ids, or the reason in words why it cannot run (empty)."""
    if chat and not getattr(vocab.tokenizer, "chat_template", None):
        raise InputError("--chat-template: this model's tokenizer has no chat template; leave the option out")
    found: dict[str, list[int] | str] = {}
    for prompt in prompts:
        ids = vocab.encode(prompt.text, chat=chat)
        found[prompt.id] = ids if ids else "the prompt is empty after tokenization; give it some text"
    return found


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
        text = " ".join(str(error).split())[:140]
        raise InputError(f"{checkpoint.name}: its tokenizer cannot be loaded ({text})") from None
    if not tokenizer("hello world", add_special_tokens=False)["input_ids"]:
        raise InputError(f"{checkpoint.name}: no tokenizer files (tokenizer.json); save the tokenizer beside the model")
    return tokenizer


def _generation_config(checkpoint: Checkpoint) -> Any:
    from transformers import GenerationConfig

    if checkpoint.module is not None:
        return checkpoint.module.generation_config or GenerationConfig()
    try:
        with quiet():
            return GenerationConfig.from_pretrained(checkpoint.source, **checkpoint.arguments)
    except OSError:
        return GenerationConfig.from_model_config(checkpoint.config)


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else (int(value),)
