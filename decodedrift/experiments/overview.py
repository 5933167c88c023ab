"""`decodedrift index`: the runs below a folder, a row per run and candidate."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from decodedrift.core.formats import path_of
from decodedrift.core.records import InputError
from decodedrift.core.secrecy import excerpt
from decodedrift.experiments.study import Study, open_study
from decodedrift.report.index import Entry, curve, index
from decodedrift.report.numbers import absent, percentage, significant
from decodedrift.report.phrases import sides
from decodedrift.report.tables import Column
from decodedrift.report.texts import brief
from decodedrift.runs.places import MARK, RAN_ON, where

COLUMNS = (
    Column("Run", "Leads to its report.", numeric=False), Column("Model", numeric=False),
    Column("Reference", numeric=False), Column("Candidate", numeric=False),
    Column("Wording", "Whether it writes other text than its noise alone would.", numeric=False),
    Column("Quality", "Perplexity on texts that neither side wrote.", numeric=False),
    Column("Answers", "Of texts that were checked: both accuracies, and answers that flipped.", numeric=False),
    Column("Diverged", "Share of the texts that parted, all strategies together."),
    Column("Parted by token", "The share of texts that had parted, along the text: from 0 to 100 %."),
    Column("Mean KL", "Reading the reference's own text, in nats, all strategies together."),
    Column("Written", "When the run finished, UTC.", numeric=False),
)  # fmt: skip


def overview(
    folder: str | Path, title: str | None = None, place: Path | None = None
) -> tuple[str, list[tuple[str, str]]]:
    """The page, and the folders that are not on it, each with the reason. place: where the page will lie.

    Raises:
        InputError: no folder, or no run in it that can be read.
    """
    top = path_of(folder)
    if not top.is_dir():
        raise InputError(f"{top}: no such folder; name one that has runs in it")
    rows: list[list[Entry]] = []
    skipped: list[tuple[str, str]] = []
    count = 0
    for path in _folders(top):
        name = path.relative_to(top).as_posix()
        if not where(path, MARK).is_file():
            skipped.append((name, "a link, which is not followed" if path.is_symlink() else "no run"))
            continue
        try:
            if not _ours(where(path, MARK)):
                skipped.append((name, f"its {MARK} is none of decodedrift's: it names no model"))
                continue
            rows += list(_rows(open_study(path), path, name, place or top))
            count += 1
        except Exception as error:  # whatever is wrong with one folder, the others are shown
            reason = " ".join(str(error).split()).replace(f"{path}/", "").replace(f"{path}: ", "")
            reason = reason.replace("(line:", "(line ") or type(error).__name__
            skipped.append((name, excerpt(reason, 200)))
    if not rows:
        first = f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        raise InputError(f"{top}: no run in it that can be read{first}")
    rows.sort(key=lambda row: (row[1].key, row[3].key, row[0].key))
    shown = [n for n, column in enumerate(COLUMNS) if column.label != "Answers" or any(row[n].text for row in rows)]
    rows = [[row[n] for n in shown] for row in rows]
    lead = f"{count} run{'s' * (count != 1)}, a row per candidate. A heading sorts; a run's name leads to its page."
    return index(
        title or f"Runs in {brief(top.resolve().name, 60)}", lead, [COLUMNS[n] for n in shown], rows, skipped
    ), skipped


def _ours(plan: Path) -> bool:
    """Whether a plan that can be read is a run's; other tools call their files so too."""
    try:
        content = json.loads(plan.read_text("utf-8"))
    except ValueError:  # open_study says what is wrong with it
        return True
    return isinstance(content, dict) and "model" in content


def _folders(top: Path) -> Iterator[Path]:
    """Every run's folder, and every one right below the top in which there is none; nothing within a run.

    A link to a run is that run; any other is not followed: it may lead out of the folder, or around in a circle.
    """
    if where(top, MARK).is_file():
        yield top
        return
    for child in sorted(p for p in top.iterdir() if p.is_dir() and not p.name.startswith(".")):
        yield from sorted(_runs(child)) or [child]


def _runs(folder: Path) -> Iterator[Path]:
    for path, folders, _ in os.walk(folder):
        if folder.is_symlink():
            folders.clear()
        if where(Path(path), MARK).is_file():
            folders.clear()
            yield Path(path)


def _rows(study: Study, path: Path, name: str, place: Path) -> Iterator[list[Entry]]:
    """A row per candidate; of a run that has none, one that says what was run."""
    page, plan = path / "report.html", study.plan
    href = quote(os.path.relpath(page.resolve(), place.resolve()).replace(os.sep, "/")) if page.is_file() else ""
    run = Entry(brief(name, 60), name, href=href)
    written = time.strftime("%Y-%m-%d %H:%M", time.gmtime(where(path, RAN_ON).stat().st_mtime))
    answers = study.answer.set_index("candidate") if "answer" in study.tables else pd.DataFrame()
    reference = "".join(str(side["name"]) for side in sides(plan)[:1])
    compared = [str(c["name"]) for c in plan.get("candidates", ())] if "divergences" in study.tables else []
    for candidate in compared or [study.experiment.title(plan)]:
        said = answers.loc[candidate] if candidate in answers.index else None
        yield [
            run, _text(plan["model"]), _text(reference), _text(candidate),
            _said(said, "wording"), _said(said, "quality"), _answers(said),
            *_figures(study, candidate), Entry(written, written),
        ]  # fmt: skip


def _figures(study: Study, candidate: str) -> list[Entry]:
    """Share diverged, its curve and the mean KL of a candidate, over all strategies; empty where none was compared."""
    if "divergences" not in study.tables:
        return [Entry("")] * 3
    rows = study.divergences
    rows = rows[(rows["role"] == "candidate") & (rows["candidate"] == candidate) & (rows["compared"] > 0)]
    read = study.columns_of("positions", ["role", "candidate", "strategy", "kl"])
    read = read[(read["role"] == "candidate") & (read["candidate"] == candidate) & (read["strategy"] != "text")]
    shares = parted(rows, int(study.plan["max_new_tokens"]))
    rate = float(rows["diverged"].mean()) if len(rows) else None
    predicted = study.plan.get("mode") == "screen"
    ends = "are predicted to part by the end" if predicted else "had parted at the end"
    words = f"{percentage(rate)} of {len(rows)} texts {ends}" if rate is not None else ""
    return [
        _number(rate, lambda share: f"{percentage(share)}{', predicted' * predicted}"),
        Entry(words, _key(rate), curve=curve(shares) if words else ""),
        _number(read["kl"].mean() if len(read) else None, significant),
    ]


def parted(rows: pd.DataFrame, positions: int) -> list[float]:
    """The share of compared traces that parted at a position or before, for each of so many."""
    at = rows.loc[rows["diverged"] == 1, "first_divergence"].to_numpy(float)
    return [float(np.sum(at <= position)) / max(1, len(rows)) for position in range(positions)]


def _said(answer: Any, column: str) -> Entry:
    """A word of the answer, and what it means here."""
    if answer is None or absent(answer[column]):
        return Entry("")
    note = answer[f"{column}_note"]
    return Entry(str(answer[column]), str(answer[column]), "" if absent(note) else brief(str(note), 300))


def _answers(answer: Any) -> Entry:
    """The word for its answers, both accuracies and how many texts flipped; empty where none was checked."""
    if answer is None or "answers" not in answer or not answer["checked"] > 0:
        return Entry("")
    word = _said(answer, "answers")
    ours, theirs = (percentage(answer[f"accuracy_{side}"]) for side in ("reference", "candidate"))
    return replace(word, text=f"{word.text}: {ours} to {theirs}, {percentage(answer['flips'])} flipped")


def _text(value: Any) -> Entry:
    return Entry(brief(str(value), 60), str(value))


def _number(value: Any, words: Any) -> Entry:
    return Entry("" if absent(value) else words(value), _key(value))


def _key(value: Any) -> str:
    return "" if absent(value) else repr(float(value)).replace("inf", "Infinity")
