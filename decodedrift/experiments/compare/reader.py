"""How the page speaks of whoever read all texts: the reference, or the judge of recorded runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from decodedrift.experiments.compare.settings import reader_word
from decodedrift.report.tables import Column


def as_read(text: str, plan: Mapping[str, Any]) -> str:
    """A text with `{reader}` and `{its}`: who read, and whose the reference's token is."""
    word = reader_word(plan)
    return text.replace("{reader}", word).replace("{its}", "its" if word == "reference" else "the reference's")


def columns_as_read(columns: tuple[Column, ...], plan: Mapping[str, Any]) -> tuple[Column, ...]:
    """Columns with such texts for a tooltip."""
    return tuple(replace(column, help=as_read(column.help, plan)) for column in columns)
