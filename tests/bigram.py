"""The bigram oracle: a Llama whose logits are a chosen table's row of the previous token, exactly, in every dtype.

Attention and MLP write zeros, the embedding is the identity, the width is a power of 4 and the norm's epsilon is 0: the
final norm then multiplies the one-hot row by sqrt(width), a power of two, and the head holds the table over that same
power. Not one rounding takes place, so the logits are the table's entries in the model's dtype, bit for bit.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import tiny_tokenizer

EOS = 0


def bigram_model(table: np.ndarray, dtype: torch.dtype = torch.float64) -> Any:
    """A Llama with logits[t] = table[token before t]; the table is [vocab, vocab], vocab 4, 16 or 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width = len(table)
    assert width in (4, 16, 64)
    config = LlamaConfig(
        vocab_size=width, hidden_size=width, intermediate_size=4, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, rms_norm_eps=0.0, max_position_embeddings=128, tie_word_embeddings=False,
        bos_token_id=EOS, eos_token_id=EOS, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(dtype).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(width, dtype=dtype))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.copy_(torch.from_numpy(np.ascontiguousarray(table.T)).to(dtype) / math.sqrt(width))
    return model


def saved_bigram(table: np.ndarray, folder: Path, dtype: torch.dtype = torch.float64) -> str:
    """The same as a checkpoint with its tokenizer; returns the folder for `name=folder`."""
    bigram_model(table, dtype).save_pretrained(folder)
    tiny_tokenizer(len(table)).save_pretrained(folder)
    return str(folder)


def log_softmax(z: np.ndarray) -> np.ndarray:
    """float64, over the last axis."""
    top = z.max(-1, keepdims=True)
    return z - top - np.log(np.exp(z - top).sum(-1, keepdims=True))


def rolled(choose: Any, previous: int, length: int) -> list[int]:
    """Tokens of `choose(previous token, position)` until EOS or the length."""
    tokens: list[int] = []
    while len(tokens) < length and (not tokens or tokens[-1] != EOS):
        tokens.append(int(choose(tokens[-1] if tokens else previous, len(tokens))))
    return tokens


def words(ids: Any) -> str:
    """Ids as the tiny tokenizer's text."""
    return " ".join(f"w{i}" for i in ids)


def ids_of(cell: str) -> list[int]:
    """The ids of a `token_ids` cell."""
    return [int(i) for i in cell.split()]
