"""Sets up an environment in .venv and runs one thing in it: `demo` (the main job) or `test` (what CI runs).

    python3 scripts/dev.py demo [options of `decodedrift compare`]
    python3 scripts/dev.py test [options of pytest]

Needs Python >= 3.11 and a package index, nothing else. torch comes first and pinned (constraints.txt): resolving it
together with the rest could bring another build.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv"
PYTHON = HOME / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
TORCH = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))


def run(*command: str) -> None:
    """Runs a command in the checkout; its failure ends this script with its exit code."""
    print("+", *command, file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def set_up(extras: str = "") -> None:
    """Makes .venv and installs the checkout into it; quick when nothing changed."""
    stamp = HOME / f"ready{extras.replace('[', '-').replace(']', '')}"
    wanted = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    if stamp.exists() and all(stamp.stat().st_mtime > f.stat().st_mtime for f in wanted):
        return
    if not PYTHON.exists():
        venv.create(HOME, with_pip=True)
    pip = (str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, TORCH)
    run(*pip, "--constraint", "constraints.txt", "--editable", f".{extras}")
    stamp.touch()


def main() -> None:
    """Parses the one word and goes."""
    if sys.version_info < (3, 11):  # noqa: UP036 (run by whatever python3 is)
        sys.exit(f"decodedrift needs Python >= 3.11; this is {sys.version.split()[0]}")
    what, rest = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if what == "demo":
        set_up()
        run(str(PYTHON), "-m", "decodedrift", "compare", *rest)
    elif what == "test":
        set_up("[dev]")
        run(str(PYTHON), "-m", "ruff", "check", ".")
        run(str(PYTHON), "-m", "ruff", "format", "--check", ".")
        run(str(PYTHON), "-m", "mypy")
        run(str(PYTHON), "-m", "pytest", "-n", "2", *rest)
    else:
        sys.exit("usage: python3 scripts/dev.py demo|test [options]")


if __name__ == "__main__":
    main()
