"""decodedrift: where a language model's text starts to differ when its execution changes, why, and whether it matters.

>>> import decodedrift as dd
>>> study = dd.compare("demo", candidates=["bf16"], strategies=["greedy"], limit=2, max_new_tokens=4)
>>> study.summary["role"].tolist()
['self', 'candidate', 'floor']
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from decodedrift.core.records import InputError, Prompt, Strategy, Text, Trace, Variant
    from decodedrift.decoding.strategies import strategy
    from decodedrift.experiments.compare.face import compare
    from decodedrift.experiments.inject.face import inject
    from decodedrift.experiments.merging import merge
    from decodedrift.experiments.record.face import record
    from decodedrift.experiments.repeat.face import repeat
    from decodedrift.experiments.stack import concat
    from decodedrift.experiments.study import Study, open_study
    from decodedrift.experiments.train.face import train

__all__ = [
    "InputError", "Prompt", "Strategy", "Study", "Text", "Trace", "Variant",
    "compare", "concat", "formats", "inject", "merge", "open_study", "record", "repeat", "strategy", "train",
]  # fmt: skip

_HOMES = {
    "compare": "decodedrift.experiments.compare.face",
    "formats": "decodedrift.experiments.formats.face",
    "inject": "decodedrift.experiments.inject.face",
    "record": "decodedrift.experiments.record.face",
    "repeat": "decodedrift.experiments.repeat.face",
    "train": "decodedrift.experiments.train.face",
    "merge": "decodedrift.experiments.merging",
    "concat": "decodedrift.experiments.stack",
    "Study": "decodedrift.experiments.study",
    "open_study": "decodedrift.experiments.study",
    "Strategy": "decodedrift.decoding.strategies",
    "strategy": "decodedrift.decoding.strategies",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for, so that `import decodedrift` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'decodedrift' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES.get(name, "decodedrift.core.records")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
