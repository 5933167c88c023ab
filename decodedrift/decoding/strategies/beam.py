"""beam: the search of `beams.py`; with one beam it is greedy, as in transformers."""

from __future__ import annotations

from typing import Any

from decodedrift.core.notation import Param, count, number
from decodedrift.decoding.strategies.base import StrategyKind


def _early_stopping(value: object) -> bool | str:
    """The stopping rule as transformers has it: true, false or "never"."""
    spelled = str(value).lower()
    if spelled not in ("true", "false", "never"):
        raise ValueError(f"must be true, false or never, not {value!r}")
    return {"true": True, "false": False}.get(spelled, "never")


def _beams(*args: Any, **settings: Any) -> Any:
    from decodedrift.decoding.beams import Beams

    return Beams(*args, **settings)


BEAM = StrategyKind(
    "beam search as in transformers' generate; the best hypothesis by length-normalised log-probability",
    {
        "num_beams": Param(count, 4, "hypotheses kept"),
        "length_penalty": Param(number(-100, 100), 1.0, "exponent of the length that a score is divided by"),
        "early_stopping": Param(_early_stopping, False, "true, false or never, as in transformers"),
    },
    allowed=None,
    rows=lambda params: int(params["num_beams"]),
    chooser=_beams,
)
