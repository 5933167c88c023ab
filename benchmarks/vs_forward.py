"""The main job against the bare forward passes that its plan needs, and how much of it is analysis.

    python benchmarks/vs_forward.py [--prompts 16] [--tokens 64] [--candidates fp32] [--shape gpt2] [--repeat 1]
        [--device auto]

One process runs `decodedrift compare`, notes every batch that it decodes and every batch that it reads, and times the
model's forward within each. Another makes the same calls on the same weights and does nothing else: prompts prefilled,
the rows of the mixed batch fed random tokens over a cache that is written in place, the same texts read. No token is
chosen, no metric computed, nothing written. Loading and imports are left out of both sides, loading is shown apart.

Analysis is metrics and rows, folds, tables and report.
Reading the reference's text is a forward pass that only the metrics need; it is shown with them, too.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compare_vs_naive import VOCAB, make_model, make_prompts

STRATEGIES = ("greedy", "beam", "top-k", "top-p")


def named(candidates: str) -> list[str]:
    """The candidates; `fp32` is the reference's type through another attention kernel."""
    return ["fp32:attention=eager" if c == "fp32" else c for c in candidates.split(",")]


class Watch:
    """Wall and CPU seconds of the model's forward, by what it was called for."""

    def __init__(self) -> None:
        self.doing, self.wall, self.cpu = "other", {}, {}  # type: ignore[var-annotated]

    def over(self, kind: type) -> None:
        """Times every forward of a model class."""
        real = kind.forward  # type: ignore[attr-defined]

        @functools.wraps(real)
        def forward(*arguments: Any, **more: Any) -> Any:
            with timed(self.doing, self.wall, self.cpu):
                return real(*arguments, **more)

        kind.forward = forward  # type: ignore[attr-defined]

    def during(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, its forwards noted under `what`."""

        def noted(*arguments: Any, **more: Any) -> Any:
            self.doing = what
            return call(*arguments, **more)

        return noted


def finished() -> None:
    """Waits for what a GPU was told to do."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.synchronize()


@contextmanager
def timed(name: str, wall: dict[str, float], cpu: dict[str, float]) -> Iterator[None]:
    finished()
    begin, used = time.perf_counter(), time.process_time()
    yield
    finished()
    wall[name] = wall.get(name, 0.0) + time.perf_counter() - begin
    cpu[name] = cpu.get(name, 0.0) + time.process_time() - used


def whole(call: Callable[..., Any], name: str, wall: dict[str, float], cpu: dict[str, float]) -> Callable[..., Any]:
    """The call, timed under a name."""

    def noted(*arguments: Any, **more: Any) -> Any:
        with timed(name, wall, cpu):
            return call(*arguments, **more)

    return noted


def model_class(shape: str) -> type:
    import transformers

    return transformers.LlamaForCausalLM if shape == "llama" else transformers.GPT2LMHeadModel  # type: ignore[no-any-return]


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """The main job, run folder and report included; leaves the calls it made in --calls."""
    import decodedrift as dd
    from decodedrift.experiments import running
    from decodedrift.experiments.study import Study
    from decodedrift.measure import bench
    from decodedrift.models import world

    with tempfile.TemporaryDirectory() as out:  # a small run before the clock starts: everything is imported
        dd.compare(
            arguments.folder,
            candidates=["bf16"],
            prompts=["w1"],
            max_new_tokens=2,
            out=Path(out) / "run",
            noise_floor=False,
            default_text=False,
            device=arguments.device,
        )
    watch, wall, cpu, calls = Watch(), {}, {}, []  # type: ignore[var-annotated]
    watch.over(model_class(arguments.shape))
    generate, force, loaded = bench.generate, bench.force, world.loaded

    def generating(model: Any, vocab: Any, prompts: Any, cells: Any, steps: int, **more: Any) -> Any:
        with timed("generate", wall, cpu):
            done = generate(model, vocab, prompts, cells, steps, **more)
        widths = [s.params["num_beams"] if s.searches else 1 for s, _ in cells]
        made = max(len(t.token_ids) for t in done.traces.values())
        calls.append({"do": "generate", "variant": model.variant.name, "widths": widths, "steps": made,
                      "prompts": [list(ids) for ids in prompts.values()]})  # fmt: skip
        return done

    def forcing(model: Any, readings: Any, size: int, *more: Any) -> Any:
        calls.append({"do": "force", "variant": model.variant.name, "size": size,
                      "readings": [[r.context, r.continuation] for r in readings]})  # fmt: skip
        yield from force(model, readings, size, *more)

    @contextmanager
    def loading(*given: Any) -> Iterator[Any]:
        with timed("load", wall, cpu):
            held = loaded(*given)
            model = held.__enter__()
        try:
            yield model
        finally:
            held.__exit__(None, None, None)

    bench.generate = watch.during("decoding", generating)  # type: ignore[assignment]
    bench.force = watch.during("reading", forcing)  # type: ignore[assignment]
    world.loaded = loading  # type: ignore[assignment]
    for home, name, phase in ((running, "prepare", "before"), (Study, "write", "after")):
        setattr(home, name, whole(getattr(home, name), phase, wall, cpu))
    prompts = make_prompts(arguments.prompts, VOCAB[arguments.shape])
    with tempfile.TemporaryDirectory() as out, timed("all", wall, cpu):
        study = dd.compare(
            arguments.folder, candidates=named(arguments.candidates), strategies=list(STRATEGIES), prompts=prompts,
            max_new_tokens=arguments.tokens, out=Path(out) / "run", noise_floor=False, default_text=False,
            device=arguments.device,
        )  # fmt: skip
    Path(arguments.calls).write_text(json.dumps(calls))
    sides = {f"{name} forward": (watch.wall[name], watch.cpu[name]) for name in ("decoding", "reading")}
    sides |= {name: (wall[name], cpu[name]) for name in ("all", "load", "generate", "before", "after")}
    return {"seconds": sides, "failures": len(study.failures)}


def bare(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same calls of the model, with random tokens and no use made of what comes out."""
    import torch

    from decodedrift.core.records import Reading
    from decodedrift.decoding.choosers import Move
    from decodedrift.decoding.forcing import force
    from decodedrift.decoding.loop import decode
    from decodedrift.models.load import loaded
    from decodedrift.models.sources import checkpoints
    from decodedrift.models.text.vocabulary import vocabulary
    from decodedrift.models.variants import on_device, parse_variants

    class Random:
        """Feeds every row random tokens."""

        done = surveyed = False

        def __init__(self, width: int, rows: int, steps: int) -> None:
            self.width, self.tokens = width, torch.randint(1, VOCAB[arguments.shape], (steps, rows * width))

        def step(self, logits: Any, position: int, seen: Any) -> Any:
            return Move(self.tokens[position])

        def traces(self) -> list[Any]:
            return []

    torch.manual_seed(0)
    calls, wall, cpu = json.loads(Path(arguments.calls).read_text()), {}, {}  # type: ignore[var-annotated]
    checkpoint = checkpoints.find(arguments.folder)
    vocab = vocabulary(checkpoint)
    reference = parse_variants("fp32")
    for variant in (*reference, *parse_variants(named(arguments.candidates), reference[0])):
        with loaded(checkpoint, on_device(arguments.device, variant)) as model, timed("all", wall, cpu):
            for call in calls:
                if call["variant"] != variant.name:
                    continue
                if call["do"] == "generate":
                    rows = [Random(width, len(call["prompts"]), call["steps"]) for width in call["widths"]]
                    prompts = {str(i): ids for i, ids in enumerate(call["prompts"])}
                    with timed("generate", wall, cpu):
                        decode(model, vocab, prompts, rows, call["steps"])
                else:
                    readings = [Reading(tuple(c), tuple(t)) for c, t in call["readings"]]
                    with timed("read", wall, cpu):
                        for _ in force(model, readings, call["size"], vocab.pad):
                            pass
    return {"seconds": {name: (wall[name], cpu[name]) for name in wall}}


def side(which: str, arguments: argparse.Namespace, folder: str, calls: str) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [sys.executable, __file__, "--side", which, "--folder", folder, "--calls", calls,
               "--prompts", str(arguments.prompts), "--tokens", str(arguments.tokens),
               "--candidates", arguments.candidates, "--shape", arguments.shape,
               "--device", arguments.device]  # fmt: skip
    huge = os.environ | {"THP_MEM_ALLOC_ENABLE": "1"}  # as the command line does
    done = subprocess.run(command, env=huge, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def report(a: dict[str, Any], b: dict[str, Any], arguments: argparse.Namespace) -> None:
    print(f"{arguments.shape} shape, {arguments.prompts} prompts x {arguments.tokens} tokens, 4 strategies, "
          f"fp32 against {arguments.candidates}, {os.cpu_count()} cores; {a['failures']} failures")  # fmt: skip
    print(f"{'':<34}{'wall s':>9}{'CPU s':>9}")
    mine, theirs = a["seconds"], b["seconds"]

    def line(name: str, values: list[float], form: str = "9.1f") -> None:
        print(f"{name:<34}" + "".join(f"{value:{form}}" for value in values))

    job = [mine["all"][i] - mine["load"][i] for i in (0, 1)]
    choosing = [mine["generate"][i] - mine["decoding forward"][i] for i in (0, 1)]
    analysis = [job[i] - mine["before"][i] - mine["generate"][i] - mine["reading forward"][i] for i in (0, 1)]
    line("main job, without loading", job)
    line("  model found, hashed, tokenized", list(mine["before"]))
    line("  decoding, forward passes", list(mine["decoding forward"]))
    line("  choosing tokens, beams, cache", choosing)
    line("  readings, forward passes", list(mine["reading forward"]))
    line("  metrics and rows, in the jobs", [analysis[i] - mine["after"][i] for i in (0, 1)])
    line("  folds, tables, report, at the end", list(mine["after"]))
    line("loading", list(mine["load"]))
    line("bare forward passes", list(theirs["all"]))
    line("  decoding", list(theirs["generate"]))
    line("  readings", list(theirs["read"]))
    most = 2 if arguments.shape == "demo" else 1.25
    line(f"job / bare forward (at most {most})", [job[i] / theirs["all"][i] for i in (0, 1)], "9.2f")
    line("analysis / generation (at most .15)", [analysis[i] / mine["generate"][i] for i in (0, 1)], "9.2f")
    read = [(analysis[i] + mine["reading forward"][i]) / mine["generate"][i] for i in (0, 1)]
    line("the same, readings included", read, "9.2f")
    print(f"peak MiB: main job {a['peak_mib']:.0f}, bare forward {b['peak_mib']:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--candidates", default="fp32", help="comma-separated: fp32,bf16,fp16,int8")
    parser.add_argument("--shape", choices=sorted(VOCAB), default="gpt2")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--device", default="auto")
    for hidden in ("--side", "--folder", "--calls"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        found = {"ours": ours, "bare": bare}[arguments.side](arguments)
        print(json.dumps(found | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), arguments.shape)
        for _ in range(arguments.repeat):
            calls = str(Path(folder) / "calls")
            report(*(side(which, arguments, folder, calls) for which in ("ours", "bare")), arguments)


if __name__ == "__main__":
    main()
