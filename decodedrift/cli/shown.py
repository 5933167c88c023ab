"""A finished run on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decodedrift.core.untrusted import terminal

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study


def show(study: Study, as_json: bool, say: Any, exceeded: Sequence[str] = ()) -> None:
    """The summary table, the verdict and the paths to open on `say`; with `as_json` also JSON on stdout."""
    from decodedrift.core.untrusted import to_json
    from decodedrift.report.terminal import summary_table

    if as_json:
        rows = study.summary.astype(object).where(study.summary.notna(), None).to_dict("records")
        print(to_json({"summary": rows, "verdict": study.verdict, "gates_exceeded": exceeded, "run": str(study.path)}))
    print(summary_table(study), file=say)
    print(file=say)
    for sentence in study.verdict:
        print(wrapped(sentence), file=say)
    print(f"\ntables: {terminal(str(study.path))}", file=say)
    print(f"report: {terminal(str(Path(study.path or '.') / 'report.html'))}", file=say)


def wrapped(sentence: str, width: int = 80) -> str:
    """A sentence of the verdict as an item of a list."""
    import textwrap

    return textwrap.fill(terminal(sentence), width, initial_indent="- ", subsequent_indent="  ", break_long_words=True)
