"""From settings to a World: everything is found, checked and tokenized before the first weight is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from decodedrift.core import prompts as prompt_files
from decodedrift.core.progress import without_widgets
from decodedrift.core.records import InputError, Job, nearest
from decodedrift.core.settings import Settings
from decodedrift.core.versions import untested
from decodedrift.decoding.strategies import check_beams
from decodedrift.models.knobs import check as check_knobs
from decodedrift.models.precisions import beware
from decodedrift.models.recorded import sides
from decodedrift.models.recorded.api.recording import Answers, answered
from decodedrift.models.variants import (
    default_candidates,
    on_device,
)
from decodedrift.runs.asked import live_asked, prompts_asked, strategies_asked, texts_asked, variants_asked
from decodedrift.runs.executors import CHECKS, EXECUTORS
from decodedrift.runs.judge import refuse_candidates, the_reference, with_judge
from decodedrift.runs.plan import IDENTITY, METRICS_VERSION, jobs
from decodedrift.runs.sharding import check_shard, own_jobs

PROMPTS_PER_JOB = 16  # what a kill can lose, where the weights are loaded once
S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Sizes:
    """What a run was settled at when it began (`begun`), None where not; prompts_per_job: unless one is asked."""

    batch_size: int | None = None
    prompts_per_job: int | None = None
    threads: int | None = None
    begun: bool = False


NOTHING = Sizes()


@dataclass
class Prepared:
    """A run that is ready: its world and jobs. enlarged: whether these are larger than usual, to load seldom.

    notes: said of it before it begins. every: the keys of the whole plan's jobs, of which its own may be a shard. base:
    the folder in which relative paths of the plan begin, None: the working one.
    """

    world: Any
    jobs: list[Job]
    environment: dict[str, Any]
    enlarged: bool = False
    notes: Sequence[str] = ()
    every: Sequence[str] = ()
    base: Path | None = None

    @property
    def plan(self) -> Settings:
        """The resolved plan."""
        return self.world.plan  # type: ignore[no-any-return]

    def doubts(self) -> list[str]:
        """What of the prompts did not run or is odd, a line each; none of it is a failure of the run as asked."""
        refused = [f"refused prompt {name}: {reason}" for name, reason in self.plan.refused.items()]
        return refused + [f"warning: {warning}" for warning in self.environment["warnings"]]

    def announcement(self) -> str:
        """One line on what is about to run, with what was left out or lowered."""
        plan = self.plan
        names = ", ".join(c.name for c in plan.candidates)
        line = f"{plan.manner}{plan.model}: {plan.reference.name}{f' {plan.beside} ' if names else ''}{names}; "
        line += f"{len(plan.prompts)} prompt{'s' * (len(plan.prompts) != 1)}"
        line += f" ({plan.prompt_source})" if plan.prompt_source not in ("given", "file") else ""
        line += f", {plan.amount}, {plan.device}"
        line += f", {self.world.workers} processes" if self.world.workers > 1 else ""
        if plan.left_out:
            line += f"; {plan.left_out} bundled prompts do not fit the window and are left out"
        size = self.environment["generation"]["batch_size_asked"]
        if plan.batch_size != size:
            line += f"; batch size lowered from {size} to {plan.batch_size} to fit the memory"
        if self.enlarged:
            line += f"; jobs of {plan.prompts_per_job} prompts, as each loads the weights anew"
        line += f"; shard {plan.shard}: {len(self.jobs)} of {len(self.every)} jobs" if plan.shard else ""
        line += "".join(f"; {note}" for note in self.notes)
        told = beware((v.precision, v.compute, v.options) for v in plan.variants)
        return line + "".join(f"; {name}: {text}" for name, text in told.items())


def draft(settings: S) -> S:
    """The plan as far as it can be checked without torch, a tokenizer or the model.

    Raises:
        InputError: whatever is wrong with names, parameters, prompt or text files.
    """
    if settings.executor not in EXECUTORS:
        raise InputError(f"--executor {settings.executor}: unknown; {nearest(settings.executor, tuple(EXECUTORS))}")
    if settings.ray_address is not None and settings.executor != "ray":
        raise InputError("--ray-address is of --executor ray: add it, or leave the address out")
    settings = with_judge(settings)
    (reference,) = sides.typed([the_reference(variants_asked(settings.reference, None), settings)], "--reference")
    reader, asked = getattr(settings, "judge", None) or reference, settings.candidates
    candidates = sides.typed(default_candidates(reader) if asked is None else variants_asked(asked, reader))
    refuse_candidates(candidates, reference)
    model = settings.model if isinstance(settings.model, str) else "in memory"
    prompts, source = prompts_asked(settings, prompt_files.place_of(settings.model))
    plan = settings.having(
        model=model, reference=reference, candidates=settings.apart(candidates, reference),
        strategies=settings.allowed(strategies_asked(settings, (reference, *candidates))), prompts=prompts,
        texts=texts_asked(settings.texts) or settings.standard_texts(),
        prompts_per_job=settings.prompts_per_job or PROMPTS_PER_JOB, prompt_source=source, prompt_ids=[], limit=None,
    )  # fmt: skip
    plan.check_resolved()
    check_shard(plan)
    return plan


def prepare(
    settings: S,
    tokenizer: Any = None,
    sizes: Sizes = NOTHING,
    check: Callable[[Any], None] = lambda world: None,
    answers: Answers | None = None,
    base: Path | None = None,
) -> Prepared:
    """Finds the model, tokenizes, and settles device, windows, batch size and size of the jobs. Loads no weights.

    Args:
        sizes: those of a run that goes on; those at None are fitted to the memory.
        check: the experiment's own refusals, of a World.
        answers: where endpoints among the candidates are asked; None asks none, and nothing of them can run.
        base: a folder; models that lie in it are named by their place there.

    Raises:
        InputError: the run cannot be made as asked.
    """
    settings = with_judge(settings)
    plan = draft(settings)
    without_widgets()  # transformers would have tqdm choose
    from decodedrift.models import budget, footprint, own, world
    from decodedrift.models.machine import check_device
    from decodedrift.models.sources import identity, stored
    from decodedrift.models.text import vocabulary
    from decodedrift.runs import earlier, fitting

    plan = _placed(plan, check_device(plan.device))
    checkpoint = _checkpoint(settings, tokenizer, weightless=getattr(plan, "from_scratch", False))
    plan = identity.without_home(plan.having(model=checkpoint.name))
    vocab = vocabulary.vocabulary(checkpoint, plan.ignore_eos)
    others = world.other_checkpoints(plan, vocab, live_asked(settings))
    plan, checkpoint, others = identity.within(base, plan, checkpoint, others)
    plan = stored.settled(plan, checkpoint, others, settings.model_fields_set)
    for variant, of_it in ((v, others.get(v.name, checkpoint)) for v in plan.running):
        check_knobs(variant, of_it)
        footprint.check_precision(variant, of_it)
    vocab = vocabulary.narrowed(vocab, others)
    plan, encoded = fitting.fitting_prompts(plan, settings, vocab)
    plan, texts, unread = fitting.windowed(plan, vocab) if plan.scores_texts else (plan, {}, [])
    rows = footprint.footprint(checkpoint)
    place = world.World(plan, checkpoint, vocab, encoded, texts, others, budget.usable_memory(plan), rows)
    with answered(plan, answers) as files:
        sides.read_into(place, files)
    if getattr(plan, "as_deployed", False):
        place.own = own.owns(plan, checkpoint, vocab, encoded, others)
    check_beams(plan.strategies, place.width)
    check(place)
    _settle_sizes(place, sizes, free=settings.prompts_per_job is None)
    facts = _environment(place)
    facts["warnings"] += unread
    windows = {name: len(t.windows) for name, t in texts.items()}
    every = jobs(place.plan, {key: facts[key] for key in IDENTITY}, windows, budget.windows_per_job(place))
    todo = own_jobs(place.plan, every)
    place.keeps = len(todo) > 1 and budget.all_fit(place)
    facts["generation"] = facts["generation"] | {
        "batch_size_asked": settings.batch_size, "batch_size": place.plan.batch_size, "memory_bytes": place.memory,
        "resident": budget.resident(place),
    }  # fmt: skip
    enlarged = sizes.prompts_per_job is None and place.plan.prompts_per_job != plan.prompts_per_job
    return Prepared(place, todo, facts, enlarged, earlier.settle(place, facts), [job.key for job in every], base)


def _checkpoint(settings: Settings, tokenizer: Any, weightless: bool) -> Any:
    """The reference's checkpoint, by its name or from memory."""
    from decodedrift.models.sources import checkpoints

    if not isinstance(model := settings.model, str):
        return checkpoints.in_memory(model, tokenizer)
    known = settings.revision, settings.trust_remote_code, settings.allow_pickle
    return checkpoints.find(model, *known, weightless=weightless)


def _settle_sizes(place: Any, sizes: Sizes, free: bool) -> None:
    """Batches, jobs and then processes of a world. free: whether nobody asked for the size of a job."""
    from decodedrift.runs import fitting, workers

    free = free and place.plan.shard is None  # no shard knows the others' memory
    place.plan = fitting.sized(place, sizes.batch_size, sizes.prompts_per_job, free)
    if (refuse := CHECKS.get(place.plan.executor)) is not None:
        refuse(place)
    workers.settle(place, sizes.begun, sizes.threads)


def _environment(world: Any) -> dict[str, Any]:
    """environment.json as far as it is known before anything runs; what is in it under IDENTITY decides the numbers."""
    from decodedrift.models.machine import environment
    from decodedrift.models.sources import identity
    from decodedrift.models.text import deployment, special

    plan, vocab = world.plan, world.vocab
    facts = environment(plan.device, plan.threads)
    facts["model"] = identity.described(world.checkpoint)
    every = world.others | {f"{name} (draft)": draft for name, draft in world.drafts.items()}
    facts["checkpoints"] = sides.described(world.written) | {n: identity.described(c) for n, c in every.items()}
    facts["tokenizer"] = identity.tokenizer_hash(vocab.tokenizer)
    facts["generation"] = {
        "stop_ids": list(vocab.eos), "pad_id": vocab.pad, "bos_id": vocab.bos, "window": vocab.window, **world.code,
    }  # fmt: skip
    facts["deployment"] = deployment.differences(plan, world.checkpoint, vocab, world.prompts, world.others)
    if world.own:
        facts["generation"]["own"] = {name: own.described() for name, own in world.own.items()}
    facts["scored_bytes"] = {name: text.scored_bytes for name, text in world.texts.items()}
    facts["scored_words"] = {name: text.words for name, text in world.texts.items()}
    facts["dropped_characters"] = {name: text.dropped_characters for name, text in world.texts.items()}
    facts["dropped_tokens"] = {name: text.dropped_tokens for name, text in world.texts.items()}
    facts["warnings"] = special.warnings(vocab, plan.prompts, world.prompts, plan.chat_template, not plan.no_text)
    if warning := untested(facts["versions"]["transformers"]):
        facts["warnings"].append(warning)
    facts |= {"metrics_version": METRICS_VERSION, "workers": world.workers}
    return facts


def _placed(plan: S, device: str) -> S:
    """The plan with every variant's device resolved."""
    candidates = tuple(on_device(device, c, plan.device_map) for c in plan.candidates)
    plan = plan.having_reader(on_device(device, plan.reader, plan.device_map, reference=True))
    return plan.having(device=device, candidates=candidates)
