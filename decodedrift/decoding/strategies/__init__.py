"""Decoding strategies: a file each, and a line in STRATEGIES. Parameters that nobody gives take transformers' defaults.

The whole generation config is ours and explicit: of a model's `generation_config.json` only the stop, pad and BOS ids
are taken, so a repetition penalty there does not change what "greedy" means. No code outside this folder asks for a
strategy by its name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from decodedrift.core.notation import Item, read_params, split_items
from decodedrift.core.records import InputError, Strategy, nearest
from decodedrift.decoding.strategies.base import PENALTIES, StrategyKind
from decodedrift.decoding.strategies.beam import BEAM
from decodedrift.decoding.strategies.greedy import GREEDY
from decodedrift.decoding.strategies.min_p import MIN_P
from decodedrift.decoding.strategies.sample import SAMPLE
from decodedrift.decoding.strategies.top_k import TOP_K
from decodedrift.decoding.strategies.top_p import TOP_P
from decodedrift.decoding.strategies.typical import TYPICAL

STRATEGIES: dict[str, StrategyKind] = {
    "greedy": GREEDY,
    "beam": BEAM,
    "top-k": TOP_K,
    "top-p": TOP_P,
    "min-p": MIN_P,
    "typical": TYPICAL,
    "sample": SAMPLE,
}
Strategy.kinds = STRATEGIES  # the record answers from here what it is, however it was made


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
            parsed.append(_checked(piece, coupling))
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
    screenable = tuple(s for s in strategies if named or not s.searches)
    for strategy in screenable:
        if not strategy.injectable:
            why = "a beam search" if strategy.searches else "sampling without shared noise"
            raise InputError(
                f"strategy {strategy.label}: {why} cannot be screened from the reference's tokens; leave it out, "
                "or use --mode exact"
            )
    return screenable


def _checked(given: Strategy, coupling: str) -> Strategy:
    """A record that was not made here; its label must not spell another strategy, nor its coupling another run's."""
    params = _params(f"strategy {given.label}", given.params, given.kind)
    strategy = Strategy(given.name, given.label, params, coupling)
    if given.coupling not in (coupling, "gumbel"):
        raise InputError(f"strategy {given.label}: its coupling is {given.coupling!r}, the run's is {coupling!r}")
    if given.label.partition(":")[0] in STRATEGIES and parse_strategies(given.label, coupling) != (strategy,):
        raise InputError(f"strategy {given.label!r}: its name and parameters are others: {given.name}, {dict(params)}")
    return strategy


def _strategy(item: Item, coupling: str) -> Strategy:
    if coupling not in ("gumbel", "none"):
        raise InputError(f"unknown coupling {coupling!r}; {nearest(coupling, ('gumbel', 'none'))}")
    kind = STRATEGIES.get(item.head)
    if kind is None:
        name, colon, rest = item.head.partition(":")
        if colon and name in STRATEGIES:
            raise InputError(f"strategy {name}: {rest!r} is no parameter; write {name}:KEY=VALUE")
        raise InputError(f"unknown strategy {item.head!r}; {nearest(item.head, tuple(STRATEGIES))}")
    return Strategy(item.head, item.label, _params(f"strategy {item.head}", item.params, kind), coupling)


def _params(owner: str, given: Mapping[str, Any], kind: StrategyKind) -> dict[str, Any]:
    """Every parameter, checked; a penalty only where it is one, so that without them a plan is what it always was."""
    if kind.chooser is not None and (penalty := next((key for key in given if key in PENALTIES), None)):
        raise InputError(f"{owner}: {penalty} is not for a search, which compares whole texts; leave it out")
    params = read_params(owner, given, kind.params)
    return {key: v for key, v in params.items() if key not in PENALTIES or v != PENALTIES[key].default}


def check_beams(strategies: Iterable[Strategy], vocab: int) -> None:
    """Refuses a search of more beams than there are tokens.

    Raises:
        InputError: names it.
    """
    for strategy in strategies:
        if strategy.rows > vocab:
            raise InputError(f"strategy {strategy.label}: more beams than the vocabulary has tokens ({vocab})")


def not_injectable(where: str) -> str:
    """Why none of the strategies asked for can take a replaced token."""
    return (
        f"{where}: a beam search, or sampling without shared noise, cannot go on from a replaced token; "
        "add greedy, or sampling with --coupling gumbel"
    )
