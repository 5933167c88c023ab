"""What each trick that changes no number saves: the CPU seconds of a whole run with it and without it.

    OMP_NUM_THREADS=1 python benchmarks/savings.py [--prompts 4] [--tokens 16] [--repeat 5] [--shape gpt2] [--tricks huge-pages]

The run is `decodedrift compare` in a process of its own, all four strategies, fp32 against bf16 and int8, on a random
model of GPT-2's 124M shape. Runs with everything and runs without one trick alternate, so that a busy machine is busy
for both; user and system seconds of the process are compared, not the clock. The tables of all runs must be equal.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from compare_vs_naive import VOCAB, make_model, make_prompts

WITHOUT = {
    "nothing": "",
    "huge-pages": "import os; os.environ['THP_MEM_ALLOC_ENABLE'] = '0'",
    "first-look": "from decodedrift.decoding.strategies import top_p; top_p.LOOK = 2**31",
}


def seconds(without: str, model: Path, prompts: Path, out: Path, tokens: int) -> float:
    """User and system seconds of one run; its folder stays at `out`."""
    program = f"{WITHOUT[without]}\nfrom decodedrift.cli import main\nmain()"
    options = {"model": model, "prompts": prompts, "candidates": "bf16,int8", "max-new-tokens": tokens, "out": out}
    given = [f"--{name}={value}" for name, value in options.items()]
    before = os.times()
    subprocess.run([sys.executable, "-c", program, "compare", "--quiet", "--no-noise-floor", "--no-default-text", *given],
                   check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def tables(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.glob("*.csv") if p.name != "timings.csv"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--shape", choices=sorted(VOCAB), default="gpt2")
    parser.add_argument("--tricks", default=",".join(list(WITHOUT)[1:]), help="comma-separated")
    asked = parser.parse_args()
    names = ["nothing", *asked.tricks.split(",")]
    taken: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model(folder / "model", asked.shape)
        (folder / "prompts.txt").write_text("\n".join(make_prompts(asked.prompts, VOCAB[asked.shape])), "utf-8")
        for turn in range(asked.repeat):
            for name in names if turn % 2 == 0 else reversed(names):
                out = folder / f"{name}-{turn}"
                taken[name].append(seconds(name, folder / "model", folder / "prompts.txt", out, asked.tokens))
                assert tables(out) == tables(folder / "nothing-0"), f"other numbers without {name}"
            print("  ".join(f"{name} {values[-1]:.1f} s" for name, values in taken.items()), flush=True)
    for name in names[1:]:
        ratios = [a / b - 1 for a, b in zip(taken[name], taken["nothing"], strict=True)]
        print(f"without {name}: {median(ratios):+.1%} CPU seconds (from {min(ratios):+.1%} to {max(ratios):+.1%})")


if __name__ == "__main__":
    main()
