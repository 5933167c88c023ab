"""What `compare` can be asked beside what every experiment can."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import ceil
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, model_validator

from decodedrift.core.endpoint import EndpointSettings
from decodedrift.core.estimate import Effort
from decodedrift.core.notation import number, one_of, whole
from decodedrift.core.options import MEASURING, PROMPTS, WHAT, option
from decodedrift.core.prompts import PROSE, STORY, bundled_text, place_of, tells_stories
from decodedrift.core.records import InputError, Strategy, Text, Variant, distinct
from decodedrift.core.secrecy import home_shortened
from decodedrift.core.settings import Whole, files
from decodedrift.decoding.strategies import not_injectable, screened
from decodedrift.experiments.compare.floors import FLOOR_PROMPTS, floor_of
from decodedrift.measure.checks import Check, answered, parse_check, trusted
from decodedrift.models.knobs import COARSER, KNOBS, unread
from decodedrift.models.precisions import PRECISIONS
from decodedrift.runs.judge import JUDGE

ROUGH, FINE = ("bf16", "fp16"), ("fp32", "fp64")  # types of arithmetic: what is certified, and against what
SLIDING = "sliding"
CONVENTIONS = {
    SLIDING: "sliding windows, each token scored once",
    **{tool: f"as {tool} counts it" for tool in ("llama.cpp", "lm-eval", "gptq")},
}
MODES = {"exact": "every variant generates", "screen": "screening: candidates read"}


def folder(value: Any) -> Any:
    """A folder's name, which a plan keeps without the home folder; None is none."""
    return value if value is None else home_shortened(os.fspath(value))


class CompareSettings(EndpointSettings):
    """Everything `compare` can be asked. texts: files, or {name, text}. candidates: as reference."""

    experiment: ClassVar[str] = "compare"

    candidates: Any = option(
        None, "Variants: bf16,fp32:batch_size=1,mine=FOLDER.", WHAT, "LIST", says="bf16,fp16,int8", many=True
    )
    judge: Any = option(None, "The model that reads, where the reference is recorded too.", WHAT, "MODEL")
    strategies: Any = option(
        ("greedy", "beam", "top-k", "top-p"), "Such as top-k:k=50,temperature=0.8.", "Decoding", "LIST", many=True
    )
    texts: Any = option(
        (), "A text to measure perplexity on; repeatable.", PROMPTS, "FILE", flag="text", many=True, read=files
    )
    context: Annotated[int, BeforeValidator(whole(2, 2**31 - 1))] | None = option(
        None, "Tokens per window.", PROMPTS, "N", says="the model's, <= 1024", rare=True, label="Window of texts"
    )
    stride: Whole | None = option(None, "Tokens between windows.", PROMPTS, "N", says="context / 2", rare=True)
    convention: Annotated[str, BeforeValidator(one_of(*CONVENTIONS))] = option(
        SLIDING, "Perplexity as llama.cpp, lm-eval or gptq count it.", PROMPTS, "TOOL", rare=True,
        label="Perplexity of texts", words=CONVENTIONS,
    )  # fmt: skip
    default_text: bool = option(
        True, "Without --text, measure perplexity on a bundled text.", PROMPTS, label="Bundled text", changes_rows=False
    )
    noise_floor: bool = option(True, "Each candidate against itself in another batch layout.", MEASURING)
    inject: bool = option(False, "Force each divergence's token on the reference.", MEASURING)
    decompose: bool = option(False, "Split the error: local, state, path.", MEASURING)
    where: bool = option(False, "The error after every layer, and where it enters, on 8 prompts.", MEASURING)
    mode: Annotated[str, BeforeValidator(one_of(*MODES))] = option(
        "exact", "exact, or screen: read the reference's text only.", MEASURING, "HOW", words=MODES
    )
    continued: bool = option(
        False, "Screening: generate on from the divergence.", MEASURING, flag="continue", label="Write on from there"
    )
    as_deployed: bool = option(
        False, "Each side with its own tokenizer, stop ids, template, settings.", WHAT, label="Each side as deployed"
    )
    reference_run: Annotated[str | os.PathLike[str] | None, BeforeValidator(folder)] = option(
        None, "Take the reference's texts, and logits kept there, from this run.", MEASURING, "DIR",
        label="Reference taken from the run",
    )  # fmt: skip
    keep_logits: bool = option(
        False, "Keep the reference's logits in the run folder, for --reference-run.", MEASURING, label="Logits kept"
    )
    near_tie_below: Annotated[float, BeforeValidator(number(0))] = option(
        0.1, "The gap of a near tie.", MEASURING, "NATS", rare=True, label="Near tie below (nats)"
    )

    answer_check: str | None = option(
        None, "Check answers: exact, contains, number, regex, python:FILE:FUNCTION.", MEASURING, "HOW", flag="check",
        label="Answers checked by",
    )  # fmt: skip
    equivalence: Annotated[float, BeforeValidator(number(0, 1, open_low=True))] = option(
        0.02,
        "Accuracies that differ by less are equivalent.",
        MEASURING,
        "SHARE",
        rare=True,
        label="Accuracies equivalent within",
    )
    trust_check_code: bool = option(False, "Run the code that --check python:FILE names.", MEASURING, rare=True)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Screening has a floor of its own; a plan from before there was a bundled text has none."""
        off = {"noise_floor": False} if values.get("mode") == "screen" else {}
        return off | ({"default_text": False} if "prompt_source" in values else {}) | values

    def check(self) -> None:
        """Screening generates nothing that could be injected, decomposed or run in a second layout."""
        if self.mode != "screen" and self.continued:
            raise InputError("--continue goes on from where a screening predicts a divergence: add --mode screen")
        for name in ("inject", "decompose", "noise_floor"):
            if self.mode == "screen" and getattr(self, name):
                raise InputError(f"--{name.replace('_', '-')} needs generated texts: leave it out, or use --mode exact")
        if self.mode == "screen" and self.answer_check and not self.continued:
            raise InputError("--check needs whole texts: add --continue, or use --mode exact")
        trusted(self.answers_by, self.trust_check_code)
        if self.keep_logits and (self.no_text or self.reference_run):
            why = "texts can be read off logits" if self.no_text else "the other run has the reference's"
            other = "--no-text" if self.no_text else "--reference-run"
            raise InputError(f"--keep-logits: {why}; leave it or {other} out")
        if not self.answer_check and self.equivalence != type(self).model_fields["equivalence"].default:
            raise InputError("--equivalence is about answers, and none is checked: add --check")
        for name in ("inject", "decompose", "where"):
            if self.as_deployed and getattr(self, name):
                raise InputError(f"--{name} compares what both sides read alike: leave it or --as-deployed out")
        if self.as_deployed and self.mode == "screen":
            raise InputError("--as-deployed needs generated texts: leave it or --mode screen out")
        sides = ("inject", "decompose", "where", "as_deployed", "texts", "reference_run", "keep_logits")
        for name in sides if self.judge is not None else ():
            if getattr(self, name):
                raise InputError(
                    f"{self.flag(name)} needs sides that run here, and --judge reads recorded ones: leave it out"
                )
        if self.convention != SLIDING and self.stride is not None:
            raise InputError(f"--stride is not {self.convention}'s to choose: leave it out, or --convention")
        for name in ("context", "stride", "convention"):
            if getattr(self, name) not in (None, SLIDING) and not (self.texts or self.default_text):
                raise InputError(f"--{name} cuts texts into windows and there is none: give --text, or leave it out")

    @property
    def only_rows(self) -> bool:
        """Unless logits are kept."""
        return not self.keep_logits

    def standard_texts(self) -> tuple[Text, ...]:
        """The bundled text, unless it is not wanted."""
        stories = tells_stories(place_of(self.model))
        return (bundled_text(STORY if stories else PROSE),) if self.default_text and self.judge is None else ()

    def allowed(self, strategies: tuple[Strategy, ...]) -> tuple[Strategy, ...]:
        """The strategies that can be measured in this mode."""
        if self.mode == "screen":
            strategies = screened(strategies, named="strategies" in self.model_fields_set)
        if self.inject and not any(s.injectable for s in strategies):
            raise InputError(not_injectable("--inject"))
        return strategies

    def check_resolved(self) -> None:
        """Candidates are there, distinct, and none is the reference; no token of a text is skipped."""
        super().check_resolved()
        distinct("texts", [t.name for t in self.texts])
        names = [v.name for v in self.candidates]
        if not names:
            raise InputError("--candidates: give at least one")
        distinct("candidates", names)
        if taken := [v for v in self.candidates if v.recorded and v.name == self.reference.name]:
            raise InputError(f"--candidates {taken[0].name}=...: is the reference's name; give the recording another")
        if self.reference.name in names:
            raise InputError(
                f"{self.reference.name!r} is the reference and cannot be a candidate too: "
                "leave it out of --candidates (the self control compares the reference with itself in every run)"
            )
        if self.judge is not None and self.judge.name in (self.reference.name, *names):
            raise InputError(f"{self.judge.name!r} is what the model of --judge is called: give the run another name")
        for part in ("decompose", "where") if all(v.recorded for v in self.candidates) else ():
            if getattr(self, part):
                raise InputError(
                    f"--{part} is about candidates that run here, and {names[0]} was recorded: leave it out"
                )
        if self.mode == "screen" and len(self.running) < len(self.variants):
            name = next(v.name for v in self.candidates if v.recorded)
            raise InputError(f"--mode screen: {name} was recorded, and does not read; leave it or --mode screen out")
        self.check_endpoints()
        answered(self.answers_by, self.prompts)
        if self.context is not None and self.stride is not None and self.stride > self.context:
            raise InputError(f"stride {self.stride} is larger than context {self.context}: tokens would be skipped")

    @property
    def answers_by(self) -> Check | None:
        """How answers are checked, where they are."""
        return parse_check(self.answer_check) if self.answer_check is not None else None

    @property
    def casts(self) -> tuple[Variant, ...]:
        """The plain casts that candidates of 16-bit arithmetic are held beside, where they are no candidates."""
        if not self.noise_floor or not castable(self.reader):
            return ()
        others = [v for v in self.running[1:] if v.compute in ROUGH and not is_cast(v)]
        there = {v.compute for v in self.candidates if is_cast(v)}
        return self._casts(v.compute for v in others if v.compute not in there)

    @property
    def recorded_casts(self) -> tuple[Variant, ...]:
        """The plain casts that recorded texts are held beside: to the types that these are said to have run in."""
        return self._casts(v.compute for v in self.variants if v.recorded and not without_cast(v, self.reader))

    def _casts(self, types: Iterable[str | None]) -> tuple[Variant, ...]:
        taken = {v.name for v in (*self.variants, self.reader)}
        names = {str(t): f"{t} (cast)" if t in taken else str(t) for t in types}
        return tuple(Variant(name, t, compute=t, device=self.reader.device) for t, name in names.items())

    @property
    def manner(self) -> str:
        """That nothing is generated."""
        return "read by " if self.judge is not None else "screening " if self.mode == "screen" else ""

    @property
    def reader(self) -> Variant:
        """The variant that reads what all wrote: the reference, or the judge of one that was recorded."""
        return self.reference if self.judge is None else self.judge  # type: ignore[no-any-return]

    def having_reader(self, variant: Variant) -> Self:
        """The same with another reader."""
        return super().having_reader(variant) if self.judge is None else self.having(judge=variant)

    @property
    def effort(self) -> Effort:
        """A pass a variant and floor; a candidate's token put in is one more, a part of the error three more.

        Who reads token by token reads nothing at once, and the reference does both.
        """
        running = self.running[1:]
        many, acting = len(running), [unread(v, self.reader) for v in running]
        recorded = len(self.candidates) - many
        blind = sum(not all(KNOBS[name].stepped for name in names) for names in acting)  # these read no given text
        stepped = sum(map(bool, acting)) - blind
        floors = tuple(
            floor_of(v.batch_size or self.batch_size, (v.device or self.device).startswith("cpu"))
            for v, names in zip(running, acting, strict=True)
            if self.noise_floor and all(KNOBS[name].stepped for name in names)
        )
        waiting = (1 + many if self.decompose else 0) + bool(stepped)
        screens = self.mode == "screen" and not self.continued
        return Effort(
            writing=(0 if screens else many) + (self.judge is None and self.reference_run is None),
            reading=1 + many - blind - stepped + len(self.casts) + recorded + len(self.recorded_casts),
            floors=floors,
            floor_prompts=FLOOR_PROMPTS,
            injecting=many if self.inject else 0,
            stepwise=(1 + 3 * many if self.decompose else 0) + stepped + bool(stepped),
            logits=2 + (1 + ceil(len(floors) / len(self.cells)) if floors else 0) + waiting,
        )


def castable(reference: Variant) -> bool:
    """Whether a plain cast of the reference to 16 bits says what that type does: to wider and unquantized weights."""
    return reference.compute in FINE and not PRECISIONS[reference.precision].own


def without_cast(recorded: Variant, reference: Variant) -> str:
    """Why no plain cast of the reference says what rounding alone makes of a recorded text; empty where one does."""
    if recorded.compute is None:
        return "what it ran in is not said; add it, as in NAME=FILE:precision=bf16"
    if not castable(reference) or COARSER.index(recorded.compute) <= COARSER.index(str(reference.compute)):
        finer = "fp32" if recorded.compute in ROUGH else "fp64"
        who, way = ("judge", f"--judge MODEL:precision={finer}") if reference.name == JUDGE else (
            "reference", f"--reference {finer}",
        )  # fmt: skip
        return f"the {who} computes in {reference.compute} itself; hold {recorded.compute} against {way}"
    return ""


def reader_of(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """The variant of a stored plan that read what all wrote."""
    return plan.get("judge") or plan["reference"]  # type: ignore[no-any-return]


def reader_word(plan: Mapping[str, Any]) -> str:
    """What it is called in a sentence."""
    return "judge" if plan.get("judge") else "reference"


def counted(plan: Mapping[str, Any]) -> str:
    """What follows the word perplexity, where a stored plan has it as another tool counts it."""
    convention = plan.get("convention", SLIDING)
    return "" if convention == SLIDING else f" {CONVENTIONS[convention]}"


def is_cast(variant: Variant) -> bool:
    """Whether a variant is the reference's model in another type, and nothing else."""
    return replace(variant, name="", device=None) == Variant("", str(variant.compute), compute=variant.compute)
