"""stored: the weights as the checkpoint holds them, in its own compute type; what a quantized folder runs in.

Which type that is, and what of a plain checkpoint it comes to, is resolved when the checkpoint is found
(`models/sources/stored.py`).
"""

from __future__ import annotations

from decodedrift.core.notation import Param, one_of
from decodedrift.models.precisions.base import Precision

STORED = Precision(
    "as the checkpoint holds it, quantized or not, in its own compute type",
    None,
    lambda device: None,
    params={"compute": Param(one_of("fp32", "bf16", "fp16"), None, "type of the arithmetic (default: its own)")},
    own=True,
    beware="weights as the checkpoint holds them, arithmetic {compute}",
)
