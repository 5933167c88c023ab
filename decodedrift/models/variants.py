"""Variants as they are written: `bf16`, `fp32:batch_size=1`, `mine=path/to/checkpoint:precision=bf16`.

Several values of a parameter, `fp32:batch_size=1/2/4`, are as many variants.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, replace
from itertools import product
from typing import Any

from decodedrift.core.notation import Item, Param, is_endpoint, is_recording, read_params, split_items, text
from decodedrift.core.records import RECORDED, RECORDINGS, InputError, Variant, nearest, shortened
from decodedrift.models.knobs import KNOBS
from decodedrift.models.precisions import PRECISIONS
from decodedrift.models.recorded.api.client import checked_url

IN_MEMORY = "in memory"  # a variant's `model` that is none of a name
DEFAULT_CANDIDATES = ("bf16", "fp16", "int8")
NOT_RUN = "belongs to what runs here, and a recorded text is only read; it takes precision= alone"
PRECISION = Param(text, None, "one of the precisions")
FIELDS = [f.name for f in fields(Variant)]


def params_of(head: str) -> Collection[str]:
    """Parameter names that a variant's item may carry: the knobs and its precision's own."""
    name, named, _ = head.strip().partition("=")
    options = {k for p in PRECISIONS.values() for k in p.params} if named else set()
    if name in PRECISIONS:
        options |= set(PRECISIONS[name].params)
    elif not named:
        return ()
    return ["precision", *KNOBS, *sorted(options)]


def parse_variants(
    given: str | Variant | Iterable[str | Variant], reference: Variant | None = None
) -> tuple[Variant, ...]:
    """A list option, or objects, as Variants: `bf16,fp32:batch_size=1,mine=path/to/checkpoint:precision=bf16`.

    A variant that names no precision takes the reference's, or its checkpoint's: its `compute` is None until that is
    found (`sources.stored.resolved`).

    Raises:
        InputError: an unknown precision, parameter or source.
    """
    pieces = [given] if isinstance(given, (str, Variant)) else list(given)
    variants: list[Variant] = []
    for piece in pieces:
        if isinstance(piece, Variant):
            variants.append(_unsettled(_completed(piece, reference), piece.compute is None))
        else:
            items = split_items(piece, params_of, sources=True)
            variants.extend(_variant(each, label, reference) for item in items for each, label in _each(item))
    return tuple(variants)


def named_variants(given: Mapping[str, Any], reference: Variant) -> tuple[Variant, ...]:
    """Candidates by name: each a model in memory, or one variant's text (`bf16`, `path/to/checkpoint:precision=bf16`).

    Raises:
        InputError: no name, or neither a model nor the text of one variant.
    """
    variants = []
    for name, value in given.items():
        try:
            text(name)
        except ValueError as error:
            raise InputError(f"--candidates: a name {error}") from None
        if is_model(value):
            variant = Variant(name, reference.precision, dict(reference.options), model=IN_MEMORY)
            variants.append(_unsettled(_completed(variant, reference), True))
            continue
        if not isinstance(value, str) and not hasattr(value, "__fspath__"):
            raise InputError(f"--candidates {name}: a transformers model or a text, not {shortened(str(value))}")
        asked = str(value)
        parsed = parse_variants(asked if asked.partition(":")[0] in PRECISIONS else f"candidate={asked}", reference)
        if len(parsed) != 1:
            raise InputError(f"--candidates {name}: one variant, not {len(parsed)} ({asked!r})")
        variants.append(replace(parsed[0], name=name))
    return tuple(variants)


def is_model(value: Any) -> bool:
    """Whether a value is a model in memory: told by its configuration, without torch."""
    return hasattr(value, "config") and callable(value)


def _recorded(variant: Variant) -> Variant:
    """A checked variant whose texts were written elsewhere; what it is said to have run in is no more than that."""
    owner = f"variant {variant.name}"
    if is_endpoint(variant.model):
        checked_url(str(variant.model).partition("#")[0], f"--candidates {variant.name}")
    elif not is_recording(variant.model):
        raise InputError(f"{owner}: what was recorded is a file; write NAME=FILE with one of {', '.join(RECORDINGS)}")
    if variant.compute not in (None, *_floats()):
        ran = f"precision= says which floating type a recorded text was computed in, not {variant.compute!r}"
        raise InputError(f"{owner}: {ran}; {nearest(str(variant.compute), _floats())}, or leave it out")
    plain = Variant(variant.name, RECORDED, compute=variant.compute, model=variant.model)
    given = {f.name for f in fields(Variant) if getattr(variant, f.name) not in (getattr(plain, f.name), None, {})}
    if given:
        raise InputError(f"{owner}: {min(given)}= {NOT_RUN}")
    return plain


def _floats() -> tuple[str, ...]:
    return tuple(name for name, kind in PRECISIONS.items() if kind.compute == name)


def _each(item: Item) -> list[tuple[Item, str]]:
    """An item for each combination of its parameters' values, and its label; what is free text has one value."""
    name, named, _ = item.head.partition("=")
    declared = {key: knob.param for key, knob in KNOBS.items()}
    for precision in [PRECISIONS[name]] if name in PRECISIONS else PRECISIONS.values():
        declared |= precision.params
    listed = {key for key, value in item.params.items() if "/" in value and declared.get(key, PRECISION).read != text}
    values = [value.split("/") if key in listed else [value] for key, value in item.params.items()]
    for key, each in zip(item.params, values, strict=True):
        if key in listed and "" in each:
            raise InputError(f"{item.head}:{key}={item.params[key]}: a value between slashes is missing")
    items = [Item(item.head, dict(zip(item.params, each, strict=True))) for each in product(*values)]
    if not named:
        return [(each, each.label) for each in items]
    apart = [{key: value for key, value in each.params.items() if key in listed} for each in items]
    return [(each, Item(name, params).label) for each, params in zip(items, apart, strict=True)]


def _variant(item: Item, label: str, reference: Variant | None) -> Variant:
    name, named, source = item.head.partition("=")
    given = dict(item.params)
    if named and (is_recording(source) or is_endpoint(source)):
        if more := [key for key in given if key != "precision"]:
            raise InputError(f"variant {label}: {more[0]}= {NOT_RUN}")
        return _recorded(Variant(label, RECORDED, compute=given.get("precision"), model=source))
    if named:
        asked = given.pop("precision", reference.precision if reference else "fp32")
    else:
        if "precision" in given:
            raise InputError(f"{item.label!r}: {name} is a precision already; leave precision= out")
        asked = name
    if asked not in PRECISIONS:
        base, colon, rest = asked.partition(":")
        if colon and base in PRECISIONS:
            raise InputError(f"variant {base}: {rest!r} is no parameter; write {base}:KEY=VALUE")
        ways = "" if named else " (another checkpoint is written NAME=FOLDER)"
        raise InputError(f"unknown precision {asked!r}; {nearest(asked, tuple(PRECISIONS))}{ways}")
    if "revision" in given and not named:
        raise InputError(f"variant {label}: revision= belongs to another checkpoint, NAME=OWNER/MODEL:revision=...")
    declared = {k: knob.param for k, knob in KNOBS.items()} | dict(PRECISIONS[asked].params)
    values = read_params(f"variant {label}", given, declared)
    options = {k: values.pop(k) for k in PRECISIONS[asked].params}  # int8's own `head` comes before the knob
    values["knobs"] = {k: values.pop(k) for k in KNOBS if k not in FIELDS and k in values}
    if named and reference and "precision" not in item.params:
        options = dict(reference.options)
    variant = _completed(Variant(label, asked, options, model=source or None, **values), reference)
    return _unsettled(variant, "precision" not in item.params)


def _unsettled(variant: Variant, free: bool) -> Variant:
    """Without a compute type where another checkpoint's own may become it: `free`, none was asked for."""
    return replace(variant, compute=None) if free and variant.model is not None else variant


def _completed(variant: Variant, reference: Variant | None) -> Variant:
    """Checks names, and fills in the compute type: the precision's own, else its options', else the reference's.

    Of a precision whose type is the checkpoint's it stays None.
    """
    if variant.recorded or is_recording(variant.model) or is_endpoint(variant.model):
        return _recorded(variant)
    precision = PRECISIONS.get(variant.precision)
    if precision is None:
        raise InputError(f"unknown precision {variant.precision!r}; {nearest(variant.precision, tuple(PRECISIONS))}")
    owner = f"variant {variant.name}"
    options = read_params(owner, {k: v for k, v in variant.options.items() if v is not None}, precision.params)
    if variant.revision is not None and variant.model is None:
        raise InputError(f"{owner}: revision= belongs to another checkpoint, NAME=OWNER/MODEL:revision=...")
    own = precision.computes(options)
    if own and variant.compute not in (None, own):
        raise InputError(f"{owner}: {variant.precision} computes in itself, not in {variant.compute!r}")
    for key in (k for k in KNOBS if k in FIELDS):
        if (value := getattr(variant, key)) is not None:
            try:
                variant = replace(variant, **{key: KNOBS[key].param.read(value)})
            except ValueError as error:
                raise InputError(f"{owner}: {key} {error}") from None
    inherited = reference.compute if reference else "fp32"
    compute = own or variant.compute or options.get("compute") or (None if precision.own else inherited)
    if compute is not None and compute not in _floats():
        raise InputError(f"{owner}: unknown compute type {compute!r}; {nearest(str(compute), _floats())}")
    declared = {k: knob.param for k, knob in KNOBS.items() if k not in FIELDS}
    knobs = read_params(f"variant {variant.name}", {k: v for k, v in variant.knobs.items() if v is not None}, declared)
    options, knobs = ({k: v for k, v in values.items() if v is not None} for values in (options, knobs))
    return replace(variant, options=options, compute=compute, knobs=knobs)


def default_candidates(reference: Variant) -> tuple[Variant, ...]:
    """bf16, fp16 and int8, less the reference."""
    return parse_variants([c for c in DEFAULT_CANDIDATES if c != reference.name], reference)


def on_device(plan_device: str, variant: Variant, device_map: str | None = None, *, reference: bool = False) -> Variant:
    """The variant with its device resolved and found usable, the precision tried on it.

    device_map: the plan's, for a variant that has none.

    A candidate whose backend is not installed fails later and alone; without its reference a run is nothing.

    Raises:
        InputError: no such device, or the precision does not exist there.
    """
    if variant.recorded:
        return variant
    from decodedrift.models.machine import check_device

    device = check_device(variant.device or plan_device)
    reason = PRECISIONS[variant.precision].unavailable(device.split(":")[0])
    if reason and (reference or not PRECISIONS[variant.precision].optional):
        raise InputError(f"variant {variant.name}: {reason}; choose another precision or --device cpu")
    if device_map is not None and variant.device is None:  # one that names its device stays whole
        variant = replace(variant, knobs={"device_map": device_map} | dict(variant.knobs))
    return replace(variant, device=device)


def variant_from_dict(data: Mapping[str, Any]) -> Variant:
    """A variant as plan.json or a YAML file has it, its values checked as on the command line.

    Raises:
        InputError: an unknown field, or a value out of its range.
    """
    owner = f"variant {data.get('name', '?')}"
    values = dict(data)
    try:
        for key, param in [("precision", PRECISION), *((key, knob.param) for key, knob in KNOBS.items())]:
            if values.get(key) is not None:
                values[key] = param.read(values[key])
        for key in ("name", "precision", *(key for key in ("model", "compute") if values.get(key) is not None)):
            text(values.get(key))
    except ValueError as error:
        raise InputError(f"{owner}: {key} {error}") from None
    declared = PRECISIONS[data["precision"]].params if data["precision"] in PRECISIONS else {}
    for key in ("options", "knobs"):
        values[key] = data.get(key) or {}
        if not isinstance(values[key], Mapping):
            raise InputError(f"{owner}: {key} must be a table, not {values[key]!r}")
    values["options"] = read_params(owner, {k: v for k, v in values["options"].items() if v is not None}, declared)
    try:
        return Variant(**values)
    except TypeError:
        unknown = next(k for k in values if k not in FIELDS)
        raise InputError(f"{owner}: unknown field {unknown!r}; {nearest(str(unknown), FIELDS)}") from None
