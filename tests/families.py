"""A tiny config of every causal LM that transformers builds on a CPU, one line a family: the table of test_every_family.

A new family is one line: its `model_type`, and whatever its config needs beside COMMON to be tiny and to have every kind of
layer that it knows. `refused`: decodedrift names it and does not run it. `alone`: why the model's own `generate` is not
the measure (its text is another one than its forward's), so that the full forward of each row alone is.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

COMMON: dict[str, Any] = {
    "vocab_size": 96, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "emb_dim": 32, "embedding_size": 32,
    "intermediate_size": 48, "n_inner": 48, "d_ff": 48, "dff": 48, "d_inner": 48, "dim_ff": 48, "ffn_dim": 48,
    "ffn_hidden_size": 48, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "shared_intermediate_size": 24,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "dim_head": 8,
    "max_position_embeddings": 128, "n_positions": 128, "max_seq_len": 128, "context_length": 128, "sliding_window": 16,
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_topk": 2, "moe_k": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "expert_ffn_hidden_size": 24,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "qk_head_dim": 16, "v_head_dim": 8,
    "state_size": 8, "time_step_rank": 4, "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64,
    "mamba_chunk_size": 8, "mamba_dt_rank": 4,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
"""Sizes, under every name that a config class may have for them; each class gets those that it knows."""

PADS = "left padding shifts its positions or enters its state, and its generate does not say where the padding ends"
SHIFTED = "its forward counts positions from pad_token_id + 1, its generate from 0"


@dataclasses.dataclass(frozen=True)
class Family:
    """One line of the table. name: its model_type, with a dash and a variety where there are two."""

    name: str
    kind: str
    more: dict[str, Any]
    refused: str | None
    alone: str | None
    fast: bool


def family(
    name: str, *, refused: str | None = None, alone: str | None = None, fast: bool = False, kind: str = "", **more: Any
) -> Family:
    return Family(name, kind or name, more, refused, alone, fast)


def config(one: Family) -> Any:
    """The family's config; KeyError where this transformers does not know it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made = CONFIG_MAPPING[one.kind]
    known = set(inspect.signature(made.__init__).parameters) | set(getattr(made, "__dataclass_fields__", ()))
    return made(**{name: size for name, size in COMMON.items() if name in known} | one.more)


DECODER: dict[str, Any] = {"is_decoder": True, "is_encoder_decoder": False}
ROBERTA: dict[str, Any] = {"is_decoder": True, "pad_token_id": 1}
BOTH: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"]}
LINEAR: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}
CONV: dict[str, Any] = {"layer_types": ["conv", "full_attention"]}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}
MLA: dict[str, Any] = {"num_key_value_heads": 4}
LONG: dict[str, Any] = {
    "original_max_position_embeddings": 16, "max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 1.0, "factor": 4.0,
        "original_max_position_embeddings": 16, "short_factor": [1.0] * 4, "long_factor": [3.0, 5.0, 7.0, 9.0],
    },
}  # fmt: skip

TABLE: tuple[Family, ...] = (
    family("afmoe"),
    family("apertus"),
    family("arcee"),
    family("aria_text"),
    family("axk1", **MLA),
    family("axk2", **MLA),
    family("bailing_hybrid", **LINEAR, **MLA),
    family("bamba", num_hidden_layers=3, attn_layer_indices=[1]),
    family("bart", **DECODER, alone=PADS),
    family("beam", mlp_layer_types=["dense", "sparse"]),
    family("bert", is_decoder=True),
    family("bert-generation", is_decoder=True),
    family("big_bird", is_decoder=True, attention_type="original_full"),
    family("bigbird_pegasus", **DECODER, alone=PADS),
    family("biogpt"),
    family("bitnet"),
    family("blenderbot", **DECODER, alone=PADS),
    family("blenderbot-small", **DECODER, alone=PADS),
    family("bloom"),
    family("camembert", **ROBERTA, alone=SHIFTED),
    family("codegen", rotary_dim=4, n_ctx=128),
    family("cohere"),
    family("cohere2", **BOTH),
    family("cohere2_moe", **BOTH),
    family("cohere_compass_text", **BOTH, rope_parameters={"full_attention": ROPE, "sliding_attention": ROPE}),
    family("cpmant", refused="cpmant"),
    family("ctrl"),
    family("cwm", **BOTH),
    family("data2vec-text", **ROBERTA, alone=SHIFTED),
    family("dbrx", attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4}, ffn_config={"hidden_size": 32, "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2}),
    family("deepseek_v2", **MLA),
    family("deepseek_v3", **MLA, fast=True),
    family("deepseek_v32", **MLA),
    family("deepseek_v4"),
    family("diffllama"),
    family("doge"),
    family("dots1", n_shared_experts=1),
    family("dots3_note_text", **MLA),
    family("electra", is_decoder=True),
    family("ernie", is_decoder=True),
    family("ernie4_5"),
    family("ernie4_5_moe"),
    family("exaone4", **BOTH),
    family("exaone_moe", **BOTH),
    family("falcon"),
    family("falcon-alibi", kind="falcon", alibi=True),
    family("falcon-new", kind="falcon", new_decoder_architecture=True, num_kv_heads=2),
    family("falcon_h1"),
    family("falcon_mamba"),
    family("flex_olmo"),
    family("flint", **BOTH, mlp_only_layers=[0]),
    family("gemma"),
    family("gemma2", **BOTH),
    family("gemma3_text", **BOTH),
    family("gemma3n_text", num_hidden_layers=4, layer_types=BOTH["layer_types"] * 2, num_kv_shared_layers=2, vocab_size_per_layer_input=96, hidden_size_per_layer_input=8, laurel_rank=8),
    family("gemma4_text", **BOTH, global_head_dim=16, vocab_size_per_layer_input=96, hidden_size_per_layer_input=8, fast=True),
    family("gemma4_unified_text", **BOTH, global_head_dim=16),
    family("glm"),
    family("glm4"),
    family("glm4_moe"),
    family("glm4_moe_lite", **MLA),
    family("glm_moe_dsa", **MLA),
    family("gpt-sw3"),
    family("gpt2"),
    family("gpt_bigcode"),
    family("gpt_neo", attention_types=[[["global", "local"], 1]], window_size=16),
    family("gpt_neox"),
    family("gpt_neox_japanese"),
    family("gpt_oss", **BOTH),
    family("gptj", rotary_dim=4),
    family("granite"),
    family("granite_swa"),
    family("granitemoe"),
    family("granitemoe_swa"),
    family("granitemoehybrid", layer_types=["mamba", "attention"]),
    family("granitemoeshared"),
    family("helium"),
    family("hrm_text"),
    family("hunyuan_v1_dense"),
    family("hunyuan_v1_moe"),
    family("hy_v3"),
    family("hy_v4"),
    family("hyperclovax"),
    family("inkling2_text"),
    family("inkling_text"),
    family("jais2"),
    family("jamba", num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1, use_mamba_kernels=False),
    family("jetmoe"),
    family("kimi_linear", **LINEAR, **MLA, linear_num_heads=4, linear_head_dim=8),
    family("kolibri1"),
    family("laguna", **BOTH),
    family("lfm2", **CONV),
    family("lfm2_moe", **CONV, num_dense_layers=1),
    family("lfm3", **CONV),
    family("llama", fast=True),
    family("llama4_text"),
    family("longcat_flash", **MLA, zero_expert_num=2),
    family("mamba", fast=True),
    family("mamba2", num_heads=8, n_groups=1, chunk_size=8),
    family("marian", **DECODER, alone=PADS),
    family("mbart", **DECODER, alone=PADS),
    family("megatron-bert", is_decoder=True),
    family("mellum", **BOTH),
    family("mimo_v2_flash", **BOTH),
    family("minicpm3", **MLA),
    family("minimax", **LINEAR, block_size=4, alone="its cached state takes in the padding and does not follow beams", fast=True),
    family("minimax_m2"),
    family("minimax_m3_vl_text"),
    family("ministral", **BOTH),
    family("ministral3"),
    family("mistral"),
    family("mixtral"),
    family("modernbert-decoder", pad_token_id=0, **BOTH),
    family("moshi"),
    family("mpt"),
    family("mvp", **DECODER, alone=PADS),
    family("nanochat"),
    family("nemotron"),
    family("nemotron_h"),
    family("olmo"),
    family("olmo2"),
    family("olmo3", **BOTH),
    family("olmo_hybrid", **LINEAR),
    family("olmoe"),
    family("openai-gpt", fast=True),
    family("opt"),
    family("pegasus", **DECODER, alone=PADS),
    family("persimmon"),
    family("phi"),
    family("phi3"),
    family("phi3-longrope", kind="phi3", **LONG, fast=True),
    family("phimoe"),
    family("plbart", **DECODER, alone=PADS),
    family("prophetnet", **DECODER, num_encoder_layers=2, num_decoder_layers=2, num_encoder_attention_heads=4, num_decoder_attention_heads=4, pad_token_id=1, refused="prophetnet"),
    family("qwen2"),
    family("qwen2_moe"),
    family("qwen3"),
    family("qwen3_5_moe_text", **LINEAR),
    family("qwen3_5_text", **LINEAR),
    family("qwen3_moe"),
    family("qwen3_next", **LINEAR, fast=True),
    family("qwen4_exp_text", **LINEAR, indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=8, indexer_budget=64, indexer_compress_ratio=4, hc_lowrank=8, hc_count=2, ngram_vocab_size_base=97),
    family("recurrent_gemma", num_hidden_layers=3, lru_width=32, alone=PADS, fast=True),
    family("reformer", refused="reformer", is_decoder=True, attn_layers=["local", "lsh"], axial_pos_shape=[8, 16], axial_pos_embds_dim=[16, 16], feed_forward_size=48, attention_head_size=8, num_buckets=4, local_attn_chunk_length=8, lsh_attn_chunk_length=8, pad_token_id=0),
    family("rembert", is_decoder=True),
    family("roberta", **ROBERTA, alone=SHIFTED),
    family("roberta-prelayernorm", **ROBERTA, alone=SHIFTED),
    family("roc_bert", is_decoder=True, pronunciation_vocab_size=10, shape_vocab_size=10, pronunciation_embed_dim=8, shape_embed_dim=8),
    family("roformer", is_decoder=True),
    family("rwkv", attention_hidden_size=32, alone=PADS),
    family("seed_oss"),
    family("smollm3"),
    family("solar_open"),
    family("stablelm"),
    family("starcoder2"),
    family("trocr", **DECODER, alone=PADS),
    family("vaultgemma", **BOTH),
    family("whisper", **DECODER, alone=PADS),
    family("xglm"),
    family("xlm", causal=True, pad_token_id=2, refused="xlm"),
    family("xlm-roberta", **ROBERTA, alone=SHIFTED),
    family("xlm-roberta-xl", **ROBERTA, alone=SHIFTED),
    family("xlnet", refused="xlnet"),
    family("xlstm", alone="its generate ends in `matC_old has wrong shape`"),
    family("xmod", **ROBERTA, default_language="en_XX", languages=["en_XX"], alone=SHIFTED),
    family("youtu", **MLA),
    family("zamba", num_hidden_layers=4, layers_block_type=["mamba", "hybrid"] * 2, num_key_value_heads=4, attention_head_dim=16, attention_hidden_size=64),
    family("zamba2", num_hidden_layers=4, layers_block_type=["mamba", "hybrid"] * 2, num_key_value_heads=4, n_mamba_heads=8, chunk_size=8),
    family("zaya", num_experts_per_tok=1, router_hidden_size=16),
)  # fmt: skip
