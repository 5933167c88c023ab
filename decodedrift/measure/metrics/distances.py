"""All that is summed over the vocabulary of two sides' logits, in one walk while they are in a processor's cache."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from decodedrift.numerics import logits as nm

if TYPE_CHECKING:
    from torch import Tensor

# Logits at once and thread: of so many (256 KiB in float64) the arrays of a walk are still in a core's cache at the
# next pass over them, which is then two to three times as fast. An accelerator wants the rows instead.
CPU_LOGITS = 2**15
DEVICE_ROWS = 32

# a walk's sums: of the difference of the logits, of exp, and the fields of `Distances`
SUMS = (
    "low", "high", "mean", "total_r", "total_c",
    "kl", "kl_reverse", "tv", "entropy", "gap_rms", "reference_rms",
)  # fmt: skip


@dataclass(frozen=True)
class Distances:
    """What the logits of n positions come to; float64 [n] unless said, NaN where there is no distribution.

    reference_top, candidate_top, reference_ids, candidate_ids: values and ids [n, 2] of the two largest logits.
    reference_log_sum, candidate_log_sum: ln of the sum of exp(logit - largest). entropy: of the reference. gap_max,
    gap_rms: of the logit error over the ids finite on both sides. reference_rms: of the reference's logits about their
    mean. nonfinite: see `nonfinite_count`.
    """

    reference_top: Tensor
    reference_ids: Tensor
    candidate_top: Tensor
    candidate_ids: Tensor
    reference_log_sum: Tensor
    candidate_log_sum: Tensor
    kl: Tensor
    kl_reverse: Tensor
    tv: Tensor
    entropy: Tensor
    gap_max: Tensor
    gap_rms: Tensor
    reference_rms: Tensor
    nonfinite: Tensor


def distances(reference: Tensor, candidate: Tensor) -> Distances:
    """Of raw logits [n, vocab] in any floating type, upcast exactly; a few rows at a time, whole ones."""
    import torch

    reference, candidate = (z.float() if z.itemsize == 2 else z for z in (reference, candidate))
    count, width = reference.shape
    (top_r, ids_r), (top_c, ids_c) = nm.top2(reference), nm.top2(candidate)
    tops = torch.cat([top_r[:, :1], top_c[:, :1], candidate.gather(-1, ids_r[:, :1])], -1).double()
    rows = DEVICE_ROWS
    if reference.device.type == "cpu":
        threads = torch.get_num_threads()
        rows = max(threads, CPU_LOGITS * threads // max(1, width))
    space = reference.new_empty((4, min(rows, count), width), dtype=torch.float64)
    sums = reference.new_empty((len(SUMS), count, 1), dtype=torch.float64)
    far: list[int] = []
    for begin in range(0, count, rows):
        part = slice(begin, begin + rows)
        far += [begin + at for at in _walk(reference[part], candidate[part], tops[part], space, sums[:, part])]
    by_name = dict(zip(SUMS, sums.squeeze(-1).unbind(), strict=True))
    low, high, mean, total_r, total_c = (by_name.pop(name) for name in SUMS[:5])
    done = Distances(
        top_r.double(), ids_r, top_c.double(), ids_c, total_r.log(), total_c.log(), **by_name,
        gap_max=(high - mean).abs().maximum((low - mean).abs()), nonfinite=mean.new_zeros(count),
    )  # fmt: skip
    for begin in range(0, len(far), rows):
        again = far[begin : begin + rows]
        best = (done.reference_top, done.reference_ids, done.candidate_top, done.candidate_ids)
        values = _anew(reference[again], candidate[again], *(side[again] for side in best))
        for field in fields(Distances):
            getattr(done, field.name)[again] = getattr(values, field.name)
    return done


def _walk(reference: Tensor, candidate: Tensor, tops: Tensor, space: Tensor, sums: Tensor) -> list[int]:
    """Fills in SUMS of a few rows; which of the rows it is not for.

    It is for rows whose log-probabilities are finite and differ by 1 at most. Passes are over four arrays in the cache,
    in place: an array for each result would lie outside of it.

    Args:
        tops: [n, 3], each side's largest logit, and the candidate's at the id of the reference's.
    """
    import torch

    z_r, z_c, p, d = space[:, : len(reference)].unbind()
    low, high, mean, total_r, total_c, kl, kl_reverse, tv, entropy, gap_rms, size = sums.unbind()
    best_r, best_c, met = tops.unsqueeze(-1).unbind(1)
    torch.sub(z_c.copy_(candidate), z_r.copy_(reference), out=d)
    torch.amin(d, -1, keepdim=True, out=low)
    torch.amax(d, -1, keepdim=True, out=high)
    torch.mean(d, -1, keepdim=True, out=mean)
    torch.exp(z_r.sub_(best_r), out=p)
    torch.sum(p, -1, keepdim=True, out=total_r)
    torch.sum(z_c.sub_(best_c).exp_(), -1, keepdim=True, out=total_c)
    log_p, log_q = -total_r.log(), met - best_c - total_c.log()  # at the reference's best: see `nm.log_ratio`
    shift = met - best_r + (log_p - log_q)
    reach = (shift - low).maximum(high - shift)
    far = (~(reach <= 1)).squeeze(-1)  # also with a NaN
    again: list[int] = far.nonzero().squeeze(-1).tolist() if bool(far.any()) else []
    if len(again) == len(far):
        return again

    torch.sub(z_r, z_r.mean(-1, keepdim=True), out=z_c)
    torch.sum(z_c.mul_(z_c), -1, keepdim=True, out=size).div_(z_r.shape[-1]).sqrt_()
    torch.sub(d, mean, out=z_c)
    torch.sum(z_c.mul_(z_c), -1, keepdim=True, out=gap_rms).div_(z_r.shape[-1]).sqrt_()
    torch.sum(z_r.mul_(p.mul_(total_r.reciprocal())), -1, keepdim=True, out=entropy)
    torch.sub(-log_p, entropy, out=entropy)
    torch.sub(shift, d, out=d)
    torch.mul(p.mul_(d), d, out=z_c)
    forward, reverse = nm.near_terms(z_c, d, float(reach[~far].max()), z_r)
    torch.sum(forward, -1, keepdim=True, out=kl)
    torch.sum(reverse, -1, keepdim=True, out=kl_reverse)
    torch.sum(p.sub_(forward).abs_(), -1, keepdim=True, out=tv).mul_(0.5)  # p - q = p d - the term of the KL
    return again


def _anew(
    reference: Tensor, candidate: Tensor, top_r: Tensor, ids_r: Tensor, top_c: Tensor, ids_c: Tensor
) -> Distances:
    """Of rows with any logits and their two best: log-probabilities far apart, ids not allowed, NaN."""
    z_r, z_c = reference.double(), candidate.double()
    log_p, log_q = nm.log_softmax(z_r), nm.log_softmax(z_c)
    p, error, count = log_p.exp(), *nm.logit_error(z_r, z_c)
    best_r, best_c = (log.gather(-1, ids[:, :1]).squeeze(-1) for log, ids in ((log_p, ids_r), (log_q, ids_c)))
    return Distances(
        top_r, ids_r, top_c, ids_c, -best_r, -best_c,
        *nm.kl_both(log_p, log_q, nm.log_ratio(z_r, z_c, log_p, log_q, ids_r[:, 0]), p),
        nm.total_variation(p, log_q.exp()), nm.entropy(p, log_p), error.amax(-1).abs().maximum(error.amin(-1).abs()),
        nm.row_rms(error, count), nm.centred_rms(z_r), nm.nonfinite_count(z_r, z_c),
    )  # fmt: skip
