"""Tokens in a second: the whole main job beside plain batched `generate`, on one device.

    python benchmarks/tokens_per_second.py [--device auto] [--shape gpt2] [--prompts 64] [--tokens 64] [--batch 8]
        [--reference fp32] [--candidates fp32:attention=eager] [--strategies greedy] [--repeat 3]

Plain: `model.generate` over batches of the same prompts, padded on the left, one strategy after another (beam as four
beams, sampling as it draws), once for each variant; nothing is read, measured or written. Both load their weights within
the time that is told apart. One process, the two in turn, medians; each is run once before it counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compare_vs_naive import STRATEGIES, VOCAB, make_model, make_prompts

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def plain(folder: str, prompts: list[str], variants: list[str], arguments: argparse.Namespace) -> dict[str, float]:
    """Tokens made and seconds, of loading and of generating."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    begin, loading, made = time.perf_counter(), 0.0, 0
    for variant in variants:
        precision, _, attention = variant.partition(":attention=")
        more = {"attn_implementation": attention} if attention else {}
        started = time.perf_counter()
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, DTYPES[precision]), **more
        ).to(arguments.device)  # fmt: skip
        loading += time.perf_counter() - started
        for name in arguments.strategies.split(","):
            for first in range(0, len(prompts), arguments.batch):
                batch = tokenizer(prompts[first : first + arguments.batch], return_tensors="pt", padding=True)
                ids = batch["input_ids"].to(arguments.device)
                mask = batch["attention_mask"].to(arguments.device)
                with torch.inference_mode():
                    out = model.generate(
                        ids, attention_mask=mask, max_new_tokens=arguments.tokens, min_new_tokens=arguments.tokens,
                        pad_token_id=0, **STRATEGIES[name],
                    )  # fmt: skip
                made += out[:, ids.shape[1] :].numel()
        if arguments.device.startswith("cuda"):
            torch.cuda.synchronize()
    whole = time.perf_counter() - begin
    return {"made": made, "loading": loading, "generating": whole - loading, "whole": whole}


def job(folder: str, prompts: list[str], variants: list[str], arguments: argparse.Namespace) -> dict[str, float]:
    """The same of `decodedrift compare`; what is generated is counted by its own timings."""
    import decodedrift as dd

    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        study = dd.compare(
            folder, prompts=prompts, reference=variants[0], candidates=variants[1:], ignore_eos=True,
            strategies=arguments.strategies.split(","), max_new_tokens=arguments.tokens, batch_size=arguments.batch,
            device=arguments.device, noise_floor=False, default_text=False, out=Path(out) / "run",
        )  # fmt: skip
        whole = time.perf_counter() - begin
    rows, phases = study.traces, study.timings.groupby("phase")["seconds"].sum()
    made = int(rows.loc[rows["role"] != "self", "n_tokens"].sum())
    return {"made": made, "loading": phases["load"], "generating": phases["generate"], "whole": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("device", "auto"), ("shape", "gpt2"), ("reference", "fp32"), ("strategies", "greedy")):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--candidates", default="fp32:attention=eager")
    for name, number in (("prompts", 64), ("tokens", 64), ("batch", 8), ("repeat", 3)):
        parser.add_argument(f"--{name}", type=int, default=number)
    arguments = parser.parse_args()

    import torch

    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else f"{os.cpu_count()} cores"
    variants = [arguments.reference, *arguments.candidates.split(",")]
    sides: dict[str, Callable[..., dict[str, float]]] = {"plain generate": plain, "the main job": job}
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), arguments.shape)
        prompts = make_prompts(arguments.prompts, VOCAB[arguments.shape])
        for side in sides.values():
            side(folder, prompts[: arguments.batch], variants, arguments)
        spent: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for _ in range(arguments.repeat):
            for name, side in sides.items():
                spent[name].append(side(folder, prompts, variants, arguments))
    print(f"{where}; {arguments.shape}, {arguments.prompts} prompts x {arguments.tokens} tokens, {', '.join(variants)}")
    print(f"{'':16}{'tokens':>9}{'whole s':>9}{'tok/s':>9}{'loading s':>11}{'generating s':>14}{'tok/s':>9}")
    for name, runs in spent.items():
        whole, loading, generating = (statistics.median(r[k] for r in runs) for k in ("whole", "loading", "generating"))
        made = runs[0]["made"]
        print(f"{name:16}{made:>9}{whole:>9.1f}{made / whole:>9.0f}{loading:>11.1f}{generating:>14.1f}"
              f"{made / generating:>9.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
