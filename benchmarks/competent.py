"""The script of somebody who knows transformers well, for the figures of `compare_vs_naive.py`.

Prompts in batches of 8 with left padding through `generate`, one strategy after another; the reference's text read by
both sides in batches with right padding; all positions of a batch measured at once, in float64. It has no report, no
self control and no coupled sampling, and keeps the reference's logits in memory.

    python benchmarks/compare_vs_naive.py --against competent
"""

from __future__ import annotations

import time
from typing import Any

BATCH = 8
COLUMNS = ("kl", "tv", "entropy", "margin", "agree", "nll_reference", "nll_candidate", "gap_max", "gap_rms")


def competent(folder: str, prompts: list[str], tokens: int, candidates: list[str]) -> dict[str, Any]:
    """Every figure of every text: (strategy, number of the prompt, where it parts, [positions, COLUMNS])."""
    import torch
    from compare_vs_naive import STRATEGIES, round_to_int8
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.convert_ids_to_tokens(0)
    contexts = [tokenizer(prompt).input_ids for prompt in prompts]
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
    seconds = dict.fromkeys(("load", "generate", "score", "metrics"), 0.0)
    reference: dict[tuple[str, int], Any] = {}
    texts: list[tuple[str, int, int | None, Any]] = []

    def spent(phase: str, begin: float) -> float:
        now = time.perf_counter()
        seconds[phase] += now - begin
        return now

    for number, precision in enumerate(["fp32", *candidates]):
        at = time.perf_counter()
        eager = {"attn_implementation": "eager"} if number and precision == "fp32" else {}
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtypes[precision], **eager).eval()
        if precision == "int8":
            round_to_int8(model)
        at = spent("load", at)
        for strategy, settings in STRATEGIES.items():
            torch.manual_seed(0)
            for start in range(0, len(prompts), BATCH):
                members = list(range(start, min(start + BATCH, len(prompts))))
                batch = [contexts[i] for i in members]
                written = generated(model, tokenizer.pad({"input_ids": batch}, return_tensors="pt"), tokens, settings)
                at = spent("generate", at)
                read = [reference[strategy, i][0] for i in members] if number else written
                logits = read_batch(model, batch, read)
                at = spent("score", at)
                for i, mine, text, row in zip(members, written, read, logits, strict=True):
                    if not number:
                        reference[strategy, i] = (mine, row)
                        continue
                    parts = (t for t, (a, b) in enumerate(zip(text, mine, strict=False)) if a != b)
                    texts.append((strategy, i, next(parts, None), (reference[strategy, i][1], row, text)))
                if number:
                    rows = measured([pair for *_, pair in texts[-len(members) :]])
                    texts[-len(members) :] = [
                        (*text[:3], row) for text, row in zip(texts[-len(members) :], rows, strict=True)
                    ]
                at = spent("metrics", at)
        del model
    return {"rows": len(texts), "phases": seconds, "texts": texts}


def generated(model: Any, batch: Any, tokens: int, settings: dict[str, Any]) -> list[list[int]]:
    """What follows each prompt, up to a stop token."""
    import torch

    with torch.no_grad():
        ids = model.generate(**batch, max_new_tokens=tokens, pad_token_id=0, **settings)
    stops = model.generation_config.eos_token_id
    stops = set(stops if isinstance(stops, list) else [stops])
    new = [row[batch["input_ids"].shape[1] :] for row in ids.tolist()]
    ends = [next((t + 1 for t, token in enumerate(row) if token in stops), len(row)) for row in new]
    return [row[:end] for row, end in zip(new, ends, strict=True)]


def read_batch(model: Any, contexts: list[list[int]], texts: list[list[int]]) -> list[Any]:
    """Logits [tokens, vocabulary] of each text behind its context; right padding is seen by nobody."""
    import torch

    rows = [torch.tensor(c + t) for c, t in zip(contexts, texts, strict=True)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
    return [row[len(c) - 1 : len(c) + len(t) - 1].clone() for row, c, t in zip(logits, contexts, texts, strict=True)]


def measured(pairs: list[tuple[Any, Any, list[int]]]) -> list[Any]:
    """COLUMNS of each text, float64 [tokens, COLUMNS], of (reference's logits, candidate's, tokens)."""
    import torch

    z_r, z_c = (torch.cat([pair[side] for pair in pairs]).double() for side in (0, 1))
    token = torch.tensor([t for *_, text in pairs for t in text])[:, None]
    log_p, log_q = z_r.log_softmax(-1), z_c.log_softmax(-1)
    p, top = log_p.exp(), z_r.topk(2).values
    d = z_c - z_r
    d -= d.mean(-1, keepdim=True)
    columns = [
        (p * (log_p - log_q)).sum(-1), (p - log_q.exp()).abs().sum(-1) / 2, -(p * log_p).sum(-1), top[:, 0] - top[:, 1],
        (z_r.argmax(-1) == z_c.argmax(-1)).double(), -log_p.gather(-1, token)[:, 0], -log_q.gather(-1, token)[:, 0],
        d.abs().amax(-1), d.square().mean(-1).sqrt(),
    ]  # fmt: skip
    return list(torch.stack(columns, -1).split([len(text) for *_, text in pairs]))
