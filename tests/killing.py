"""Kills a run at random moments, again and again, until it is done. Run as a script, by test_resume.py.

torch is imported once; every attempt is a fork of this process, so that a kill costs a second and not ten. Prints a
JSON list: for each attempt how it ended (a signal as a negative number).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time


def attempt(arguments: list[str], signum: int, after: float) -> int:
    """One process; `signum` comes after so many seconds, unless it has ended. Returns exit code, or minus the signal."""
    child = os.fork()
    if not child:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        sys.argv = ["decodedrift", *arguments]
        code = 70
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 71
        except KeyboardInterrupt:  # before `main` was entered: what the interpreter makes of it
            code = 130
        finally:
            os._exit(code)
    end = time.monotonic() + after
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return ended(status)
        time.sleep(0.005)
    os.kill(child, signum)
    if signum == signal.SIGINT and random.random() < 0.3:
        time.sleep(random.random() * 0.05)
        os.kill(child, signum)  # the impatient press it twice
    return ended(os.waitpid(child, 0)[1])


def ended(status: int) -> int:
    """Exit code; SIGTERM or SIGHUP before a handler was there is what a shell makes of it."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code in (-signal.SIGTERM, -signal.SIGHUP) else code


def kill_often(first: list[str], again: list[str], folder: str, longest: float, kills: int) -> list[int]:
    """Runs `first`, then `again` until it is done; after `kills` kills it is left alone."""
    ends: list[int] = []
    while not ends or ends[-1] not in (0, 3):
        begun = os.path.exists(os.path.join(folder, "data/plan.json"))
        signum = random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
        after = random.random() * longest if len(ends) < kills else 600.0
        ends.append(attempt(again if begun else first, signum, after))
        if ends[-1] not in (0, 3, 129, 130, 143, -signal.SIGKILL):
            break
    return ends


if __name__ == "__main__":
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: F401

    from decodedrift.cli import main

    asked = json.loads(sys.argv[1])
    random.seed(asked.pop("seed"))
    print(json.dumps(kill_often(**asked)))
