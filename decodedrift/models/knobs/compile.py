"""compile: the model through torch.compile, in its default mode; what cannot be compiled fails its variant alone."""

from __future__ import annotations

from typing import Any

from decodedrift.core.notation import Param, boolean
from decodedrift.models.knobs.base import Knob


def _install(model: Any, value: bool) -> None:
    if value:
        model.compile()


def _read_back(model: Any) -> bool:
    from decodedrift.models.compilation import compiled

    return compiled(model)


COMPILE = Knob(
    Param(boolean, None, "the model through torch.compile"),
    fact="compiled",
    read_back=_read_back,
    install=_install,
)
