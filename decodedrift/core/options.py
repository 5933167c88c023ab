"""How a setting is asked for and told of: its flag, its help and its words, beside the field's type and default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

GROUPS = ("What to compare", "Prompts", "Decoding", "Measuring", "Endpoint", "Machine", "Output", "Gates")
WHAT, PROMPTS, DECODING, MEASURING, ENDPOINT, MACHINE, OUTPUT, GATES = GROUPS


@dataclass(frozen=True)
class Option:
    """How a field is asked for and told of.

    metavar: of its value; empty for a switch. flag: without dashes, where it is not the field's name. default: in
    words, where the value does not say it. many: may be given several times. read: from the flag's text to the value.
    rare: listed last. label, words: on the page, of the field and of its values. changes_rows: whether a run that goes
    on must ask for the same.
    """

    help: str
    group: str
    metavar: str = ""
    flag: str = ""
    default: str = ""
    many: bool = False
    rare: bool = False
    read: Callable[[Any], Any] | None = None
    label: str = ""
    words: Mapping[Any, str] = field(default_factory=dict)
    changes_rows: bool = True


def option(default: Any, help: str, group: str, metavar: str = "", *, says: str = "", **more: Any) -> Any:
    """A field that can be asked for; says: its default in words."""
    return Field(default, json_schema_extra={"option": Option(help, group, metavar, default=says, **more)})  # type: ignore[dict-item]
