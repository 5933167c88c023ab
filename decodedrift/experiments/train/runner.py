"""One arm while it trains: a step as torch's own loop makes it, and what is measured of the step."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from decodedrift.experiments.train.arms import BUTTERFLY, Arm
from decodedrift.experiments.train.settings import SGD
from decodedrift.models.arithmetic import pinned
from decodedrift.models.precisions.floating import DTYPES, NAMES, KeepDouble, cast
from decodedrift.models.training.scaling import scaler
from decodedrift.models.training.start import moved_by_one_ulp
from decodedrift.models.training.watching import Watch
from decodedrift.models.training.weights import weights


class Runner:
    """An arm's weights, moments and scale, from step to step.

    kept: what its weights are: of master weights these, else those that run. delta: what the last step changed of them.
    broken: (step, module, why) once its numbers are none any more; then it is not trained further.
    """

    def __init__(self, arm: Arm, model: Any, plan: Any, seed: int, device: torch.device) -> None:
        """model: in float32; it is copied."""
        self.arm, self.plan, self.device = arm, plan, device
        self.model = copy.deepcopy(model).to(device)
        if arm.control == BUTTERFLY:
            moved_by_one_ulp(list(self.model.parameters()), seed)
        initial = [p.detach().clone() for p in self.model.parameters()] if arm.params["master"] else None
        cast(self.model, DTYPES[arm.weights])
        self.named = list(self.model.named_parameters())
        self.weights = weights(
            [p for _, p in self.named], arm.params["master"], arm.params["rounding"], seed, initial=initial
        )
        kind = torch.optim.SGD if plan.optimizer == SGD else torch.optim.AdamW
        self.optimizer = kind(self.weights.seen, lr=plan.lr)
        plain = arm.weights == "fp16" and self.weights.seen is self.weights.narrow
        self.scaler = scaler(arm.params["loss_scale"], plain, device.type)
        self.watch = None if arm.control else Watch(self.model)
        self.delta: list[Tensor] = []
        self.broken: tuple[int, str, str] | None = None
        self.facts: dict[str, Any] = {}

    @property
    def kept(self) -> list[Tensor]:
        """What its weights are, whatever runs."""
        return [tensor.detach() for tensor in self.weights.seen]

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Exact float32, autocast where the arm has it, and float64 that stays so."""
        with ExitStack() as stack:
            stack.enter_context(pinned())
            autocast = self.arm.autocast
            kind = DTYPES[autocast] if autocast else None
            stack.enter_context(torch.autocast(self.device.type, dtype=kind, enabled=autocast is not None))
            if self.arm.weights == "fp64":
                stack.enter_context(KeepDouble())
            yield

    def step(self, number: int, batches: Sequence[Tensor], reference: Runner | None) -> dict[str, Any]:
        """One step of the optimizer; the columns of `training` that are the arm's own.

        Args:
            batches: ids int64 [batch, context + 1], one for each accumulation.
            reference: the arm that did this step before, on the same batches; None of itself and on others.
        """
        if self.watch is not None:
            self.watch.begin(reference.watch if reference is not None else None)
        row: dict[str, Any] = {"loss": self._backward(batches), "scale": self.scaler.get_scale()}
        row |= self._gradients(reference is not None)
        self.weights.gradients()
        row["grad_norm_scaled"] = row["grad_norm"] = norm(p.grad for p in self.weights.seen)
        self.scaler.unscale_(self.optimizer)
        if row["scale"] != 1:
            row["grad_norm"] = norm(p.grad for p in self.weights.seen)
        if self.plan.clip is not None:
            clip_grad_norm_(self.weights.seen, self.plan.clip)
        row["grad_norm_clipped"] = norm(p.grad for p in self.weights.seen) if self.plan.clip else row["grad_norm"]
        row |= self._update()
        if not self.facts:
            self.facts = self._read_back()
        self.model.zero_grad(set_to_none=True)
        self.optimizer.zero_grad(set_to_none=True)
        self._note_broken(number, row)
        return row

    def _backward(self, batches: Sequence[Tensor]) -> float:
        """The mean loss of the batches, and its gradients in the model."""
        total = 0.0
        for ids in batches:
            with self.arithmetic():
                loss = self.loss(ids)
                share = loss / len(batches) if len(batches) > 1 else loss
            self.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total / len(batches)

    def loss(self, ids: Tensor) -> Tensor:
        """The mean cross entropy of every next token, in float32 as transformers has it (of an fp64 arm in float64)."""
        logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits
        return cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    def _gradients(self, compared: bool) -> dict[str, Any]:
        """Shares of gradients that are flushed or overflow."""
        if self.watch is None:
            return {}
        row: dict[str, Any] = {}
        for what, part in (("weights", self.watch.weights(self.named)), ("activations", self.watch.activations)):
            row[f"flushed_{what}"] = part.flushed.share if compared else None
            row[f"overflowed_{what}"] = part.overflowed.share
        if (overflow := self.watch.overflow) is not None:
            row |= {"overflow_module": overflow.module, "overflow_pass": overflow.passed}
        return row

    def _update(self) -> dict[str, Any]:
        """The optimizer's step, and what became of what it wanted."""
        before = [tensor.clone() for tensor in self.kept]
        scale = self.scaler.get_scale()
        measured = not self.arm.control  # an fp32 arm like any other, whose updates tell nothing
        if measured:
            self.weights.begin(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        skipped = self.scaler.get_scale() < scale
        row: dict[str, Any] = {"skipped": int(skipped)}
        if measured and not skipped:
            arrival = self.weights.finish()
            row |= {"cancelled": arrival.cancelled.share, "arrived": arrival.arrived}
        self.delta = [now.double() - then.double() for now, then in zip(self.kept, before, strict=True)]
        return row

    def _note_broken(self, number: int, row: dict[str, Any]) -> None:
        """The step at which its numbers ended, in which module, and why."""
        module = row.get("overflow_module") or ""
        where = f", first in the {row['overflow_pass']} pass" if module else ""
        if not math.isfinite(row["loss"]) and not row["skipped"]:
            self.broken = (number, module, f"the loss is {row['loss']}{where}")
            return
        for name, tensor in zip((name for name, _ in self.named), self.kept, strict=True):
            if not bool(tensor.abs().amax().isfinite()):
                spoilt = name.rpartition(".")[0] or name
                why = "after the optimizer's step the weights hold numbers that are infinite or none"
                self.broken = (number, module or spoilt, f"{why}{where}")
                return

    def _read_back(self) -> dict[str, Any]:
        """What the arm is: types by how many numbers have them, while its gradients are there."""
        moments = [
            value
            for state in self.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor) and value.dim()
        ]
        types = self.watch.types if self.watch is not None else {}
        return {
            "running": counted(p for _, p in self.named),
            "weights": counted(self.kept),
            "gradients": counted(p.grad for p in self.weights.seen),
            "moments": counted(moments),
            "activations": {name: NAMES.get(kind, str(kind)) for name, kind in types.items()},
            "optimizer": type(self.optimizer).__name__,
            "scaler": type(self.scaler).__name__ if self.arm.params["loss_scale"] is not None else "none",
        }  # fmt: skip

    def predictions(self, windows: Sequence[Tensor]) -> Tensor:
        """Log-probability of every next token of ids [1, T] each, float64, as this arm computes it."""
        told = []
        with torch.no_grad(), self.arithmetic():
            for ids in windows:
                logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits
                told.append(logits.double().log_softmax(-1).gather(-1, ids[:, 1:, None]).flatten().cpu())
        return torch.cat(told)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "model": self.model.state_dict(), "weights": self.weights.state_dict(),
            "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
            "broken": self.broken, "facts": self.facts,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.model.load_state_dict(state["model"])
        self.weights.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.broken = tuple(state["broken"]) if state["broken"] else None  # type: ignore[assignment]
        self.facts = state["facts"]


def counted(tensors: Any) -> dict[str, int]:
    """Numbers by their type."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        if tensor is not None:
            counts[NAMES.get(tensor.dtype, str(tensor.dtype))] += tensor.numel()
    return dict(counts)


def norm(tensors: Any) -> float:
    """The Euclidean norm of all numbers together, in float64."""
    parts = [torch.linalg.vector_norm(t.detach(), dtype=torch.float64) for t in tensors if t is not None]
    return float(torch.linalg.vector_norm(torch.stack(parts))) if parts else 0.0


def apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """|ours - theirs| / |theirs|, in float64."""
    difference = norm(a.double() - b.double() for a, b in zip(ours, theirs, strict=True))
    return difference / norm(theirs)


def cosine(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float | None:
    """Of two changes of the weights, in float64; None where one of them is nothing."""
    product = sum(float((a.double() * b.double()).sum()) for a, b in zip(ours, theirs, strict=True))
    lengths = norm(ours) * norm(theirs)
    return product / lengths if lengths > 0 and math.isfinite(lengths) else None
