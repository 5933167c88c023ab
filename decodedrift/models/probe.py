"""Which path a run reads its sequences on: the fastest whose logits are those of a plain full forward pass.

A release of transformers, or a family of models, may ignore a cache, keep its state elsewhere, or drop it on the way,
and say nothing. So each variant, when its weights are first there, reads a few tokens on the run's path, in a ragged
batch whose rows cross, and is held against each text read alone, unpadded and without a cache.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from decodedrift.core.records import Variant, VariantError
from decodedrift.models.knobs import rounding
from decodedrift.models.load import Loaded, out_of_memory
from decodedrift.models.machine import available_memory
from decodedrift.models.precisions import PRECISIONS
from decodedrift.models.precisions.floating import DTYPES, cast
from decodedrift.models.precisions.inputs import unrounded
from decodedrift.models.spread import is_spread
from decodedrift.models.steps import PATHS, Cached, begin, read_whole, reading
from decodedrift.models.text.vocabulary import Vocabulary

CACHES = ("cache", "kv")  # knobs that act on the cache alone
TOLERANCE = 64  # spacings of the compute type at the largest logit
DOUBT = 4  # the same in 16 bits, where 64 spacings are half of the logit: what is off by more is looked at in float32
BACKEND = 2**-11  # the spacing of a backend's arithmetic at least
LENGTHS = (2, 4)  # tokens of the two prompts; both are of the second length where nothing is ever padded
STEPS = 3  # tokens that follow each
SEEDS = 8  # tries to find tokens that do not break a model of which some do
ROWS = (0, 0, 1, 1)  # the prompt of each row
WAYS = {"shared": "with a cache that is written in place", "stock": "with its own cache"}
CROSSING = (1, 1, 3, 2)  # the row that each goes on from after the first token
Text = tuple[int, ...]


class AnotherPath(RuntimeError):
    """A variant needs a plainer path than the run is on: what this job has read is read again."""


@dataclass
class Route:
    """The path of a run, the plainest that any of its variants needs.

    reasons: variant -> why it cannot take the paths before its own, of those that cannot. fixed: rows of this path are
    on disk already; by whom: what left them there.
    """

    path: str = PATHS[0]
    fixed: bool = False
    by_whom: str = "finished jobs of this run"
    reasons: dict[str, str] = field(default_factory=dict)
    probed: set[str] = field(default_factory=set)

    def facts(self) -> dict[str, Any]:
        """What was taken and why, for environment.json."""
        return {"path": self.path, "path_reasons": dict(self.reasons)}

    def admit(self, loaded: Loaded, vocab: Vocabulary, *, batched: bool, first: bool) -> None:
        """Probes a variant that has not been probed yet, and puts it on the run's path.

        Args:
            batched: whether sequences of unequal length share a batch. first: whether nothing was read in this job.

        Raises:
            AnotherPath: the run must take a plainer path, and has read something on the present one.
            VariantError: no path reads this variant's sequences truly, or only one that the finished jobs did not take.
        """
        loaded.path = self.path
        if loaded.variant.name in self.probed:
            return
        path, reasons = needed(loaded, vocab, self.path, batched=batched)
        if path != self.path and self.fixed:
            raise VariantError(
                f"{loaded.variant.name}: it must be read on the path {path!r}, and {self.by_whom} were on "
                f"{self.path!r} ({reasons[-1]}); start a new run"
            )
        self.probed.add(loaded.variant.name)
        if path != self.path:
            loaded.path = self.path = path
            self.reasons[loaded.variant.name] = "; ".join(reasons)
            if not first:
                raise AnotherPath(path)


def needed(loaded: Loaded, vocab: Vocabulary, path: str, *, batched: bool = True) -> tuple[str, list[str]]:
    """(the first path from `path` on that gives the plain pass's logits, why those before it do not).

    What float32 would refuse may be its rounding, above all on a GPU, whose kernels differ from one shape to the next.
    In float64 a fault is as large as it was and rounding is gone: it decides, where the memory has room for a copy.
    Inputs are not rounded meanwhile: at its steps the last bit of a kernel would become a whole step.

    Raises:
        VariantError: not even whole texts are read alike, or the model is not causal.
    """
    with unrounded(loaded.model):
        try:
            return _needed(loaded, vocab, path, batched)
        except VariantError as error:
            if out_of_memory(error) or loaded.variant.compute != "fp32":
                raise
            if (wide := _widened(loaded, "fp64")) is None:
                raise
            with suppress(VariantError):  # then float32's own reason stands
                return _needed(wide, vocab, path, batched)
            raise


def _needed(loaded: Loaded, vocab: Vocabulary, path: str, batched: bool) -> tuple[str, list[str]]:
    """The same in one type. What a variant's own cache rounds is no fault of a path; one that does not is held too."""
    caches = {name: loaded.variant.knobs[name] for name in CACHES if name in loaded.variant.knobs}
    knobs = {name: value for name, value in loaded.variant.knobs.items() if name not in caches}
    probe = _Probe(replace(loaded, variant=replace(loaded.variant, knobs=knobs), facts={}), vocab, batched)
    reasons: list[str] = []
    for candidate in PATHS[PATHS.index(path) :]:
        if (fault := probe.fault(candidate)) is None:
            break
        reasons.append(f"{WAYS[candidate]}: {fault}")
    if batched and (fault := probe.padded()) is not None:
        raise VariantError(f"{loaded.variant.name}: {fault}; --batch-size 1 pads nothing")
    if caches and "kv" not in caches and not caches["cache"].startswith("quantized"):
        probe.loaded = loaded
        if (fault := probe.fault(candidate)) is not None:
            raise VariantError(f"{loaded.variant.name}: cache={caches['cache']}: {fault}")
    return candidate, reasons


class _Probe:
    """The probe's tokens, and the logits that a plain pass gives after each prefix of its texts.

    Raises:
        VariantError: the model cannot be called plainly, or is not causal.
    """

    def __init__(self, loaded: Loaded, vocab: Vocabulary, batched: bool = True) -> None:
        self.loaded, self.pad, self.batched = loaded, vocab.pad, batched
        lengths, steps = LENGTHS if batched else LENGTHS[1:] * 2, STEPS
        if vocab.window is not None and vocab.window < max(lengths) + steps:
            lengths, steps = (1, 1), max(1, vocab.window - 1)
        width = loaded.model.config.get_text_config(decoder=True).vocab_size
        cut = lengths[0], sum(lengths)
        for seed in range(SEEDS):
            generator = torch.Generator().manual_seed(seed)
            ids = torch.randint(width, (sum(lengths) + steps * len(ROWS),), generator=generator)
            self.prompts: list[Text] = [tuple(ids[: cut[0]].tolist()), tuple(ids[cut[0] : cut[1]].tolist())]
            self.ahead = ids[cut[1] :].view(steps, len(ROWS))
            self.texts = self._grown()[-1]
            self.truth = self._plainly(loaded)
            if not any(bool((row.isnan() | row.isposinf()).any()) for row in self.truth.values()):
                return
        self.truth = {}  # nothing to hold against: its rows will say that it is broken

    def fault(self, path: str) -> str | None:
        """What is wrong on a path; None where its logits are the plain pass's.

        A deviation in 16 bits may be rounding: it is looked for once more in float32, which decides. Where there is
        no memory for that, TOLERANCE decides in 16 bits too.
        """
        try:
            narrow = rounding(self.loaded.variant) in ("bf16", "fp16")
            fault = self._on(self.loaded, path, self.truth, DOUBT if narrow else TOLERANCE)
            if fault is not None and narrow:
                wide = _widened(self.loaded, "fp32")
                if wide is None:
                    return self._on(self.loaded, path, self.truth, TOLERANCE)
                fault = self._on(wide, path, self._plainly(wide), TOLERANCE)
        except VariantError as error:
            if out_of_memory(error):
                raise
            fault = str(error).removeprefix(f"{self.loaded.variant.name}: ")
        return fault

    def padded(self) -> str | None:
        """What is wrong with texts that are read whole in one padded batch."""
        with reading(self.loaded):
            batch = read_whole(self.loaded, self.texts, [(0, len(text)) for text in self.texts], pad=self.pad)
        pairs = [(text[: t + 1], row) for text, logits in zip(self.texts, batch) for t, row in enumerate(logits)]
        return _off(self.loaded, pairs, self.truth, "padded in a batch, it reads otherwise than alone")

    def _on(self, loaded: Loaded, path: str, truth: Mapping[Text, Tensor], tolerance: float) -> str | None:
        """The fault of one path, under one loaded model."""
        if path == "plain":
            return None
        here = replace(loaded, path=path, facts={})
        how = "it continues otherwise than it reads from the beginning"
        fault = _off(here, self._stepped(here), truth, how, tolerance)
        if fault is None and path == "shared" and self.batched:  # alone, a text is read whole
            fault = _off(here, self._shared(here), truth, "it reads otherwise behind a prompt read before", tolerance)
        return fault

    def _grown(self) -> list[list[Text]]:
        """The rows' texts before the first step and after each; after the first token rows cross."""
        texts = [[self.prompts[row] for row in ROWS]]
        for step, tokens in enumerate(self.ahead.tolist()):
            before = [texts[-1][row] for row in CROSSING] if step == 1 else texts[-1]
            texts.append([(*text, token) for text, token in zip(before, tokens, strict=True)])
        return texts

    def _plainly(self, loaded: Loaded) -> dict[Text, Tensor]:
        """Text -> logits [vocab] at its end; each is read alone, with all that follows it and without."""
        truth: dict[Text, Tensor] = {}
        with reading(loaded):
            for text in dict.fromkeys(self.texts):
                (logits,) = read_whole(loaded, [text], [(0, len(text))], pad=self.pad)
                truth |= {text[: t + 1]: row for t, row in enumerate(logits)}
            alone = [(p, read_whole(loaded, [p], [(len(p) - 1, len(p))], pad=self.pad)[0][0]) for p in self.prompts]
        fault = _off(loaded, alone, truth, "a token's logits change with what follows it: this is no causal model")
        if fault is not None:
            raise VariantError(f"{loaded.variant.name}: {fault}")
        return truth

    def _stepped(self, loaded: Loaded) -> Iterator[tuple[Text, Tensor]]:
        """(text, logits at its end), decoding."""
        texts = self._grown()
        with reading(loaded):
            batch = begin(loaded, self.prompts, torch.tensor(ROWS), room=len(self.ahead), pad=self.pad)
            yield from zip(texts[0], batch.logits, strict=True)
            for step, tokens in enumerate(self.ahead):
                batch.advance(tokens, torch.tensor(CROSSING) if step == 1 else None)
                yield from zip(texts[step + 1], batch.logits, strict=True)

    def _shared(self, loaded: Loaded) -> Iterator[tuple[Text, Tensor]]:
        """(text, logits at its end), continuations read at once behind their prompts; the last a token shorter."""
        steps = len(self.ahead)
        ahead = torch.tensor([text[-steps:] for text in self.texts])
        mask = torch.ones_like(ahead)
        mask[-1, -1] = 0
        with reading(loaded):
            batch = Cached(loaded, self.prompts, torch.tensor(ROWS), room=steps, pad=self.pad, ahead=steps)
            logits = batch.read(ahead, mask)
        for row, text in enumerate(self.texts):
            begin_at = len(text) - steps
            for t in range(int(mask[row].sum())):
                yield text[: begin_at + t + 1], logits[row, t]


def _off(
    loaded: Loaded,
    pairs: Iterable[tuple[Text, Tensor]],
    truth: Mapping[Text, Tensor],
    how: str,
    tolerance: float | None = None,
) -> str | None:
    """A sentence on the largest deviation from the truth, where it is more than rounding; else None.

    Logits of -inf in the truth are not judged.
    """
    largest = max((float(row.nan_to_num(0.0, 0.0, 0.0).abs().max()) for row in truth.values()), default=0.0)
    bound = (TOLERANCE if tolerance is None else tolerance) * spacing(loaded.variant) * largest
    for text, logits in pairs:
        if (expected := truth.get(text)) is None:
            continue
        finite = expected.isfinite()
        off = (logits[finite].double() - expected[finite].double()).abs()
        if not bool((off <= bound).all()):  # NaN is no rounding either
            return f"{how}: after {len(text)} tokens a logit is off by {float(off.max()):.2g} of {largest:.3g} at most"
    return None


def spacing(variant: Variant) -> float:
    """The relative spacing that rounding in a variant's arithmetic is judged by.

    A backend's kernels may round what they multiply, to a common scale or in 16 bits whatever type is told: LLM.int8()
    does both. A sum in another order then turns a whole step of that grid: 64 spacings of these are 3 % of a logit.
    """
    precision = PRECISIONS[variant.precision]
    types = (precision.computes(variant.options) or variant.compute or "fp32", rounding(variant))
    own = max(torch.finfo(DTYPES[name]).eps for name in types)
    return max(own, BACKEND) if precision.own or precision.load is not None else own


def _widened(loaded: Loaded, name: str) -> Loaded | None:
    """The same weights in a wider type, judged by float32's tolerance; None where the memory has no room for them."""
    if is_spread(loaded.model):
        return None
    parameters, dtype = sum(p.numel() for p in loaded.model.parameters()), DTYPES[name]
    if available_memory(str(loaded.device)) < 1.5 * dtype.itemsize * parameters:  # and something to work in
        return None
    model = copy.deepcopy(loaded.model)
    cast(model, dtype)
    knobs = {knob: value for knob, value in loaded.variant.knobs.items() if knob in CACHES}  # the others round
    variant = replace(loaded.variant, precision="fp32", compute=name, options={}, knobs=knobs)
    return replace(loaded, model=model, variant=variant, facts={})
