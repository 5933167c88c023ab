"""What a user asked for, from flags, a file or a notebook: checked as one, with every error's place named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from decodedrift.prompts import read_utf8
from decodedrift.records import InputError, nearest


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]
Seed = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, lt=2**63)]


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
    prompts_per_job: Whole = 16
    layout: Literal["mixed", "per-strategy"] = "mixed"
    coupling: Literal["gumbel", "none"] = "gumbel"
    context: Annotated[int, Field(ge=2)] | None = None
    stride: Whole | None = None
    chat_template: bool = False
    ignore_eos: bool = False
    noise_floor: bool = False
    near_tie_below: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    device: str = "auto"
    threads: Whole | None = None
    memory_bytes: Whole | None = None
    trust_remote_code: bool = False
    prompt_source: str | None = None
    left_out: int = 0

    @field_validator("seeds", mode="before")
    @classmethod
    def _one_seed(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) else list(value) if isinstance(value, (tuple, range)) else value


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Checked settings.

    Raises:
        InputError: the first wrong value, by name; unknown names with the choices.
    """
    for key in values:
        if key not in Settings.model_fields:
            raise InputError(f"unknown setting {key!r}; {nearest(key, tuple(Settings.model_fields))}")
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        name = place.replace("_", "-")
        raise InputError(
            f"{name}: {first['msg'][0].lower() + first['msg'][1:]}, not {first['input']!r}{more}"
        ) from None


def read_config(path: str | Path) -> dict[str, Any]:
    """A plan.json or a YAML file with the same names.

    Raises:
        InputError: missing, not valid, or not a table of settings.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"--config {path}: no such file")
    content = read_utf8(file, "--config")
    try:
        if file.suffix.lower() == ".json":
            found = json.loads(content)
        else:
            import yaml

            found = yaml.safe_load(content)
    except json.JSONDecodeError as error:
        raise InputError(f"--config {file}:{error.lineno}: not valid JSON ({error.msg})") from None
    except Exception as error:  # yaml has no single error type without importing it
        raise InputError(f"--config {file}: not valid YAML ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(found, dict):
        raise InputError(f"--config {file}: must hold a table of settings, not {type(found).__name__}")
    return {str(k).replace("-", "_"): v for k, v in found.items()}
