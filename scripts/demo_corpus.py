"""Text, tokenizer and held-out figure of the demo model; see ``train_demo_model.py``."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"
END_ID = 0


@dataclass(frozen=True)
class Corpus:
    """The texts of one run, already cut."""

    main: str
    extra: list[str]
    validation: str
    held_out: str
    names: list[str]


def read_corpus(args: argparse.Namespace) -> Corpus:
    """Read the folder and set the held-out and validation parts aside.

    Training text always ends at a separator, so a document that straddles a
    cut is dropped from training; the held-out text starts at the cut itself.
    """
    if not args.text.is_dir():
        raise SystemExit(f"error: {args.text} is not a folder")
    paths = sorted(p for p in args.text.glob(args.glob) if p.is_file() and p.stat().st_size)
    if not paths:
        raise SystemExit(f"error: no non-empty file matches {args.glob!r} in {args.text}")
    main = max(paths, key=lambda p: p.stat().st_size)
    if args.main:
        main = args.text / args.main
        if main not in paths:
            raise SystemExit(f"error: {args.main} is not one of the files that match {args.glob!r}")
    raw = main.read_bytes()
    cut = int(len(raw) * (1 - args.held_out))
    train, validation = _cut_documents(raw[:cut], 0), b""
    if args.validation:
        whole = train
        train = _cut_documents(whole, int(len(whole) * (1 - args.validation)))
        validation = whole[len(train) :]
    if not train.strip():
        raise SystemExit(f"error: {main} is too short to hold {args.held_out:.0%} out of it")
    extra = [p.read_text("utf-8", errors="ignore") for p in paths if p != main]
    return Corpus(
        main=train.decode("utf-8", "ignore"),
        extra=[text.rstrip().removesuffix(END) + END + "\n" for text in extra],
        validation=validation.decode("utf-8", "ignore"),
        held_out=raw[cut:].decode("utf-8", "ignore"),
        names=[main.name, *(p.name for p in paths if p != main)],
    )


def _cut_documents(raw: bytes, at: int) -> bytes:
    """``raw`` up to the last separator that ends by byte ``at`` (0: the end)."""
    end = raw.rfind(END.encode(), 0, at or len(raw))
    return raw[: end + len(END)] + b"\n" if end >= 0 else raw[: at or len(raw)]


def train_tokenizer(texts: list[str], vocab_size: int, window: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE; ``<|endoftext|>`` is its only special token, id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((doc for t in texts for doc in t.split(END)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        model_max_length=window,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> Tensor:
    """Token ids of ``text``, the separator recognised as one token."""
    return torch.tensor(tokenizer.backend_tokenizer.encode(text).ids, dtype=torch.long)


@torch.no_grad()
def bits_per_byte(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, text: str, context: int, stride: int
) -> float:
    """Bits per UTF-8 byte of ``text`` over overlapping windows.

    Window ``w`` covers tokens ``[w*stride, w*stride+context)`` and scores those
    of its tokens that no earlier window scored, but not its own first one. A
    separator's likelihood counts; its bytes do not.
    """
    model.eval()
    encoding = tokenizer.backend_tokenizer.encode(text)
    # Of a character that spans several tokens, each of these reports the offsets: count it once.
    sizes, counted = [], 0
    for i, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
        sizes.append(0 if i == END_ID else len(text[max(begin, counted) : end].encode()))
        counted = max(counted, end)
    ids = torch.tensor(encoding.ids, device=model.device)
    nats, n_bytes, scored = 0.0, 0, 1
    for start in range(0, len(ids), stride):
        end = min(start + context, len(ids))
        first = max(scored, start + 1)
        if first < end:
            logits = model(ids[None, start : end - 1]).logits[0, first - 1 - start :].double()
            target = ids[first:end, None]
            nats -= logits.log_softmax(-1).gather(1, target).sum().item()
            n_bytes += sum(sizes[first:end])
            scored = end
    return nats / math.log(2) / max(n_bytes, 1)
