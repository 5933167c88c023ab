"""What a user asked for, from flags, a file or a notebook: checked as one, with every error's place named."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator

from decodedrift.core.formats import existing, read_json, read_utf8, read_yaml
from decodedrift.core.notation import count, number, one_of, thread_count, whole
from decodedrift.core.records import InputError

Whole = Annotated[int, BeforeValidator(count)]
Seed = Annotated[int, BeforeValidator(whole(0, 2**63 - 1))]
FLAGS = {
    "texts": "text",
    "prompt_ids": "prompt-id",
    "memory_bytes": "memory",
    "continued": "continue",
}  # settings whose flag has another name


class Settings(BaseModel):
    """Everything `compare` can be asked. A run's plan.json is one too, so any run can be asked again.

    prompts: a bundled set's name, a file, or a list of texts, Prompts or {id, text, tags}. texts: files, or
    {name, text}. reference, candidates, strategies: the command line's notation, objects, or their plain form.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: Any = "demo"
    revision: str | None = None
    reference: Any = "fp32"
    candidates: Any = None
    strategies: Any = ("greedy", "beam", "top-k", "top-p")
    prompts: Any = None
    texts: Any = ()
    prompt_ids: list[str] = []
    limit: Whole | None = None
    max_new_tokens: Whole = 64
    seeds: list[Seed] = [0]
    batch_size: Whole = 8
    prompts_per_job: Whole | None = None
    layout: Annotated[str, BeforeValidator(one_of("mixed", "per-strategy"))] = "mixed"
    coupling: Annotated[str, BeforeValidator(one_of("gumbel", "none"))] = "gumbel"
    context: Annotated[int, BeforeValidator(whole(2, 2**31 - 1))] | None = None
    stride: Whole | None = None
    chat_template: bool = False
    ignore_eos: bool = False
    noise_floor: bool = False
    inject: bool = False
    decompose: bool = False
    mode: Annotated[str, BeforeValidator(one_of("exact", "screen"))] = "exact"
    continued: bool = False
    near_tie_below: Annotated[float, BeforeValidator(number(0))] = 0.1
    device: str = "auto"
    threads: Annotated[int, BeforeValidator(thread_count)] | None = None
    memory_bytes: Annotated[int, BeforeValidator(whole(1))] | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    no_text: bool = False
    prompt_source: str | None = None
    left_out: int = 0
    refused: dict[str, str] = {}

    @field_validator("model", mode="before")
    @classmethod
    def _model(cls, value: Any) -> Any:
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        if value in ("", None):
            raise ValueError("name a local folder, a hub id or demo")
        return value

    @field_validator("seeds", "prompt_ids", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, (int, str)):
            return [value]
        if isinstance(value, Sized) and len(value) == 0:
            raise ValueError("give at least one")
        return list(value) if isinstance(value, (tuple, range)) else value


@dataclass(frozen=True)
class Settled:
    """What a run fitted to the memory when it began, None where it did not. prompts_per_job: unless one is asked."""

    batch_size: int | None = None
    prompts_per_job: int | None = None


NOTHING = Settled()


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Checked settings.

    Raises:
        InputError: the first wrong value, by name; unknown names with the nearest one.
    """
    for key in values:
        if key not in Settings.model_fields:
            close = difflib.get_close_matches(key, Settings.model_fields, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]!r}?" if close else "`decodedrift compare --help` lists them, with - for _"
            raise InputError(f"unknown setting {key!r}; {hint}")
    try:
        asked = Settings(**values)
    except ValidationError as error:
        raise InputError(_first(error)) from None
    if asked.mode != "screen" and asked.continued:
        raise InputError("--continue goes on from where a screening predicts a divergence: add --mode screen")
    for name in ("inject", "decompose", "noise_floor"):
        if asked.mode == "screen" and getattr(asked, name):
            raise InputError(f"--{name.replace('_', '-')} needs generated texts: leave it out, or use --mode exact")
    return asked


def _first(error: ValidationError) -> str:
    """The first of a validation's errors in words, under the name of its flag."""
    first = error.errors()[0]
    name = str(first["loc"][0])
    name = FLAGS.get(name, name).replace("_", "-")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if "error" in first.get("ctx", {}):  # our own readers say the value themselves
        return f"--{name}: {first['ctx']['error']}{more}"
    said = first["msg"][0].lower() + first["msg"][1:]
    return f"--{name}: {said.removeprefix('input ')}, not {shortened(first['input'])}{more}"


def shortened(value: Any, width: int = 60) -> str:
    """A value as an error message shows it."""
    shown = repr(value)
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def read_config(path: str | Path) -> dict[str, Any]:
    """A plan.json or a YAML file with the same names.

    Raises:
        InputError: missing, not valid, or not a table of settings.
    """
    file = existing(path, "--config")
    content = read_utf8(file, "--config")
    if file.suffix.lower() == ".json":
        found = read_json(content, f"--config {file}")
    else:
        found = read_yaml(content, f"--config {file}")
    if not isinstance(found, dict):
        raise InputError(f"--config {file}: must hold a table of settings, not {type(found).__name__}")
    settings: dict[str, Any] = {}
    for key, value in found.items():
        if (name := str(key).replace("-", "_")) in settings:
            raise InputError(f"--config {file}: {name!r} is given twice, with - and with _; keep one of them")
        settings[name] = value
    return settings
