"""How a recorded text ends, as the reference would have ended it: what engines say of it, and what they leave out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from decodedrift.models.recorded.completion import Completion

if TYPE_CHECKING:
    from decodedrift.models.text.vocabulary import Vocabulary

LENGTH = ("length", "max_tokens", "limit", "max_length", "model_length")
EOS = ("eos", "eos_token", "end_turn")
STOP = ("stop", "stop_sequence")  # a stop token or a stop string


class End(NamedTuple):
    """What a text's ids become. cut: ids left out at the end; assumed: which stop token it was is not known."""

    token_ids: tuple[int, ...]
    finish: str
    cut: int = 0
    appended: bool = False
    assumed: bool = False


def ended(completion: Completion, ids: tuple[int, ...], vocab: Vocabulary, most: int, strings: bool = False) -> End:
    """Ids as the run's reference would have them, whose texts end with their first stop token or at `most` tokens.

    A stop token that an engine said to have ended by and left out is appended; where there are several, it is the one
    that was named, else the tokenizer's. A text that ended at `most` has no room for it: the reference stops there too.

    Args:
        strings: whether the requests had stop strings: `stop` may then mean one of them.
    """
    at = next((n for n, token in enumerate(ids[:most]) if token in vocab.eos), None)
    if at is not None:
        return End(ids[: at + 1], "eos", len(ids) - at - 1)
    if len(ids) > most:
        return End(ids[:most], "length", len(ids) - most)
    word = (completion.finish_reason or "").lower()
    named = completion.stop_reason
    by_token = word in EOS or (word in STOP and (named in vocab.eos or (named is None and not strings)))
    if by_token and vocab.eos and len(ids) < most:
        own = vocab.tokenizer.eos_token_id
        token = named if named in vocab.eos else own if own in vocab.eos else vocab.eos[0]
        assumed = named not in vocab.eos and len(vocab.eos) > 1
        return End((*ids, int(token)), "eos", appended=True, assumed=assumed)
    if word in LENGTH or len(ids) == most:
        return End(ids, "length")
    return End(ids, "stop" if by_token or word in STOP else "abort" if word else "unknown")
