"""What `repeat` can be asked beside what every experiment can."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Self

from pydantic import field_validator

from decodedrift.core.endpoint import EndpointSettings
from decodedrift.core.estimate import Effort
from decodedrift.core.options import ENDPOINT, MEASURING, WHAT, option
from decodedrift.core.records import InputError, Variant, distinct
from decodedrift.core.settings import Whole
from decodedrift.experiments.repeat.varying import CONCURRENCY, DEFAULT, RERUN, VARY, Varying, parse_vary, varies
from decodedrift.measure.checks import Check, answered, parse_check, trusted
from decodedrift.models.knobs.experts import KERNELS


class RepeatSettings(EndpointSettings):
    """Everything `repeat` can be asked. vary: labels of `varying.VARY`; candidates: as of `compare`."""

    experiment: ClassVar[str] = "repeat"
    beside: ClassVar[str] = "and"
    repeats: ClassVar[bool] = True  # of a recorded text each repetition counts

    reference: Any = option("fp32", "The first variant.", WHAT, "VARIANT")
    candidates: Any = option(("bf16",), "The other variants: bf16,fp32:experts=batched_mm.", WHAT, "LIST", many=True)
    strategies: Any = option(("greedy",), "greedy, or others with shared noise.", "Decoding", "LIST", many=True)
    runs: Whole = option(30, "Completions of each prompt.", WHAT, "N", label="Completions of each prompt")
    vary: list[str] = option(
        list(DEFAULT), "Also padding, threads, experts, capacity, summation, concurrency.", WHAT, "LIST", many=True,
        label="What varies", says=",".join(DEFAULT),
    )  # fmt: skip
    concurrency: Whole = option(8, "Requests at a time, of --vary concurrency.", ENDPOINT, "N")
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
        if self.concurrency == 1 and any(item.name == CONCURRENCY for item in items):
            raise InputError("--concurrency 1: one request at a time has nothing beside it; raise it, or vary rerun")
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
        self.check_endpoints()
        self._check_varying()
        for strategy in self.strategies:
            if strategy.samples and not strategy.coupled:
                raise InputError(
                    f"--strategies {strategy.label}: without --coupling gumbel its draws depend on the batch, and that "
                    "is what would be counted; leave --coupling out"
                )
        for variant in self.variants:
            if "assisted" in variant.knobs:
                raise InputError(f"variant {variant.name}: a draft reads one prompt at a time; leave assisted= out")

    def _check_varying(self) -> None:
        """Everything varies in some variant, and in every candidate something does."""
        able = [name for name in VARY if varies(name, recorded=True)]
        for variant in self.candidates:
            asked = able if variant.endpoint else [RERUN, CONCURRENCY]
            if variant.recorded and not any(item.name in asked for item in self.varying):
                raise InputError(
                    f"--vary {','.join(self.vary)}: nothing of it is seen of {variant.name}, which runs elsewhere; "
                    f"choices: {', '.join(asked)}"
                )
        for item in self.varying:
            if not any(varies(item.name, v.recorded) for v in self.variants):
                raise InputError(
                    f"--vary {item.label}: no variant is an endpoint; add --candidates NAME=URL#MODEL, or leave it out"
                )

    def asked_of(self, variant: Variant) -> dict[str, Self]:
        """An endpoint's questions for each thing that varies: one at a time, or several."""
        counts = {RERUN: 1, CONCURRENCY: self.concurrency}
        asked = [item.name for item in self.varying if item.name in counts]
        return {f"{variant.name} {name}": self.having(concurrency=counts[name]) for name in asked}

    @property
    def here(self) -> list[Varying]:
        """What varies in variants that run here; of nothing no model is loaded."""
        return [item for item in self.varying if item.source.here]

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
        size, passes, texts = int(self.batch_size), 1, 0
        most = {"batch": size, "threads": os.cpu_count() or 1, "experts": len(KERNELS)}
        for item in self.here:
            runs = min(self.runs, most.get(item.name, self.runs))
            rows = 1 if item.source.all_rows else (size + 1) // 2 if item.name == "batch" else size
            passes += runs * rows
            texts += runs
        beside = max((item.source.beside for item in self.here), default=0)
        writing, loading = len(self.running) * passes if self.here else 0, bool(self.here)
        elsewhere = self.runs * sum(item.source.elsewhere for item in self.varying)
        return Effort(writing=writing, beside=beside, texts=texts, elsewhere=elsewhere, loading=loading)
