"""What `formats` can be asked of a model."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, field_validator

from decodedrift.core.estimate import Effort
from decodedrift.core.options import WHAT, option
from decodedrift.core.records import InputError, distinct
from decodedrift.core.settings import Seed, Settings, Whole
from decodedrift.experiments.formats.kinds import DEFAULT, Kind, parse_kinds
from decodedrift.models.precisions import PRECISIONS

RUNS_IN = ("fp32", "fp64")
KNOBS = ("device", "attention", "experts", "threads", "deterministic", "revision")  # that round nothing


class FormatsSettings(Settings):
    """Everything `formats` can be asked. The prompts are read one by one, and nothing is generated."""

    experiment: ClassVar[str] = "formats"

    reference: Any = option("fp32", "What the model runs in: fp32 or fp64.", WHAT, "VARIANT")
    formats: list[str] = option(
        list(DEFAULT), "Formats: bf16, fp8-e4m3:scale=none|tensor|channel, int4:group=32.", WHAT, "LIST", many=True,
        says="all but fp64 and fp32",
    )  # fmt: skip
    max_new_tokens: Whole = 0
    seeds: list[Seed] = Field([0])
    batch_size: Whole = 1
    layout: str = "mixed"
    device_map: str | None = None
    coupling: str = "gumbel"
    ignore_eos: bool = False

    @field_validator("formats", mode="before")
    @classmethod
    def _formats(cls, value: Any) -> Any:
        if not isinstance(value, (str, list, tuple)) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"must be names of formats, not {value!r}")
        if not (kinds := parse_kinds(value)):
            raise ValueError("give at least one")
        return [kind.label for kind in kinds]

    def check(self) -> None:
        """Each format once."""
        distinct("formats", self.formats)

    def check_resolved(self) -> None:
        """The model runs in a type that holds what the others are measured on."""
        super().check_resolved()
        variant = self.reference
        if PRECISIONS[variant.precision].own:
            raise InputError(
                f"--model {self.model}: its weights are stored quantized, and formats are held against what an exact "
                "run holds; give the checkpoint that it was made from"
            )
        if variant.precision not in RUNS_IN or set(variant.knobs) - {*KNOBS}:
            raise InputError(
                f"--reference {variant.name}: formats are held against what an exact run holds; use fp32 or fp64"
            )

    @property
    def kinds(self) -> list[Kind]:
        """The formats, parsed."""
        return parse_kinds(self.formats)

    @property
    def manner(self) -> str:
        """What comes before the model's name where a run is announced."""
        return f"weights and activations against {', '.join(self.formats)}: "

    @property
    def amount(self) -> str:
        """What is done with each prompt."""
        return "each read once"

    @property
    def effort(self) -> Effort:
        """One reading of the prompts."""
        return Effort(writing=0, prompts=1, counted=len(self.formats))
