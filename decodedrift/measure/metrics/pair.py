"""What the per-position metrics read: the logits of the same forced positions on two sides, and what they share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from decodedrift.measure.metrics.distances import Distances, distances
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
    def distances(self) -> Distances:
        """All that is summed over the compared ids."""
        return distances(self.reference[:, : self.width], self.candidate[:, : self.width])

    @property
    def kl_both(self) -> tuple[Tensor, Tensor]:
        """KL(p_R || p_C) and KL(p_C || p_R), [n] each."""
        return self.distances.kl, self.distances.kl_reverse

    @property
    def top2_reference(self) -> tuple[Tensor, Tensor]:
        """Values and ids [n, 2] of the reference's two largest logits."""
        return self.distances.reference_top, self.distances.reference_ids

    @property
    def top2_candidate(self) -> tuple[Tensor, Tensor]:
        """Values and ids [n, 2] of the candidate's two largest logits."""
        return self.distances.candidate_top, self.distances.candidate_ids

    @cached_property
    def margin_reference(self) -> Tensor:
        """The reference's raw top-1 minus top-2, [n]."""
        return nm.margin_of(self.top2_reference[0])

    @cached_property
    def bad_reference(self) -> Tensor:
        """bool [n]: the reference has no distribution there."""
        return self.distances.reference_log_sum.isnan()

    @cached_property
    def bad_candidate(self) -> Tensor:
        """bool [n]: the candidate has no distribution there."""
        return self.distances.candidate_log_sum.isnan()

    @cached_property
    def bad(self) -> Tensor:
        """bool [n]: one side or the other has no distribution there."""
        return self.bad_reference | self.bad_candidate

    @cached_property
    def outside(self) -> Tensor:
        """bool [n]: the reference's token is one of the ids left out; what is read at the token is then NaN."""
        return self.token_ids >= self.width

    @cached_property
    def candidate_at_token(self) -> Tensor:
        """The candidate's logit of the reference's token, [n]; of another id where it is `outside`."""
        return self._at_token(self.candidate)

    @cached_property
    def log_p(self) -> Tensor:
        """ln p_R of the reference's token, [n]; NaN where it is `outside`."""
        top, log_sum = self.distances.reference_top, self.distances.reference_log_sum
        return (self._at_token(self.reference) - top[:, 0] - log_sum).masked_fill(self.outside, nm.NAN)

    @cached_property
    def log_q(self) -> Tensor:
        """ln p_C of the reference's token, [n]; NaN where it is `outside`."""
        top, log_sum = self.distances.candidate_top, self.distances.candidate_log_sum
        return (self.candidate_at_token - top[:, 0] - log_sum).masked_fill(self.outside, nm.NAN)

    def _at_token(self, logits: Tensor) -> Tensor:
        index = self.token_ids.clamp(max=self.width - 1).unsqueeze(-1)
        return logits.gather(-1, index).squeeze(-1).double()
