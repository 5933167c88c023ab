"""Cost against prompts and against new tokens, per token, relative to the smallest run.

    python benchmarks/scaling.py [--prompts 16,64,256] [--tokens 32,128,512] [--repeat 1]

`decodedrift compare` in a process of its own for each size, the first of the other list held: a random model of the
demo's shape (2.6M parameters, a window of 1,024), four strategies, fp32 held against itself through another attention
kernel. Start and imports are outside the clock, all else is in it. A token is one that a variant generates under one
strategy. Memory is the whole process's.
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
from pathlib import Path

from compare_vs_naive import STRATEGIES, VOCAB, make_model, make_prompts


def one(folder: str, prompts: int, tokens: int) -> dict[str, float]:
    """A run of one size."""
    import decodedrift as dd

    asked = {"candidates": ["fp32:attention=eager"], "strategies": list(STRATEGIES), "max_new_tokens": tokens}
    with tempfile.TemporaryDirectory() as out:
        dd.compare(
            folder,
            prompts=["w1"],
            out=Path(out) / "imports",
            **asked | {"max_new_tokens": 2},
            noise_floor=False,
            default_text=False,
        )
        begin, used = time.perf_counter(), time.process_time()
        study = dd.compare(
            folder,
            prompts=make_prompts(prompts, VOCAB["demo"]),
            out=Path(out) / "run",
            **asked,
            noise_floor=False,
            default_text=False,
        )
        wall, cpu = time.perf_counter() - begin, time.process_time() - used
    made = int(study.traces.loc[study.traces["role"] != "self", "n_tokens"].sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"made": made, "wall_s": wall, "cpu_s": cpu, "peak_mib": peak}


def apart(folder: str, prompts: int, tokens: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--folder", folder, "--prompts", str(prompts), "--tokens", str(tokens)]
    huge = os.environ | {"THP_MEM_ALLOC_ENABLE": "1"}  # as the command line does
    done = subprocess.run(command, env=huge, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default="16,64,256")
    parser.add_argument("--tokens", default="32,128,512")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    prompts, tokens = ([int(n) for n in part.split(",")] for part in (arguments.prompts, arguments.tokens))
    if arguments.folder:
        print(json.dumps(one(arguments.folder, prompts[0], tokens[0])))
        return
    sizes = [(n, tokens[0]) for n in prompts] + [(prompts[0], n) for n in tokens[1:]]
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), "demo")
        for _ in range(arguments.repeat):
            print(
                f"demo shape, 4 strategies, fp32 against fp32, {os.cpu_count()} cores; per token: relative to the first"
            )
            print(
                f"{'prompts':>8}{'tokens':>8}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}{'wall/token':>12}{'CPU/token':>11}"
            )
            first: dict[str, float] = {}
            for n, length in sizes:
                found = apart(folder, n, length)
                each = {key: found[key] / found["made"] for key in ("wall_s", "cpu_s")}
                first = first or each
                print(f"{n:>8}{length:>8}{found['wall_s']:>9.1f}{found['cpu_s']:>9.1f}{found['peak_mib']:>10.0f}"
                      f"{each['wall_s'] / first['wall_s']:>12.2f}{each['cpu_s'] / first['cpu_s']:>11.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
