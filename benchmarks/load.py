"""Load: memory and time from 1,000 to 10,000 prompts, and a million position rows written, folded and reported.

    python benchmarks/load.py prompts      two true processes on a two-layer model; RSS growth and time per prompt
    python benchmarks/load.py rows         a study of a million position rows: seconds and peak RSS of each step

Prints JSON. Nothing is downloaded; the model is made on the spot.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL, LARGE = 1_000, 10_000
NEW_TOKENS = 8


def tiny(folder: Path) -> None:
    """A two-layer GPT-2 of width 32 over a vocabulary of 96 words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=96, n_positions=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    words = {"<|end|>": 0} | {f"w{i}": i for i in range(1, 96)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|end|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)


RUN = """
import json, resource, sys, time
import torch
import decodedrift as dd
model, folder, count, tokens = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
prompts = [f"w{1 + i % 95} w{1 + i // 95 % 95} w{1 + i // 9025}" for i in range(count)]
begin, used = time.perf_counter(), time.process_time()
study = dd.compare(
    model, prompts=prompts, candidates=["bf16"], strategies=["greedy"], max_new_tokens=tokens, batch_size=50,
    prompts_per_job=500, ignore_eos=True, noise_floor=False, default_text=False, out=folder,
)
seconds, used = time.perf_counter() - begin, time.process_time() - used
print(json.dumps({
    "prompts": count, "seconds": seconds, "cpu_seconds": used, "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "positions": len(study.positions),
}))
"""


def prompts() -> dict[str, object]:
    """Peak RSS and time of two runs, tenfold apart; each in a process of its own."""
    with tempfile.TemporaryDirectory() as work:
        tiny(Path(work) / "model")
        found = []
        for count in (SMALL, LARGE):
            arguments = [str(Path(work) / "model"), str(Path(work) / f"run{count}"), str(count), str(NEW_TOKENS)]
            done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout))
    small, large = found
    return {
        "runs": found,
        "rss_growth_mb": large["rss_mb"] - small["rss_mb"],
        "times_linear": large["cpu_seconds"] / small["cpu_seconds"] / (LARGE / SMALL),  # the machine may be shared
    }


def rows(count: int = 1_000_000) -> dict[str, object]:
    """A study of so many position rows, made by multiplying a small one; then every step that a run ends with."""
    import pandas as pd

    import decodedrift as dd

    with tempfile.TemporaryDirectory() as work:
        tiny(Path(work) / "model")
        asked = [f"w{1 + i % 95} w{1 + i // 95 % 95}" for i in range(400)]
        study = dd.compare(
            str(Path(work) / "model"), prompts=asked, candidates=["bf16", "int8"], strategies=["greedy"],
            max_new_tokens=64, ignore_eos=True, batch_size=50, prompts_per_job=100, noise_floor=False, default_text=False,
        )  # fmt: skip
        times = -(-count // len(study.positions))
        for table in ("positions", "divergences", "traces"):
            frame = getattr(study, table)
            parts = [frame.assign(prompt_id=frame["prompt_id"] + f"-{i}") for i in range(times)]
            setattr(study, table, pd.concat(parts, ignore_index=True))
        made = {"positions": len(study.positions), "traces": len(study.traces)}
        made |= {"rss_mb": {}, "seconds": {}, "cpu_seconds": {}}
        steps = {
            "summary": lambda: study.summary,
            "distribution": lambda: study.distribution,
            "verdict": lambda: study.verdict,
            "report": lambda: made.update(report_mb=len(study.to_html().encode()) / 2**20),
            "written": lambda: study.save(Path(work) / "run"),
            "read": lambda: dd.open_study(Path(work) / "run"),
        }
        for name, step in steps.items():
            begin, worked = time.perf_counter(), time.process_time()
            step()
            made["seconds"][name] = time.perf_counter() - begin
            made["cpu_seconds"][name] = time.process_time() - worked
            made["rss_mb"][name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prompts", "rows"])
    print(json.dumps({"prompts": prompts, "rows": rows}[parser.parse_args().what](), indent=2))
