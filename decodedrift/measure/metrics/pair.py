"""What the per-position metrics read: the logits of the same forced positions on two sides, and what they share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from decodedrift.numerics import logits as nm

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class LogitPair:
    """Raw logits of the same n forced positions under both sides, and what the metrics share, computed once.

    reference, candidate: `[n, vocab]`, any float dtype, upcast exactly. The widths may differ (a padded head): ids
    below the smaller width are compared, `cut_ids` and `cut_reference_mass` say what was left out.
    token_ids: int64 [n], the reference's token at each position. candidate_dtype: the compute dtype of the candidate,
    a key of numerics.FLOAT_FORMATS. choice_reference, choice_candidate: int64 [n], the token that the strategy takes
    under each side, or None. best_reference: float64 [n, 2], what the strategy's two best ids under the reference score
    there (-inf: one id alone is allowed); best_candidate: what the same two ids score under the candidate; or None.
    """

    reference: Tensor
    candidate: Tensor
    token_ids: Tensor
    candidate_dtype: str
    choice_reference: Tensor | None = None
    choice_candidate: Tensor | None = None
    best_reference: Tensor | None = None
    best_candidate: Tensor | None = None

    def __post_init__(self) -> None:
        if self.candidate_dtype not in nm.FLOAT_FORMATS:
            raise ValueError(f"candidate_dtype {self.candidate_dtype!r}: choices: {', '.join(nm.FLOAT_FORMATS)}")
        n = len(self.token_ids)
        if len(self.reference) != n or len(self.candidate) != n:
            lengths = f"{len(self.reference)}, {len(self.candidate)} and {n}"
            raise ValueError(f"reference, candidate and token_ids must hold the same positions, not {lengths}")

    def rows(self, start: int, stop: int) -> LogitPair:
        """The pair restricted to positions [start, stop): views, no copy."""
        cut = slice(start, stop)
        both = (self.choice_reference, self.choice_candidate, self.best_reference, self.best_candidate)
        choices = (None if c is None else c[cut] for c in both)
        return LogitPair(self.reference[cut], self.candidate[cut], self.token_ids[cut], self.candidate_dtype, *choices)

    @property
    def width(self) -> int:
        """Number of ids compared."""
        return min(self.reference.shape[-1], self.candidate.shape[-1])

    @property
    def cut_ids(self) -> int:
        """Number of ids that only the wider side has."""
        return abs(self.reference.shape[-1] - self.candidate.shape[-1])

    @cached_property
    def cut_reference_mass(self) -> Tensor:
        """Probability that the reference gives to the ids left out, [n]; 0 where the candidate is the wider side."""
        whole = self.reference.double()
        if whole.shape[-1] == self.width:
            return whole.new_zeros(len(whole))
        return (whole[:, self.width :].logsumexp(-1) - whole.logsumexp(-1)).exp()

    @cached_property
    def z_r(self) -> Tensor:
        """Reference logits over the compared ids, `[n, width]`."""
        return self.reference[:, : self.width].double()

    @cached_property
    def z_c(self) -> Tensor:
        """Candidate logits over the compared ids, `[n, width]`."""
        return self.candidate[:, : self.width].double()

    @cached_property
    def log_p(self) -> Tensor:
        """ln p_R `[n, width]`."""
        return nm.log_softmax(self.z_r)

    @cached_property
    def log_q(self) -> Tensor:
        """ln p_C `[n, width]`."""
        return nm.log_softmax(self.z_c)

    @cached_property
    def p(self) -> Tensor:
        """p_R `[n, width]`."""
        return self.log_p.exp()

    @cached_property
    def q(self) -> Tensor:
        """p_C `[n, width]`."""
        return self.log_q.exp()

    @cached_property
    def log_ratio(self) -> Tensor:
        """ln p_R - ln p_C `[n, width]`, from the logits' difference."""
        return nm.log_ratio(self.z_r, self.z_c, self.log_p, self.log_q, self.top2_reference[1][:, 0])

    @cached_property
    def kl_both(self) -> tuple[Tensor, Tensor]:
        """KL(p_R || p_C) and KL(p_C || p_R), [n] each."""
        return nm.kl_both(self.log_p, self.log_q, self.log_ratio, self.p)

    @cached_property
    def error(self) -> tuple[Tensor, Tensor]:
        """The centred logit error d `[n, width]` and the number of ids it is defined over [n]."""
        return nm.logit_error(self.z_r, self.z_c)

    @cached_property
    def sound(self) -> bool:
        """Whether every compared logit of both sides is finite."""
        return bool((self.error[1] == self.width).all())

    @cached_property
    def error_rms(self) -> Tensor:
        """rms of d over the ids finite on both sides, [n]."""
        return nm.row_rms(*self.error)

    @cached_property
    def top2_reference(self) -> tuple[Tensor, Tensor]:
        """Values and ids [n, 2] of the reference's two largest logits."""
        return nm.top2(self.z_r)

    @cached_property
    def top2_candidate(self) -> tuple[Tensor, Tensor]:
        """Values and ids [n, 2] of the candidate's two largest logits."""
        return nm.top2(self.z_c)

    @cached_property
    def margin_reference(self) -> Tensor:
        """The reference's raw top-1 minus top-2, [n]."""
        return nm.margin_of(self.top2_reference[0])

    @cached_property
    def bad_reference(self) -> Tensor:
        """bool [n]: the reference has no distribution there (log_softmax is NaN in the whole row)."""
        return self.log_p[:, 0].isnan()

    @cached_property
    def bad_candidate(self) -> Tensor:
        """bool [n]: the candidate has no distribution there."""
        return self.log_q[:, 0].isnan()

    @cached_property
    def bad(self) -> Tensor:
        """bool [n]: one side or the other has no distribution there."""
        return self.bad_reference | self.bad_candidate

    @cached_property
    def outside(self) -> Tensor:
        """bool [n]: the reference's token is one of the ids left out; what is read at the token is then NaN."""
        return self.token_ids >= self.width

    def at_token(self, values: Tensor) -> Tensor:
        """`values` `[n, width]` at the reference's token, [n]; NaN where it is `outside`."""
        index = self.token_ids.clamp(max=self.width - 1).unsqueeze(-1)
        return values.gather(-1, index).squeeze(-1).masked_fill(self.outside, nm.NAN)
