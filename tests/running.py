"""The one way in which tests make a run: a small comparison, made once a process however many tests look at it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from conftest import FAMILIES, tiny_model, tiny_tokenizer

import decodedrift as dd

LEAN = {"noise_floor": False, "default_text": False}  # what few tests look at, and every run would take longer for
LEAN_FLAGS = ("--no-noise-floor", "--no-default-text")
VARYING = {"timings.csv", "report.html", "environment.json", "facts.json", "timings.parquet", "rows.json"}

_runs: dict[tuple[str, int], dd.Study] = {}
_patched = 0


def run(model: Any = "llama", **asked: Any) -> dd.Study:
    """A comparison; a file's own defaults are a `functools.partial` of this.

    Equal runs are the same run, and each caller has a copy of its own. What may differ in more than its arguments is
    made anew: a model or tokenizer that is an object, anything that names a file or has a folder, and every run of a
    test that patches (`monkeypatch`). That a run repeats itself is thus shown by giving a model, never by two names.

    Args:
        model: a family of `conftest.FAMILIES`, read with the tiny tokenizer; "demo"; a folder; or a model.
        asked: as of `dd.compare`, over LEAN. prompts may be a mapping, id -> text.
    """
    if isinstance(asked.get("prompts"), Mapping):
        asked["prompts"] = [dd.Prompt(name, text) for name, text in asked["prompts"].items()]
    key = repr((model, sorted(asked.items()))), torch.get_num_threads()
    outside = {"tokenizer", "progress", "out"} & asked.keys() or any(slash in key[0] for slash in "/\\")
    if _patched or outside or not isinstance(model, str):
        return _compared(model, asked)
    if key not in _runs:
        _runs[key] = _compared(model, asked)
    return copy.deepcopy(_runs[key])


@contextmanager
def apart() -> Iterator[None]:
    """While this is open, every run is made anew and none is kept."""
    global _patched
    _patched += 1
    try:
        yield
    finally:
        _patched -= 1


def avx512() -> bool:
    """Whether torch multiplies with AVX512 here: with AVX2 alone the last bits hang on how a batch or a matrix lies."""
    import torch

    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def saved_as(model: Any, folder: Path) -> str:
    """A model as a checkpoint with its tokenizer; the folder, for `name=folder`."""
    model.save_pretrained(folder)
    tiny_tokenizer(model.config.vocab_size).save_pretrained(folder)
    return str(folder)


def same_rows(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """Some rows, and the same in whatever order, bit for bit."""
    assert len(a) > 0
    names = ("model", "reference", "candidate", "variant", "role", "strategy", "seed", "prompt_id", "position")
    keys = [name for name in names if name in a]
    ours, theirs = (frame.sort_values(keys, ignore_index=True) for frame in (a, b))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run's folder by its name, but for what tells times and the memory that was free."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: data for name, data in files.items() if Path(name).name not in VARYING}


def _compared(model: Any, asked: Mapping[str, Any]) -> dd.Study:
    model = tiny_model(model) if model in FAMILIES else model
    given = {} if isinstance(model, (str, Path)) else {"tokenizer": tiny_tokenizer(model.config.vocab_size)}
    return dd.compare(model, **LEAN | given | dict(asked))
