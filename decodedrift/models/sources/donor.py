"""A variant from weights that are in memory already: the same bits as reading the files again, without the reading.

Weights in the donor's own type are shared with it, unless the precision converts them in place.
"""

from __future__ import annotations

from typing import Any

import torch

from decodedrift.core.records import Variant
from decodedrift.models.knobs import turned
from decodedrift.models.precisions import PRECISIONS
from decodedrift.models.precisions.floating import cast
from decodedrift.models.sources.copies import copied

NARROWER = (torch.float32, torch.bfloat16, torch.float16)


def copied_from(model: Any, lent: Variant, variant: Variant, dtype: torch.dtype) -> Any | None:
    """A loaded model once more, in another type; None where the copy might differ from what the files give.

    It is exact from unquantized float32 on the CPU: every stored value is in it as it is, and narrowing it is what the
    loader does. Models that keep some modules in float32 whatever is asked are left to the loader, as are kernels of
    attention that it would have to check, and whatever would come from a donor that a knob has made another model.

    Args:
        model: the donor, loaded as `lent`.
        variant: what is wanted; of the same checkpoint.
        dtype: the type to read the weights as.
    """
    if lent.precision != "fp32" or dtype not in NARROWER or variant.attention not in (None, "eager", "sdpa"):
        return None
    if any(knob.reshapes for _, knob, _ in turned(lent)) or next(model.parameters()).device.type != "cpu":
        return None
    if any(getattr(model, name, None) for name in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")):
        return None
    copy = PRECISIONS[variant.precision].apply is not None
    memo = {  # requires_grad as it is: torch folds a batch into one product, or does not, by that of the weight
        id(p): torch.nn.Parameter(p.detach().to(dtype, copy=copy), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    twin = copied(model, memo)
    cast(twin, dtype)
    for _, knob, value in turned(variant):
        if knob.adapt is not None:
            knob.adapt(twin, value)
    return twin if variant.attention in (None, twin.config._attn_implementation) else None
