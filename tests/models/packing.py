"""Quantized copies of a small llama, made with the packages that users make theirs with; and its GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_config, tiny_tokenizer
from torch import Tensor

HEADS, KEYS = 4, 2


def small(**more: Any) -> Any:
    """A random llama of width 64 (a multiple of every format's block), weights scaled up; equal whenever it is made."""
    from transformers import AutoModelForCausalLM

    config = tiny_config("llama")
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 16} | more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.data.mul_(0.5 if "embed" in name or "head" in name else 4.0)
    return model.eval()


def kept(model: Any, folder: Path) -> Path:
    """A model as a checkpoint with the tiny tokenizer."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def compressed(folder: Path, bits: int = 4, dtype: torch.dtype = torch.float32, **more: Any) -> Path:
    """As compressed-tensors writes it: symmetric absmax, per output channel unless `more` says otherwise."""
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    model = small().to(dtype)
    weights = QuantizationArgs(**{"num_bits": bits, "type": "int", "symmetric": True, "strategy": "channel"} | more)
    group = QuantizationScheme(targets=["Linear"], weights=weights)
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": group}, ignore=["lm_head"]))
    for module in model.modules():
        if hasattr(module, "quantization_scheme"):
            values = module.weight.data.unflatten(-1, (-1, weights.group_size or module.in_features))
            scale, _ = calculate_qparams(values.amin(-1), values.amax(-1), weights)
            module.weight_scale.data = scale.to(dtype)
            module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    kept(model, folder)
    compressor.update_config(str(folder))
    return folder


def converted(source: Path, config: Any) -> Any:
    """A folder's model, converted by transformers as it is loaded."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, quantization_config=config)


def bitsandbytes(folder: Path, bits: int) -> Path:
    """As `load_in_4bit` or `load_in_8bit` and `save_pretrained` leave it."""
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    config = BitsAndBytesConfig(**four if bits == 4 else {"load_in_8bit": True})
    return kept(converted(kept(small(), folder.with_name(folder.name + "-plain")), config), folder)


def torchao(folder: Path) -> Path:
    """int8 weights of torchao."""
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    plain = kept(small(), folder.with_name(folder.name + "-plain"))
    return kept(converted(plain, TorchAoConfig(Int8WeightOnlyConfig())), folder)


def gguf_file(
    path: Path,
    kind: str,
    words: list[str] | None = None,
    bos: bool | None = None,
    eos: bool = False,
    template: str = "",
) -> dict[str, Tensor]:
    """Writes the small llama as GGUF, its matrices in a type; gives what they are by the format's own definition.

    words: of its tokenizer; the tiny tokenizer's unless given, none where it is empty. bos, eos, template: what it says
    of prompts.
    """
    gguf = pytest.importorskip("gguf")
    model, writer = small(), gguf.GGUFWriter(path, "llama")
    config = model.config
    _sizes(writer, config)
    own = tiny_tokenizer().get_vocab()
    words = sorted(own, key=lambda word: own[word]) if words is None else words
    if words:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(words)
        writer.add_token_scores([0.0] * len(words))
        writer.add_token_types([1] * len(words))
        writer.add_eos_token_id(0)
        writer.add_bos_token_id(0)
    if bos is not None:
        writer.add_add_bos_token(bos)
        writer.add_add_eos_token(eos)
    if template:
        writer.add_chat_template(template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    expected = {}
    for name, weight in model.state_dict().items():
        heads = HEADS if "q_proj" in name else KEYS if "k_proj" in name else 0
        values = rotated(weight.numpy(), heads)
        if weight.dim() == 2 and kind != "F32":
            quantized = gguf.GGMLQuantizationType[kind]
            packed = gguf.quants.quantize(values, quantized)
            writer.add_tensor(names.get_name(name, (".weight",)), packed, raw_dtype=quantized)
            values = gguf.quants.dequantize(packed, quantized)
        else:
            writer.add_tensor(names.get_name(name, (".weight",)), values)
        expected[name] = torch.from_numpy(rotated(values, heads, back=True).copy())
    _write(writer)
    return expected


def converted_to_gguf(folder: Path, path: Path, kind: str) -> None:
    """A llama's checkpoint with a SentencePiece BPE as llama.cpp reads it, its matrices in a type where they fit one."""
    gguf = pytest.importorskip("gguf")
    from safetensors.numpy import load_file
    from transformers import AutoConfig

    config, quantized = AutoConfig.from_pretrained(folder), gguf.GGMLQuantizationType[kind]
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(path, "llama")
    _sizes(writer, config)
    words = sorted(model["vocab"], key=lambda word: model["vocab"][word])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    ranks = {merge.replace(" ", ""): -n for n, merge in enumerate(merges)}
    kinds = gguf.TokenType
    special = {"<unk>": kinds.UNKNOWN, "<s>": kinds.CONTROL, "</s>": kinds.CONTROL}
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([float(ranks.get(word, -1e6)) for word in words])
    writer.add_token_types([special.get(w, kinds.BYTE if w.startswith("<0x") else kinds.NORMAL) for w in words])
    for number, add in enumerate((writer.add_unk_token_id, writer.add_bos_token_id, writer.add_eos_token_id)):
        add(number)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in load_file(folder / "model.safetensors").items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2], 0)
        values = np.ascontiguousarray(rotated(weight.astype(np.float32), heads))
        fits = weight.ndim == 2 and kind != "F32" and (kind != "Q8_0" or weight.shape[1] % 32 == 0)
        packed = {"raw_dtype": quantized} if fits else {}
        writer.add_tensor(
            names.get_name(name, (".weight",)), gguf.quants.quantize(values, quantized) if fits else values, **packed
        )
    _write(writer)


def _sizes(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write(writer: Any) -> None:
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


def rotated(weight: np.ndarray, heads: int, back: bool = False) -> np.ndarray:
    """llama.cpp interleaves the two halves of every head's rows, of queries and keys; and back."""
    if not heads:
        return weight
    halves = weight.reshape(heads, *((-1, 2) if back else (2, -1)), weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)
