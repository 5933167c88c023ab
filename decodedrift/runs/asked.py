"""Variants, strategies, prompts and texts as they may be asked for: as text, as objects, or as a plan has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from decodedrift.core import prompts as prompt_files
from decodedrift.core.records import InputError, Prompt, Strategy, Text, Variant, plain
from decodedrift.core.settings import Settings
from decodedrift.decoding.strategies import parse_strategies
from decodedrift.models.recorded import sides
from decodedrift.models.variants import is_model, named_variants, parse_variants, variant_from_dict


def strategies_asked(settings: Settings, variants: Sequence[Variant]) -> tuple[Strategy, ...]:
    """The strategies asked for; none of an experiment that has none."""
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


def live_asked(settings: Settings) -> dict[str, Any]:
    """The candidates that are models in memory, by name."""
    given = settings.candidates if isinstance(settings.candidates, Mapping) else {}
    return {name: value for name, value in given.items() if is_model(value)}


def variants_asked(values: Any, reference: Variant | None) -> tuple[Variant, ...]:
    """The candidates asked for beside a reference, or, where it is None, the reference."""
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


def prompts_asked(settings: Settings, model: str) -> tuple[tuple[Prompt, ...], str]:
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


def texts_asked(values: Any) -> tuple[Text, ...]:
    """The texts to read, of files or as they are given."""
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
