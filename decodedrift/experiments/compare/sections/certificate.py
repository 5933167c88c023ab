"""certificate.csv: a candidate's error beside noise, and the band of its probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from decodedrift.experiments.compare.reader import columns_as_read
from decodedrift.report.numbers import MISSING, number, percent, with_interval
from decodedrift.report.tables import Column, Table, merged, num, text

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options

MOST = 100
FILE = "certificate.csv"
NAMES = (Column("Candidate", numeric=False), Column("Strategy", numeric=False))
NOISE = (
    *NAMES,
    Column("Times the noise", "Mean KL to the reference over mean KL between two batch layouts of the candidate; "
           "about 1/2 where its error is nothing but layout noise, as two layouts have two such errors."),
    Column("Excess KL", "Mean KL to the reference less that of the noise floor, nats; below 0: within the noise."),
    Column("Saturation", "1 where all of its logit error is layout noise."),
    Column("Spread beside a plain cast", "Standard deviation of its error over that of a plain cast to its type; "
           "above 1 it does more than round."),
    Column("Overlap with a plain cast", "Bhattacharyya's coefficient of the two errors; 1 where they are alike."),
)  # fmt: skip
BAND = (
    *NAMES,
    Column("Outside 0.9 to 1.1", "Share of the tokens of the candidate's own texts to which the {reader} gives less "
           "than 0.9 or more than 1.1 times its probability."),
    Column("Outside 0.99 to 1.01", "The same with a narrower band."),
    Column("Outside 0.999 to 1.002", "MLPerf's band."),
    Column("rms of ln r", "Over the tokens of its own texts, with its 95 % interval."),
    Column("Largest of a text", "The largest sum of ln r over a whole text, either way."),
    Column("Margin", "By how much the {reader} preferred another token, in the mean (Token-DiFR)."),
)  # fmt: skip


def certificate(study: Study, options: Options) -> dict[str, Any] | None:
    """Two tables, each where it has a number."""
    rows = study.certificate
    noise = rows[rows[["floor_positions", "cast_positions"]].notna().any(axis=1)]
    band = rows[rows[["tokens_own", "difr"]].notna().any(axis=1)]
    if not len(noise) and not len(band):
        return None
    return {
        "heading": "Is it more than noise?",
        "lead": "Each candidate's error beside its own in another batch layout, and beside that of a plain cast to the "
        "same type. Intervals are at 95 %, by prompt.",
        "noise": _table(study, NOISE, noise, _noise) if len(noise) else None,
        "band": _table(study, BAND, band, _band) if len(band) else None,
    }


def _table(study: Study, columns: tuple[Column, ...], rows: pd.DataFrame, cells: Any) -> Table:
    lines = [
        [text(row.candidate, 48, head=True), text(row.strategy, 60), *map(num, cells(row))]
        for row in rows.head(MOST).itertuples()
    ]
    # a column that holds a number for nobody, such as the cast where all are casts, is left out
    kept = [
        i for i, column in enumerate(columns) if not column.numeric or any(line[i].text != MISSING for line in lines)
    ]
    lines = [[line[i] for i in kept] for line in lines]
    shown = columns_as_read(tuple(columns[i] for i in kept), study.plan)
    return Table(shown, merged(lines), max(0, len(rows) - MOST), FILE)


def _noise(row: Any) -> list[Any]:
    names = ("noise_ratio", "excess_kl", "saturation", "sigma_ratio", "bhattacharyya")
    return [with_interval(row, name) for name in names]


def _band(row: Any) -> list[Any]:
    shares = [percent(getattr(row, name), name) for name in
              ("ratio_out_10_own", "ratio_out_1_own", "ratio_out_mlperf_own")]  # fmt: skip
    return [*shares, with_interval(row, "logratio_rms_own"),
            number(row.sequence_logratio_max_own, "sequence_logratio_max_own"), with_interval(row, "difr")]  # fmt: skip
