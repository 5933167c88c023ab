"""Decoding strategies: a line each in STRATEGIES. Parameters that nobody gives take transformers' own defaults.

The whole generation config is ours and explicit: of a model's `generation_config.json` only the stop, pad and BOS ids
are taken, so a repetition penalty there does not change what "greedy" means.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from decodedrift.core.notation import Item, Param, count, number, read_params, split_items
from decodedrift.core.records import InputError, Strategy, nearest


@dataclass(frozen=True)
class StrategyKind:
    """What a registered strategy is: a line for `decodedrift list`, and its parameters."""

    about: str
    params: Mapping[str, Param]
    samples: bool = False


def early_stopping(value: object) -> bool | str:
    """Beam search's stopping rule as transformers has it: true, false or "never"."""
    spelled = str(value).lower()
    if spelled not in ("true", "false", "never"):
        raise ValueError(f"must be true, false or never, not {value!r}")
    return {"true": True, "false": False}.get(spelled, "never")


def temperature(value: object) -> float:
    """Not 0, and not so small that dividing a logit by it overflows; what it tends to there is greedy."""
    try:
        return number(1e-6)(value)
    except ValueError:
        raise ValueError(f"must be a number >= 1e-06 (towards 0 it is greedy), not {value!r}") from None


STRATEGIES: dict[str, StrategyKind] = {
    "greedy": StrategyKind("the most probable token at every position", {}),
    "beam": StrategyKind(
        "beam search as in transformers' generate; the best hypothesis by length-normalised log-probability",
        {
            "num_beams": Param(count, 4, "hypotheses kept"),
            "length_penalty": Param(number(-100, 100), 1.0, "exponent of the length that a score is divided by"),
            "early_stopping": Param(early_stopping, False, "true, false or never, as in transformers"),
        },
    ),
    "top-k": StrategyKind(
        "a draw from the k most probable tokens",
        {"k": Param(count, 50), "temperature": Param(temperature, 1.0)},
        samples=True,
    ),
    "top-p": StrategyKind(
        "a draw from the smallest set of tokens that holds probability p",
        {"p": Param(number(0, 1, open_low=True), 0.9), "temperature": Param(temperature, 1.0)},
        samples=True,
    ),
}


def params_of(head: str) -> Collection[str]:
    """The parameter names of a strategy; none for a name that is not registered."""
    kind = STRATEGIES.get(head.strip())
    return tuple(kind.params) if kind else ()


def strategy(name: str, coupling: str = "gumbel", **params: object) -> Strategy:
    """A checked Strategy: `strategy("top-k", k=50, temperature=0.8)`.

    Raises:
        InputError: an unknown name or parameter, or a value out of range.
    """
    return _strategy(Item(name, {k: str(v) for k, v in params.items()}), coupling)


def parse_strategies(
    given: str | Strategy | Iterable[str | Strategy], coupling: str = "gumbel"
) -> tuple[Strategy, ...]:
    """A list option, or objects, as Strategies: `greedy,beam:num_beams=4,top-k:k=50,temperature=0.8`."""
    pieces = [given] if isinstance(given, (str, Strategy)) else list(given)
    parsed: list[Strategy] = []
    for piece in pieces:
        if isinstance(piece, Strategy):
            parsed.append(Strategy(piece.name, piece.label, piece.params, coupling))
        else:
            parsed.extend(_strategy(item, coupling) for item in split_items(piece, params_of))
    if not parsed:
        raise InputError(f"strategies: give at least one; choices: {', '.join(STRATEGIES)}")
    return tuple(parsed)


def screened(strategies: Iterable[Strategy], named: bool) -> tuple[Strategy, ...]:
    """The strategies of a screening: beam search is left out of the default ones, and refused where it was `named`.

    Raises:
        InputError: a reading does not show what a strategy would have chosen.
    """
    kept = tuple(s for s in strategies if named or not s.searches)
    for strategy in kept:
        if not strategy.screenable:
            why = "a beam search" if strategy.searches else "sampling without shared noise"
            raise InputError(
                f"strategy {strategy.label}: {why} cannot be screened from the reference's tokens; leave it out, "
                "or use --mode exact"
            )
    return kept


def _strategy(item: Item, coupling: str) -> Strategy:
    if coupling not in ("gumbel", "none"):
        raise InputError(f"unknown coupling {coupling!r}; {nearest(coupling, ('gumbel', 'none'))}")
    kind = STRATEGIES.get(item.head)
    if kind is None:
        name, colon, rest = item.head.partition(":")
        if colon and name in STRATEGIES:
            raise InputError(f"strategy {name}: {rest!r} is no parameter; write {name}:KEY=VALUE")
        raise InputError(f"unknown strategy {item.head!r}; {nearest(item.head, tuple(STRATEGIES))}")
    params = read_params(f"strategy {item.head}", item.params, kind.params)
    return Strategy(item.head, item.label, params, coupling)


def not_injectable(where: str) -> str:
    """Why none of the strategies asked for can take a replaced token."""
    return (
        f"{where}: a beam search, or sampling without shared noise, cannot go on from a replaced token; "
        "add greedy, or top-k or top-p with --coupling gumbel"
    )
