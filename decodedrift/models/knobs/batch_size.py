"""batch_size: prompts that share a pass. The run cuts its batches by it; the largest that was decoded is told."""

from __future__ import annotations

from decodedrift.core.notation import Param, count
from decodedrift.models.knobs.base import Knob

BATCH_SIZE = Knob(Param(count, None, "prompts per batch"), fact="batch_size")
