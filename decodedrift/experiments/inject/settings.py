"""What `inject` can be asked beside what every experiment can."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, field_validator

from decodedrift.core.estimate import Effort
from decodedrift.core.notation import split, whole
from decodedrift.core.options import WHAT, option
from decodedrift.core.records import InputError, Strategy
from decodedrift.core.settings import Settings
from decodedrift.decoding.strategies import not_injectable

Position = Annotated[int, BeforeValidator(whole(0, 2**31 - 1))]
Rank = Annotated[int, BeforeValidator(whole(1, 2**31 - 1))]


class InjectSettings(Settings):
    """Everything `inject` can be asked. at: positions from 0. rank: 2 is the runner-up, 1 changes nothing."""

    experiment: ClassVar[str] = "inject"

    reference: Any = option("fp32", "How the model is executed.", WHAT, "VARIANT")
    strategies: Any = option(
        ("greedy", "top-p"), "greedy, and sampling with shared noise: top-p, min-p.", "Decoding", "LIST", many=True
    )
    at: list[Position] = option(
        [20], "Positions, from 0, a pass each: 5,20,50.", WHAT, "LIST", many=True, label="Positions replaced"
    )
    rank: Rank = option(
        2, "What replaces: 2, the runner-up; 1, the token itself.", WHAT, "N", label="Rank of what replaces"
    )

    @field_validator("at", mode="before")
    @classmethod
    def _positions(cls, value: Any) -> Any:
        if not isinstance(value, (int, str, list, tuple, range)):
            raise ValueError(f"must be positions, not {value!r}")
        items = split([value] if isinstance(value, (int, str)) else value)
        if not items:
            raise ValueError("give at least one")
        return list(dict.fromkeys(items))

    def check(self) -> None:
        """Every position is generated."""
        for position in self.at:
            if position >= self.max_new_tokens:
                raise InputError(
                    f"--at {position}: positions count from 0 and {self.max_new_tokens} tokens are generated; "
                    "raise --max-new-tokens"
                )

    def allowed(self, strategies: tuple[Strategy, ...]) -> tuple[Strategy, ...]:
        """At least one strategy can take a replaced token; the others only show the text as it is."""
        if not any(s.injectable for s in strategies):
            raise InputError(not_injectable("inject"))
        return strategies

    @property
    def effort(self) -> Effort:
        """The reference's own texts, and a pass for each position."""
        return Effort(injecting=len(self.at))
