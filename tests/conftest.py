"""Tiny models of several families, built from configs; nothing is downloaded."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# two test processes on two cores: more threads would only wait for each other. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
settings.register_profile("no deadline", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("no deadline")

ASSETS = Path(os.environ.get("DECODEDRIFT_ASSETS", Path(__file__).parent.parent.parent / "shared"))


def assets(*parts: str) -> Path:
    """A file of the optional test assets; the test skips where it is absent."""
    path = ASSETS.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path.name} is not here; set DECODEDRIFT_ASSETS to the folder that holds {'/'.join(parts)}")
    return path


def tiny_config(family: str, vocab: int = 96) -> Any:
    """A config of a family with two layers and width 32."""
    import transformers as t

    common: dict[str, Any] = {"vocab_size": vocab, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    llama: dict[str, Any] = common | {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128,
    }  # fmt: skip
    makers: dict[str, Callable[[], Any]] = {
        "gpt2": lambda: t.GPT2Config(**common, n_positions=128, n_embd=32, n_layer=2, n_head=4),
        "llama": lambda: t.LlamaConfig(**llama, tie_word_embeddings=False),
        "qwen2": lambda: t.Qwen2Config(**llama, tie_word_embeddings=True),
        "mistral": lambda: t.MistralConfig(**llama, sliding_window=16, head_dim=8),
        "gpt_neox": lambda: t.GPTNeoXConfig(
            **common, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=128,
        ),
        "mixtral": lambda: t.MixtralConfig(**llama, num_local_experts=4, num_experts_per_tok=2, head_dim=8),
    }  # fmt: skip
    return makers[family]()


FAMILIES = ("gpt2", "llama", "qwen2", "mistral", "gpt_neox", "mixtral")


def tiny_model(family: str, vocab: int = 96, scale: float = 4.0) -> Any:
    """A random model, weights scaled up so that its greedy text is not one token for ever."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(family, vocab))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() >= 2 and "wpe" not in name:
                    parameter.mul_(scale)
    return model.eval()


FITTING = {"int4": "int4:group=16"}
"""A precision whose default divides no row of a tiny model, as one that does."""


def tiny_tokenizer(vocab: int = 96, bos: bool = False) -> Any:
    """A word-level tokenizer over `<|end|>` and w1 .. w(vocab-1)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<|end|>": 0} | {f"w{i}": i for i in range(1, vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|end|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing("<|end|> $A", special_tokens=[("<|end|>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>")


def pytest_collection_finish() -> None:
    """A collection of garbage, of which every run makes several, need not walk over what the imports have left."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def monkeypatch(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """pytest's own; while a test may patch, its runs are not those of other tests."""
    import running

    with running.apart():
        yield monkeypatch


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function: family -> folder with a saved tiny model and its tokenizer, made once."""
    made: dict[tuple[Any, ...], Path] = {}

    def save(family: str = "gpt2", vocab: int = 96, dtype: str = "float32") -> Path:
        key = (family, vocab, dtype)
        if key not in made:
            import torch

            folder = tmp_path_factory.mktemp(family)
            tiny_model(family, vocab).to(getattr(torch, dtype)).save_pretrained(folder)
            tiny_tokenizer(vocab).save_pretrained(folder)
            made[key] = folder
        return made[key]

    return save


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Any]:
    """The one server of the demo model in bf16 (`server.Served`) that all tests of a process ask."""
    from server import served

    with served() as running:
        yield running


@pytest.fixture
def server(endpoint: Any) -> Any:
    """The server with its knobs as they are from the start."""
    endpoint.turn()
    return endpoint
