"""Holds a small run of the demo model under several versions of transformers against each other, byte for byte.

    python3 scripts/transformers_versions.py [VERSION ...]

The first version's tables are what the others are held against; exit code 1 where one differs or fails. Each version
lies on top of the locked environment in .venv, with what it asks for in place of what is locked; nothing else moves.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import dev

VERSIONS = ("5.23.0", "5.3.0", "5.12.1", "5.20.2", "5.24.0")
HOMES = dev.ROOT / ".venv-transformers"


def main() -> int:
    """Makes the runs, one after the other; returns the exit code."""
    dev.locked("[dev]")
    if Path(sys.executable) != Path(dev.python(dev.HOME)):  # the comparison itself needs pyarrow
        return dev.tried(dev.python(dev.HOME), __file__, *sys.argv[1:])
    import parity

    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first"
        for version in sys.argv[1:] or VERSIONS:
            home = installed(version)
            made = Path(folder) / version
            try:
                parity.run(made, dev.SMALL[1:], dev.python(home))
            except SystemExit as error:
                last = str(error).strip().splitlines()[-1]
                print(f"transformers {version}: FAILS: {last}", flush=True)
                bad += 1
                continue
            if not first.exists():
                with contextlib.redirect_stdout(io.StringIO()):
                    parity.write(made, first, dev.SMALL[1:])
                print(f"transformers {version}: the tables that the others are held against", flush=True)
                continue
            print(f"transformers {version}:", flush=True)
            bad += bool(parity.compare(made, first))
    return min(bad, 1)


def installed(version: str) -> Path:
    """An environment of this version, and of those of its own requirements that the lock does not meet, over .venv."""
    home = HOMES / version
    if (home / "ready.txt").exists():
        return home
    base = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    dev.run(dev.uv(), "venv", "--quiet", "--clear", "--python", dev.python(dev.HOME), str(home))
    site = home / base.relative_to(dev.HOME)
    locked = dev.LOCK.read_text("utf-8").splitlines()
    rest = home / "packages.txt"
    rest.write_text("\n".join(locked))  # uv keeps to the versions that its output file names where they fit
    command = [
        dev.uv(), "pip", "compile", "-", "--quiet", "--no-annotate", "--no-header", "--prerelease", "disallow",
        "--python", dev.python(dev.HOME), "--output-file", str(rest),
    ]  # fmt: skip
    subprocess.run(command, input=f"transformers=={version}\n", text=True, check=True, cwd=dev.ROOT)
    kept = {line.split(" ;")[0] for line in locked}
    moved = [line for line in rest.read_text("utf-8").splitlines() if line not in kept]
    print(f"transformers {version} over .venv:", ", ".join(moved) or "as locked", flush=True)
    if moved:
        dev.run(dev.uv(), "pip", "install", "--quiet", "--python", dev.python(home), "--no-deps", *moved)
    (site / "locked.pth").write_text(f"{base}\n")
    (home / "ready.txt").touch()
    return home


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
