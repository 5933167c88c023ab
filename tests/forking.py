"""The command in a process of its own that need not import torch: a fork of one that has imported what a run needs.

`command` is what `python -m decodedrift` is, but for the seconds that the imports take: own arguments, folder, environment
and streams, decodedrift imported anew, an end as any process has. What is about starting itself (which imports there are,
what libraries make of the environment when they are imported) is tested by a true process. Elsewhere than on Linux, all are:
macOS's own libraries do not bear a fork.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_server: list[subprocess.Popen[str]] = []


def command(*words: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`decodedrift WORDS` in a folder, with the environment of this process and what is given here."""
    arguments = list(map(str, words))
    surroundings = os.environ | environment
    if sys.platform != "linux":
        return subprocess.run(
            [sys.executable, "-m", "decodedrift", *arguments], cwd=cwd, env=surroundings, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    if not _server:
        _server.append(subprocess.Popen([sys.executable, __file__], stdin=-1, stdout=-1, text=True))
        atexit.register(_server[0].terminate)
    to, back = _server[0].stdin, _server[0].stdout
    assert to is not None and back is not None
    with tempfile.TemporaryDirectory() as streams:
        out, err = Path(streams) / "out", Path(streams) / "err"
        asked = {
            "words": arguments,
            "cwd": str(cwd or Path.cwd()),
            "environment": surroundings,
            "streams": [str(out), str(err)],
        }
        print(json.dumps(asked), file=to, flush=True)
        code = json.loads(back.readline())
        return subprocess.CompletedProcess(arguments, code, out.read_text("utf-8"), err.read_text("utf-8"))


def become(asked: dict[str, Any]) -> None:
    """Makes of this fork the process that was asked for; its end is an interpreter's."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, path in enumerate(asked["streams"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv, sys.path[0] = ["decodedrift", *asked["words"]], asked["cwd"]  # where `python -m` looks first
    atexit._clear()  # of the process that was forked
    runpy.run_module("decodedrift", run_name="__main__", alter_sys=True)


def serve() -> None:
    """Forks once for each line of stdin and answers with the exit code; returns in the fork, and at the end."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return become(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    import gc

    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2LMHeadModel  # noqa: F401

    gc.freeze()  # no collection in a fork walks over what it shares
    serve()
