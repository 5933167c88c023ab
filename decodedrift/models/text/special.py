"""Special tokens in prompts where one does not expect them: they run, and whoever reads the figures should know.

A second BOS comes of a text that spells it (`<s>hi`) under a tokenizer that adds one, or of a chat template; models
were not trained on two. A stop token within a prompt is where a text of the model's would have ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from decodedrift.core.records import Prompt
from decodedrift.models.sources.quiet import quiet
from decodedrift.models.text.vocabulary import Vocabulary

NAMED = 3  # prompts that one line names


def warnings(
    vocab: Vocabulary, prompts: Sequence[Prompt], encoded: Mapping[str, Sequence[int]], chat: bool, words: bool
) -> list[str]:
    """A sentence for each kind of oddity, with the ids of its prompts; with `words` also the token's text."""
    names: dict[str, list[str]] = {}
    with quiet():
        first = list(vocab.tokenizer("")["input_ids"])[:1]
        for prompt in prompts:
            plain = not chat and prompt.messages is None
            text_ids = list(encoded[prompt.id])
            if not plain and prompt.prompt_token_ids is None:
                text_ids = [i for text in prompt.contents for i in vocab.ids(text, special=False)]
            elif first == [vocab.bos] == text_ids[:1]:
                text_ids = text_ids[1:]  # the tokenizer's
            for oddity in _odd(vocab, encoded[prompt.id], text_ids, words):
                names.setdefault(oddity, []).append(prompt.id)
    return [f"{_listed(ids)}: {oddity}" for oddity, ids in names.items()]


def _odd(vocab: Vocabulary, ids: Sequence[int], text_ids: Sequence[int], words: bool) -> Iterator[str]:
    """What is odd about a prompt's ids, of which `text_ids` are its text's."""

    def quoted(token_id: int) -> str:
        return f" ({vocab.token(token_id)})" if words else ""

    bos = vocab.bos
    if bos is not None and list(ids[:2]) == [bos, bos]:
        spelt = "the text spells one: take it out" if bos in text_ids else "the chat template writes both"
        yield f"two BOS tokens{quoted(bos)} at the beginning; {spelt}"
    elif bos is not None and bos in text_ids and bos not in vocab.eos:
        yield f"the text spells the BOS token{quoted(bos)}, which is read as that token"
    else:
        bos = None
    stop = next((i for i in text_ids if i in vocab.eos and i != bos), None)
    if stop is not None:
        yield f"the text holds a stop token{quoted(stop)}, where a text ends; take it out unless that is meant"


def _listed(names: Sequence[str]) -> str:
    """`prompt a`, or `prompts a, b, c and 13 more`."""
    shown = ", ".join(name[:40] for name in names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"prompt{'s' * (len(names) > 1)} {shown}{more}"
