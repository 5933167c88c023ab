"""A local model's texts as a recorded run: batch by batch as every experiment generates them, written job by job."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import Cell, Job, Key, Prompt, Trace
from decodedrift.core.settings import Settings, no_rows
from decodedrift.decoding.spool import Spool
from decodedrift.decoding.tops import Tops
from decodedrift.measure.bench import Bench
from decodedrift.measure.passes import Pass
from decodedrift.measure.tables import JobResult
from decodedrift.models import budget
from decodedrift.models.recorded.completion import Completion
from decodedrift.models.recorded.writer import Writer, prompts_hash
from decodedrift.models.world import World
from decodedrift.runs.carry_out import work_left
from decodedrift.runs.executors import EXECUTORS
from decodedrift.runs.prepare import Prepared, Sizes
from decodedrift.runs.retry import Worker

FINISH = {"eos": "stop"}  # as servers say it; every other end is said as it is


def sizes(writer: Writer, settings: Settings) -> Sizes:
    """Those that a recording was begun in, where the same batch size is asked for; else they fit the memory."""
    plan = writer.header.get("plan", {})
    same = plan.get("batch_size_asked") == settings.batch_size
    return Sizes(plan.get("batch_size") if same else None, plan.get("prompts_per_job"))


def record(ready: Prepared, writer: Writer, progress: Progress) -> int:
    """Runs the jobs whose texts are not all in the file. Returns how many texts failed.

    Raises:
        InputError: the model cannot run, the file cannot be written, or is another recording.
    """
    world, plan = ready.world, ready.plan
    writer.identify(identity(ready))
    part = Part(writer)
    work = Worker(part.execute, world, progress, None, plan.batch_size)
    todo = [job for job in ready.jobs if part.missing(job, plan)]
    progress.begin(*work_left(ready, {job.key for job in ready.jobs} - {job.key for job in todo}))
    failed = 0
    with closing(world):
        for result in EXECUTORS[plan.executor](work, todo):
            writer.begin(facts=result.facts[plan.reference.name] | result.path)
            for completion in part.lines:
                writer.write(completion)
                failed += completion.error is not None
    return failed


def identity(ready: Prepared) -> dict[str, Any]:
    """What decides the texts of a recording: model, tokenizer, versions, machine, and the plan less what it says of
    its prompts, which are a hash."""
    plan, environment = ready.plan, ready.environment
    asked = plan.as_dict()
    for key in (
        "prompts",
        "texts",
        "candidates",
        "reference",
        "experiment",
        "no_text",
        "executor",
        "workers",
        *no_rows(type(plan)),
    ):
        asked.pop(key, None)
    versions = environment["versions"]
    return {
        "engine": {"name": "transformers", "version": versions["transformers"], "torch": versions["torch"]},
        "model": environment["model"],
        "tokenizer": environment["tokenizer"],
        "variant": plan.reference,
        "precision": plan.reference.compute,
        "coupling": plan.coupling,
        "plan": asked | {"batch_size_asked": environment["generation"]["batch_size_asked"]},
        "prompts": prompts_hash(plan.prompts),
        "machine": environment["numerical"],
    }


@dataclass
class Part:
    """What a job adds to a file. lines: the completions of the job that ran last, without those already there."""

    writer: Writer
    lines: list[Completion] = field(default_factory=list)

    def missing(self, job: Job, plan: Any) -> list[tuple[Cell, str, int]]:
        """(cell, prompt id, run) of the job's texts that are not in the file."""
        return [
            (cell, prompt.id, run)
            for run in range(plan.runs)
            for prompt in job.prompts
            for cell in plan.cells
            if (cell[0].label, cell[1], prompt.id, run) not in self.writer.done
        ]

    def execute(self, job: Job, world: World, progress: Progress, spill: str | None) -> JobResult:
        """Every text of a job, also of those that are there: what is in a batch moves the others."""
        plan, prompts = world.plan, {p.id: p for p in job.prompts}
        missing = self.missing(job, plan)
        self.lines = []
        with Spool(budget.spool_bytes(world), spill) as spool, ExitStack() as resident:
            bench = Bench(job, world, progress, spool)
            model = bench.open_reference(resident)
            for run in sorted({run for _, _, run in missing}):
                side = Pass(plan.reference.name, plan.reference, "reference")
                bench.free_run(model, side, batch_size=bench.size(plan.reference))
                for (strategy, seed), prompt_id, of in missing:
                    if of == run:
                        key = Key(strategy.label, seed, prompt_id)
                        self.lines.append(completion(side, key, prompts[prompt_id], world, run))
            bench.result.spilled_bytes = spool.spilled_bytes
        return bench.result


def completion(side: Pass, key: Key, prompt: Prompt, world: World, run: int) -> Completion:
    """One text of a pass."""
    trace, top = side.traces[key], side.generated.tops.get(key)
    given: dict[str, Any] = {"prompt": prompt.text} if prompt.messages is None else {"messages": prompt.messages}
    made = Completion(
        "", key.prompt_id, **given, prompt_token_ids=tuple(world.prompts[key.prompt_id]), strategy=key.strategy,
        seed=key.seed, run=run, meta={"batch_size": world.plan.batch_size},
    )  # fmt: skip
    return replace(made, **_said(trace, top, world))


def _said(trace: Trace, top: Tops | None, world: World) -> dict[str, Any]:
    if trace.finish == "nonfinite":
        return {"error": f"logits are no numbers after {len(trace.token_ids)} tokens"}
    return {
        "token_ids": trace.token_ids,
        "text": world.vocab.decode(trace.token_ids),
        "logprobs": trace.logprobs,
        "top_logprobs": None if top is None else _shown(top),
        "finish_reason": FINISH.get(trace.finish, trace.finish),
    }


def _shown(top: Tops) -> tuple[Mapping[int | str, float], ...]:
    rows = zip(top.ids.tolist(), top.log_p.tolist(), strict=True)
    return tuple({token: p for token, p in zip(*row, strict=True) if p > -math.inf} for row in rows)
