"""consistency.csv: what another engine wrote, as the reference reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.core.untrusted import visible
from decodedrift.experiments.compare.folds.consistency import in_words
from decodedrift.experiments.compare.settings import reader_word
from decodedrift.experiments.compare.verdict import recorded as words
from decodedrift.report.numbers import MISSING, number, percent, with_interval
from decodedrift.report.tables import Column, Table, merged, num, text

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options

MOST = 100
COLUMNS = (
    Column("Candidate", numeric=False),
    Column("Strategy", numeric=False),
    Column("Beside rounding", numeric=False),
    Column("Tokens", "Tokens of its own texts that are known and that the reader read."),
    Column("Not its choice", "Share of them that are not what the reader takes there."),
    Column("A cast's", "The same of what a plain cast to the engine's type takes there."),
    Column("Gap", "By how much the reader scores its best token above the engine's, in the mean, nats."),
    Column("Cast's gap", "The same of what the plain cast takes there: what rounding alone gives up."),
    Column("Excess", "The gap less the cast's, paired by prompt; its interval above 0: more than rounding."),
    Column("Largest gap", "The largest of a token."),
    Column("Cast's largest", "The largest of the plain cast."),
    Column("Lowest rank", "Of its tokens under the reader; 1 is the best."),
    Column("Log-probability, rms", "Difference to the reader's of the same token, nats."),
    Column("KL of shown ids", "KL(reader ‖ engine) over the ids that it shows, renormalised, nats."),
    Column("Not shown", "Of the reader's probability: what lies outside these ids, of which nothing is said."),
)  # fmt: skip


def recorded(study: Study, options: Options) -> dict[str, Any] | None:
    """A row per recorded candidate and strategy, and what is to be known of the files."""
    rows = study.consistency
    notes = [*words.rounding(study), *words.sentences(study)]
    if not len(rows) and not notes:
        return None
    lines = [
        [text(row.candidate, 48, head=True), text(row.strategy, 60), text(_word(row), 60), *map(num, _numbers(row))]
        for row in rows.head(MOST).itertuples()
    ]
    kept = [i for i, c in enumerate(COLUMNS) if not c.numeric or any(line[i].text != MISSING for line in lines)]
    lines = [[line[i] for i in kept] for line in lines]
    table = Table(tuple(COLUMNS[i] for i in kept), merged(lines), max(0, len(rows) - MOST), "consistency.csv")
    return {
        "heading": "What another engine wrote",
        "lead": f"The {reader_word(study.plan)} is the reader of the engine's own texts, and so is a plain cast to the "
        "type that the engine ran in. Intervals are at 95 %, by prompt.",
        "table": table if len(rows) else None,
        "notes": notes,
    }


def _word(row: Any) -> str:
    return visible(in_words(row.rounding, row.recorded_in))


def _numbers(row: Any) -> list[Any]:
    return [
        number(row.tokens, "tokens"), percent(row.not_top, "not_top"), percent(row.cast_not_top, "cast_not_top"),
        number(row.gap_mean, "gap_mean"), number(row.cast_gap_mean, "cast_gap_mean"), with_interval(row, "excess"),
        number(row.gap_max, "gap_max"), number(row.cast_gap_max, "cast_gap_max"), number(row.rank_max, "rank_max"),
        number(row.logprob_delta_rms, "logprob_delta_rms"), with_interval(row, "kl_shown"),
        percent(row.missing_reference, "missing_reference"),
    ]  # fmt: skip
