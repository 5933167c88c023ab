"""revision: of a checkpoint on the hub, which `checkpoints.find` reads; the commit comes back, of a folder none."""

from __future__ import annotations

from decodedrift.core.notation import Param, text
from decodedrift.models.knobs.base import Knob

REVISION = Knob(
    Param(text, None, "the checkpoint's hub revision"),
    fact="commit",
    read_back=lambda model: getattr(model.config, "_commit_hash", None),
)
