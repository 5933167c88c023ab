"""Where the files of a run folder lie: what people open on top, tables in tables/, all else in data/.

A folder of version 0.1 has everything on top, and goes on so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from decodedrift.measure.about import ABOUT
from decodedrift.measure.tables import PARTS

MARK, RAN_ON, UNFINISHED, ROWS = "plan.json", "environment.json", "unfinished.json", "rows.json"
DATA = "data"
ANSWERS, KEPT = "recorded", "reference"
STATE = "state"  # what a job under way goes on from, a file each: state-KEY.pt
README, VERDICT = "README.txt", "verdict.json"
ON_TOP = {
    "report.html": "the whole result as one page; open it in a browser, it needs no network",
    "verdict.txt": "what came out, in sentences",
    VERDICT: "the same for a program: candidates first, controls under their own key",
}
WITHOUT_TEXTS = {"traces": "a row per trace of any variant, without its text"}
INTERNALS = {
    MARK: "what was asked; --config takes it and asks it again",
    RAN_ON: "what it ran on: versions, device, hashes, and what was read back of each variant",
    ROWS: "how many rows each table has; one with none has no file",
    ANSWERS: "what endpoints answered, a file a candidate",
    KEPT: "the reference, for --reference-run: logits and scores, bit for bit (safetensors, a file per job)",
    "jobs": "finished jobs, which a resume does not run again",
}


def where(folder: Path, name: str) -> Path:
    """The place of a run's file by its name, whether it is there or not."""
    if _flat(folder):
        return folder / name
    if name in INTERNALS or name == UNFINISHED or name in PARTS:
        return folder / DATA / name
    return folder / "tables" / name if name.endswith(".csv") else folder / name


def file_of(table: str) -> str:
    """The name of a table's file, or of its folder of Parquet parts."""
    return table if table in PARTS else f"{table}.csv"


def contents(folder: Path, command: str, tables: Iterable[str], words: bool = True) -> str:
    """README.txt: a line for each file that is there.

    Args:
        tables: by name, in the order in which they are listed.
        words: whether the files hold texts and tokens.
    """
    lines = list(_listed(folder, list(tables), ABOUT if words else ABOUT | WITHOUT_TEXTS))
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join([
        f"A run of `decodedrift {command}`.", "",
        *(f"{name:<{width}}  {about}".rstrip() for name, about in lines), "",
        "Columns are defined in docs/metrics.md of decodedrift. `decodedrift report DIR` makes the page again;",
        "in Python, decodedrift.open_study(DIR) has every table as an attribute.", "",
    ])  # fmt: skip


def _listed(folder: Path, tables: list[str], tells: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Path within the folder and a line on it."""
    long = [t for t in tables if t in PARTS]
    csv = {f"{t}.csv": tells.get(t, "") for t in tables}
    safe = {f"{t}.spreadsheet.csv": f"{t}.csv, in which a spreadsheet runs no cell" for t in tables}
    parts = {t: f"{tells[t]} (Parquet, a file per job)" for t in long}
    for name, about in (ON_TOP | csv | safe | INTERNALS | parts).items():
        path = where(folder, name)
        if path.exists():
            yield path.relative_to(folder).as_posix() + "/" * path.is_dir(), about


def _flat(folder: Path) -> bool:
    """Whether a run of version 0.1 lies here."""
    return (folder / MARK).is_file() and not (folder / DATA / MARK).is_file()
