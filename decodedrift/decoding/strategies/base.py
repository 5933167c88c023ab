"""What a registered strategy says of itself. Nothing here or in a strategy's file imports torch before it decodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from decodedrift.core.notation import Param, number, whole
from decodedrift.core.records import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from decodedrift.decoding.warping import Allowed


def _one(params: Mapping[str, Any]) -> int:
    return 1


@dataclass(frozen=True)
class StrategyKind:
    """A registered strategy.

    about: a line for `decodedrift list`. allowed: (logits [n, vocab] without NaN, raw or after PENALTIES, parameters)
    -> the tokens that it may take and their log-probabilities, of which it takes the largest, plus noise where it
    samples; None: it takes the largest of these logits. samples: it draws at random, and runs once per seed.
    processors: parameter -> transformers' class of that effect, in generate's order, by which an uncoupled draw is
    made. wide: all tokens of the vocabulary may be allowed. untruncated: parameters -> whether all of them always are.
    chooser: of a search, who expands its hypotheses; rows: how many a prompt has, 1 without a search. request:
    parameters -> the fields that ask an OpenAI-compatible server for it; None: such servers do not have it.
    """

    about: str
    params: Mapping[str, Param]
    allowed: Callable[[Tensor, Mapping[str, Any]], Allowed] | None
    samples: bool = False
    processors: Mapping[str, str] = field(default_factory=dict)
    wide: bool = True
    untruncated: Callable[[Mapping[str, Any]], bool] = lambda params: False
    chooser: Callable[..., Any] | None = None
    rows: Callable[[Mapping[str, Any]], int] = _one
    request: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        if self.samples and (self.allowed is None or not self.processors):
            raise TypeError(f"a strategy that samples says what it draws from, and by which processors ({self.about})")
        if (self.chooser is None) != (self.rows is _one):
            raise TypeError(f"a search says how many hypotheses it has, and who expands them ({self.about})")


def kind_of(strategy: Strategy) -> StrategyKind:
    """The registered kind of a strategy.

    Raises:
        InputError: no such strategy.
    """
    return strategy.kind  # type: ignore[no-any-return]


def _temperature(value: object) -> float:
    """Not 0, and not so small that dividing a logit by it overflows; what it tends to there is greedy."""
    try:
        return number(1e-6)(value)
    except ValueError:
        raise ValueError(f"must be a number >= 1e-06 (towards 0 it is greedy), not {value!r}") from None


TEMPERATURE = Param(_temperature, 1.0)
PENALTIES = {  # of all that choose a token at a time; `decoding.penalties` applies them before anything else
    "repetition_penalty": Param(number(0.01, 100), 1.0, "divides the positive logits of tokens in prompt and text"),
    "no_repeat_ngram": Param(whole(0, 2**31 - 1), 0, "size of the n-grams of prompt and text that may not come again"),
}
