"""Heads of two widths: what no distance sees of the wider one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from decodedrift.decoding.tops import log_totals


def note_cut(facts: dict[str, Any], reference: Tensor, candidate: Tensor) -> None:
    """Heads of two widths are compared over the ids that both have; what that leaves out is recorded.

    cut_ids: how many; cut_reference_mass, cut_candidate_mass: the largest probability that a side put on them at any
    position where it has a distribution.
    """
    width = min(reference.shape[-1], candidate.shape[-1])
    facts["cut_ids"] = max(reference.shape[-1], candidate.shape[-1]) - width
    for side, logits in (("reference", reference), ("candidate", candidate)):
        masses = (torch.logsumexp(logits[:, width:].double(), dim=-1) - log_totals(logits)).exp()
        most = max(masses[masses.isfinite()].tolist(), default=0.0)
        facts[f"cut_{side}_mass"] = max(most, facts.get(f"cut_{side}_mass", 0.0))
