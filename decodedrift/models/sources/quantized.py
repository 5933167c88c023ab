"""Checkpoints whose weights are quantized: their format, as the configuration says it, and the packages it needs."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from decodedrift.core.records import InputError


@dataclass(frozen=True)
class Format:
    """A format that transformers loads.

    packages: what its loader imports, and where it is not called the same, what pip calls it. extra: ours that brings
    them. fixed: the folder's types are kept whatever is asked. dense: its weights are unpacked to the compute type as
    they are loaded, so that the model takes the memory of a plain one.
    """

    packages: tuple[str, ...] = ()
    extra: str = ""
    fixed: bool = False
    dense: bool = False


FORMATS: dict[str, Format] = {
    "bitsandbytes": Format(("bitsandbytes", "accelerate"), "bnb", fixed=True),
    "compressed-tensors": Format(("compressed_tensors",), "compressed", dense=True),
    "torchao": Format(("torchao",), "torchao", fixed=True),
    "gptq": Format(("optimum", "gptqmodel")),
    "awq": Format(("gptqmodel", "accelerate")),
    "auto-round": Format(("auto_round",)),
    "hqq": Format(("hqq", "accelerate")),
    "quanto": Format(("optimum.quanto", "accelerate")),
    "fp8": Format(("accelerate",), dense=True),
    "mxfp8": Format(("accelerate",), dense=True),
    "mxfp4": Format(("accelerate",), dense=True),
    "fbgemm_fp8": Format(("accelerate",)),
    "bitnet": Format(("accelerate",)),
    "aqlm": Format(("aqlm", "accelerate")),
    "vptq": Format(("vptq", "accelerate")),
    "gguf": Format(("gguf", "accelerate"), "gguf", dense=True),
}
"""By `quant_method`; others are left to transformers, which says what it needs."""
PIP = {"compressed_tensors": "compressed-tensors", "optimum.quanto": "optimum-quanto", "auto_round": "auto-round"}
BITS = ("num_bits", "bits", "nbits", "w_bit", "weight_bits")
GROUPS = ("group_size", "q_group_size")
KNOWN_BITS = {"fp8": 8, "mxfp8": 8, "fbgemm_fp8": 8, "mxfp4": 4, "nvfp4": 4}
KNOWN_GROUPS = {"mxfp8": 32, "mxfp4": 32, "nvfp4": 16}


@dataclass(frozen=True)
class Quantization:
    """What is said of a checkpoint's quantization; None where the configuration does not say it.

    scheme: further words of it, as a reader of the configuration would pick them.
    """

    format: str
    bits: int | None = None
    group_size: int | None = None
    scheme: str = ""

    @property
    def named(self) -> str:
        """`an fp8 checkpoint`, `a torchao checkpoint`."""
        return f"{'an' if self.format[:1] in tuple('aefhmou') else 'a'} {self.format} checkpoint"

    @property
    def kind(self) -> Format:
        """What is known of its format; nothing of one that is not in FORMATS."""
        return FORMATS.get(self.format, Format())


def quantization(config: Any) -> Quantization | None:
    """What a model's configuration says of its quantization; None where it has none.

    Args:
        config: of transformers; its `quantization_config` is a table, or an object that gives one.
    """
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    given = getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None)
    if given is None:
        return None
    table = dict(given) if isinstance(given, Mapping) else dict(given.to_dict())
    name = str(getattr(table.get("quant_method"), "value", None) or table.get("quant_method") or "unknown")
    if table.get("load_in_4bit") or table.get("load_in_8bit"):
        return _bitsandbytes(table)
    weights = table.get("config_groups") or table
    bits = {int(v) for v in _values(weights, BITS) if isinstance(v, int)}
    groups = {int(v) for v in _values(weights, GROUPS) if isinstance(v, int) and v > 0}
    scheme = _scheme(table)
    known = KNOWN_BITS.get(name) or _bits_in(scheme or str(table.get("weights", "")))
    return Quantization(
        name,
        bits.pop() if len(bits) == 1 else None if bits else known,
        groups.pop() if len(groups) == 1 else KNOWN_GROUPS.get(name),
        scheme,
    )


def check_installed(name: str, found: Quantization) -> None:
    """Refuses a checkpoint whose format needs a package that is not here.

    Raises:
        InputError: names it, with the command that installs it.
    """
    missing = [package for package in found.kind.packages if not _installed(package)]
    if missing:
        packages = [PIP.get(p, p) for p in missing]
        command = f"'decodedrift[{found.kind.extra}]'" if found.kind.extra else " ".join(packages)
        raise InputError(f"{name}: {found.named}, which needs {' and '.join(packages)}: pip install {command}")


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a package within one that is not there
        return False


def _bitsandbytes(table: Mapping[str, Any]) -> Quantization:
    if not table.get("load_in_4bit"):
        return Quantization("bitsandbytes", 8, None, "LLM.int8(), weights and activations")
    twice = ", scales quantized again" if table.get("bnb_4bit_use_double_quant") else ""
    compute = str(table.get("bnb_4bit_compute_dtype", "")).removeprefix("torch.")
    return Quantization("bitsandbytes", 4, None, f"{table.get('bnb_4bit_quant_type')}{twice}, products in {compute}")


def _values(value: Any, names: tuple[str, ...]) -> Iterator[Any]:
    """What stands under any of the names in a table, at any depth; of activations and caches: nothing."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in names:
                yield inner
            elif not re.search("activation|cache", str(key)):
                yield from _values(inner, names)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _values(inner, names)


def _scheme(table: Mapping[str, Any]) -> str:
    """The words of a configuration that name a scheme, in its own spelling."""
    parts = [str(table[k]) for k in ("format", "checkpoint_format", "fmt", "weights", "version") if _word(table.get(k))]
    parts += [str(v) for v in _values(table.get("quant_type"), ("_type",)) if str(v).endswith("Config")][:1]
    parts += [str(table["quant_type"])] if _word(table.get("quant_type")) else []
    for group in list((table.get("config_groups") or {}).values())[:4]:
        weights = (group.get("weights") if isinstance(group, Mapping) else None) or {}
        kind = f"{weights.get('type')}{weights.get('num_bits')}"
        symmetric = "symmetric" if weights.get("symmetric") else "asymmetric"
        inputs = ", activations too" if group.get("input_activations") else ""
        parts.append(f"{kind} {symmetric} per {weights.get('strategy')}{inputs}")
    parts += [key for key in ("desc_act", "zero_point") if table.get(key) is True]
    return ", ".join(dict.fromkeys(parts))


def _word(value: Any) -> bool:
    return isinstance(value, str) and bool(re.search("[A-Za-z]", value))


def _bits_in(words: str) -> int | None:
    """The bits of a weight that a scheme's name tells: the last, as of Int8DynamicActivationInt4WeightConfig."""
    numbers = re.findall(r"(?i)(?:int|float|fp|nf)(\d+)", words)
    return int(numbers[-1]) if numbers else None
