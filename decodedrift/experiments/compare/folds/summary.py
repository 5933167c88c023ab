"""The folds: distribution.csv, summary.csv and perplexity.csv from positions, divergences and traces, in pandas.

Every number here can be recomputed from the tables in a few lines. Non-finite values are left out of means and
percentiles and counted in `nonfinite`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from decodedrift.experiments.compare.settings import SLIDING
from decodedrift.measure.tables import CELL, CONTROLS, FORCED, TOKEN_CAUSES, fold, layout_of
from decodedrift.numerics.intervals import clustered_se, iid_se, mean_interval, ratio_interval, share_interval
from decodedrift.numerics.logits import exp

PERCENTILES = (0.1, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
SIZES = {  # of a text: what environment.json calls them
    "bytes": "scored_bytes", "words": "scored_words", "dropped_characters": "dropped_characters",
    "dropped_tokens": "dropped_tokens",
}  # fmt: skip
FOLDED = [  # of a position
    "p_top_reference", "kl", "delta_p", "nll_reference", "nll_candidate", "logit_gap_max", "significant_digits",
    "top1_agree", "nonfinite",
]  # fmt: skip
READ = [*CELL, "prompt_id", "layout", *FOLDED]
JUDGED = [  # of a divergence; whole rows would be copied cell by cell
    *CELL, "seed", "prompt_id", "compared", "diverged", "cause", "first_divergence", "reference_gap", "swing",
    "reconverged", "agreement_after", "nonfinite",
]  # fmt: skip
BUCKETS = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


class Columns:
    """Of some positions FOLDED, float64, and `cluster`: prompts as numbers, in the order of their names.

    Each is made when it is asked for: all at once would hold long positions a second and a third time.
    """

    def __init__(self, positions: pd.DataFrame, cluster: np.ndarray, rows: np.ndarray) -> None:
        self._positions, self._cluster, self._rows = positions, cluster, rows

    @classmethod
    def of(cls, positions: pd.DataFrame) -> Columns:
        """Those of all rows."""
        return cls(positions, positions["prompt_id"].factorize(sort=True)[0], np.arange(len(positions)))

    def __getitem__(self, name: str) -> np.ndarray:
        whole = self._cluster if name == "cluster" else self._positions[name].to_numpy(float, na_value=math.nan)
        values: np.ndarray = whole[self._rows]
        return values

    def at(self, rows: np.ndarray) -> Columns:
        """Those of some of these rows: a mask, or their numbers."""
        return Columns(self._positions, self._cluster, self._rows[rows])


def summarize(divergences: pd.DataFrame, positions: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """summary.csv: a row per compared variant x strategy, controls included (`role`)."""
    cells = {key: (layout, columns) for key, layout, columns in _cells(positions)}
    unread = None, Columns.of(positions.head(0))
    control = traces["role"].where(traces["role"].isin(CONTROLS), "").rename("control")  # may share a variant's name
    lengths = traces.groupby(["variant", control, "strategy", "seed", "prompt_id"])["n_tokens"].first().to_dict()
    rows = []
    for key, cell in divergences[JUDGED].groupby(CELL, sort=False):
        row = dict(zip(CELL, key, strict=True)) | _divergence_fold(cell)
        layout, columns = cells.get(key, unread)
        row |= {"layout": layout} | _read_fold(columns)
        row["agreement_after"] = _agreement_after(cell, lengths)
        flags = cell["reconverged"].dropna().to_numpy(dtype=float)
        row["reconverged_share"] = _mean(flags)
        row["nonfinite"] = int(cell["nonfinite"].sum()) + int(np.nansum(columns["nonfinite"]))
        rows.append(row)
    return fold(rows)


def _cells(positions: pd.DataFrame) -> Iterator[tuple[Any, str | None, Columns]]:
    """(key, layout, columns) of each compared variant x strategy."""
    columns, index = Columns.of(positions), pd.Series(range(len(positions)), positions.index)
    layouts = positions[["layout"]]
    for key, rows in index.groupby([positions[c] for c in CELL], sort=False):
        yield key, layout_of(layouts.iloc[rows.iloc[:1]]), columns.at(rows.to_numpy())


def widened(
    table: pd.DataFrame, extra: list[tuple[list[str], Callable[[pd.DataFrame], dict[str, float]], pd.DataFrame]]
) -> pd.DataFrame:
    """A summary with more columns: each (names, fold of a cell's rows, rows); empty where a cell has no such rows."""
    for names, fold_cell, rows in extra:
        cells = dict(iter(rows.groupby(CELL, sort=False)))
        keys = list(zip(*(table[c] for c in CELL), strict=True))
        values = [fold_cell(cells.get(key, rows.iloc[:0])) for key in keys]
        table = table.assign(**{name: [v[name] for v in values] for name in names})
    return table


def _divergence_fold(cell: pd.DataFrame) -> dict[str, float]:
    cell = cell[cell["compared"] > 0]  # a pair whose reference broke at once is no pair
    flags = cell["diverged"].to_numpy(dtype=float)
    prompts = cell["prompt_id"].to_numpy(dtype=str)
    share, low, high = share_interval(flags, prompts)
    parted = cell[cell["diverged"] == 1]
    single = parted[parted["cause"].isin(TOKEN_CAUSES)]
    return {
        "prompts": len(np.unique(prompts)),
        "traces": len(cell),
        "diverged": int(flags.sum()),
        "divergence_rate": share,
        "divergence_rate_low": low,
        "divergence_rate_high": high,
        "identical_share": 1 - share,
        "identical_share_low": 1 - high,
        "identical_share_high": 1 - low,
        "first_divergence_median": _median(parted["first_divergence"]),
        "reference_gap_median": _median(parted["reference_gap"]),
        "swing_median": _median(parted["swing"]),
        "near_tie_share": float((single["cause"] == "near_tie").mean()) if len(single) else math.nan,
    }


def _read_fold(cell: Columns) -> dict[str, Any]:
    kl, clusters = _finite(cell, "kl")
    ratio, ratio_clusters = _finite(cell, "nll_candidate", minus="nll_reference")
    gap = cell["logit_gap_max"]
    return {
        **_named("kl_mean", ratio_interval(kl, np.ones(len(kl)), clusters)),
        "kl_se": clustered_se(kl, clusters),
        "kl_median": _quantile(kl, 50),
        "kl_p99": _quantile(kl, 99),
        "kl_max": float(kl.max()) if len(kl) else math.nan,
        "logit_gap_max": float(np.nanmax(gap)) if np.isfinite(gap).any() else math.nan,
        "significant_digits": pooled_digits(cell["significant_digits"]),
        "top1_agreement": _mean(_finite(cell, "top1_agree")[0]),
        "perplexity_reference": _perplexity(_finite(cell, "nll_reference")[0]),
        "perplexity_candidate": _perplexity(_finite(cell, "nll_candidate")[0]),
        **_named("ln_ppl_ratio", mean_interval(ratio, ratio_clusters)),
    }


def pooled_digits(digits: np.ndarray) -> float:
    """Digits in common over many positions: -log10 of the rms relative error, sqrt(mean(10^(-2 digits)))."""
    numbers = digits[~np.isnan(digits)]
    if not len(numbers):
        return math.nan
    relative = float(np.sqrt(np.mean(10.0 ** (-2 * numbers))))
    return -math.log10(relative) if relative > 0 else math.inf


def _agreement_after(cell: pd.DataFrame, lengths: Mapping[tuple[Any, ...], int]) -> float:
    """Pooled over traces: equal indices after t* over indices compared after t*."""
    parted = cell[(cell["diverged"] == 1) & cell["agreement_after"].notna()]
    equal = total = 0.0
    for row in parted.itertuples():
        sides = ((row.reference, ""), (row.candidate, row.role if row.role in CONTROLS else ""))
        r, c = (int(lengths[(*side, row.strategy, row.seed, row.prompt_id)]) for side in sides)
        n = min(r, c) - int(row.first_divergence) - 1
        equal, total = equal + row.agreement_after * n, total + n
    return equal / total if total else math.nan


def distribution(positions: pd.DataFrame) -> pd.DataFrame:
    """distribution.csv: llama.cpp's figures per compared variant x strategy, whole and by confidence."""
    rows = []
    for key, layout, cell in _cells(positions):
        p_top = cell["p_top_reference"]
        edges = np.clip(np.searchsorted(BUCKETS, p_top, side="right") - 1, 0, len(BUCKETS) - 2)
        broken = np.isnan(p_top) & (cell["nonfinite"] > 0)  # the reference's: held against nothing
        for index, name in enumerate(["all", *_bucket_names()]):
            part = ~broken if index == 0 else (edges == index - 1) & ~np.isnan(p_top)
            keys = dict(zip(CELL, key, strict=True)) | {"bucket": name, "layout": layout}
            rows.append(keys | _distribution_fold(cell.at(part)))
    return fold(rows)


def _bucket_names() -> list[str]:
    pairs = itertools.pairwise(BUCKETS)
    return [f"[{low:g},{high:g}{']' if high == 1.0 else ')'}" for low, high in pairs]


def _distribution_fold(part: Columns) -> dict[str, float]:
    (kl, clusters), (delta, _) = _finite(part, "kl"), _finite(part, "delta_p")
    row: dict[str, float] = {"n": len(part["kl"])}
    for name, values in (("kl", kl), ("delta_p", delta)):
        some = values if len(values) else np.array([math.nan])
        row |= {f"{name}_mean": _mean(values), f"{name}_min": float(some.min())}
        row |= {f"{name}_p{q:g}": float(v) for q, v in zip(PERCENTILES, np.percentile(some, PERCENTILES), strict=True)}
        row[f"{name}_max"] = float(some.max())
    ratio, ratio_clusters = _finite(part, "nll_candidate", minus="nll_reference")
    both = np.stack([part["nll_reference"], part["nll_candidate"]], axis=1)
    both = both[np.isfinite(both).all(1)]
    varies = len(both) > 1 and bool((both.std(0) > 0).all())
    return row | {
        "kl_se": clustered_se(kl, clusters),
        "kl_se_iid": iid_se(kl),
        "delta_p_rms": float(np.sqrt(np.mean(delta**2))) if len(delta) else math.nan,
        "same_top1": _mean(_finite(part, "top1_agree")[0]),
        **_named("ln_ppl_ratio", mean_interval(ratio, ratio_clusters)),
        "ln_ppl_ratio_se": clustered_se(ratio, ratio_clusters),
        "nll_correlation": float(np.corrcoef(both.T)[0, 1]) if varies else math.nan,
    }


def perplexity(
    positions: pd.DataFrame, facts: Mapping[str, Mapping[str, int | None]], convention: str = SLIDING
) -> pd.DataFrame:
    """perplexity.csv: a row per variant x text. The reference's rows come first; its ratio columns are empty.

    The reference's own is of its forced reading where any candidate was held against that.

    Args:
        facts: the environment, of which SIZES are read, each by text.
    """
    part = positions[(positions["strategy"] == "text") & (positions["role"] == "candidate")]
    names = part["prompt_id"].str.rsplit("#", n=1).str[0]
    rows: list[dict[str, object]] = []
    for text in facts.get("scored_bytes", {}):
        here, sizes = part[names == text], {name: facts.get(fact, {}).get(text) for name, fact in SIZES.items()}
        forced = here[here["layout"].fillna(FORCED) == FORCED]
        for index, ((model, reference, candidate), cell) in enumerate(
            here.groupby(["model", "reference", "candidate"], sort=False)
        ):
            if index == 0:
                own = next((c for _, c in forced.groupby("candidate", sort=False)), cell)
                rows.append({"model": model, "variant": reference, "text": text}
                            | _text_fold(own, "nll_reference", sizes, convention))  # fmt: skip
            read = Columns.of(cell)
            ratio, clusters = _finite(read, "nll_candidate", minus="nll_reference")
            rows.append(
                {"model": model, "variant": candidate, "text": text}
                | _text_fold(cell, "nll_candidate", sizes, convention)
                | _named("ln_ppl_ratio", mean_interval(ratio, clusters))
                | {"ln_ppl_ratio_se": clustered_se(ratio, clusters),
                   "kl_mean": _mean(_finite(read, "kl")[0]), "same_top1": _mean(_finite(read, "top1_agree")[0])}
            )  # fmt: skip
    columns = ["model", "variant", "text", "convention", "layout", "tokens", "dropped_tokens", "bytes", "words",
               "dropped_characters", "perplexity", "perplexity_se", "word_perplexity", "byte_perplexity",
               "bits_per_byte", "nll_mean", "ln_ppl_ratio", "ln_ppl_ratio_low", "ln_ppl_ratio_high", "ln_ppl_ratio_se",
               "kl_mean", "same_top1"]  # fmt: skip
    return fold(rows, columns)


def _text_fold(cell: pd.DataFrame, column: str, sizes: dict[str, int | None], convention: str) -> dict[str, Any]:
    values = cell[column].to_numpy(float)
    total, size, words = float(np.sum(values)), sizes["bytes"], sizes["words"]
    ppl = exp(total / len(values)) if len(values) else math.nan
    return {
        **sizes,
        "convention": convention,
        "layout": layout_of(cell),
        "tokens": len(values),
        "perplexity": ppl,
        "perplexity_se": ppl * iid_se(values) if convention == "llama.cpp" else None,
        "word_perplexity": exp(total / words) if words else None,
        "byte_perplexity": exp(total / size) if size and convention == "lm-eval" else None,
        "bits_per_byte": total / (math.log(2) * size) if size else None,
        "nll_mean": total / len(values),
    }


def _finite(columns: Columns, name: str, minus: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Finite values of a column (or of a difference) with their clusters."""
    values = columns[name] if minus is None else columns[name] - columns[minus]
    finite = np.isfinite(values)
    return values[finite], columns["cluster"][finite]


def _named(name: str, interval: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _quantile(values: np.ndarray, q: float) -> float:
    return float(np.percentile(values, q)) if len(values) else math.nan


def _median(series: pd.Series) -> float:
    values = pd.to_numeric(series).dropna().to_numpy(float)
    return float(np.median(values)) if len(values) else math.nan


def _perplexity(values: np.ndarray) -> float:
    return exp(float(values.mean())) if len(values) else math.nan
