"""Per-position metrics of a teacher-forced pass: how far the candidate's logits are from the reference's.

A metric is a function of one `LogitPair` and a line in `TOKEN_METRICS`; its name is the column, which
docs/metrics.md defines. All come back as float64 [n], counts and flags too, so that NaN can say "undefined here": a row
where a side that the metric reads holds NaN or +inf (or no finite logit at all) is NaN, and `nonfinite` says how many
logits did it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from decodedrift.measure.metrics.base import INTEGERS, Metric
from decodedrift.measure.metrics.pair import LogitPair
from decodedrift.numerics import logits as nm
from decodedrift.numerics.ranks import rank_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TOKEN_METRICS", "LogitPair", "directional_error", "token_metrics"]

CHUNK_LOGITS = 2**20  # what a metric makes of the logits in float64 is 8 MiB


def kl(pair: LogitPair) -> Tensor:
    """KL(p_R || p_C), nats; +inf where an id the reference allows is at -inf in the candidate."""
    return pair.kl_both[0].masked_fill(pair.bad, nm.NAN)


def kl_reverse(pair: LogitPair) -> Tensor:
    """KL(p_C || p_R), nats."""
    return pair.kl_both[1].masked_fill(pair.bad, nm.NAN)


def tv(pair: LogitPair) -> Tensor:
    """Total variation; 1 - tv is the acceptance rate of speculative sampling."""
    return pair.distances.tv.masked_fill(pair.bad, nm.NAN)


def logit_gap_max(pair: LogitPair) -> Tensor:
    """max |d| over the ids finite on both sides."""
    return pair.distances.gap_max.masked_fill(pair.bad, nm.NAN)


def logit_gap_rms(pair: LogitPair) -> Tensor:
    """rms of d over the ids finite on both sides."""
    return pair.distances.gap_rms.masked_fill(pair.bad, nm.NAN)


def significant_digits(pair: LogitPair) -> Tensor:
    """Decimal digits in common: -log10(rms(d) / rms(z_R - mean)); +inf where d is exactly 0."""
    digits = nm.significant_digits(pair.distances.gap_rms, pair.distances.reference_rms)
    return digits.masked_fill(pair.bad, nm.NAN)


def logit_margin_reference(pair: LogitPair) -> Tensor:
    """The reference's raw top-1 minus top-2."""
    return pair.margin_reference.masked_fill(pair.bad_reference, nm.NAN)


def logit_margin_candidate(pair: LogitPair) -> Tensor:
    """The candidate's raw top-1 minus top-2."""
    return nm.margin_of(pair.top2_candidate[0]).masked_fill(pair.bad_candidate, nm.NAN)


def logit_margin_ulps(pair: LogitPair) -> Tensor:
    """The reference's margin in units in the last place of the candidate's dtype.

    At the larger magnitude of the two logits: below 1 that dtype cannot hold both of them apart with certainty.
    """
    size = pair.top2_reference[0].abs().amax(-1)
    return (pair.margin_reference / nm.ulp(size, pair.candidate_dtype)).masked_fill(pair.bad_reference, nm.NAN)


def top1_agree(pair: LogitPair) -> Tensor:
    """1 where both raw argmaxes (ties by the lower id) are the same id, else 0."""
    same = pair.top2_reference[1][:, 0] == pair.top2_candidate[1][:, 0]
    return same.double().masked_fill(pair.bad, nm.NAN)


def choice_agree(pair: LogitPair) -> Tensor:
    """1 where the strategy takes the same token under both sides, else 0; NaN where choices were not given."""
    if pair.choice_reference is None or pair.choice_candidate is None:
        return pair.distances.kl.new_full((len(pair.token_ids),), nm.NAN)
    return (pair.choice_reference == pair.choice_candidate).double().masked_fill(pair.bad, nm.NAN)


def rank(pair: LogitPair) -> Tensor:
    """1-based rank of the reference's token in the candidate's logits: 1 + the number strictly greater."""
    top, of_token = pair.distances.candidate_top, pair.candidate_at_token
    ranks = 1 + (of_token < top[:, 0]).double()
    below = of_token < top[:, 1]  # of these alone the greater ones must be counted
    if bool(below.any()):
        ids = pair.token_ids[below].clamp(max=pair.width - 1)
        ranks[below] = rank_of(pair.candidate[below, : pair.width], ids)
    return ranks.masked_fill(pair.bad_candidate | pair.outside, nm.NAN)


def delta_p(pair: LogitPair) -> Tensor:
    """p_C - p_R of the reference's token."""
    return (pair.log_q.exp() - pair.log_p.exp()).masked_fill(pair.bad, nm.NAN)


def nll_reference(pair: LogitPair) -> Tensor:
    """-ln p_R of the reference's token, nats."""
    return -pair.log_p


def nll_candidate(pair: LogitPair) -> Tensor:
    """-ln p_C of the reference's token, nats; +inf where the candidate forbids it."""
    return -pair.log_q


def entropy_reference(pair: LogitPair) -> Tensor:
    """Entropy of p_R, nats."""
    return pair.distances.entropy.masked_fill(pair.bad_reference, nm.NAN)


def p_top_reference(pair: LogitPair) -> Tensor:
    """The largest probability of the reference: its confidence, by which rows are put in buckets."""
    return (-pair.distances.reference_log_sum).exp().masked_fill(pair.bad_reference, nm.NAN)


def nonfinite(pair: LogitPair) -> Tensor:
    """Broken logits: NaN and +inf of either side, -inf where the other side is finite. Never NaN itself."""
    return pair.distances.nonfinite.clone()


def directional_error(pair: LogitPair) -> Tensor:
    """d[top-1] - d[top-2] at the reference's two largest logits: the part of the error that acts on greedy's choice.

    -inf or +inf where the candidate forbids one of the two, NaN where the reference allows one id only.
    """
    values, ids = pair.top2_reference
    error = pair.candidate.gather(-1, ids).double() - values
    return (error[:, 0] - error[:, 1]).masked_fill(pair.bad | (values[:, 1] == -nm.INF), nm.NAN)


def choice_margin(pair: LogitPair) -> Tensor:
    """The strategy's best score minus its second best under the reference; NaN where it has one, or none a position.

    For greedy the raw margin; for coupled sampling that of ln p~ plus the noise, which is what the error must overcome.
    """
    if pair.best_reference is None:
        return pair.distances.kl.new_full((len(pair.token_ids),), nm.NAN)
    return nm.margin_of(pair.best_reference).masked_fill(pair.bad_reference, nm.NAN)


def choice_error(pair: LogitPair) -> Tensor:
    """The candidate's error in `choice_margin`: what it makes of that difference, less what the reference does.

    The choice turns to the second best where choice_margin + choice_error < 0. -inf where the candidate forbids the
    best of the two, +inf where it forbids the second.
    """
    if pair.best_reference is None or pair.best_candidate is None:
        return pair.distances.kl.new_full((len(pair.token_ids),), nm.NAN)
    error = pair.best_candidate - pair.best_reference
    turned = error[:, 0] - error[:, 1]
    turned = turned.masked_fill(pair.best_candidate[:, 0] == -nm.INF, -nm.INF)
    return turned.masked_fill(pair.bad | (pair.best_reference[:, 1] == -nm.INF), nm.NAN)


TOKEN_METRICS: dict[str, Metric[LogitPair]] = {
    "kl": Metric(kl),
    "kl_reverse": Metric(kl_reverse),
    "tv": Metric(tv),
    "logit_gap_max": Metric(logit_gap_max),
    "logit_gap_rms": Metric(logit_gap_rms),
    "significant_digits": Metric(significant_digits),
    "logit_margin_reference": Metric(logit_margin_reference),
    "logit_margin_candidate": Metric(logit_margin_candidate),
    "logit_margin_ulps": Metric(logit_margin_ulps),
    "top1_agree": Metric(top1_agree),
    "directional_error": Metric(directional_error),
    "choice_agree": Metric(choice_agree),
    "choice_margin": Metric(choice_margin),
    "choice_error": Metric(choice_error),
    "rank": Metric(rank, INTEGERS),
    "delta_p": Metric(delta_p),
    "nll_reference": Metric(nll_reference),
    "nll_candidate": Metric(nll_candidate),
    "entropy_reference": Metric(entropy_reference),
    "p_top_reference": Metric(p_top_reference),
    "nonfinite": Metric(nonfinite, INTEGERS),
}


def token_metrics(pair: LogitPair, chunk: int | None = None) -> dict[str, np.ndarray]:
    """Every registered metric over all rows: name -> float64 [n], on the CPU.

    Walks `chunk` rows at a time (never a part of the vocabulary), so that the float64 arrays of one chunk are all that
    is held; None: rows of CHUNK_LOGITS.
    """
    n = len(pair.token_ids)
    step = chunk or max(1, CHUNK_LOGITS // max(1, pair.width))
    out = {name: np.empty(n, dtype=np.float64) for name in TOKEN_METRICS}
    for start in range(0, n, step):
        part = pair.rows(start, min(start + step, n))
        for name, metric in TOKEN_METRICS.items():
            out[name][start : start + step] = metric(part).cpu().numpy()
    return out
