"""What weights lose as they are rounded: how many change, lie beyond the largest value or become 0, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass
class Losses:
    """Counts over named tensors. overflowed: by name; flushed: (of them, how many are not 0) by name."""

    total: int = 0
    changed: int = 0
    overflowed: dict[str, int] = field(default_factory=dict)
    flushed: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, name: str, old: torch.Tensor, new: torch.Tensor) -> None:
        """A tensor as it was and as it is now, in a type that holds both."""
        self.total += old.numel()
        self.changed += int((new != old).sum()) - int(old.isnan().sum())
        if lost := int((old.isfinite() & ~new.isfinite()).sum()):
            self.overflowed[name] = self.overflowed.get(name, 0) + lost
        some = int((old != 0).sum())
        zero = some - int(((old != 0) & (new != 0)).sum())
        before = self.flushed.get(name, (0, 0))  # a module may have several
        self.flushed[name] = before[0] + zero, before[1] + some

    @property
    def share(self) -> float:
        """Of the weights that changed."""
        return self.changed / self.total if self.total else 0.0

    def facts(self) -> dict[str, Any]:
        """JSON-ready: the counts, and where most overflow, and the largest share is flushed."""
        told: dict[str, Any] = {"overflowed": sum(self.overflowed.values())}
        told["flushed"] = sum(zero for zero, _ in self.flushed.values())
        if self.overflowed:
            told["overflowed_at"] = max(self.overflowed, key=lambda name: self.overflowed[name])
        if told["flushed"]:
            shares = {name: zero / some for name, (zero, some) in self.flushed.items() if some}
            told["flushed_at"] = max(shares, key=lambda name: shares[name])
            told["flushed_most"] = shares[told["flushed_at"]]
        return told
