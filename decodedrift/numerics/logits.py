"""The arithmetic of logits and distributions: pure functions of float64 arrays.

Arrays are torch tensors on any device, `[n, vocab]` in and `[n]` out, float64 unless said; nothing here mutates what it
is given, but where it says so. Natural logarithms, divergences in nats. An id at -inf has probability 0. Torch is used
through tensor methods only, so that importing this module (and the metric registries above it) does not import torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from decodedrift.numerics.ranks import argmax

if TYPE_CHECKING:
    from torch import Tensor

INF = math.inf
NAN = math.nan

# dtype name -> (bits after the leading one, exponent of the smallest normal number)
FLOAT_FORMATS: dict[str, tuple[int, int]] = {
    "fp64": (52, -1022),
    "fp32": (23, -126),
    "fp16": (10, -14),
    "bf16": (7, -126),
}

# Taylor coefficients of (exp(-d) - 1 + d) / d**2, highest order first: what follows is below 1e-13 of it at |d| = 1.
_EXCESS = tuple((-1) ** k / math.factorial(k + 2) for k in range(13, -1, -1))


def log_softmax(z: Tensor) -> Tensor:
    """Log-probabilities `[n, vocab]` of logits; -inf stays -inf.

    A row that holds NaN or +inf, or nothing but -inf, has no distribution: all of it comes back NaN, so that looking
    at any one entry tells.

    >>> import torch
    >>> log_softmax(torch.tensor([[0.0, 0.0, -math.inf]], dtype=torch.float64)).exp()
    tensor([[0.5000, 0.5000, 0.0000]], dtype=torch.float64)
    """
    return z.log_softmax(-1)


def log_ratio(z_r: Tensor, z_c: Tensor, log_p: Tensor, log_q: Tensor, anchor: Tensor) -> Tensor:
    """`log p - log q` `[n, vocab]`, taken from the difference of the logits themselves.

    Two logits of nearby variants subtract without rounding; two log-probabilities are each rounded at the size of
    their own value first, which is 1e-9 of a KL of 1e-12. What is left is one constant a row: it is read at the id
    `anchor` [n] (the reference's top-1, where both logs are small and therefore fine).

    Args:
        z_r, z_c: the logits of both sides.
        log_p, log_q: their log-softmax.
        anchor: int64 [n], an id a row. Where it is not finite on both sides the plain difference is returned.
    """
    index = anchor.unsqueeze(-1)
    difference = z_c - z_r
    constant = difference.gather(-1, index) + (log_p.gather(-1, index) - log_q.gather(-1, index))
    ratio = constant - difference
    plain = ~constant.isfinite().squeeze(-1)
    if bool(plain.any()):
        ratio[plain] = log_p[plain] - log_q[plain]
    return ratio


def kl(log_p: Tensor, log_q: Tensor, ratio: Tensor | None = None) -> Tensor:
    """KL(p || q) in nats, [n]; see `kl_both`.

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.5]], dtype=torch.float64), torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    >>> bool((kl(p.log(), q.log()) - 0.5 * math.log(4 / 3)).abs() < 1e-15)
    True
    """
    return kl_both(log_p, log_q, ratio)[0]


def kl_both(
    log_p: Tensor, log_q: Tensor, ratio: Tensor | None = None, p: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """KL(p || q) and KL(q || p), nats, [n] each.

    KL(p || q) = sum p * (exp(-d) - 1 + d) with d = log p - log q. The textbook sum p * d cancels terms of size |d|
    down to d**2, and comes out negative for close distributions. Here every term is >= 0 (their extra parts, q - p,
    sum to 0), a rounding error common to a row (its normaliser) only enters squared, and for |d| <= 1 the bracket is
    a Taylor series rather than `expm1(-d) + d`, which still cancels: 1e-12 is measured to 1e-12 of itself, and
    identical inputs give exactly 0. The reverse reuses the bracket f: q * (exp(d) - 1 - d) = p * (d**2 - (1 + d) f).

    p = 0 contributes q, p > 0 with q = 0 makes the row +inf (also where p underflowed), -inf in both contributes
    nothing, a NaN makes the row NaN.

    Args:
        log_p, log_q: log-probabilities.
        ratio: `log_p - log_q` where it is known better than by subtracting them (see `log_ratio`).
        p: `log_p.exp()` where it is at hand.
    """
    d = log_p - log_q if ratio is None else ratio
    p = log_p.exp() if p is None else p
    low, high = (float(end) for end in d.aminmax())
    if low >= -1 and high <= 1:  # False with a NaN anywhere
        forward, reverse = near_terms(p * d * d, d, max(-low, high))
        return forward.sum(-1), reverse.sum(-1)
    far = ~(d.abs() <= 1)
    close = d.masked_fill(far, 0.0)
    forward, reverse = near_terms(p * close * close, close, 1.0)
    at = far.nonzero(as_tuple=True)
    p_far, log_p_far, log_q_far, d_far = p[at], log_p[at], log_q[at], d[at]
    q_far = log_q_far.exp()
    forward[at] = _far_terms(p_far, q_far, log_p_far, log_q_far, d_far)
    reverse[at] = _far_terms(q_far, p_far, log_q_far, log_p_far, -d_far)
    return forward.sum(-1), reverse.sum(-1)


def near_terms(square: Tensor, d: Tensor, largest: float, space: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Terms of both divergences for |d| <= largest <= 1, to about 1e-15 of each term; exactly 0 at d = 0.

    Args:
        square: p d**2; the reverse terms are made in it. space: an array in which the others are made.
    """
    forward = d.clone() if space is None else space.copy_(d)
    series = _EXCESS[-_terms(largest) :]
    forward.mul_(series[0])
    for coefficient in series[1:-1]:
        forward.add_(coefficient).mul_(d)
    forward.add_(series[-1]).mul_(square)
    return forward, square.sub_(forward).addcmul_(forward, d, value=-1.0)


def _terms(largest: float) -> int:
    """How many coefficients of the series matter where |d| <= largest: what follows is lost in rounding."""
    lost = (n for n in range(2, len(_EXCESS)) if 2 * largest**n / math.factorial(n + 2) < 2.0**-54)
    return next(lost, len(_EXCESS))


def _far_terms(p: Tensor, q: Tensor, log_p: Tensor, log_q: Tensor, d: Tensor) -> Tensor:
    """q - p + p d [m], the same terms where |d| > 1 or d is not finite: no exp(-d), which would overflow."""
    terms = q - p
    terms.addcmul_(p, d)
    terms = q.where(log_p == -INF, terms)  # 0 ln 0 = 0: what is left is q, and 0 where q is 0 too
    terms.masked_fill_((log_q == -INF) & (log_p > -INF), INF)
    return terms


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Half the L1 distance of two probability arrays, [n] in [0, 1]."""
    return (p - q).abs_().sum(-1).mul_(0.5)


def entropy(p: Tensor, log_p: Tensor) -> Tensor:
    """-sum p ln p in nats, [n]; 0 ln 0 = 0.

    >>> import torch
    >>> z = torch.zeros(1, 8, dtype=torch.float64).log_softmax(-1)
    >>> f"{float(entropy(z.exp(), z)) / math.log(2):.12f} bits"
    '3.000000000000 bits'
    """
    return log_p.clamp(min=-1e300).mul_(p).sum(-1).neg_()  # the clamp turns 0 * -inf into 0; NaN passes


def top2(z: Tensor) -> tuple[Tensor, Tensor]:
    """The two largest entries of each row: values [n, 2] and ids int64 [n, 2]; ties by the lower id.

    Not `topk`, which leaves the order of ties open: 4 % of bf16 positions tie. Where only one entry is above -inf, the
    second value is -inf; so it is of rows of one entry, whose second id is 0 again.
    """
    first = argmax(z).unsqueeze(-1)
    rest = z.scatter(-1, first, -INF)
    second = argmax(rest).unsqueeze(-1)
    runner_up = rest.gather(-1, second)
    lowest_other = (first == 0).to(second.dtype)  # where all the rest is -inf, and so is the winner's own place
    ids = first.repeat_interleave(2, dim=-1)
    ids[..., 1:] = second.where(runner_up != -INF, lowest_other.clamp(max=z.shape[-1] - 1))
    values = z.gather(-1, ids)
    values[..., 1:] = runner_up
    return values, ids


def margin(z: Tensor) -> Tensor:
    """Top-1 minus top-2 of a score array where -inf means not allowed, [n]; NaN where only one entry is allowed.

    >>> import torch
    >>> margin(torch.tensor([[1.0, 3.0, 2.5], [1.0, -math.inf, -math.inf]], dtype=torch.float64))
    tensor([0.5000,    nan], dtype=torch.float64)
    """
    return margin_of(top2(z)[0])


def margin_of(values: Tensor) -> Tensor:
    """`margin` from the values of `top2` [n, 2], where they are known already."""
    return (values[..., 0] - values[..., 1]).masked_fill(values[..., 1] == -INF, NAN)


def logit_error(z_r: Tensor, z_c: Tensor) -> tuple[Tensor, Tensor]:
    """The candidate's logit error d = z_c - z_r less its mean, and over how many ids it is defined.

    The mean is removed because softmax does not see a common shift. Only ids finite on both sides take part: the mean
    is over them, d is exactly 0 elsewhere (so sums and maxima of |d| run over the whole row unchanged), and the count
    is what a mean square divides by.

    Returns:
        d `[n, vocab]`, count float64 [n].
    """
    d = z_c - z_r
    mean = d.mean(-1, keepdim=True)
    if bool(mean.isfinite().all()):  # a finite mean has no non-finite term
        return d.sub_(mean), mean.new_full(mean.shape[:-1], d.shape[-1])
    outside = ~(z_r.isfinite() & z_c.isfinite())
    count = d.shape[-1] - outside.sum(-1).to(d.dtype)
    d.masked_fill_(outside, 0.0)
    d.sub_(d.sum(-1, keepdim=True) / count.unsqueeze(-1)).masked_fill_(outside, 0.0)
    return d, count


def row_rms(d: Tensor, count: Tensor | None = None) -> Tensor:
    """Root of the mean square of each row, [n]; the mean is over `count` [n] entries (all of them when None)."""
    return d.square().sum(-1).div_(d.shape[-1] if count is None else count).sqrt_()


def centred_rms(z: Tensor) -> Tensor:
    """Root mean square of the finite entries of each row about their mean, [n]: the size of a row of logits."""
    mean = z.mean(-1, keepdim=True)
    if bool(mean.isfinite().all()):
        return row_rms(z - mean)
    outside = ~z.isfinite()
    count = z.shape[-1] - outside.sum(-1).to(z.dtype)
    inside = z.masked_fill(outside, 0.0)
    mean = inside.sum(-1, keepdim=True) / count.unsqueeze(-1)
    return row_rms((inside - mean).masked_fill_(outside, 0.0), count)


def significant_digits(error_rms: Tensor, logit_rms: Tensor) -> Tensor:
    """-log10(rms(d) / rms(z_r - mean)): decimal digits that two rows of logits have in common, [n].

    +inf where the error is exactly 0; -inf for an error against constant logits, which hold no digit to keep.

    Args:
        error_rms: `row_rms` of the logit error.
        logit_rms: `centred_rms` of the reference's logits.
    """
    return (error_rms / logit_rms).log10_().neg_().masked_fill(error_rms == 0, INF)


def ulp(x: Tensor, dtype: str) -> Tensor:
    """Spacing of the numbers of `dtype` (a key of FLOAT_FORMATS) at |x|, shape of x; NaN where x is not finite.

    2 ** (exponent of x - mantissa bits), never below the spacing of the subnormals. The range is not limited at the
    top: past fp16's 65504 the spacing goes on growing.

    >>> import torch
    >>> ulp(torch.tensor([1.0, 300.0, 0.0], dtype=torch.float64), "bf16").tolist() == [2**-7, 2.0, 2**-133]
    True
    """
    bits, lowest = FLOAT_FORMATS[dtype]
    _, exponent = x.abs().clamp(min=2.0**lowest).frexp()  # x = m * 2 ** exponent with m in [0.5, 1)
    return (exponent.to(x.dtype) - (1 + bits)).exp2_().masked_fill(~x.isfinite(), NAN)


def reorder_ratio(first: Tensor, second: Tensor, exact: Tensor) -> float:
    """Noise between two orders of summation over the rounding error that both have: rms(a - b) / (sqrt(2) rms error).

    1 where their errors are independent and alike, 0 where they are the same; NaN where there is no error. Each row
    less its mean (`logit_error`); the rms error is over both.

    Args:
        first, second, exact: logits float64 [n, vocab], of two orders and of exact arithmetic.

    >>> import torch
    >>> a, b = torch.tensor([[[0.0, 2.0]], [[2.0, 0.0]]], dtype=torch.float64)  # errors 1 and -1 about their means
    >>> round(reorder_ratio(a, b, torch.zeros_like(a)), 12) == round(math.sqrt(2), 12)
    True
    """
    noise, *errors = (logit_error(*pair)[0] for pair in ((first, second), (exact, first), (exact, second)))
    square = float(sum(error.square().mean() for error in errors))  # twice the mean square
    return math.sqrt(float(noise.square().mean()) / square) if square else NAN


def nonfinite_count(z_r: Tensor, z_c: Tensor) -> Tensor:
    """How many logits of a row are broken, [n]: NaN and +inf of either side, and -inf where the other is finite.

    A logit is counted on its own side, so NaN in both is two. -inf in both means an id outside the vocabulary: not
    counted.
    """
    if bool((z_r.sum(-1) + z_c.sum(-1)).isfinite().all()):  # the everyday case, without a mask in memory
        return z_r.new_zeros(z_r.shape[:-1])
    count = z_r.new_zeros(z_r.shape[:-1])
    for one, other in ((z_r, z_c), (z_c, z_r)):
        broken = one.isnan() | (one == INF)
        count += (broken | ((one == -INF) & other.isfinite())).sum(-1)
    return count


def exp(nats: float) -> float:
    """e to a number of nats; infinity, not an error, beyond what float64 holds (709.78)."""
    return math.exp(nats) if nats < 709.78 else math.inf if nats == nats else math.nan


def expm1(nats: float) -> float:
    """e^x - 1, infinite where that is no float64."""
    return math.expm1(nats) if nats < 709.78 else math.inf if nats == nats else math.nan
