"""Screening against generating: how often both find the same first divergence, and what an extra candidate costs.

    python benchmarks/screening.py [--model demo] [--limit 32] [--tokens 64]
    python benchmarks/screening.py --shape gpt2 [--limit 16] [--tokens 32]

The first compares, trace by trace, `--mode screen` with the exact mode on a model with real texts. The second takes the
random 124M model of compare_vs_naive.py and counts the seconds of one candidate: generated one prompt at a time by
`generate`, in the exact mode (generating and reading), screened, and screened with --continue.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from compare_vs_naive import STRATEGIES, VOCAB, make_model, make_prompts

SCREENED = ["greedy", "top-k", "top-p"]


def cost(study: Any, candidate: str) -> float:
    """Seconds of one candidate after loading: generating, reading, and the reference's reading of its texts."""
    rows = study.timings[(study.timings["variant"] == candidate) & (study.timings["phase"] != "load")]
    return float(rows["seconds"].sum())


def compared(model: str, limit: int, tokens: int, candidates: list[str]) -> None:
    """Agreement of the two modes on real texts."""
    import decodedrift as dd

    asked: dict[str, Any] = {
        "candidates": candidates, "strategies": SCREENED, "limit": limit, "max_new_tokens": tokens
    }  # fmt: skip
    exact, screened = (
        dd.compare(model, **asked, noise_floor=False, default_text=False),
        dd.compare(model, **asked, mode="screen", noise_floor=False, default_text=False),
    )
    keys = ["role", "candidate", "strategy", "seed", "prompt_id"]
    both = exact.divergences.merge(screened.divergences, on=keys, suffixes=("", "_screened"))
    both = both[both["role"] == "candidate"]
    first, predicted = both["first_divergence"].fillna(-1), both["first_divergence_screened"].fillna(-1)
    both = both.assign(same=first == predicted, earlier=(predicted >= 0) & ((first < 0) | (predicted < first)))
    print(f"{Path(model).name}, {limit} prompts x {tokens} tokens, {', '.join(SCREENED)}; reference fp32")
    print(f"{'candidate':<10} traces  diverged  predicted  same first divergence  too early  too late")
    for name, rows in both.groupby("candidate", sort=False):
        late = len(rows) - int(rows["same"].sum()) - int(rows["earlier"].sum())
        print(f"{name:<10} {len(rows):6d}  {int(rows['diverged'].sum()):8d}  {int(rows['diverged_screened'].sum()):9d}"
              f"  {rows['same'].mean():21.1%}  {int(rows['earlier'].sum()):9d}  {late:8d}")  # fmt: skip
    own = screened.divergences[screened.divergences["role"] == "floor"]
    print(f"the reference read off its own text: {int(own['diverged'].sum())} of {len(own)} traces")
    seconds = [sum(cost(study, c) for c in candidates) for study in (exact, screened)]
    print(
        f"seconds of the candidates: exact {seconds[0]:.1f}, screened {seconds[1]:.1f}: {seconds[0] / seconds[1]:.1f} x"
    )


def generating(folder: str, prompts: list[str], tokens: int) -> float:
    """Seconds of what a script does for one candidate: `generate`, a prompt and a strategy at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    begin = time.perf_counter()
    for name in SCREENED:
        for prompt in prompts:
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            with torch.no_grad():
                model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, pad_token_id=0,
                               **STRATEGIES[name])  # fmt: skip
    return time.perf_counter() - begin


def timed(shape: str, limit: int, tokens: int) -> None:
    """Seconds of one candidate, four ways."""
    import decodedrift as dd

    prompts = make_prompts(limit, VOCAB[shape])
    candidate = "fp32:attention=eager"
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), shape)
        found = {"generate, one prompt at a time": generating(folder, prompts, tokens)}
        for name, more in (("exact", {}), ("screen", {"mode": "screen"}),
                           ("screen --continue", {"mode": "screen", "continued": True})):  # fmt: skip
            study = dd.compare(folder, candidates=[candidate], prompts=prompts, strategies=SCREENED,
                               max_new_tokens=tokens, **more, noise_floor=False, default_text=False)  # fmt: skip
            found[name] = cost(study, candidate)
    print(f"124M {shape} shape, {limit} prompts x {tokens} tokens, {', '.join(SCREENED)}, {os.cpu_count()} cores")
    for name, seconds in found.items():
        print(f"{name:<32} {seconds:8.1f} s   {seconds / found['screen']:6.1f} x screening")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--candidates", default="bf16,fp16,int8")
    parser.add_argument("--shape", choices=sorted(VOCAB))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--tokens", type=int)
    arguments = parser.parse_args()
    if arguments.shape:
        timed(arguments.shape, arguments.limit or 16, arguments.tokens or 32)
    else:
        compared(arguments.model, arguments.limit or 32, arguments.tokens or 64, arguments.candidates.split(","))


if __name__ == "__main__":
    main()
