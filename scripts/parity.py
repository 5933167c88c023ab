"""Holds the tables of three runs of the demo model against those of version 0.1.0, byte for byte.

    python scripts/parity.py [RUN ...]    # make the runs (or those named) anew; exit code 1 where one differs
    python scripts/parity.py --write      # make tests/fixtures/parity/ from the code as it is

A run without a floor, one with `--inject --decompose` and a floor, one screened. CSV tables are kept whole (gzip), of
Parquet tables the SHA-256 of each column, values and nulls. Timings are left out, and columns
whose formula was put another way may differ by rounding (CLOSE). Last bits depend on the CPU's vector instructions and
on torch and transformers; where these are not the fixtures' own, that is said first.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.dataset
import pyarrow.ipc

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "parity"
RUNS = {
    "default": ("--no-noise-floor", "--no-default-text"),
    "explained": ("--no-default-text", "--inject", "--decompose", "--limit", "8", "--max-new-tokens", "48"),
    "screened": ("--no-default-text", "--mode", "screen", "--limit", "8", "--max-new-tokens", "48"),
}
LEFT_OUT = {"timings"}
# relative; the beginnings of columns
CLOSE = {"compounding_index": 1e-5, "hazard_": 1e-12, "agreement_after_low": 1e-12, "agreement_after_high": 1e-12}
STANDS_ON = ("torch", "transformers", "cpu_capability", "machine", "threads")


def main() -> int:
    """Parses the words; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"of {', '.join(RUNS)}; all without any")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.runs) - set(RUNS):
        parser.error(f"no run named {', '.join(sorted(unknown))}; there are {', '.join(RUNS)}")
    bad = 0
    for name in given.runs or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "run"
            run(made, RUNS[name])
            if given.write:
                write(made, FIXTURES / name, RUNS[name])
            else:
                bad += compare(made, FIXTURES / name)
    return min(bad, 1)


def run(out: Path, options: Sequence[str], python: str = sys.executable) -> None:
    """One run of the demo model with two threads, its chatter kept back."""
    command = [python, "-m", "decodedrift", "compare", *options, "--threads", "2", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")


def write(made: Path, kept: Path, options: Sequence[str]) -> None:
    """A run's tables as fixtures."""
    kept.mkdir(parents=True, exist_ok=True)
    for old in kept.iterdir():
        old.unlink()
    for table in sorted(made.glob("*.csv")):
        if table.stem not in LEFT_OUT:
            with gzip.GzipFile(kept / f"{table.name}.gz", "wb", mtime=0) as handle:
                handle.write(table.read_bytes())
    said = {"columns": columns(made), "stands_on": stands_on(made), "options": list(options)}
    (kept / "parquet.json").write_text(json.dumps(said, indent=1) + "\n")
    (kept / "verdict.txt").write_bytes((made / "verdict.txt").read_bytes())
    print(f"{kept.name}: {sum(f.stat().st_size for f in kept.iterdir()):,} bytes of tables kept")


def compare(made: Path, kept: Path) -> int:
    """The number of tables that differ; each is named with its first differing line or its columns."""
    before = json.loads((kept / "parquet.json").read_text())
    then, here = before["stands_on"], stands_on(made)
    if other := [f"{name} {then[name]} -> {here[name]}" for name in here if here[name] != then[name]]:
        print(f"{kept.name}: made elsewhere ({', '.join(other)}): last bits may differ for that reason alone")
    bad = 0
    fixtures = {f.name.removesuffix(".csv.gz"): gzip.decompress(f.read_bytes()) for f in kept.glob("*.csv.gz")}
    tables = {f.stem: f.read_bytes() for f in made.glob("*.csv") if f.stem not in LEFT_OUT}
    for name in sorted(fixtures | tables):
        if name not in tables or name not in fixtures:
            print(f"{kept.name}/{name}.csv: {'gone' if name not in tables else 'new'}")
        elif fixtures[name] != tables[name] and not same(fixtures[name].decode(), tables[name].decode()):
            print(f"{kept.name}/{name}.csv: {first_difference(fixtures[name].decode(), tables[name].decode())}")
        else:
            continue
        bad += 1
    now = columns(made)
    for name in sorted(before["columns"] | now):
        was, has = before["columns"].get(name, {}), now.get(name, {})
        if differ := [c for c in {**was, **has} if was.get(c) != has.get(c)]:
            print(f"{kept.name}/{name}/: {', '.join(differ)}")
            bad += 1
    if not bad:
        print(f"{kept.name}: {len(tables)} CSV and {len(now)} Parquet tables are equal")
    return bad


def same(before: str, now: str) -> bool:
    """Whether two CSV texts are equal but for the columns of CLOSE."""
    left, right = (list(csv.reader(io.StringIO(text, newline=""))) for text in (before, now))
    if left[0] != right[0] or [len(row) for row in left] != [len(row) for row in right]:
        return False
    bounds = [next((bound for head, bound in CLOSE.items() if name.startswith(head)), None) for name in left[0]]
    return all(
        x == y or (bound and x and y and math.isclose(float(x), float(y), rel_tol=bound, abs_tol=0))
        for a, b in zip(left[1:], right[1:])
        for x, y, bound in zip(a, b, bounds)
    )


def first_difference(before: str, now: str) -> str:
    """The first line of two texts that is not the same, and how many there are."""
    left, right = before.splitlines(), now.splitlines()
    pairs = [(i, a, b) for i, (a, b) in enumerate(zip(left, right)) if a != b]
    count = f"{len(left)} -> {len(right)} lines, " if len(left) != len(right) else ""
    if not pairs:
        return f"{count}the shorter is the beginning of the longer"
    at, a, b = pairs[0]
    if at == 0:
        was, has = set(a.split(",")), set(b.split(","))
        return f"{count}columns gone: {sorted(was - has)}, new: {sorted(has - was)}"
    cells = [(h, x, y) for h, x, y in zip(left[0].split(","), a.split(","), b.split(",")) if x != y]
    return f"{count}{len(pairs)} differ, first line {at + 1}: {cells[0] if cells else (a, b)}"


def columns(made: Path) -> dict[str, dict[str, str]]:
    """Parquet table -> column -> SHA-256 of its values, rows in the order of the part files."""
    found: dict[str, dict[str, str]] = {}
    for folder in sorted(p for p in made.iterdir() if p.is_dir() and p.name != "jobs"):
        parts = sorted(str(p) for p in folder.glob("*.parquet"))
        table = pyarrow.dataset.dataset(parts).to_table().combine_chunks()
        found[folder.name] = {name: hashed(table.column(name)) for name in table.column_names} | {
            "rows": str(table.num_rows)
        }
    return found


def hashed(column: pyarrow.ChunkedArray) -> str:
    """SHA-256 of a column's type and values; floats by their bits."""
    digest = hashlib.sha256(str(column.type).encode())
    for value in column.to_pylist():
        digest.update((value.hex() if isinstance(value, float) else repr(value)).encode() + b"\n")
    return digest.hexdigest()


def stands_on(made: Path) -> dict[str, str]:
    """What the last bits of a run depend on."""
    facts = json.loads((made / "environment.json").read_text())
    return {"cpu": facts["cpu"]} | {name: str(facts["numerical"][name]) for name in STANDS_ON}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
