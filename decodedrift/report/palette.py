"""The colours of the page and of its figures, light and dark, under the names that CSS and the scripts use."""

from __future__ import annotations

from collections.abc import Mapping

LIGHT = {
    "paper": "#fcfbf8", "raised": "#ffffff", "ink": "#1f2328", "soft": "#5d6470", "faint": "#666c77", "line": "#e4e1d9",
    "strong": "#c9c4b8", "equal": "#c9cbd0", "reference": "#dbe7f5", "reference-edge": "#3f6fa8",
    "candidate": "#fbe3c8", "candidate-edge": "#b5651d", "near_tie": "#5f8a45", "shift": "#c2392c",
    "stopped": "#0f8a9d",
    "truncation": "#8554a3", "draw": "#8a6d3b", "search": "#2f8a86", "nonfinite": "#1f2328", "uncoupled": "#8a8a8a",
    "heat": "#c2541b",
    "s0": "#2f6fb2", "s1": "#c8641b", "s2": "#2e8b6f", "s3": "#8554a3", "s4": "#b8322a", "s5": "#0f8a9d",
    "s6": "#8a6d3b", "s7": "#b84d85",
}  # fmt: skip
DARK = {
    "paper": "#16181c", "raised": "#1d2025", "ink": "#e6e4df", "soft": "#a3a8b1", "faint": "#969ca6", "line": "#2e3238",
    "strong": "#474c55", "equal": "#4a505a", "reference": "#223a57", "reference-edge": "#7fb0e6",
    "candidate": "#523515", "candidate-edge": "#e6a45c", "near_tie": "#93bb78", "shift": "#ee7165",
    "stopped": "#5cc6d6",
    "truncation": "#bb90d8", "draw": "#cdb27a", "search": "#62bdb8", "nonfinite": "#e6e4df", "uncoupled": "#8a8a8a",
    "heat": "#e8894a",
    "s0": "#7fb4ec", "s1": "#f0a35e", "s2": "#66c7a4", "s3": "#c39be0", "s4": "#f0837a", "s5": "#5cc6d6",
    "s6": "#cdb27a", "s7": "#ee96c0",
}  # fmt: skip
SERIES = 8
DASHES = ("solid", "dashed", "dotdash")


def css(colours: Mapping[str, str]) -> str:
    """The colours as custom properties."""
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


def series(names: list[str]) -> dict[str, tuple[str, str]]:
    """Candidate -> (colour name, dash): eight colours, then the same ones dashed."""
    return {name: (f"s{i % SERIES}", DASHES[i // SERIES % len(DASHES)]) for i, name in enumerate(names)}
