"""Sets up an environment and runs one thing in it.

    python3 scripts/dev.py demo [options of `decodedrift compare`]    the main job
    python3 scripts/dev.py test [options of pytest]                   every check
    python3 scripts/dev.py core [options of pytest]                   a small run, and tests of what releases move
    python3 scripts/dev.py lowest [--free-torch] [options of pytest]  the same with the lowest versions that are allowed
    python3 scripts/dev.py canary [--free-torch] [options of pytest]  the same with the newest of this hour
    python3 scripts/dev.py ends [the same options]                    both side by side; fails where the lowest does
    python3 scripts/dev.py lock [options of `uv pip compile`]         writes constraints.txt anew

Needs Python >= 3.11 and a package index, nothing else. `demo`, `test` and `core` work in .venv with the versions of
constraints.txt, `lowest` and `canary` each in one of their own, made anew whenever a version has changed. torch comes
first and pinned: resolving it together with the rest could bring another build. `--free-torch` lets it go to its own
lowest or newest version too.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (run by whatever python3 is)
    sys.exit(f"decodedrift needs Python >= 3.11; this is {sys.version.split()[0]}")
import tomllib

ROOT = Path(__file__).resolve().parent.parent
LOCK, PROJECT = ROOT / "constraints.txt", ROOT / "pyproject.toml"
TORCH, UV = "torch==2.13.0", "uv==0.13.9"
HOME, TOOLS = ROOT / ".venv", ROOT / f".venv-{UV}"
TWO = ("-n", "2", "--dist", "loadfile")  # a file's tests share their runs: all in one process
SMALL = ("compare", "--limit", "2", "--max-new-tokens", "8")
CORE = [  # the tests of decoding, families, reading, the oracle and endpoints, then those of tables and the page
    "models/test_probe", "decoding/test_generate", "models/test_longrope", "models/test_families",
    "decoding/test_score", "experiments/test_oracle", "models/test_recorded_api", "report/test_report",
    "experiments/test_old_runs",
    "runs/test_store", "runs/test_gates", "experiments/test_laws",
]  # fmt: skip
CUDA = ("nvidia-", "cuda-", "triton")  # torch's own: pinned by it, and installed with it where its build needs them
PYTHONS, PLATFORMS = ("3.11", "3.12", "3.13", "3.14"), ("linux", "macos", "windows")
HEADER = """\
# Every package of the demo and the tests, for Python 3.11 to 3.14 on Linux, macOS and Windows: what the tests and the
# committed figures were made with. Made by `python3 scripts/dev.py lock`; not to be edited.
#   one version moved:  python3 scripts/dev.py lock --upgrade-package transformers==5.23.0
#   all to the newest:  python3 scripts/dev.py lock --upgrade
# Used as constraints: what stands here is installed only where something asks for it (CUDA: by torch's CUDA build).
"""


def main() -> None:
    """Parses the one word and goes."""
    what, rest = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if what == "demo":
        locked()
        run(python(HOME), "-m", "decodedrift", "compare", *rest)
    elif what == "test":
        locked("[dev]")
        run(python(HOME), "-m", "ruff", "check", ".")
        run(python(HOME), "-m", "ruff", "format", "--check", ".")
        run(python(HOME), "-m", "mypy")
        run(python(HOME), "-m", "pytest", *TWO, *rest)
    elif what == "core":
        locked("[dev]")
        sys.exit(core(HOME, rest))
    elif what in ("lowest", "canary"):
        sys.exit(bound(what, "--free-torch" not in rest, [word for word in rest if word != "--free-torch"]))
    elif what == "ends":
        sys.exit(ends(rest))
    elif what == "lock":
        lock(rest)
    else:
        sys.exit("usage: python3 scripts/dev.py demo|test|core|lowest|canary|ends|lock [options]")


def run(*command: str) -> None:
    """Runs a command in the checkout; its failure ends this script with its exit code."""
    if code := tried(*command):
        sys.exit(code)


def tried(*command: str) -> int:
    """Runs a command in the checkout; its exit code."""
    print("+", *command, file=sys.stderr, flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def python(home: Path) -> str:
    """The interpreter of an environment."""
    return str(home / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def pip(home: Path) -> tuple[str, ...]:
    """The beginning of an installing command."""
    return (python(home), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def locked(extras: str = "") -> None:
    """Makes .venv of the locked versions and installs the checkout into it; at once where nothing has changed."""
    stamp = HOME / "ready.txt"
    state = hashlib.sha256(PROJECT.read_bytes() + LOCK.read_bytes()).hexdigest()
    ready = stamp.read_text().split() if stamp.exists() and Path(python(HOME)).exists() else []
    if ready[:1] == [state] and (not extras or ready[1:] == [extras]):
        return
    if not Path(python(HOME)).exists():
        venv.create(HOME, clear=True, with_pip=True)
    given = ("--constraint", str(LOCK))
    torch_first(HOME, TORCH, *given)
    run(*pip(HOME), *given, *tomllib.loads(PROJECT.read_text("utf-8"))["build-system"]["requires"], "editables")
    run(*pip(HOME), *given, "--no-build-isolation", "--editable", f".{extras}")
    stamp.write_text(f"{state} {extras}")


def torch_first(home: Path, torch: str, *options: str) -> None:
    """Installs torch: its CPU build where Linux has no NVIDIA driver and an index offers one, else the default."""
    if sys.platform == "linux" and not driver():
        command = (*pip(home), *options, f"{torch}+cpu")
        print("+", *command, file=sys.stderr, flush=True)
        if not subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode:
            return
        print(
            "No NVIDIA driver here, but no package index in use gave torch's CPU build: the default one may bring"
            " 3 GB of CUDA libraries. README.md says how to name PyTorch's CPU index.",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    run(*pip(home), *options, torch)


def driver() -> bool:
    """Whether Linux has an NVIDIA driver."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def core(home: Path, options: list[str]) -> int:
    """A small run, and the core's tests; exit code 1 where either fails."""
    tests = [f"tests/{name}.py" for name in CORE]
    with tempfile.TemporaryDirectory() as folder:
        ran = tried(python(home), "-m", "decodedrift", *SMALL, "--out", str(Path(folder) / "run"))
    tested = tried(python(home), "-m", "pytest", *TWO, *tests, *options)
    return int(ran != 0 or tested != 0)


def bound(name: str, pinned: bool, options: list[str]) -> int:
    """The core at one end of what pyproject.toml allows; the last line says the result and the versions."""
    ways = ("--extra", "test", "--extra", "api", "--python", sys.executable, "--only-binary", ":all:")
    direct: dict[str, str] = {}
    try:
        packages = resolved(*ways, "--resolution", "lowest-direct" if name == "lowest" else "highest", pinned=pinned)
        direct = {n: packages[n] for n in bounds() if n in packages}
        if name == "lowest":
            refuse_untested(direct, pinned)
        fill(ROOT / f".venv-{name}", packages)
        code = core(ROOT / f".venv-{name}", options)
    except SystemExit as end:
        code = 1
        print(end, file=sys.stderr)
    colour = "RED" if code else "GREEN"
    print(f"{name.upper()} {colour}:", ", ".join(f"{n} {v}" for n, v in direct.items()), flush=True)
    return code


def ends(options: list[str]) -> int:
    """The lowest and the newest, a process and a core each; what they say follows one after the other."""
    uv()  # both need it: made once
    with tempfile.TemporaryDirectory() as folder:
        said = {name: Path(folder) / name for name in ("lowest", "canary")}
        at_work = {}
        for name, file in said.items():
            with file.open("wb") as out:
                command = (sys.executable, str(Path(__file__)), name, "-n", "0", *options)
                at_work[name] = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        codes = {name: process.wait() for name, process in at_work.items()}
        for file in said.values():
            print(file.read_text("utf-8", "replace"), end="", flush=True)
    return codes["lowest"]


def refuse_untested(direct: dict[str, str], pinned: bool) -> None:
    """Ends where a lower bound is below the lowest version that resolves; torch's may be where torch is pinned."""
    above = [n for n, v in direct.items() if not same(v, bounds()[n]) and not (pinned and n == "torch")]
    if above:
        sys.exit("lower bounds that nothing tests: " + ", ".join(f"{n} {bounds()[n]} (is {direct[n]})" for n in above))


def fill(home: Path, packages: dict[str, str]) -> None:
    """Makes an environment of exactly these packages and the checkout; one that holds them already stays."""
    wanted = "".join(f"{name}=={version}\n" for name, version in packages.items() if not name.startswith(CUDA))
    stamp = home / "ready.txt"
    install = (uv(), "pip", "install", "--quiet", "--python", python(home), "--no-deps")
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(home, clear=True, with_pip=True)
        torch_first(home, f"torch=={packages['torch']}")
        rest = home / "packages.txt"
        rest.write_text("".join(line for line in wanted.splitlines(True) if not line.startswith("torch==")))
        run(*install, "--requirement", str(rest))
        stamp.write_text(wanted)
    run(*install, "--no-build-isolation", "--editable", ".")
    run(uv(), "pip", "check", "--quiet", "--python", python(home))


def bounds() -> dict[str, str]:
    """Direct dependency, the tests' and the endpoint client included -> its lower bound in pyproject.toml."""
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    given = [*project["dependencies"], *extras["test"], *extras["api"]]
    return {m[1].lower().replace("_", "-"): m[2] for line in given if (m := re.match(r"([\w-]+)>=([\d.]+)", line))}


def same(version: str, other: str) -> bool:
    """Whether two versions differ by zeros at the end alone."""
    return re.sub(r"(\.0)+$", "", version) == re.sub(r"(\.0)+$", "", other)


def uv() -> str:
    """The resolver, in an environment of its own."""
    command = Path(python(TOOLS)).with_name("uv.exe" if os.name == "nt" else "uv")
    if not command.exists():
        venv.create(TOOLS, clear=True, with_pip=True)
        run(*pip(TOOLS), UV)
    return str(command)


def resolved(*options: str, pinned: bool = True) -> dict[str, str]:
    """Package -> version that pyproject.toml comes to."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "resolved.txt"
        compiled(out, *options, pinned=pinned)
        return dict(line.split(" ;")[0].split("==") for line in out.read_text("utf-8").splitlines())


def compiled(out: Path, *options: str, pinned: bool = True) -> None:
    """Writes the requirements that pyproject.toml comes to; versions that `out` names already are kept if they fit."""
    with tempfile.TemporaryDirectory() as folder:
        limits = Path(folder) / "limits.txt"
        limits.write_text(TORCH if pinned else "")
        run(
            uv(), "pip", "compile", str(PROJECT), "--quiet", "--no-annotate", "--no-header", "--prerelease", "disallow",
            "--constraint", str(limits), "--output-file", str(out), *options,
        )  # fmt: skip


def lock(options: list[str]) -> None:
    """Writes constraints.txt and shows that every Python and platform it is for finds wheels of just these versions."""
    compiled(
        LOCK, "--universal", "--python-version", PYTHONS[0], "--fork-strategy", "fewest", "--extra", "dev", *options
    )
    LOCK.write_text(HEADER + LOCK.read_text("utf-8"), "utf-8")
    os.environ["MACOSX_DEPLOYMENT_TARGET"] = "14.0"  # the oldest that torch has wheels for
    for version in PYTHONS:
        for platform in PLATFORMS:
            where = ("--python-version", version, "--python-platform", platform, "--only-binary", ":all:")
            found = resolved("--extra", "dev", "--constraint", str(LOCK), *where)
            print(f"Python {version}, {platform}: {len(found)} packages")


if __name__ == "__main__":
    main()
