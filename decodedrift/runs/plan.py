"""From what a user asked to a resolved Plan, and from a Plan to jobs under content keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from decodedrift.core.notation import Item, Param, boolean, count, read_params, split_items, text, thread_count
from decodedrift.core.records import InputError, Job, Variant, nearest, plain
from decodedrift.core.settings import Settings, no_rows
from decodedrift.models.precisions import PRECISIONS

METRICS_VERSION = 3
IDENTITY = ("model", "checkpoints", "tokenizer", "generation", "numerical", "metrics_version")  # of an environment
DEFAULT_CANDIDATES = ("bf16", "fp16", "int8")

KNOBS: dict[str, Param] = {
    "precision": Param(text, None, "one of the precisions"),
    "revision": Param(text, None, "the checkpoint's hub revision"),
    "device": Param(text, None, "where it runs"),
    "attention": Param(text, None, "attention kernel: eager, sdpa, flash_attention_2, ..."),
    "batch_size": Param(count, None, "prompts per batch"),
    "use_cache": Param(boolean, True, "whether generation keeps a KV cache"),
    "threads": Param(thread_count, None, "CPU threads"),
}


def params_of(head: str) -> Collection[str]:
    """Parameter names that a variant's item may carry: the knobs and its precision's own."""
    name, named, _ = head.strip().partition("=")
    own = {k for p in PRECISIONS.values() for k in p.params} if named else set()
    if name in PRECISIONS:
        own |= set(PRECISIONS[name].params)
    elif not named:
        return ()
    return [*KNOBS, *sorted(own)]


def parse_variants(
    given: str | Variant | Iterable[str | Variant], reference: Variant | None = None
) -> tuple[Variant, ...]:
    """A list option, or objects, as Variants: `bf16,fp32:batch_size=1,mine=path/to/checkpoint:precision=bf16`.

    A variant that names no precision takes the reference's.

    Raises:
        InputError: an unknown precision, parameter or source.
    """
    pieces = [given] if isinstance(given, (str, Variant)) else list(given)
    found: list[Variant] = []
    for piece in pieces:
        if isinstance(piece, Variant):
            found.append(_completed(piece, reference))
        else:
            found.extend(_variant(item, reference) for item in split_items(piece, params_of, sources=True))
    return tuple(found)


def _variant(item: Item, reference: Variant | None) -> Variant:
    name, named, source = item.head.partition("=")
    given = dict(item.params)
    if named:
        label, fallback = name, (reference.precision if reference else "fp32")
        asked = given.pop("precision", fallback)
    else:
        if "precision" in given:
            raise InputError(f"{item.label!r}: {name} is a precision already; leave precision= out")
        label, asked = item.label, name
    if asked not in PRECISIONS:
        base, colon, rest = asked.partition(":")
        if colon and base in PRECISIONS:
            raise InputError(f"variant {base}: {rest!r} is no parameter; write {base}:KEY=VALUE")
        ways = "" if named else " (another checkpoint is written NAME=FOLDER)"
        raise InputError(f"unknown precision {asked!r}; {nearest(asked, tuple(PRECISIONS))}{ways}")
    if "revision" in given and not named:
        raise InputError(f"variant {label}: revision= belongs to another checkpoint, NAME=OWNER/MODEL:revision=...")
    declared = {k: v for k, v in KNOBS.items() if k != "precision"} | dict(PRECISIONS[asked].params)
    values = read_params(f"variant {label}", given, declared)
    options = {k: values.pop(k) for k in PRECISIONS[asked].params}
    if named and reference and "precision" not in item.params:
        options = dict(reference.options)
    return _completed(Variant(label, asked, options, model=source or None, **values), reference)


def _completed(variant: Variant, reference: Variant | None) -> Variant:
    """Fills in the compute type: the precision's own, else what its options say, else the reference's."""
    precision = PRECISIONS.get(variant.precision)
    if precision is None:
        raise InputError(f"unknown precision {variant.precision!r}; {nearest(variant.precision, tuple(PRECISIONS))}")
    options = {k: variant.options.get(k, p.default) for k, p in precision.params.items()}
    inherited = reference.compute if reference else "fp32"
    compute = precision.compute or variant.compute or options.get("compute") or inherited
    floats = tuple(name for name, known in PRECISIONS.items() if known.compute == name)
    if compute not in floats:
        raise InputError(f"variant {variant.name}: unknown compute type {compute!r}; {nearest(str(compute), floats)}")
    return replace(variant, options=options, compute=compute)


def default_candidates(reference: Variant) -> tuple[Variant, ...]:
    """bf16, fp16 and int8, less the reference."""
    return parse_variants([c for c in DEFAULT_CANDIDATES if c != reference.name], reference)


def on_device(plan_device: str, variant: Variant, *, reference: bool = False) -> Variant:
    """The variant with its device resolved and found usable, the precision tried on it.

    A candidate whose backend is not installed fails later and alone; without its reference a run is nothing.

    Raises:
        InputError: no such device, or the precision does not exist there.
    """
    from decodedrift.models.machine import check_device

    device = check_device(variant.device or plan_device)
    reason = PRECISIONS[variant.precision].unavailable(device.split(":")[0])
    if reason and (reference or variant.precision != "int8-bnb"):
        raise InputError(f"variant {variant.name}: {reason}; choose another precision or --device cpu")
    return replace(variant, device=device)


def jobs(plan: Settings, identity: Mapping[str, Any], windows: Mapping[str, int], windows_per_job: int) -> list[Job]:
    """The plan cut into shards of prompts, in file order, then shards of text windows; each under its content key.

    Args:
        identity: what the numbers depend on beside the plan: weights, tokenizer, generation settings, environment.
        windows: text name -> how many windows it has.
    """
    size = plan.prompts_per_job
    found = [Job("", 0, plan.prompts[i : i + size]) for i in range(0, len(plan.prompts), size)]
    for name, total in windows.items():
        for start in range(0, total, windows_per_job):
            found.append(Job("", 0, (), name, (start, min(total, start + windows_per_job))))
    return [_keyed(plan, identity, replace(job, index=i, first=i == 0)) for i, job in enumerate(found)]


def _keyed(plan: Settings, identity: Mapping[str, Any], job: Job) -> Job:
    settings = plan.as_dict()
    for key in ("prompts", "texts", *no_rows(type(plan))):
        settings.pop(key)
    texts = [plain(t) for t in plan.texts if t.name == job.text]
    content = {
        "plan": settings,
        "job": plain(job),
        "texts": texts,
        "identity": plain(identity),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return replace(job, key=f"{job.index:05d}-{digest[:16]}")


def variant_from_dict(data: Mapping[str, Any]) -> Variant:
    """A variant as plan.json or a YAML file has it, its values checked as on the command line.

    Raises:
        InputError: an unknown field, or a value out of its range.
    """
    owner = f"variant {data.get('name', '?')}"
    values = dict(data)
    try:
        for key, param in KNOBS.items():
            if values.get(key) is not None:
                values[key] = param.read(values[key])
        for key in ("name", "precision", *(key for key in ("model", "compute") if values.get(key) is not None)):
            text(values.get(key))
    except ValueError as error:
        raise InputError(f"{owner}: {key} {error}") from None
    declared = PRECISIONS[data["precision"]].params if data["precision"] in PRECISIONS else {}
    given = data.get("options") or {}
    if not isinstance(given, Mapping):
        raise InputError(f"{owner}: options must be a table, not {given!r}")
    values["options"] = read_params(owner, {k: v for k, v in given.items() if v is not None}, declared)
    try:
        return Variant(**values)
    except TypeError:
        known = [f.name for f in fields(Variant)]
        unknown = next(k for k in values if k not in known)
        raise InputError(f"{owner}: unknown field {unknown!r}; {nearest(str(unknown), known)}") from None
