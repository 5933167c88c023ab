"""One process with two threads against two processes with one thread each: user seconds and wall time after the start.

    python benchmarks/workers.py [--prompts 256] [--tokens 64]

The same comparison of the demo model both ways, in folders of its own. The start is what comes before the first job ends (imports,
loading, the first job itself, while the processes begin); what is compared is the time from there to the last job.
Equal tables are asserted by a third run: one process with one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import decodedrift as dd
from decodedrift.core.progress import Progress
from decodedrift.core.prompts import load_prompts

WAYS = {"1 process, 2 threads": {"threads": 2}, "2 processes, 1 thread": {"threads": 1, "workers": 2}}
ALONE = {"threads": 1}


def prompts(count: int) -> list[dd.Prompt]:
    """So many prompts, the bundled stories again and again with a word in front that tells them apart."""
    stories = load_prompts("stories")
    return [dd.Prompt(f"p{i}", f"Day {i}. {stories[i % len(stories)].text}") for i in range(count)]


class Clock(Progress):
    """When the run began, and when its tables were made."""

    def __init__(self) -> None:
        self.measured = 0.0

    def report(self) -> None:
        self.measured = time.time()


def run(folder: Path, count: int, tokens: int, how: dict[str, int]) -> tuple[float, int]:
    """(seconds from the end of the first job to that of the last, jobs in between)."""
    clock = Clock()
    dd.compare(
        "demo", candidates=["bf16"], prompts=prompts(count), max_new_tokens=tokens, noise_floor=False, default_text=False,
        out=folder, progress=clock, **how,
    )  # fmt: skip
    ends = sorted((folder / "data/jobs" / job.name).stat().st_mtime for job in (folder / "data/jobs").iterdir())
    return clock.measured - ends[0], len(ends) - 1


def tables(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "tables").glob("*.csv") if p.name != "timings.csv"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        took = {}
        for name, how in (WAYS | {"1 process, 1 thread": ALONE}).items():
            took[name], jobs = run(Path(place) / name, asked.prompts, asked.tokens, how)
            print(f"{name:<24} {took[name]:8.1f} s for {jobs} jobs", flush=True)
        one, two = (tables(Path(place) / name) for name in ("1 process, 1 thread", "2 processes, 1 thread"))
        assert one == two, "other tables"
        print(
            f"times faster than one process with two threads: {took['1 process, 2 threads'] / took['2 processes, 1 thread']:.2f}"
        )


if __name__ == "__main__":
    main()
