"""`decodedrift compare` against the script a user would write, as ratios within one run.

    python benchmarks/compare_vs_naive.py [--prompts 16] [--tokens 32] [--candidates fp32] [--repeat 1] [--shape gpt2]
        [--against naive|competent]

The naive script takes one prompt at a time through `generate(output_scores=True)`, each precision and strategy in turn,
reads the reference's tokens with both sides, and computes the main figures (KL, total variation, entropy, margins,
agreement, NLL, logit gaps) in numpy, position by position. It has no report, no self control and no coupled sampling. Both sides run in a process of their own on
the same random model of GPT-2's 124M shape, scaled so that its distributions are about as peaked as a trained
model's (a few nats) and its greedy text is not one token for ever. Candidate `fp32`
means the fp32 model held against itself through another attention kernel, so that both sides do the work of two
variants. `--against competent` holds it against a batched script instead, `competent.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from competent import competent

STRATEGIES = {
    "greedy": {"do_sample": False, "num_beams": 1},
    "beam": {"do_sample": False, "num_beams": 4},
    "top-k": {"do_sample": True, "top_k": 50, "top_p": 1.0},
    "top-p": {"do_sample": True, "top_k": 0, "top_p": 0.9},
}
VOCAB = {"gpt2": 50257, "llama": 32000, "demo": 2048}


def make_model(folder: Path, shape: str) -> None:
    """A random model of GPT-2's or Llama's 124M shape, or the bundled one's with a wider window; words are tokens."""
    import torch
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = VOCAB[shape]
    if shape == "gpt2":
        config: Any = t.GPT2Config(vocab_size=vocab, bos_token_id=0, eos_token_id=0)
    elif shape == "demo":
        config = t.GPT2Config(vocab_size=vocab, n_embd=192, n_layer=5, n_head=3, bos_token_id=0, eos_token_id=0)
    else:
        config = t.LlamaConfig(
            vocab_size=vocab, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
            num_key_value_heads=12, max_position_embeddings=1024, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "wpe" not in name:
                parameter.mul_(7.0 if name.endswith(("wte.weight", "lm_head.weight")) else 4.0)
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    model.save_pretrained(folder)
    words = {"<|end|>": 0} | {f"w{i}": i for i in range(1, vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|end|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|end|>").save_pretrained(folder)


def make_prompts(count: int, vocab: int) -> list[str]:
    import numpy as np

    rng = np.random.default_rng(0)
    return [" ".join(f"w{i}" for i in rng.integers(1, vocab, size=int(n))) for n in rng.integers(8, 33, size=count)]


def naive(folder: str, prompts: list[str], tokens: int, candidates: list[str]) -> dict[str, Any]:
    """What one writes in an afternoon for the same figures: one prompt at a time, metrics position by position."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
    seconds: dict[str, float] = {}
    reference: dict[tuple[str, int], Any] = {}
    rows = []
    for number, precision in enumerate(["fp32", *candidates]):
        begin = time.perf_counter()
        eager = {"attn_implementation": "eager"} if number and precision == "fp32" else {}
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtypes[precision], **eager).eval()
        if precision == "int8":
            round_to_int8(model)
        seconds["load"] = seconds.get("load", 0.0) + time.perf_counter() - begin
        for strategy, settings in STRATEGIES.items():
            for i, prompt in enumerate(prompts):
                ids = tokenizer(prompt, return_tensors="pt").input_ids
                torch.manual_seed(0)
                begin = time.perf_counter()
                with torch.no_grad():
                    out = model.generate(
                        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, pad_token_id=0,
                        output_scores=True, return_dict_in_generate=True, **settings,
                    )  # fmt: skip
                seconds["generate"] = seconds.get("generate", 0.0) + time.perf_counter() - begin
                new = out.sequences[0, ids.shape[1] :].tolist()
                begin = time.perf_counter()
                read = new if number == 0 else reference[strategy, i][0]
                with torch.no_grad():
                    logits = model(torch.cat([ids, torch.tensor([read])], dim=1)).logits[0, ids.shape[1] - 1 : -1]
                seconds["score"] = seconds.get("score", 0.0) + time.perf_counter() - begin
                begin = time.perf_counter()
                if number == 0:
                    reference[strategy, i] = (new, logits.double().numpy())
                else:
                    own, theirs = reference[strategy, i]
                    first = next((t for t, (a, b) in enumerate(zip(own, new, strict=False)) if a != b), None)
                    rows.append((strategy, i, first, position_metrics(own, theirs, logits.double().numpy())))
                seconds["metrics"] = seconds.get("metrics", 0.0) + time.perf_counter() - begin
        del model
    return {"rows": len(rows), "phases": seconds}


def round_to_int8(model: Any) -> None:
    """Each output channel's weights to 255 steps of its largest, in place: what int8 weights do to the numbers."""
    import torch
    from transformers.pytorch_utils import Conv1D

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not model.get_output_embeddings():
                inputs = 0 if isinstance(module, Conv1D) else 1
                scale = module.weight.abs().amax(inputs, keepdim=True) / 127
                module.weight.copy_((module.weight / scale).round() * scale)


def position_metrics(tokens: list[int], reference: Any, candidate: Any) -> list[tuple[float, ...]]:
    """KL, total variation, entropy, margin, top-1 agreement, NLL of both sides and the logit gap, per position."""
    import numpy as np
    from scipy.special import log_softmax

    found = []
    for token, z_r, z_c in zip(tokens, reference, candidate, strict=True):
        log_p, log_q = log_softmax(z_r), log_softmax(z_c)
        p, q = np.exp(log_p), np.exp(log_q)
        top = np.partition(z_r, -2)[-2:]
        d = z_c - z_r
        d = d - d.mean()
        found.append((float(np.sum(p * (log_p - log_q))), float(np.abs(p - q).sum() / 2), float(-np.sum(p * log_p)),
                      float(top[1] - top[0]), float(z_r.argmax() == z_c.argmax()), -float(log_p[token]),
                      -float(log_q[token]), float(np.abs(d).max()), float(np.sqrt(np.mean(d**2)))))  # fmt: skip
    return found


def ours(folder: str, prompts: list[str], tokens: int, candidates: list[str], more: str) -> dict[str, Any]:
    """The main job as one runs it: the command, run folder and report included."""
    import pandas as pd

    named = ["fp32:attention=eager" if c == "fp32" else c for c in candidates]
    with tempfile.TemporaryDirectory() as out:
        lines, run = Path(out) / "prompts.txt", Path(out) / "run"
        lines.write_text("\n".join(prompts), "utf-8")
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "decodedrift", "compare", "--model", folder, "--candidates", ",".join(named),
             "--prompts", str(lines), "--max-new-tokens", str(tokens), "--out", str(run), "--quiet",
             "--no-noise-floor", "--no-default-text", *more.split()],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        total = time.perf_counter() - begin
        timings, rows = (pd.read_csv(run / "tables" / f"{name}.csv") for name in ("timings", "divergences"))
    phases = timings.groupby("phase")["seconds"].sum().to_dict()
    phases["start, fold, write, report"] = total - sum(phases.values())
    return {"rows": int((rows["role"] == "candidate").sum()), "phases": phases}


def side(which: str, arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    """One side in a process of its own: wall and CPU seconds and peak memory of all of it."""
    begin = time.perf_counter()
    command = [sys.executable, __file__, "--side", which, "--folder", folder, "--prompts", str(arguments.prompts),
               "--tokens", str(arguments.tokens), "--candidates", arguments.candidates, "--shape", arguments.shape, f"--more={arguments.more}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1]) | {"wall_s": time.perf_counter() - begin}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--candidates", default="fp32", help="comma-separated: fp32,bf16,fp16,int8")
    parser.add_argument("--shape", choices=sorted(VOCAB), default="gpt2")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--against", choices=("naive", "competent"), default="naive")
    parser.add_argument("--more", default="", help="further options of decodedrift: '--workers 2 --prompts-per-job 8'")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    candidates = arguments.candidates.split(",")
    if arguments.side:
        prompts = make_prompts(arguments.prompts, VOCAB[arguments.shape])
        sides = {"naive": naive, "competent": competent, "ours": partial(ours, more=arguments.more)}
        found = sides[arguments.side](arguments.folder, prompts, arguments.tokens, candidates)
        found.pop("texts", None)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN if arguments.side == "ours" else resource.RUSAGE_SELF)
        found |= {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), arguments.shape)
        for _ in range(arguments.repeat):
            results = {which: side(which, arguments, folder) for which in (arguments.against, "ours")}
            report(results, arguments)


def report(results: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    other, (a, b) = arguments.against, results.values()
    print(f"124M {arguments.shape} shape, {arguments.prompts} prompts x {arguments.tokens} tokens, 4 strategies, "
          f"fp32 against {arguments.candidates}, {os.cpu_count()} cores {arguments.more}")  # fmt: skip
    for name, key in (("wall seconds", "wall_s"), ("CPU seconds", "cpu_s"), ("peak MiB", "peak_mib")):
        ratio = f"{other} / decodedrift {a[key] / b[key]:.2f}"
        print(f"{name:<14} {other} {a[key]:8.1f}   decodedrift {b[key]:8.1f}   {ratio}")
    for which, result in results.items():
        total = sum(result["phases"].values())
        shares = ", ".join(f"{k} {v:.1f} s ({v / total:.0%})" for k, v in result["phases"].items())
        print(f"{which:<14} {shares}")


if __name__ == "__main__":
    main()
