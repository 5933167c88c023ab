"""device: where the weights are. It is resolved before anything is loaded (`variants.on_device`)."""

from __future__ import annotations

from decodedrift.core.notation import Param, text
from decodedrift.models.knobs.base import Knob, computing_on

DEVICE = Knob(Param(text, None, "where it runs"), fact="device", read_back=computing_on)
