"""What `compare` can be asked beside what every experiment can."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from decodedrift.core.notation import number, one_of, whole
from decodedrift.core.records import InputError, Strategy, distinct
from decodedrift.core.settings import MEASURING, PROMPTS, WHAT, Effort, Settings, Whole, files, option
from decodedrift.decoding.strategies import not_injectable, screened

MODES = {"exact": "every variant generates", "screen": "screening: candidates read"}


class CompareSettings(Settings):
    """Everything `compare` can be asked. texts: files, or {name, text}. candidates: as reference."""

    experiment: ClassVar[str] = "compare"

    candidates: Any = option(
        None, "Variants: bf16,fp32:batch_size=1,mine=FOLDER.", WHAT, "LIST", says="bf16,fp16,int8", many=True
    )
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
    noise_floor: bool = option(False, "Each dtype against itself in another layout.", MEASURING)
    inject: bool = option(False, "Force each divergence's token on the reference.", MEASURING)
    decompose: bool = option(False, "Split the error: local, state, path.", MEASURING)
    mode: Annotated[str, BeforeValidator(one_of(*MODES))] = option(
        "exact", "exact, or screen: read the reference's text only.", MEASURING, "HOW", words=MODES
    )
    continued: bool = option(
        False, "Screening: generate on from the divergence.", MEASURING, flag="continue", label="Write on from there"
    )
    near_tie_below: Annotated[float, BeforeValidator(number(0))] = option(
        0.1, "The gap of a near tie.", MEASURING, "NATS", rare=True, label="Near tie below (nats)"
    )

    def check(self) -> None:
        """Screening generates nothing that could be injected, decomposed or run in a second layout."""
        if self.mode != "screen" and self.continued:
            raise InputError("--continue goes on from where a screening predicts a divergence: add --mode screen")
        for name in ("inject", "decompose", "noise_floor"):
            if self.mode == "screen" and getattr(self, name):
                raise InputError(f"--{name.replace('_', '-')} needs generated texts: leave it out, or use --mode exact")

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
        if self.reference.name in names:
            raise InputError(
                f"{self.reference.name!r} is the reference and cannot be a candidate too: "
                "leave it out of --candidates (the self control compares the reference with itself in every run)"
            )
        if self.context is not None and self.stride is not None and self.stride > self.context:
            raise InputError(f"stride {self.stride} is larger than context {self.context}: tokens would be skipped")

    @property
    def manner(self) -> str:
        """That nothing is generated."""
        return "screening " if self.mode == "screen" else ""

    @property
    def effort(self) -> Effort:
        """A pass a variant and floor; a candidate's token put in is one more, a part of the error three more."""
        many = len(self.candidates)
        floors = sum(c.precision == c.compute for c in self.candidates) if self.noise_floor else 0
        screens = self.mode == "screen" and not self.continued
        return Effort(
            writing=1 if screens else 1 + many + floors,
            reading=1 + many + floors,
            floors=floors,
            injecting=many if self.inject else 0,
            stepwise=1 + 3 * many if self.decompose else 0,
            logits=2 + floors + (1 + many if self.decompose else 0),
        )
