"""CPU seconds, wall seconds and peak memory of commands that run nothing, each in a fresh process.

    python benchmarks/startup.py [--repeat 5]

The median. `list` says what this machine can run and imports torch for it; the others must do without, and `--help` in
under half a second of CPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

COMMANDS = (["--help"], ["compare", "--help"], ["compare", "--strategies", "x"], ["list"])
TARGETS = {"--help": 0.5, "compare --help": 0.5}


def once(arguments: list[str]) -> tuple[float, float, float]:
    """(CPU seconds, wall seconds, peak MiB) of one process."""
    begin = time.perf_counter()
    nowhere = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    command = [sys.executable, "-m", "decodedrift", *arguments]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=nowhere)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 2):
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - begin, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    print(f"{'decodedrift':<24}{'CPU s':>8}{'wall s':>8}{'peak MiB':>10}  target")
    for arguments in COMMANDS:
        once(arguments)  # the first one reads the files
        cpu, wall, peak = (statistics.median(column) for column in zip(*(once(arguments) for _ in range(repeat))))
        name = " ".join(arguments)
        held = f"under {TARGETS[name]} CPU s: {'yes' if cpu < TARGETS[name] else 'NO'}" if name in TARGETS else ""
        print(f"{name:<24}{cpu:>8.2f}{wall:>8.2f}{peak:>10.0f}  {held}")


if __name__ == "__main__":
    main()
