"""Settings from a file, and what flags over a file mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from decodedrift.core.formats import existing, read_json, read_utf8, read_yaml
from decodedrift.core.records import InputError


def read_config(path: str | Path) -> dict[str, Any]:
    """A plan.json or a YAML file with the same names.

    Raises:
        InputError: missing, not valid, or not a table of settings.
    """
    file = existing(path, "--config")
    content = read_utf8(file, "--config")
    if file.suffix.lower() == ".json":
        table = read_json(content, f"--config {file}")
    else:
        table = read_yaml(content, f"--config {file}")
    if not isinstance(table, dict):
        raise InputError(f"--config {file}: must hold a table of settings, not {type(table).__name__}")
    settings: dict[str, Any] = {}
    for key, value in table.items():
        if (name := str(key).replace("-", "_")) in settings:
            raise InputError(f"--config {file}: {name!r} is given twice, with - and with _; keep one of them")
        settings[name] = value
    return settings


def over(flags: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Settings as given over those of a file: what is given wins, and the file says nothing more of its prompts."""
    settings = stored | flags
    if "prompts" in flags:  # what the file says of its own prompts does not hold for these
        settings = {k: v for k, v in settings.items() if k not in ("prompt_source", "left_out", "refused")}
    if "prompt_ids" in flags or "limit" in flags:  # nor what it refused for a few of them
        settings.pop("refused", None)
    return settings
