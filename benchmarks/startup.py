"""CPU seconds, wall seconds and peak memory of commands, each in a fresh process; the median.

    python benchmarks/startup.py [--repeat 5]          of those that run nothing
    python benchmarks/startup.py --runs [--repeat 3]   of the smallest run, the default one, and a page made again

`list` says what this machine can run and imports torch for it; the others must do without, and `--help` in under half a
second of CPU. With `--runs` they take turns with transformers alone, which loads the demo model and writes one token,
and are held as multiples of that one's wall time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = (["--help"], ["compare", "--help"], ["compare", "--strategies", "x"], ["list"])
TARGETS = {"--help": 0.5, "compare --help": 0.5}
DEMO = Path(__file__).parents[1] / "decodedrift" / "data" / "demo"
ALONE = f"""from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer, model = (kind.from_pretrained({str(DEMO)!r}) for kind in (AutoTokenizer, AutoModelForCausalLM))
model.generate(**tokenizer("Once upon a time", return_tensors="pt"), max_new_tokens=1, do_sample=False)"""
SMALLEST = "--limit 1 --max-new-tokens 1 --candidates bf16 --strategies greedy"
MULTIPLES = {"the smallest run": 1.4, "the default run": 5.0}  # of transformers alone, at most


def once(arguments: list[str], program: tuple[str, ...] = ("-m", "decodedrift")) -> tuple[float, float, float]:
    """(CPU seconds, wall seconds, peak MiB) of one process."""
    begin = time.perf_counter()
    nowhere = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    command = [sys.executable, *program, *arguments]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=nowhere)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 2):
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - begin, usage.ru_maxrss / 1024


def runs(repeat: int) -> None:
    """The runs beside transformers alone, in turns."""
    taken: dict[str, list[tuple[float, float, float]]] = {}
    for turn in range(repeat + 1):  # the first reads the files
        with tempfile.TemporaryDirectory() as folder:
            small, whole = f"{folder}/small", f"{folder}/whole"
            for name, arguments, *program in (
                ("transformers alone", [], ("-c", ALONE)),
                ("the smallest run", ["compare", *SMALLEST.split(), "--out", small]),
                ("the default run", ["compare", "--out", whole]),
                ("its page again", ["report", whole]),
            ):
                seconds = once(arguments, *program)
                taken.setdefault(name, []).extend([seconds] if turn else [])
    print(f"{'':<24}{'CPU s':>8}{'wall s':>8}{'peak MiB':>10}{'times':>8}  target")
    alone = statistics.median(wall for _, wall, _ in taken["transformers alone"])
    for name, rows in taken.items():
        cpu, wall, peak = map(statistics.median, zip(*rows))
        most = MULTIPLES.get(name)
        held = "" if most is None else f"at most {most:g}: {'yes' if wall <= most * alone else 'NO'}"
        print(f"{name:<24}{cpu:>8.2f}{wall:>8.2f}{peak:>10.0f}{wall / alone:>8.2f}  {held}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--runs", action="store_true")
    asked = parser.parse_args()
    if asked.runs:
        return runs(asked.repeat)
    repeat = asked.repeat
    print(f"{'decodedrift':<24}{'CPU s':>8}{'wall s':>8}{'peak MiB':>10}  target")
    for arguments in COMMANDS:
        once(arguments)  # the first one reads the files
        cpu, wall, peak = (statistics.median(column) for column in zip(*(once(arguments) for _ in range(repeat))))
        name = " ".join(arguments)
        held = f"under {TARGETS[name]} CPU s: {'yes' if cpu < TARGETS[name] else 'NO'}" if name in TARGETS else ""
        print(f"{name:<24}{cpu:>8.2f}{wall:>8.2f}{peak:>10.0f}  {held}")


if __name__ == "__main__":
    main()
