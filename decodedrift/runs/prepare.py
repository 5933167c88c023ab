"""From settings to a World: everything is found, checked and tokenized before the first weight is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from decodedrift.core import prompts as prompt_files
from decodedrift.core.records import InputError, Job, Plan, Prompt, Strategy, Text, Variant
from decodedrift.decoding.strategies import parse_strategies, screened
from decodedrift.models.variants import default_candidates, on_device, parse_variants, variant_from_dict
from decodedrift.runs.plan import IDENTITY, METRICS_VERSION, jobs
from decodedrift.runs.settings import NOTHING, Settings, Settled

PROMPTS_PER_JOB = 16  # what a kill can lose, where the weights are loaded once


@dataclass
class Prepared:
    """A run that is ready: its world and jobs. enlarged: whether these are larger than usual, to load seldom."""

    world: Any
    jobs: list[Job]
    environment: dict[str, Any]
    enlarged: bool = False

    @property
    def plan(self) -> Plan:
        """The resolved plan."""
        return self.world.plan  # type: ignore[no-any-return]

    @property
    def refused(self) -> Mapping[str, str]:
        """Prompt id -> why it cannot run; the prompts of a plan that is asked again included."""
        return self.plan.refused

    def doubts(self) -> list[str]:
        """What of the prompts did not run or is odd, a line each; none of it is a failure of the run as asked."""
        refused = [f"refused prompt {name}: {reason}" for name, reason in self.refused.items()]
        return refused + [f"warning: {said}" for said in self.environment["warnings"]]

    def announcement(self) -> str:
        """One line on what is about to run, with what was left out or lowered."""
        plan = self.plan
        names = ", ".join(c.name for c in plan.candidates)
        said = "screening " if plan.mode == "screen" else ""
        said += f"{plan.model}: {plan.reference.name}{' against ' if names else ''}{names}; "
        said += f"{len(plan.prompts)} prompt{'s' * (len(plan.prompts) != 1)}"
        said += f" ({plan.prompt_source})" if plan.prompt_source not in ("given", "file") else ""
        said += f", {len(plan.cells)} strategies x seeds, {plan.max_new_tokens} new tokens, {plan.device}"
        if plan.left_out:
            said += f"; {plan.left_out} bundled prompts do not fit the window and are left out"
        asked = self.environment["generation"]["batch_size_asked"]
        if plan.batch_size != asked:
            said += f"; batch size lowered from {asked} to {plan.batch_size} to fit the memory"
        if self.enlarged:
            said += f"; jobs of {plan.prompts_per_job} prompts, as each loads the weights anew"
        return said


def not_injectable(where: str) -> str:
    """Why none of the strategies asked for can take a replaced token."""
    return (
        f"{where}: a beam search, or sampling without shared noise, cannot go on from a replaced token; "
        "add greedy, or sampling with --coupling gumbel"
    )


def draft(asked: Settings, alone: bool = False) -> Plan:
    """The plan as far as it can be checked without torch, a tokenizer or the model; `alone`: without candidates.

    Raises:
        InputError: whatever is wrong with names, parameters, prompt or text files.
    """
    strategies = _strategies(asked.strategies, asked.coupling)
    if asked.mode == "screen":
        strategies = screened(strategies, named="strategies" in asked.model_fields_set)
    if asked.inject and not any(s.injectable for s in strategies):
        raise InputError(not_injectable("--inject"))
    reference = _variants(asked.reference, None)
    if len(reference) != 1 or reference[0].model:
        raise InputError(f"--reference takes one variant of --model, not {asked.reference!r}")
    candidates = (
        default_candidates(reference[0]) if asked.candidates is None else _variants(asked.candidates, reference[0])
    )
    if alone:
        candidates = ()
    elif not candidates:
        raise InputError("--candidates: give at least one")
    model = asked.model if isinstance(asked.model, str) else "in memory"
    found, source = _prompts(asked, model)
    return Plan(
        model=model, reference=reference[0], candidates=candidates, strategies=strategies, prompts=found,
        texts=_texts(asked.texts), revision=asked.revision, max_new_tokens=asked.max_new_tokens,
        seeds=tuple(asked.seeds), batch_size=asked.batch_size, prompts_per_job=asked.prompts_per_job or PROMPTS_PER_JOB,
        layout=asked.layout, coupling=asked.coupling, context=asked.context, stride=asked.stride,
        chat_template=asked.chat_template, ignore_eos=asked.ignore_eos, noise_floor=asked.noise_floor,
        inject=asked.inject, decompose=asked.decompose, mode=asked.mode, continued=asked.continued,
        near_tie_below=asked.near_tie_below, device=asked.device, threads=asked.threads,
        memory_bytes=asked.memory_bytes, trust_remote_code=asked.trust_remote_code, allow_pickle=asked.allow_pickle,
        no_text=asked.no_text, prompt_source=source, left_out=asked.left_out,
    )  # fmt: skip


def prepare(asked: Settings, tokenizer: Any = None, settled: Settled = NOTHING, alone: bool = False) -> Prepared:
    """Finds the model, tokenizes, and settles device, windows, batch size and size of the jobs. Loads no weights.

    Args:
        settled: the sizes of a run that goes on; those at None are fitted to the memory.

    Raises:
        InputError: the run cannot be made as asked.
    """
    plan = draft(asked, alone)
    from decodedrift.core.versions import untested
    from decodedrift.models import footprint, loading, world
    from decodedrift.models.longrope import switch
    from decodedrift.models.machine import check_device, environment
    from decodedrift.models.sources import checkpoints, identity
    from decodedrift.models.text import special, vocabulary
    from decodedrift.runs import fitting

    plan = _placed(plan, check_device(plan.device))
    if isinstance(asked.model, str):
        checkpoint = checkpoints.find(asked.model, asked.revision, asked.trust_remote_code, asked.allow_pickle)
    else:
        checkpoint = checkpoints.in_memory(asked.model, tokenizer)
    plan = identity.without_home(replace(plan, model=checkpoint.name))
    vocab = vocabulary.vocabulary(checkpoint, plan.ignore_eos)
    others = world.other_checkpoints(plan, vocab)
    vocab = vocabulary.narrowed(vocab, others)
    plan, encoded = fitting.fitting_prompts(plan, asked, vocab)
    plan, texts = fitting.windowed(plan, vocab)
    rows = footprint.footprint(checkpoint)
    made = world.World(plan, checkpoint, vocab, encoded, texts, others, world.memory_budget(plan), rows)
    _check_beams(plan, made.width)
    _check_screening(plan, encoded, switch(checkpoint.config))
    made.plan = replace(plan, batch_size=settled.batch_size or world.fitting_batch(made))
    if asked.prompts_per_job is None:
        each = settled.prompts_per_job or loading.prompts_per_job(made, plan.prompts_per_job)
        made.plan = replace(made.plan, prompts_per_job=each)
    found = environment(plan.device, plan.threads)
    found["model"] = identity.described(checkpoint)
    found["checkpoints"] = {name: identity.described(c) for name, c in made.others.items()}
    found["tokenizer"] = identity.tokenizer_hash(vocab.tokenizer)
    found["generation"] = {
        "stop_ids": list(vocab.eos), "pad_id": vocab.pad, "bos_id": vocab.bos, "window": vocab.window,
    }  # fmt: skip
    found["warnings"] = special.warnings(vocab, plan.prompts, encoded, plan.chat_template, not plan.no_text)
    if said := untested(found["versions"]["transformers"]):
        found["warnings"].append(said)
    found["metrics_version"] = METRICS_VERSION
    decides = {key: found[key] for key in IDENTITY}
    found["generation"] = found["generation"] | {
        "batch_size_asked": asked.batch_size, "batch_size": made.plan.batch_size, "memory_bytes": made.memory,
    }  # fmt: skip
    windows = {name: len(t.windows) for name, t in texts.items()}
    todo = jobs(made.plan, decides, windows, made.windows_per_job())
    made.keeps = len(todo) > 1 and made.all_fit
    found["generation"]["resident"] = made.resident
    enlarged = settled.prompts_per_job is None and made.plan.prompts_per_job != plan.prompts_per_job
    return Prepared(made, todo, found, enlarged)


def _placed(plan: Plan, device: str) -> Plan:
    """The plan with every variant's device resolved."""
    candidates = tuple(on_device(device, c) for c in plan.candidates)
    return replace(
        plan, device=device, reference=on_device(device, plan.reference, reference=True), candidates=candidates
    )


def _strategies(given: Any, coupling: str) -> tuple[Strategy, ...]:
    pieces = []
    for item in _several(given, (str, Strategy, Mapping), "--strategies"):
        if isinstance(item, Mapping):
            item = item.get("label")  # as a plan.json has it
        if not isinstance(item, (str, Strategy)):
            raise InputError(f"--strategies: a strategy is written NAME:KEY=VALUE, not {item!r}")
        pieces.append(item)
    return parse_strategies(pieces, coupling)


def _variants(given: Any, reference: Variant | None) -> tuple[Variant, ...]:
    option = "--candidates" if reference else "--reference"
    pieces = []
    for item in _several(given, (str, Variant, Mapping), option):
        if isinstance(item, Mapping):
            item = variant_from_dict(item)
        if not isinstance(item, (str, Variant)):
            raise InputError(f"{option}: a variant is written as text or as its fields, not {item!r}")
        pieces.append(item)
    return parse_variants(pieces, reference)


def _several(given: Any, single: tuple[type, ...], option: str) -> list[Any]:
    """One or several of something as a list."""
    if isinstance(given, single) or hasattr(given, "__fspath__"):
        return [given]
    if not isinstance(given, Iterable):
        raise InputError(f"{option}: must be a text or a list, not {given!r}")
    return list(given)


def _prompts(asked: Settings, model: str) -> tuple[tuple[Prompt, ...], str]:
    """The prompts asked for, and where they come from. A bundled set is cut to a balanced few later, once it fits."""
    given = asked.prompts
    listed = not (given is None or isinstance(given, str) or hasattr(given, "__fspath__"))
    if listed:
        found = prompt_files.given_prompts(_several(given, (Prompt, Mapping), "--prompts"))
        name = asked.prompt_source or "given"
    else:
        source = str(given) if given is not None else prompt_files.default_set(model)
        found = prompt_files.load_prompts(source)
        name = source if source in prompt_files.bundled_sets() else "file"
    if asked.prompt_ids:
        found = _picked(found, asked.prompt_ids)
    if not found:
        raise InputError("--prompts: give at least one")
    if asked.limit and (listed or name == "file"):
        found = found[: asked.limit]
    return found, name


def _picked(found: tuple[Prompt, ...], asked: Sequence[str]) -> tuple[Prompt, ...]:
    """The prompts of the given ids; a comma separates two ids unless an id holds it."""
    known = {p.id: p for p in found}
    wanted = [i.strip() for given in asked for i in ([given] if given in known else given.split(","))]
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"ids look like {next(iter(known), '')!r}"
            raise InputError(f"--prompt-id {name or repr('')}: no such prompt among {len(known)}; {hint}")
    return tuple(known[i] for i in dict.fromkeys(wanted))


def _texts(given: Any) -> tuple[Text, ...]:
    found: list[Text] = []
    for item in _several(given, (str, Text, Mapping), "--text"):
        if isinstance(item, Text):
            found.append(item)
        elif isinstance(item, Mapping):
            if not (isinstance(item.get("name"), str) and isinstance(item.get("text"), str)):
                raise InputError(f"--text: a text is a file, or {{name, text}}, not {sorted(map(str, item))}")
            found.append(Text(item["name"], item["text"]))
        elif isinstance(item, str) or hasattr(item, "__fspath__"):
            found.extend(prompt_files.load_texts([item]))
        else:
            raise InputError(f"--text: a text is a file, not {item!r}")
    return tuple(found)


def _check_screening(plan: Plan, prompts: Mapping[str, Sequence[int]], at: Any) -> None:
    """Screening rests on one reading of each text being what generates it."""
    if plan.mode == "screen" and at is not None:
        past = [p for p, ids in prompts.items() if len(ids) + plan.max_new_tokens > at.length]
        if past:
            raise InputError(
                f"--mode screen: prompt {past[0]} and its new tokens pass {at.length} tokens, where the model's rotary "
                "factors change, and one reading is another function; lower --max-new-tokens or leave --mode screen out"
            )


def _check_beams(plan: Plan, vocab: int) -> None:
    for strategy in plan.strategies:
        if strategy.rows > vocab:
            raise InputError(f"strategy {strategy.label}: more beams than the vocabulary has tokens ({vocab})")
