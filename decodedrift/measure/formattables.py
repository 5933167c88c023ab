"""The tables of a `formats` job: what tensors hold, and what becomes of it in each format."""

from __future__ import annotations

from decodedrift.measure.metrics.base import INTEGERS

PLACE = ["what", "module", "tensor", "kind"]

FORMAT_TABLES: dict[str, dict[str, str]] = {
    "tensors": {
        **dict.fromkeys(["model", *PLACE], "str"), **dict.fromkeys(["n", "zeros", "nonfinite"], INTEGERS),
        **dict.fromkeys(["largest", "smallest", "square"], "float64"), "added_in": "str",
    },
    "roundings": {
        **dict.fromkeys(["model", *PLACE, "format"], "str"),
        **dict.fromkeys(
            ["numbers", "overflow", "flushed", "subnormal", "unchanged", "held", "normal"], INTEGERS,
        ),
        "error_square": "float64", "normal_square": "float64",
    },
    "binades": {
        **dict.fromkeys(["model", "what", "kind"], "str"), **dict.fromkeys(["binade", "numbers"], INTEGERS),
    },
}  # fmt: skip
