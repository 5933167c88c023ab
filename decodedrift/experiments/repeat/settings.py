"""What `repeat` can be asked beside what every experiment can."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from pydantic import field_validator

from decodedrift.core.records import InputError, Variant, distinct
from decodedrift.core.settings import MEASURING, WHAT, Effort, Settings, Whole, option
from decodedrift.experiments.repeat.varying import DEFAULT, RERUN, Varying, parse_vary
from decodedrift.measure.checks import Check, answered, parse_check, trusted
from decodedrift.models.knobs.experts import KERNELS


class RepeatSettings(Settings):
    """Everything `repeat` can be asked. vary: labels of `varying.VARY`; candidates: as of `compare`."""

    experiment: ClassVar[str] = "repeat"
    beside: ClassVar[str] = "and"

    reference: Any = option("fp32", "The first variant.", WHAT, "VARIANT")
    candidates: Any = option(("bf16",), "The other variants: bf16,fp32:experts=batched_mm.", WHAT, "LIST", many=True)
    strategies: Any = option(("greedy",), "greedy, or others with shared noise.", "Decoding", "LIST", many=True)
    runs: Whole = option(30, "Completions of each prompt.", WHAT, "N", label="Completions of each prompt")
    vary: list[str] = option(
        list(DEFAULT), "Also padding, threads, experts, capacity:factor=1.0, summation.", WHAT, "LIST", many=True,
        label="What varies", says=",".join(DEFAULT),
    )  # fmt: skip
    answer_check: str | None = option(
        None, "Check answers: exact, contains, number, regex, python:FILE:FUNCTION.", MEASURING, "HOW", flag="check",
        label="Answers checked by",
    )  # fmt: skip
    trust_check_code: bool = option(False, "Run the code that --check python:FILE names.", MEASURING, rare=True)

    @field_validator("vary", mode="before")
    @classmethod
    def _vary(cls, value: Any) -> Any:
        if not isinstance(value, (str, list, tuple)) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"must be names of what varies, not {value!r}")
        if not (items := parse_vary(value)):
            raise ValueError("give at least one")
        return [item.label for item in items]

    def check(self) -> None:
        """What varies can vary in batches of this size, and is named once."""
        trusted(self.answers_by, self.trust_check_code)
        items = self.varying
        distinct("vary", [item.label for item in items])
        if self.runs < 2 and any(item.name == RERUN for item in items):
            raise InputError("--runs 1: one completion is no repetition; give at least 2")
        lonely = [item.label for item in items if item.source.neighbours]
        if self.batch_size == 1 and lonely:
            rest = ",".join(item.label for item in items if not item.source.neighbours) or RERUN
            raise InputError(
                f"--batch-size 1: a batch of one has no other rows, which {lonely[0]} needs; raise it, or vary {rest}"
            )

    def apart(self, candidates: tuple[Variant, ...], reference: Variant) -> tuple[Variant, ...]:
        """The candidates but for the reference, which is a variant like them."""
        return tuple(c for c in candidates if c.name != reference.name)

    def check_resolved(self) -> None:
        """Draws are coupled, and every variant can be run in any batch."""
        super().check_resolved()
        answered(self.answers_by, self.prompts)
        distinct("candidates", [v.name for v in self.candidates])
        for strategy in self.strategies:
            if strategy.samples and not strategy.coupled:
                raise InputError(
                    f"--strategies {strategy.label}: without --coupling gumbel its draws depend on the batch, and that "
                    "is what would be counted; leave --coupling out"
                )
        for variant in self.variants:
            if "assisted" in variant.knobs:
                raise InputError(f"variant {variant.name}: a draft reads one prompt at a time; leave assisted= out")

    @property
    def answers_by(self) -> Check | None:
        """How answers are checked, where they are."""
        return parse_check(self.answer_check) if self.answer_check is not None else None

    @property
    def varying(self) -> list[Varying]:
        """What varies, parsed."""
        return parse_vary(self.vary)

    @property
    def manner(self) -> str:
        """How often, and what varies."""
        return f"each prompt {self.runs} times, varying {', '.join(self.vary)}: "

    @property
    def effort(self) -> Effort:
        """Passes over the prompts: one a run, or a row of the batch and run where the others are companions."""
        size, passes = int(self.batch_size), 1
        most = {"batch": size, "threads": os.cpu_count() or 1, "experts": len(KERNELS)}
        for item in self.varying:
            runs = min(self.runs, most.get(item.name, self.runs))
            rows = 1 if item.source.all_rows else (size + 1) // 2 if item.name == "batch" else size
            passes += runs * rows
        return Effort(writing=(1 + len(self.candidates)) * passes)
