"""The report: one self-contained HTML page of a Study, and its summary as a table for the terminal."""

from __future__ import annotations

from decodedrift.report.html import render
from decodedrift.report.terminal import summary_table

__all__ = ["render", "summary_table"]
