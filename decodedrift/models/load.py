"""The only place that loads weights: `loaded(checkpoint, variant)`, a context manager that reads back what it got."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from decodedrift.core.records import InputError, Variant, VariantError
from decodedrift.core.secrecy import excerpt
from decodedrift.models.arithmetic import pinned
from decodedrift.models.compilation import compiled, compiler_failed, compiling
from decodedrift.models.facts import read_back
from decodedrift.models.knobs import KNOBS, turned
from decodedrift.models.knobs.base import setting
from decodedrift.models.knobs.experts import kernel_of
from decodedrift.models.precisions import PRECISIONS
from decodedrift.models.precisions.base import Rounded
from decodedrift.models.precisions.floating import DTYPES, NAMES, KeepDouble, cast
from decodedrift.models.precisions.inputs import called, hooked
from decodedrift.models.rewrites import align, conv1d_to_linear, forget_generation_settings
from decodedrift.models.sources import adapter, gguf
from decodedrift.models.sources.checkpoints import Checkpoint
from decodedrift.models.sources.copies import copied
from decodedrift.models.sources.copycontrol import control
from decodedrift.models.sources.donor import copied_from
from decodedrift.models.sources.quiet import quiet, silenced
from decodedrift.models.sources.stored import stored_type
from decodedrift.models.sources.unpacked import found, unpack
from decodedrift.models.sources.weightfiles import pickled
from decodedrift.models.spread import as_in_memory, is_spread

NO_MEMORY = ("can't allocate memory", "STATUS_ALLOC_FAILED", "CUDA error: out of memory")


@dataclass
class Loaded:
    """A model ready to run as one variant, with what was read back from it.

    facts: weights' real dtypes, quantized and rounded shares, attention kernel; all JSON-ready. path: how sequences are
    read, one of `steps.PATHS`. draft: the model that proposes its tokens, where one does (`drafting`). filler: tokens
    that every batch of prompts is filled wider than its longest.
    """

    model: Any
    variant: Variant
    device: torch.device
    facts: dict[str, Any] = field(default_factory=dict)
    path: str = "shared"
    draft: Any = None
    filler: int = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inference mode, exact float32, no autocast, the variant's knobs; the caller's state is put back."""
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(self.device.type, enabled=False))
            stack.enter_context(pinned())
            stack.enter_context(torch.inference_mode())
            for _, knob, value in turned(self.variant):
                if knob.running is not None:
                    stack.enter_context(knob.running(self.model, value))
            if self.variant.compute == "fp64":
                stack.enter_context(KeepDouble())
            if compiled(self.model):
                stack.enter_context(compiling())
            try:
                yield
            except RuntimeError as error:
                if not compiler_failed(error):
                    raise
                raise VariantError(f"{self.variant.name}: cannot be compiled ({excerpt(error, 180)})") from error

    def note(self, logits: torch.Tensor) -> None:
        """The logits' own type is a fact of the variant."""
        self.facts["logits_dtype"] = NAMES.get(logits.dtype, str(logits.dtype))

    def probe(self) -> torch.Tensor:
        """Logits [1, 4, vocab] of four tokens, by the model's plain forward.

        Raises:
            VariantError: the model cannot run.
        """
        try:
            with self.running(), quiet():
                ids = torch.arange(1, 5, device=self.device) % self.model.get_input_embeddings().weight.shape[0]
                return measurable(self.model(input_ids=ids[None], use_cache=False).logits)
        except Exception as error:  # the caller's own model: its code raises anything
            if isinstance(error, VariantError) or out_of_memory(error):
                raise
            raise VariantError(f"{self.variant.name}: {type(error).__name__}: {excerpt(error, 180)}") from error


@contextmanager
def loaded(checkpoint: Checkpoint, variant: Variant, donor: Loaded | None = None) -> Iterator[Loaded]:
    """Loads one variant, checks that it got what was asked for, and frees it afterwards.

    Args:
        donor: the same checkpoint, loaded: its weights are copied instead of read again where that is exact.

    Raises:
        VariantError: the variant cannot run here.
        InputError: the checkpoint itself is broken (missing, unexpected or mismatched tensors).
    """
    device = torch.device(variant.device or "cpu")
    ready = Loaded(None, variant, device)
    spread = setting(variant, "device_map") is not None
    files = tempfile.TemporaryDirectory(prefix="decodedrift-") if spread else nullcontext()  # weights saved anew
    try:
        ready.model = _ready(checkpoint, variant, device, donor, files.__enter__())
        ready.facts = read_back(ready.model, checkpoint, variant)
        with ready.running():
            facts = {knob.fact: knob.read_back(ready.model) for knob in KNOBS.values() if knob.read_back is not None}
        ready.facts |= facts
        if modules := len(hooked(ready.model)):
            ready.facts["rounded_inputs"] = {"modules": modules, "called": called(ready.model, ready.probe)}
            if not ready.facts["rounded_inputs"]["called"]:
                raise VariantError(f"{variant.name}: no input can be rounded: its code calls no projection as a module")
        if checkpoint.module is not None:
            given = [checkpoint.module] if donor is None else [checkpoint.module, donor.model]
            ready.facts["copy_control"] = control(ready.model, variant.name, ready.probe, given, facts["autocast"])
        yield ready
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, VariantError) or not out_of_memory(error):
            raise
        raise VariantError(f"{variant.name}: out of memory ({excerpt(error, 120)})") from error
    finally:
        ready.model = None  # whoever still holds the record does not hold the weights
        gc.collect()
        files.__exit__(None, None, None)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def measurable(logits: torch.Tensor) -> torch.Tensor:
    """Logits where float64 exists: Apple's GPU has none, so there they are measured on the CPU."""
    return logits.cpu() if logits.device.type == "mps" else logits


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; of a CPU, and of CUDA's libraries, torch raises a RuntimeError."""
    if isinstance(error, VariantError) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(s in str(error) for s in NO_MEMORY)


def status_and_reason(error: Exception) -> tuple[str, str]:
    """(status, one line of at most 300 characters) for a row of failures."""
    ours = isinstance(error, (VariantError, InputError))
    text = str(error) if ours else f"{type(error).__name__}: {error}"
    return "out_of_memory" if out_of_memory(error) else "failed", excerpt(text, 300)


def _ready(
    checkpoint: Checkpoint, variant: Variant, device: torch.device, donor: Loaded | None, files: str | None
) -> Any:
    """The model in the variant's precision, on its device, in eval mode; files: for weights that are saved anew."""
    precision = PRECISIONS[variant.precision]
    compute = DTYPES[variant.compute or "fp32"]
    if reason := precision.unavailable(device.type):
        raise VariantError(reason)
    if precision.own:
        return _as_stored(checkpoint, variant, compute, device)
    if precision.load is not None:
        model = _from_pretrained(checkpoint, variant, compute, **precision.load(variant.options))
    else:
        named = precision.reads(variant.options)
        read_as = DTYPES[named] if named else compute
        if checkpoint.adapter is not None or any(k.load and not k.adapt for _, k, _ in turned(variant)):
            donor = None
        lent = copied_from(donor.model, donor.variant, variant, read_as) if donor is not None else None
        place = {"offload_folder": files} if files is not None else {}
        model = read(checkpoint, variant, read_as, **place) if lent is None else lent
        as_in_memory(model)
        conv1d_to_linear(model)
    rounded = Rounded()
    if precision.apply is not None:
        rounded = precision.apply(model, variant.options)
    if precision.read_back is not None:
        rounded = precision.read_back(model)
    if precision.load is None:
        if precision.reads(variant.options) or compute == torch.float64:
            cast(model, compute)
        if not is_spread(model):
            model.to(device)
    if compute == torch.float64 and kernel_of(model) == "grouped_mm":
        model.set_experts_implementation("eager")  # the grouped kernels have no float64
    for _, knob, value in turned(variant):
        if knob.install is not None:
            knob.install(model, value)
    align(model)
    forget_generation_settings(model)
    model._decodedrift_rounded = rounded
    return model.eval()


def _as_stored(checkpoint: Checkpoint, variant: Variant, compute: torch.dtype, device: torch.device) -> Any:
    """A model as its checkpoint holds it: nothing is cast or rewritten, and no weight moved that a backend packed."""
    if checkpoint.quantization is not None:
        silenced(checkpoint.quantization.format)
    if checkpoint.module is None:
        place = {"device_map": {"": str(device)}} if device.type != "cpu" else {}
        model = _from_pretrained(checkpoint, variant, compute, **place)
    else:
        model = _adapted(checkpoint, variant)
    rounded = found(model, checkpoint)
    unpack(model)
    align(model)
    forget_generation_settings(model)
    model._decodedrift_rounded = rounded
    return model.eval()


def read(checkpoint: Checkpoint, variant: Variant, dtype: torch.dtype, **more: Any) -> Any:
    """The model as its files, or its copy in memory, hold it, in a type; nothing of it is rewritten."""
    if checkpoint.module is None:
        return _from_pretrained(checkpoint, variant, dtype, **more)
    model = _adapted(checkpoint, variant)
    cast(model, dtype)
    return model


def _adapted(checkpoint: Checkpoint, variant: Variant) -> Any:
    """A copy of a model in memory, with the knobs that are set before it runs."""
    model = copied(checkpoint.module)
    for name, knob, value in turned(variant):
        if knob.adapt is not None:
            knob.adapt(model, value)
        elif knob.load is not None:
            raise VariantError(f"{variant.name}: {name} is set while loading; give a folder or hub id, not a model")
    return model


def _from_pretrained(checkpoint: Checkpoint, variant: Variant, dtype: torch.dtype, **more: Any) -> Any:
    from transformers import AutoModelForCausalLM, GenerationConfig

    if checkpoint.module is not None:
        raise VariantError(f"{variant.name}: bitsandbytes converts while loading; give a folder or hub id, not a model")
    if checkpoint.kind == "gguf":
        more |= gguf.load_arguments()
    merge = setting(variant, "merge")
    read_as = dtype
    if merge == "fp32" and dtype != torch.float64:
        read_as = torch.float32
    elif merge == "stored" and checkpoint.quantization is None:
        read_as = DTYPES[stored_type(checkpoint)]
    checkpoint.check_unchanged()
    list(checkpoint.headers())  # names a broken file, which the loader does not
    for _, knob, value in turned(variant):
        more |= knob.load(value) if knob.load is not None else {}
    if "quantization_config" in more and variant.device:
        more["device_map"] = {"": variant.device}
    try:
        with quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                checkpoint.source,
                dtype=read_as,
                use_safetensors=not pickled(checkpoint.files),
                ignore_mismatched_sizes=True,  # reported, and refused below by name
                output_loading_info=True,
                generation_config=GenerationConfig(),  # its own is read for stop ids alone (`stops`), and may be broken
                **checkpoint.arguments,
                **more,
            )
    except (ImportError, ValueError, OSError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        text = excerpt(_conversion(error) or error, 180)
        if "size mismatch" in text.lower() or "mismatch" in text.lower():
            raise InputError(f"{checkpoint.name}: its weights do not fit its config.json ({text})") from None
        raise VariantError(f"{variant.name}: cannot be loaded ({text})") from error
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if keys := sorted(str(k) for k in report.get(what) or ()):
            raise InputError(
                f"{checkpoint.name}: {len(keys)} {what.removesuffix('_keys')} tensors in its weight files, "
                f"for example {keys[0]}; the checkpoint is incomplete or does not fit its config.json"
            )
    if checkpoint.adapter is None:
        return model
    unpack(model)  # peft puts nothing on packed weights that it does not know
    return adapter.attached(model, checkpoint.adapter, merge, dtype, variant.name)


def _conversion(error: BaseException) -> str:
    """Why transformers could not convert a weight; its error points to a report that it logs."""
    trace = error.__traceback__
    while trace is not None:
        told = getattr(trace.tb_frame.f_locals.get("loading_info"), "conversion_errors", None)
        if told:
            name, text = next(iter(told.items()))
            return f"{name}: {text.rpartition(chr(10) + 'Error')[0].strip().rpartition(chr(10))[2] or text}"
        trace = trace.tb_next
    return ""
