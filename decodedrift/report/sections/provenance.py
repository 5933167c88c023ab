"""What was run, and on what: the plan, what was read back of every variant, versions and time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

from decodedrift.core.endpoint import EndpointSettings
from decodedrift.core.notation import is_endpoint
from decodedrift.core.records import RECORDED, Variant
from decodedrift.core.settings import Settings
from decodedrift.models.precisions import beware
from decodedrift.report.html import Options, StudyLike
from decodedrift.report.numbers import Number, exactly, number, percent, significant
from decodedrift.report.phrases import sides
from decodedrift.report.tables import Cell, Column, Table, num, text
from decodedrift.report.texts import brief

MOST = 100
PHASES = ("load", "generate", "score", "judge", "write")
VARIANT_COLUMNS = (
    Column("Variant", numeric=False), Column("Precision", numeric=False), Column("Arithmetic", numeric=False),
    Column("Weights, read back", "The types of the loaded weights, as found in the model.", numeric=False),
    Column("Quantized", "Share of the parameters that were quantized."),
    Column("Rounded", "Share of the weights that the precision changed."),
    Column("Attention", numeric=False), Column("Asked for besides", numeric=False),
)  # fmt: skip
SHOWN = ("compute", "attention")  # in columns of their own
DEFAULTS = {f.name: f.default for f in fields(Variant) if f.default is not MISSING and f.name not in SHOWN}


def provenance(study: StudyLike, options: Options) -> dict[str, Any] | None:
    """The facts that one needs to repeat the run, or to say why two runs differ."""
    plan, environment = study.plan, study.environment
    return {
        "heading": "What was run",
        "asked": _options(study),
        "ran_on": _ran_on(environment),
        "variants": _variants(plan, environment.get("variants", {})) if sides(plan) else None,
        "strategies": _strategies(plan),
        "timings": _timings(study),
        "judged": bool(plan.get("judge")),
        "version": str(environment.get("versions", {}).get("decodedrift", "")),
    }


def _facts(pairs: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Labels with their values as text; what is empty is left out."""
    return [(label, brief(str(value), 300)) for label, value in pairs if value not in (None, "", (), [])]


def _options(study: StudyLike) -> list[tuple[str, str]]:
    """Every option that was given or has a value, as its field says it; then what it came to."""
    plan, environment = study.plan, study.environment
    model, way = environment.get("model", {}), environment.get("generation", {})
    kind = ", ".join(str(v) for v in (model.get("type"), model.get("kind")) if v)
    prompts, left_out = len(plan.get("prompts", ())), plan.get("left_out", 0)
    source = f"{prompts} from {plan.get('prompt_source', 'given')}" + (f", {left_out} left out" if left_out else "")
    size = way.get("batch_size", plan.get("batch_size"))
    lowered = size != way.get("batch_size_asked", size)
    return _facts([
        ("Kind of model", kind),
        ("Stored as", _counts(model.get("stored_dtypes", {}))),
        ("Commit", model.get("commit")),
        *(("Reference", v["name"]) for v in sides(plan)[:1]),
        ("Prompts", source if prompts else "none"),
        ("Texts", ", ".join(str(t["name"]) for t in plan.get("texts", ())[:MOST])),
        *_settings(study.experiment.settings, plan),
        ("Batch size asked", way["batch_size_asked"] if lowered else None),
        ("Read on the path", way.get("path")),
        *_beware(plan),
        *(("Warning", warning) for warning in environment.get("warnings", ())[:MOST]),
    ])  # fmt: skip


def _settings(kind: type[Settings], plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(label, value) of every option of a stored plan in words; what is empty or off is left out.

    Variants, strategies and prompts are told of elsewhere, where there is room; what does nothing here is not told.
    """
    idle = _idle(plan)
    for name, option in kind.options().items():
        value = None if name in idle else plan.get(name)
        simple = isinstance(value, list) and all(isinstance(v, (str, int, float)) for v in value)
        if value in (None, False, "", [], ()) or (isinstance(value, (list, dict)) and not simple):
            continue
        label = option.label or name.replace("_", " ").capitalize()
        shown = ", ".join(map(str, value[:40])) if isinstance(value, list) else option.words.get(value, value)
        yield label, "yes" if shown is True else f"{shown:g}" if isinstance(shown, float) else str(shown)


def _idle(plan: Mapping[str, Any]) -> set[str]:
    """Options that do nothing in a stored plan: of endpoints, of what runs here, of answers, where there is none."""
    idle = set[str]()
    if not any(is_endpoint(v.get("model")) for v in sides(plan)):
        idle |= EndpointSettings.options().keys() - Settings.options().keys()
    if all(v.get("precision") == RECORDED for v in plan.get("candidates", ())):
        idle.add("noise_floor")
    if plan.get("judge"):
        idle |= {"default_text", "convention", "mode"}
    if not plan.get("answer_check"):
        idle.add("equivalence")
    return idle


def _beware(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What to know of the precisions that were run."""
    return list(beware((v.get("precision", ""), v.get("compute"), v.get("options") or {}) for v in sides(plan)).items())


def _ran_on(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    ran, versions = environment.get("numerical", {}), dict(environment.get("versions", {}))
    python = environment.get("python")
    parts = [f"{name} {version}" for name, version in versions.items()] + ([f"Python {python}"] if python else [])
    cuda = ", ".join(f"{name} {ran[key]}" for name, key in (("CUDA", "cuda"), ("cuDNN", "cudnn")) if ran.get(key))
    cores = environment.get("cores")
    return _facts([
        ("Device", ran.get("gpu") or ran.get("device")),
        ("CUDA", cuda),
        ("CPU", ", ".join(str(v) for v in (
            environment.get("cpu"), ran.get("cpu_capability"), f"{cores} cores" if cores else None) if v)),
        ("Threads", ran.get("threads")),
        ("System", environment.get("system")),
        ("Versions", ", ".join(parts)),
    ])  # fmt: skip


def _variants(plan: Mapping[str, Any], facts: Mapping[str, Any]) -> Table:
    roles = [role for role in ("reference", "judge") if plan.get(role)]
    variants = [*(plan[role] for role in roles), *plan.get("candidates", ())]
    rows = []
    for index, variant in enumerate(variants[:MOST]):
        known_facts = facts.get(variant["name"], {})
        name = text(variant["name"], 48, head=True)
        rows.append([
            Cell("text", name.text, name.title, note=roles[index] if index < len(roles) else "", head=True),
            text(variant.get("precision"), 40), text(variant.get("compute"), 20),
            Cell("text", _counts(known_facts.get("weight_dtypes", {})) or ("not loaded" if not known_facts else "")),
            num(percent(known_facts.get("quantized_share"), "quantized_share")),
            num(percent(known_facts.get("rounded_share"), "rounded_share")),
            text(known_facts.get("attention") or variant.get("attention"), 30),
            Cell("text", _besides(variant, plan, known_facts)),
        ])  # fmt: skip
    return Table(VARIANT_COLUMNS, rows, max(0, len(variants) - MOST), "plan.json")


def _besides(variant: Mapping[str, Any], plan: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """What sets a variant apart besides its precision, and the scheme that a quantized one was rounded by."""
    options = {**(variant.get("options") or {}), **(variant.get("knobs") or {})}
    options = {k: v for k, v in options.items() if v not in (None, False) and (k, v) != ("round", "weights")}
    fields = {k: variant.get(k, default) for k, default in DEFAULTS.items()}
    apart = {k: v for k, v in fields.items() if v != DEFAULTS[k] and not (k == "device" and v == plan.get("device"))}
    parts = [str(facts["format"])] if facts.get("format") else []
    parts += [f"{facts['bits']} bit"] if facts.get("bits") else []
    parts += [f"groups of {facts['group_size']}"] if facts.get("group_size") else []
    parts += [str(facts["scheme"])] if facts.get("scheme") else []
    return brief(", ".join(parts + [f"{k}={v}" for k, v in (options | apart).items()]), 200)


def _strategies(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = []
    for strategy in plan.get("strategies", ())[:MOST]:
        params = ", ".join(f"{k} {v}" for k, v in (strategy.get("params") or {}).items())
        pairs.append((brief(str(strategy["label"]), 60), brief(params, 200)))
    return pairs


def _timings(study: StudyLike) -> Table | None:
    """Seconds by variant and phase, as they went by."""
    part = study.timings
    if not len(part):
        return None
    seconds = part.groupby(["variant", "phase"], sort=False)["seconds"].sum()
    names, present = list(dict.fromkeys(part["variant"])), set(part["phase"])
    phases = [p for p in PHASES if p in present] + sorted(present - set(PHASES))
    rows = []
    for name in names[:MOST]:
        cells = [num(number(seconds.get((name, phase)), "seconds")) for phase in phases]
        total = part.loc[part["variant"] == name, "seconds"].sum()
        rows.append([text(name or "all variants", 48, head=True), *cells, num(number(total, "sum"))])
    totals = [part.loc[part["phase"] == phase, "seconds"].sum() for phase in phases]
    whole = part["seconds"].sum()
    last = [num(Number(significant(v), exactly({"sum": v}))) for v in (*totals, whole)]
    rows.append([text("in sum", head=True), *last])
    columns = (Column("Seconds", numeric=False), *(Column(p.capitalize()) for p in phases), Column("Sum"))
    return Table(columns, rows, max(0, len(names) - MOST), "timings.csv")


def _counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{kind} {significant(count, digits=3)}" for kind, count in list(counts.items())[:12])
