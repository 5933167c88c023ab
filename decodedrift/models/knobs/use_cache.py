"""use_cache: whether generation keeps a KV cache, which `steps.py` asks for by it; its layers' classes are told."""

from __future__ import annotations

from decodedrift.core.notation import Param, boolean
from decodedrift.models.knobs.base import Knob

USE_CACHE = Knob(Param(boolean, True, "whether generation keeps a KV cache"), fact="decoding_cache", forced=False)
