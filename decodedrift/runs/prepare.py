"""From settings to a World: everything is found, checked and tokenized before the first weight is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from decodedrift.core import prompts as prompt_files
from decodedrift.core.progress import without_widgets
from decodedrift.core.records import InputError, Job, Prompt, Strategy, Text, Variant, nearest, plain
from decodedrift.core.settings import Settings
from decodedrift.core.versions import untested
from decodedrift.decoding.strategies import check_beams, parse_strategies
from decodedrift.models.knobs import check as check_knobs
from decodedrift.models.precisions import beware
from decodedrift.models.recorded import sides
from decodedrift.models.recorded.api.recording import Answers, answered
from decodedrift.models.variants import (
    default_candidates,
    is_model,
    named_variants,
    on_device,
    parse_variants,
    variant_from_dict,
)
from decodedrift.runs.executors import EXECUTORS
from decodedrift.runs.judge import refuse_candidates, the_reference, with_judge
from decodedrift.runs.plan import IDENTITY, METRICS_VERSION, jobs

PROMPTS_PER_JOB = 16  # what a kill can lose, where the weights are loaded once
S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Sizes:
    """What a run fitted to the memory when it began, None where it did not. prompts_per_job: unless one is asked."""

    batch_size: int | None = None
    prompts_per_job: int | None = None


NOTHING = Sizes()


@dataclass
class Prepared:
    """A run that is ready: its world and jobs. enlarged: whether these are larger than usual, to load seldom.

    notes: what is said of it before it begins.
    """

    world: Any
    jobs: list[Job]
    environment: dict[str, Any]
    enlarged: bool = False
    notes: Sequence[str] = ()

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
        if plan.left_out:
            line += f"; {plan.left_out} bundled prompts do not fit the window and are left out"
        size = self.environment["generation"]["batch_size_asked"]
        if plan.batch_size != size:
            line += f"; batch size lowered from {size} to {plan.batch_size} to fit the memory"
        if self.enlarged:
            line += f"; jobs of {plan.prompts_per_job} prompts, as each loads the weights anew"
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
    settings = with_judge(settings)
    (reference,) = sides.typed([the_reference(_variants(settings.reference, None), settings)], "--reference")
    reader, asked = getattr(settings, "judge", None) or reference, settings.candidates
    candidates = sides.typed(default_candidates(reader) if asked is None else _variants(asked, reader))
    refuse_candidates(candidates, reference)
    model = settings.model if isinstance(settings.model, str) else "in memory"
    prompts, source = _prompts(settings, prompt_files.place_of(settings.model))
    plan = settings.having(
        model=model, reference=reference, candidates=settings.apart(candidates, reference),
        strategies=settings.allowed(_strategies(settings, (reference, *candidates))), prompts=prompts,
        texts=_texts(settings.texts) or settings.standard_texts(),
        prompts_per_job=settings.prompts_per_job or PROMPTS_PER_JOB, prompt_source=source, prompt_ids=[], limit=None,
    )  # fmt: skip
    plan.check_resolved()
    return plan


def prepare(
    settings: S,
    tokenizer: Any = None,
    sizes: Sizes = NOTHING,
    check: Callable[[Any], None] = lambda world: None,
    answers: Answers | None = None,
) -> Prepared:
    """Finds the model, tokenizes, and settles device, windows, batch size and size of the jobs. Loads no weights.

    Args:
        sizes: those of a run that goes on; those at None are fitted to the memory.
        check: the experiment's own refusals, of a World.
        answers: where endpoints among the candidates are asked; None asks none, and nothing of them can run.

    Raises:
        InputError: the run cannot be made as asked.
    """
    settings = with_judge(settings)
    plan = draft(settings)
    without_widgets()  # transformers would have tqdm choose
    from decodedrift.models import budget, footprint, own, world
    from decodedrift.models.machine import check_device
    from decodedrift.models.sources import checkpoints, identity, stored
    from decodedrift.models.text import vocabulary
    from decodedrift.runs import earlier, fitting

    plan = _placed(plan, check_device(plan.device))
    if isinstance(model := settings.model, str):
        known = settings.revision, settings.trust_remote_code, settings.allow_pickle
        checkpoint = checkpoints.find(model, *known, weightless=getattr(plan, "from_scratch", False))
    else:
        checkpoint = checkpoints.in_memory(model, tokenizer)
    plan = identity.without_home(plan.having(model=checkpoint.name))
    vocab = vocabulary.vocabulary(checkpoint, plan.ignore_eos)
    others = world.other_checkpoints(plan, vocab, _live(settings))
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
    place.plan = fitting.sized(place, sizes.batch_size, sizes.prompts_per_job, settings.prompts_per_job is None)
    facts = _environment(place)
    facts["warnings"] += unread
    windows = {name: len(t.windows) for name, t in texts.items()}
    todo = jobs(place.plan, {key: facts[key] for key in IDENTITY}, windows, budget.windows_per_job(place))
    place.keeps = len(todo) > 1 and budget.all_fit(place)
    facts["generation"] = facts["generation"] | {
        "batch_size_asked": settings.batch_size, "batch_size": place.plan.batch_size, "memory_bytes": place.memory,
        "resident": budget.resident(place),
    }  # fmt: skip
    enlarged = sizes.prompts_per_job is None and place.plan.prompts_per_job != plan.prompts_per_job
    return Prepared(place, todo, facts, enlarged, earlier.settle(place, facts))


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
    facts["metrics_version"] = METRICS_VERSION
    return facts


def _placed(plan: S, device: str) -> S:
    """The plan with every variant's device resolved."""
    candidates = tuple(on_device(device, c, plan.device_map) for c in plan.candidates)
    plan = plan.having_reader(on_device(device, plan.reader, plan.device_map, reference=True))
    return plan.having(device=device, candidates=candidates)


def _strategies(settings: Settings, variants: Sequence[Variant]) -> tuple[Strategy, ...]:
    if "strategies" not in settings.options():
        return ()
    pieces = []
    for item in _several(sides.strategies(settings, variants), (str, Strategy, Mapping), "--strategies"):
        if isinstance(item, Mapping):  # as a plan.json has it
            try:
                item = Strategy(**item)
            except TypeError:
                raise InputError(f"--strategies: a strategy is written NAME:KEY=VALUE, not {item!r}") from None
        if not isinstance(item, (str, Strategy)):
            raise InputError(f"--strategies: a strategy is written NAME:KEY=VALUE, not {item!r}")
        pieces.append(item)
    return parse_strategies(pieces, settings.coupling)


def _live(settings: Settings) -> dict[str, Any]:
    """The candidates that are models in memory, by name."""
    given = settings.candidates if isinstance(settings.candidates, Mapping) else {}
    return {name: value for name, value in given.items() if is_model(value)}


def _variants(values: Any, reference: Variant | None) -> tuple[Variant, ...]:
    if reference and isinstance(values, Mapping) and not {"name", "precision"} <= set(values):
        return named_variants(values, reference)
    option = "--candidates" if reference else "--reference"
    pieces = []
    for item in _several(values, (str, Variant, Mapping), option):
        if isinstance(item, Mapping):
            item = variant_from_dict(item)
        if not isinstance(item, (str, Variant)):
            raise InputError(f"{option}: a variant is written as text or as its fields, not {item!r}")
        pieces.append(item)
    return parse_variants(pieces, reference)


def _several(values: Any, single: tuple[type, ...], option: str) -> list[Any]:
    """One or several of something as a list."""
    if isinstance(values, single) or hasattr(values, "__fspath__"):
        return [values]
    if not isinstance(values, Iterable):
        raise InputError(f"{option}: must be a text or a list, not {values!r}")
    return list(values)


def _prompts(settings: Settings, model: str) -> tuple[tuple[Prompt, ...], str]:
    """The prompts asked for, and where they come from. A bundled set is cut to a balanced few later, once it fits."""
    value = settings.prompts
    listed = not (value is None or isinstance(value, str) or hasattr(value, "__fspath__"))
    if listed:
        prompts = prompt_files.given_prompts(_several(value, (Prompt, Mapping), "--prompts"))
        name = settings.prompt_source or "given"
    else:
        source = str(value) if value is not None else prompt_files.default_set(model)
        prompts = prompt_files.load_prompts(source)
        name = source if source in prompt_files.bundled_sets() else "file"
    if settings.prompt_ids:
        prompts = prompt_files.picked(prompts, settings.prompt_ids)
    if not prompts:
        raise InputError("--prompts: give at least one")
    if settings.limit and (listed or name == "file"):
        prompts = prompts[: settings.limit]
    return prompts, name


def _texts(values: Any) -> tuple[Text, ...]:
    texts: list[Text] = []
    for item in _several(values, (str, Text, Mapping), "--text"):
        if isinstance(item, Text):
            texts.append(item)
        elif isinstance(item, Mapping):
            if item.get("text", "") is None and item.get("name") in prompt_files.TEXTS:  # from a plan with --no-text
                item = plain(prompt_files.bundled_text(str(item["name"])))
            if not (isinstance(item.get("name"), str) and isinstance(item.get("text"), str)):
                raise InputError(f"--text: a text is a file, or {{name, text}}, not {sorted(map(str, item))}")
            texts.append(Text(item["name"], item["text"]))
        elif isinstance(item, str) or hasattr(item, "__fspath__"):
            texts.extend(prompt_files.load_texts([item]))
        else:
            raise InputError(f"--text: a text is a file, not {item!r}")
    return tuple(texts)
