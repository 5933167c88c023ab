"""perplexity.csv: every variant on the same windows of the given texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decodedrift.experiments.compare.sections import pictures
from decodedrift.experiments.compare.settings import counted
from decodedrift.report.numbers import number, percent, with_interval
from decodedrift.report.tables import Column, Table, merged, num, text

if TYPE_CHECKING:
    from decodedrift.experiments.study import Study
    from decodedrift.report.html import Options

MOST = 300
COLUMNS = (
    Column("Text", numeric=False),
    Column("Variant", numeric=False),
    Column("Tokens", "Tokens scored, the same for every variant."),
    Column("Perplexity", "exp of the mean negative log-likelihood per token."),
    Column("Bits per byte", "Independent of the tokenizer."),
    Column(
        "Perplexity, ln of ratio",
        "Paired with the reference, token by token; its 95 % interval is clustered by window.",
    ),
    Column("Mean KL", "KL(reference ‖ candidate) per token, nats."),
    Column("Same top token", "Share of positions at which both rank the same token first."),
)


BESIDE = {  # what a convention has beside the perplexity
    "perplexity_se": Column("±", "Standard error as llama.cpp has it, as if tokens were independent."),
    "word_perplexity": Column("Per word", "exp of the negative log-likelihood per word of the text."),
    "byte_perplexity": Column("Per byte", "exp of the negative log-likelihood per UTF-8 byte of the text."),
}


def perplexity(study: Study, options: Options) -> dict[str, Any] | None:
    """The ratios as a figure, and a row per text and variant, the reference first."""
    table = _table(study) if len(study.perplexity) else None
    picture = pictures.perplexity(study, options)
    if picture is None and table is None:
        return None
    empty = {"heading": "Quality", "lead": "", "figures": {}, "choices": [], "entries": []}
    return (picture or empty) | {"template": "perplexity.html.j2", "table": table, "counted": counted(study.plan)}


def _table(study: Study) -> Table:
    beside = [name for name in BESIDE if name in study.perplexity and study.perplexity[name].notna().any()]
    rows = [
        [
            text(row.text, 60, head=True), text(row.variant, 48),
            num(number(row.tokens, "tokens")), num(number(row.perplexity, "perplexity", digits=5)),
            *(num(number(getattr(row, name), name, digits=5)) for name in beside),
            num(number(row.bits_per_byte, "bits_per_byte", digits=4)),
            num(with_interval(row, "ln_ppl_ratio")),
            num(number(row.kl_mean, "kl_mean")), num(percent(row.same_top1, "same_top1")),
        ]
        for row in study.perplexity.head(MOST).itertuples()
    ]  # fmt: skip
    columns = (*COLUMNS[:4], *(BESIDE[name] for name in beside), *COLUMNS[4:])
    return Table(columns, merged(rows), max(0, len(study.perplexity) - MOST), "perplexity.csv")
