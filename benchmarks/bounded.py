"""Ten times the prompts: what the ordinary command costs, and what it holds in memory, at 1,000 and at 10,000.

    python benchmarks/bounded.py [--prompts 1000,10000] [--tokens 32] [--candidates bf16] [--threads 1] [--keep DIR]
    python benchmarks/bounded.py --fold DIR/run-1000 DIR/run-10000

Each size is `decodedrift compare` on the demo model in a process of its own, as one types it: greedy, full horizons, no
noise floor, no perplexity. The prompts are six to twelve words in a row of a bundled text, in random order; those of a
smaller size are the first of a larger. Seconds and peak memory are the whole process's, start, tables and page and all.
With --fold the tables and pages of kept runs are made again in their folders, by processes that load no model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEXT = Path(__file__).parents[1] / "decodedrift" / "data" / "texts" / "story.txt"

FOLD = """
import sys
from decodedrift.experiments.study import Study
from decodedrift.runs.carry_out import put_together
from decodedrift.runs.runfolder import RunFolder, open_stored
folder, stored = RunFolder(sys.argv[1]), open_stored(sys.argv[1])
put_together(Study, folder.read_jobs(folder.finished_jobs()), stored.plan, stored.environment, folder)
"""


def make_prompts(count: int) -> list[str]:
    """Distinct texts; what stands before the words is a number in letters, so that no two are equal."""
    words, random_ = TEXT.read_text("utf-8").split(), random.Random(0)
    made = {}
    while len(made) < count:
        begin, length = random_.randrange(len(words) - 12), random_.randint(6, 12)
        text = " ".join([*random_.sample(words, 2), *words[begin : begin + length]])
        made[text] = None
    return list(made)


def run(count: int, arguments: argparse.Namespace, work: Path) -> dict[str, float]:
    """What one run of the command takes."""
    file = work / f"{count}.jsonl"
    lines = (json.dumps({"id": f"p{n:05}", "prompt": text}) for n, text in enumerate(make_prompts(count)))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "decodedrift", "compare", "--prompts", str(file), "--candidates",
               arguments.candidates, "--strategies", "greedy", "--max-new-tokens", str(arguments.tokens),
               "--ignore-eos", "--no-noise-floor", "--no-default-text", "--threads", str(arguments.threads),
               "--out", str(work / f"run-{count}"), "--quiet"]  # fmt: skip
    return measured(command)


def measured(command: list[str]) -> dict[str, float]:
    """Seconds (wall, CPU) of a process and its peak memory in MB, by the kernel's count."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    wall = time.perf_counter() - begin
    if status:
        sys.exit(f"{' '.join(command)} ended with status {status}")
    return {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024 / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default="1000,10000")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--candidates", default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="where the run folders stay")
    parser.add_argument("--fold", type=Path, nargs="+", metavar="DIR", help="kept runs, to be folded again")
    arguments = parser.parse_args()
    for folder in arguments.fold or ():
        spent = measured([sys.executable, "-c", FOLD, str(folder)])
        print(f"{folder}: {spent['wall']:.1f} s, CPU {spent['cpu']:.1f} s, peak {spent['peak']:.0f} MB", flush=True)
    if arguments.fold:
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads; {arguments.tokens} tokens")
    print(f"{'prompts':>8}{'wall s':>10}{'CPU s':>10}{'ms/prompt':>11}{'x linear':>10}{'peak MB':>9}{'growth':>8}")
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.keep or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        first: dict[str, float] = {}
        for count in map(int, arguments.prompts.split(",")):
            spent = run(count, arguments, work) | {"each": 0.0}
            spent["each"] = 1000 * spent["cpu"] / count
            first = first or spent
            print(f"{count:>8}{spent['wall']:>10.1f}{spent['cpu']:>10.1f}{spent['each']:>11.1f}"
                  f"{spent['each'] / first['each']:>10.2f}{spent['peak']:>9.0f}{spent['peak'] - first['peak']:>8.0f}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
