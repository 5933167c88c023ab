"""In what batches a candidate runs against itself: what a run does, and a forecast counts."""

from __future__ import annotations

from decodedrift.core.estimate import Floor

FLOOR_PROMPTS = 64  # of a run's prompts, the first, on which a floor is measured
FLOOR_FILLER = 5  # tokens that a floor's batches are filled wider: on a CPU it is this that moves bits
FLOOR_BATCH = 4  # prompts in its batch where the candidate's are not filled wider, or alone; 1 where they are 2 to 4


def floor_of(size: int, filled: bool) -> Floor:
    """Of a candidate that runs in batches of a size. filled: whether its own, filled wider, have other bits."""
    if filled and size > 1:
        return Floor(size, whole=True)
    return Floor(1 if 1 < size <= FLOOR_BATCH else FLOOR_BATCH)
