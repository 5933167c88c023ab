"""The options of a gate, shared by the commands that end with a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from decodedrift.core.records import Plan
    from decodedrift.runs.gates import Gate

FAIL_ON = typer.Option(
    metavar="GATE", help='Exit code 4 where it holds: "divergence_rate>0.1", "kl_p99>=0.05:bf16"; repeatable.'
)
FAIL_ON_INTERVAL = typer.Option(
    "--fail-on-interval", help="Gates hold only where the whole 95 % interval is beyond the bound."
)


def read_gates(given: list[str] | None, interval: bool, plan: Plan | Mapping[str, Any]) -> list[Gate]:
    """The gates, refused before a run begins if they name what it will not have.

    Raises:
        InputError: not a gate; a column, candidate or strategy that there is not.
    """
    if not given:
        return []
    from decodedrift.runs.gates import parse_gate

    data = plan if isinstance(plan, Mapping) else plan.as_dict()
    return [parse_gate(text, interval, data) for text in given]
