"""What can be asked: a folder each, on the frame of runs; `study.py` is what each of them leaves.

An experiment imports no other: what two need lies in measure or report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.core.records import InputError, nearest

if TYPE_CHECKING:
    from decodedrift.experiments.base import Experiment

EXPERIMENTS = ("compare", "inject", "repeat", "train", "formats")  # each a folder here, whose EXPERIMENT it is


def experiment(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        InputError: there is none; lists those that are.
    """
    import importlib

    if name not in EXPERIMENTS:
        raise InputError(f"unknown experiment {name!r}; {nearest(str(name), EXPERIMENTS)}")
    module: Any = importlib.import_module(f"{__name__}.{name}")
    return module.EXPERIMENT  # type: ignore[no-any-return]
