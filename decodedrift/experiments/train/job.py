"""One Job -> its rows: all arms of one seed trained side by side, and what they became compared."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError, Job
from decodedrift.experiments.train.comparing import compared
from decodedrift.experiments.train.data import material
from decodedrift.experiments.train.finals import finals
from decodedrift.experiments.train.forecast import needed
from decodedrift.experiments.train.lockstep import Lockstep
from decodedrift.measure.tables import JobResult
from decodedrift.models.arithmetic import pinned
from decodedrift.models.training import lstm
from decodedrift.models.training.start import save, starting_model
from decodedrift.models.world import World
from decodedrift.runs.places import STATE


def execute(job: Job, world: World, progress: Progress | None = None, spill: str | None = None) -> JobResult:
    """Trains the arms of one seed. An arm that breaks is a result, and the others go on.

    Raises:
        InputError: the texts are too short, or the model cannot be trained.
    """
    plan: Any = world.plan
    progress, result, seed = progress or Progress(), JobResult(job.key), plan.seeds[job.index]
    learnt = material(plan, world.vocab)
    begin = time.perf_counter()
    model = starting_model(world.checkpoint, seed if plan.from_scratch else None)
    place = Path(spill) / f"{STATE}-{job.key}.pt" if spill else None
    with pinned():
        arms = Lockstep(plan, model, learnt, seed, torch.device(plan.device), place)
        del model
        tokens = plan.sequences * plan.context * (plan.steps - arms.done) * len(arms.runners)
        progress.start("", "training", tokens)
        arms.run(progress.tick, progress.batch)
        progress.stop()
        result.timed("all arms", "", "train", begin, tokens)
        result.rows["training"] = [{"model": plan.model} | row for row in arms.rows]
        result.facts = {name: runner.facts for name, runner in arms.runners.items()}
        rows = finals(arms)
    if plan.compare or plan.keep_checkpoints:
        with folders(world, seed, plan.keep_checkpoints) as folder:
            saved = saved_arms(arms, world, folder)
            place_of_run = world.folder / f"compare-seed-{seed}" if world.folder is not None else None
            told = compared(plan, learnt, saved, world.folder or folder, place_of_run, progress) if plan.compare else {}
        for row in rows:
            row |= told.get(row["arm"], {})
    result.rows["arms"] = [{"model": plan.model} | row for row in rows]
    if plan.lstm:
        result.rows["digits"] = [{"model": lstm.NAME} | row for row in lstm.digits([seed])]
    return result


def check(world: World) -> None:
    """The model can be trained here.

    Raises:
        InputError: it is quantized, its window too short, the texts are, or the memory.
    """
    plan: Any = world.plan
    checkpoint = world.checkpoint
    if checkpoint.quantization is not None:
        raise InputError(
            f"{checkpoint.name}: its weights are quantized, and no gradient reaches them; give a plain one"
        )
    if world.vocab.window is not None and plan.context > world.vocab.window:
        raise InputError(f"--context {plan.context}: the model reads {world.vocab.window} tokens at most; lower it")
    material(plan, world.vocab)
    world.least = need = needed(world)
    if need > world.memory:
        raise InputError(
            f"about {need / 2**30:.1f} GiB are needed for {len(plan.every_arm)} arms side by side, and "
            f"{world.memory / 2**30:.1f} GiB may be used; give fewer --arms, or --no-controls"
        )


@contextmanager
def folders(world: World, seed: int, keep: bool) -> Iterator[Path]:
    """Where the arms are saved: in the run folder while it has one, else for as long as this is open."""
    with ExitStack() as stack:
        if world.folder is None:
            yield Path(stack.enter_context(TemporaryDirectory(prefix="decodedrift-")))
            return
        folder = world.folder / "checkpoints" / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)  # of arms that all broke nothing is saved
        yield folder
        if not keep:
            shutil.rmtree(folder)
            if not os.listdir(folder.parent):
                folder.parent.rmdir()


def saved_arms(arms: Lockstep, world: World, folder: Path) -> dict[str, Path]:
    """A checkpoint of each arm that did not break."""
    saved = {}
    for name, runner in arms.runners.items():
        if runner.broken is None:
            saved[name] = folder / re.sub(r"[^A-Za-z0-9.-]+", "-", name)
            save(runner.model, runner.kept, world.vocab.tokenizer, saved[name])
    return saved
