"""A text cut as other tools cut it, so that each one's perplexity comes out: docs/metrics.md, "Conventions".

llama.cpp: tools/perplexity without --ppl-stride. gptq: the evaluation that GPTQ, SparseGPT and AWQ share. lm-eval:
`loglikelihood_rolling` of lm-evaluation-harness, whose figures are of words and bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from decodedrift.core.records import InputError, Reading, Text
from decodedrift.models.text.vocabulary import Vocabulary
from decodedrift.models.text.windows import Window, WindowedText, covered_bytes, size_of

DEFAULTS = {"llama.cpp": 512, "gptq": 2048, "lm-eval": None}  # tokens per window; None: the model's own
NO_WINDOW = 2048  # lm-eval's, of a model that names none


def convention_size(convention: str, context: int | None, vocab: Vocabulary) -> int:
    """Tokens per window: `context`, or the tool's own default, no larger than the model's window.

    Raises:
        InputError: a context beyond the window of a model.
    """
    return size_of(context, vocab, DEFAULTS[convention] or vocab.window or NO_WINDOW)


def convention_cut(convention: str, text: Text, vocab: Vocabulary, context: int) -> WindowedText:
    """A text in the windows of another tool, which read and score the tokens that it reads and scores.

    Raises:
        InputError: a text or a tokenizer of which the tool makes no number.
    """
    return CUTS[convention](text, vocab, context)


def _llama_cpp(text: Text, vocab: Vocabulary, context: int) -> WindowedText:
    """Disjoint chunks whose first token gives way to the BOS; of each the second half is scored."""
    content = text.text.removesuffix("\n")  # one newline at the end of a file is not read
    full, bare = (list(vocab.tokenizer(content, add_special_tokens=added)["input_ids"]) for added in (True, False))
    begins = next((n for n in range(len(full)) if full[n : n + len(bare)] == bare), 0)
    if len(full) > begins + len(bare):
        raise InputError("--convention llama.cpp: this tokenizer ends texts with a token, and llama.cpp refuses those")
    bos = [vocab.bos] if vocab.bos is not None and full[:begins] == [vocab.bos] else []
    if context < 3:
        raise InputError(f"--context {context}: the second half of a chunk has no token to score; give 3 or more")
    ids, spans = vocab.spans(content)
    if len(ids) < 2 * context:
        raise InputError(
            f"text {text.name}: {len(ids)} tokens, and llama.cpp wants two chunks of {context}; "
            "give a longer text or a smaller --context"
        )
    first = context // 2 + 1
    windows: list[Window] = []
    for begin in range(0, len(ids) - context + 1, context):
        chunk = [*(bos or ids[begin : begin + 1]), *ids[begin + 1 : begin + context]]
        windows.append(_window(text, len(windows), chunk[:first], chunk[first:], begin + first))
    scored = [w.start + i for w in windows for i in range(len(w.reading.continuation))]
    return WindowedText(
        text.name, tuple(windows), len(scored), covered_bytes(content, spans, scored), vocab.dropped(content),
        dropped_tokens=len(ids) % context,
    )  # fmt: skip


def _gptq(text: Text, vocab: Vocabulary, context: int) -> WindowedText:
    """Disjoint windows of the ids as the tokenizer makes them, an EOS at the end too; all but each first is scored."""
    ids = list(vocab.tokenizer(text.text)["input_ids"])
    if len(ids) < context:
        raise InputError(
            f"text {text.name}: {len(ids)} tokens fill no window of {context}; "
            "give a longer text or a smaller --context"
        )
    begins = range(0, len(ids) - context + 1, context)
    windows = [_window(text, i, ids[b : b + 1], ids[b + 1 : b + context], b + 1) for i, b in enumerate(begins)]
    scored = [b + i for b in begins for i in range(1, context)]
    _, spans = vocab.spans(text.text)
    spans = spans and spans + [(0, 0)] * (len(ids) - len(spans))
    return WindowedText(
        text.name, tuple(windows), len(scored), covered_bytes(text.text, spans, scored), vocab.dropped(text.text),
        dropped_tokens=len(ids) % context,
    )  # fmt: skip


def _lm_eval(text: Text, vocab: Vocabulary, context: int) -> WindowedText:
    """Every token is scored once: after a BOS (or EOS), in disjoint windows, the last one filled up from the left."""
    prefix = vocab.tokenizer.eos_token_id if vocab.bos is None else vocab.bos
    if prefix is None:
        raise InputError("--convention lm-eval: this tokenizer has neither a BOS nor an EOS, after which lm-eval reads")
    ids = list(vocab.tokenizer(text.text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise InputError(f"text {text.name}: no token; there is nothing to score")
    read = [prefix, *ids]  # read[i] comes before ids[i]
    windows: list[Window] = []
    for begin in range(0, len(ids), context):
        end = min(begin + context, len(ids))
        before = read[max(0, end - context) : begin + 1]
        windows.append(_window(text, len(windows), before, ids[begin:end], begin))
    return WindowedText(
        text.name, tuple(windows), len(ids), len(text.text.encode("utf-8")), vocab.dropped(text.text),
        words=len(re.split(r"\s+", text.text)),
    )  # fmt: skip


CUTS: dict[str, Callable[[Text, Vocabulary, int], WindowedText]] = {
    "llama.cpp": _llama_cpp,
    "gptq": _gptq,
    "lm-eval": _lm_eval,
}


def _window(text: Text, index: int, before: list[int], scored: list[int], start: int) -> Window:
    key = f"{text.name}#{index}"
    return Window(key, Reading(tuple(before), tuple(scored), key), start)
