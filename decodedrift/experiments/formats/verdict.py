"""The verdict of `formats`: what overflows and where, what is flushed, the headroom, and what norms add up in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from decodedrift.core.untrusted import visible
from decodedrift.experiments.formats.norms import FORMAT, OWN, UNKNOWN, WIDER
from decodedrift.experiments.formats.places import ACTIVATIONS, SQUARES, WEIGHTS
from decodedrift.numerics.formats import FORMATS
from decodedrift.report import failures
from decodedrift.report.phrases import listed, number, percent

SOME = 0.01  # a share of subnormals from which they are told of


def verdict(study: Any) -> list[str]:
    """What is no number in the exact run, a sentence per format, the squared sums, and what failed to run."""
    return [*alarms(study), *sentences(study), *sums(study), *failures.sentences(study.failures)]


def alarms(study: Any) -> list[str]:
    """What comes before all formats: numbers that are none, and norms that lose what they square."""
    table = study.ranges
    said = []
    broken = table[table["nonfinite"] > 0]
    if len(broken):
        first = broken.iloc[0]
        count = int(broken["nonfinite"].sum())
        name = visible(str(study.plan["reference"]["name"]))
        said.append(
            f"In {name} itself {count:,} numbers are infinite or NaN, in {len(broken)} tensors, first met in "
            f"{_at(first)}; they are counted nowhere."
        )
    lost = study.formats[(study.formats["what"] == SQUARES) & (study.formats["overflow"] > 0)]
    for row in lost.itertuples():
        tokens = round(row.overflow * row.numbers)
        said.append(
            f"{row.format}: {visible(row.module)} adds up its squares in its own type, and loses {tokens:,} of "
            f"{row.numbers:,.0f} tokens by it, whose numbers the type holds."
        )
    return said


def sentences(study: Any) -> list[str]:
    """A sentence per format: those that overflow first, then those that flush without a scale."""
    rows = study.summary
    lost = rows.groupby("format")["overflow"].max()
    bare = rows[rows["headroom"].notna()].groupby("format")["flushed"].max()
    names = dict.fromkeys(rows["format"])
    return [sentence(study, name) for name in sorted(names, key=lambda n: (-lost[n], -bare.get(n, 0.0)))]


def sentence(study: Any, name: str) -> str:
    """What one format does to weights and activations."""
    rows = study.summary[(study.summary["format"] == name) & study.summary["what"].isin([WEIGHTS, ACTIVATIONS])]
    parts = [_over(rows), _flushed(study, rows), _error(rows)]
    return f"{visible(name)}: {'; '.join(part for part in parts if part)}."


def _over(rows: pd.DataFrame) -> str:
    """What lies beyond the largest value, or how far the largest number is from it."""
    parts = []
    for row in rows[rows["overflow"] > 0].itertuples():
        count = round(row.overflow * row.numbers)
        where = ("" if row.overflowing == 1 else f"{row.overflowing:.0f} tensors, most in ") + visible(row.overflow_at)
        parts.append(f"{count:,} of {row.numbers:,.0f} numbers of {row.what} overflow, in {where}")
    if parts:
        return listed(parts)
    known = rows[rows["headroom"].notna()]
    if not len(known):
        return "nothing overflows, as it is scaled"
    least = known.loc[known["headroom"].idxmin()]
    return f"nothing overflows, headroom {power(least['headroom'])} at {visible(least['headroom_at'])}"


def _flushed(study: Any, rows: pd.DataFrame) -> str:
    """What becomes 0, of which kind of module most, and what keeps less than full precision."""
    parts = []
    for row in rows[rows["flushed"] > 0].itertuples():
        of_it = study.kinds[(study.kinds["format"] == row.format) & (study.kinds["what"] == row.what)]
        worst = of_it.loc[of_it["flushed"].idxmax()]
        most = f" (most of {worst['kind']}: {percent(worst['flushed'])})" if len(of_it) > 1 else ""
        parts.append(f"{percent(row.flushed)} of {row.what}{most}")
    low = [f"{percent(row.subnormal)} of {row.what}" for row in rows[rows["subnormal"] > SOME].itertuples()]
    told = f"it flushes {listed(parts)} to 0" if parts else "nothing is flushed"
    return told + (f", and {listed(low)} are subnormal" if low else "")


def _error(rows: pd.DataFrame) -> str:
    """The rms relative error where precision is full, beside theory."""
    parts = [
        f"{number(row.rms_error_normal, 3)} of {row.what}"
        for row in rows.itertuples() if not np.isnan(row.rms_error_normal)
    ]  # fmt: skip
    if not parts:
        return ""
    theory = rows["theory"].iloc[0]
    beside = f" ({number(theory, 3)} for numbers spread evenly over binades)" if not np.isnan(theory) else ""
    return f"rms relative error {listed(parts)}{beside}"


def sums(study: Any) -> list[str]:
    """How large squared sums are, and what they are added in."""
    rows = study.ranges[study.ranges["what"] == SQUARES]
    if not len(rows):
        return []
    top = rows.loc[rows["largest"].fillna(0).idxmax()]
    large = int((rows["largest"] > FORMATS[FORMAT].largest).sum())
    head = f"Squared sums of {len(rows)} norms reach {power(np.log2(top['largest']))} at {visible(top['module'])}"
    head += f", in {large} of them beyond {FORMAT}'s largest number" if large else f", within {FORMAT}'s range"
    how = rows["added_in"].value_counts()
    words = {
        WIDER: "in a wider type than its own",
        OWN: "in its own type",
        UNKNOWN: "in a type that was not tried",
    }
    told = [f"{'each' if len(how) == 1 else how[name]} adds them {words[name]}" for name in words if name in how]
    return [f"{head}; run in {FORMAT}, {listed(told)}."]


def power(value: float) -> str:
    """A power of two with one decimal."""
    return f"2^{value:.1f}".replace("2^-0.0", "2^0.0")


def _at(row: Any) -> str:
    return visible(f"{row['module']} ({row['tensor']})")
