"""The arms of a training: what differs between them, read strictly from `bf16:master=true`; without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from decodedrift.core.notation import Param, boolean, number, one_of, read_params, split_items
from decodedrift.core.records import InputError, nearest

FP32 = "fp32"
KINDS = {  # type of the weights that run, type that autocast computes in
    "fp64": ("fp64", None), FP32: (FP32, None), "bf16": ("bf16", None), "fp16": ("fp16", None),
    "autocast-bf16": (FP32, "bf16"), "autocast-fp16": (FP32, "fp16"),
}  # fmt: skip
NARROW = ("bf16", "fp16")
DYNAMIC = "dynamic"
DEFAULT = ("fp64", FP32, "bf16", "bf16:master=true", "autocast-bf16")
AGAIN, BUTTERFLY, ORDER = "fp32-again", "butterfly", "other-order"
CONTROLS = {
    AGAIN: "the fp32 arm a second time, which must be equal to the bit",
    BUTTERFLY: "an fp32 arm whose first weights are moved by one ulp each, up or down",
    ORDER: "an fp32 arm that reads the same batches in another order",
}
_number = number(0, 2.0**120, open_low=True)


def loss_scale(value: Any) -> str | float | None:
    """`none`, `dynamic`, or the number itself."""
    if value in (None, "none", DYNAMIC):
        return DYNAMIC if value == DYNAMIC else None
    try:
        return _number(value)
    except ValueError:
        raise ValueError(f"must be none, dynamic or a number > 0, not {value!r}") from None


PARAMS = {
    "master": Param(boolean, False, "float32 weights and moments, of which 16-bit copies run"),
    "loss_scale": Param(loss_scale, None, "none, dynamic (GradScaler's schedule) or a number"),
    "rounding": Param(one_of("nearest", "stochastic", "kahan"), None, "of 16-bit weights, with float32 moments"),
}


@dataclass(frozen=True)
class Arm:
    """One way of training. label: as asked, keys sorted, or the control's name; params: all, resolved.

    control: its name in CONTROLS; empty of an arm. added: whether it is there for the controls alone.
    """

    kind: str
    label: str
    params: Mapping[str, Any]
    control: str = ""
    added: bool = False

    @property
    def weights(self) -> str:
        """The type of the weights that run."""
        return KINDS[self.kind][0]

    @property
    def autocast(self) -> str | None:
        """The type that autocast computes in, if it does."""
        return KINDS[self.kind][1]

    @property
    def role(self) -> str:
        """arm or control."""
        return "control" if self.control or self.added else "arm"


def parse_arms(given: str | Iterable[str]) -> list[Arm]:
    """`fp64,bf16:master=true` as what it names.

    Raises:
        InputError: an unknown name or parameter, or a parameter that the arm has no use for.
    """
    arms = []
    for item in split_items(given, lambda head: PARAMS if head in KINDS else ()):
        if item.head not in KINDS:
            raise InputError(f"unknown arm {item.head!r}; {nearest(item.head, tuple(KINDS))}")
        params = read_params(item.head, item.params, PARAMS)
        arms.append(Arm(item.head, item.label, params))
        _check(arms[-1])
    return arms


def _check(arm: Arm) -> None:
    narrow = ", ".join(NARROW)
    for name in ("master", "rounding"):
        if arm.params[name] and arm.weights not in NARROW:
            raise InputError(f"{arm.label}: {name} is for arms whose weights have 16 bits ({narrow}); leave it out")
    if arm.params["master"] and arm.params["rounding"]:
        raise InputError(f"{arm.label}: masters take every update, so that nothing is left to round; leave one out")
    if arm.params["loss_scale"] is not None and "fp16" not in (arm.weights, arm.autocast):
        raise InputError(f"{arm.label}: loss_scale is for gradients in fp16 (fp16, autocast-fp16); leave it out")


def with_controls(arms: Iterable[Arm]) -> list[Arm]:
    """The arms, and the controls behind them; an fp32 arm for these where there is none."""
    every = list(arms)
    plain = parse_arms([FP32])[0]
    if plain.label not in [arm.label for arm in every]:
        every.append(Arm(FP32, FP32, plain.params, added=True))
    return every + [Arm(FP32, name, plain.params, control=name) for name in CONTROLS]
