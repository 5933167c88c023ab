"""int8 of fused experts: each expert's matrix is rounded as a Linear of its own, whatever layout its family keeps it in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_tokenizer
from families import TABLE
from test_every_family import tiny

from decodedrift.models.load import loaded
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.variants import parse_variants

HIDDEN = 32
KINDS = (
    "aria_text",
    "dbrx",
    "gpt_oss",
    "inkling_text",
    "jetmoe",
    "llama4_text",
    "longcat_flash",
    "mixtral",
    "nemotron_h",
)
FUSED = ("experts.", "mlp.w1", "mlp.v1", "mlp.w2", "input_linear", "output_linear")
DOWN = ("down_proj", "output_linear", "w2", "fc2")


def as_linears(name: str, weight: np.ndarray) -> np.ndarray:
    """Each expert's matrix as a Linear holds it, [out, in], rounded by numpy alone; in the layout it came in."""
    rounded = []
    for matrix in weight.reshape(-1, *weight.shape[-2:]) if weight.ndim == 3 else weight.reshape(4, -1, HIDDEN):
        assert matrix.shape[0] != matrix.shape[1], "the hidden side must be told by its size"
        turned = (matrix.shape[0] != HIDDEN) if any(k in name for k in DOWN) else (matrix.shape[1] != HIDDEN)
        linear = matrix.T if turned else matrix
        scale = np.abs(linear).max(1, keepdims=True) / np.float32(127)
        done = np.clip(np.rint(linear / np.where(scale > 0, scale, 1)), -127, 127) * scale
        rounded.append(done.T if turned else done)
    return np.stack(rounded).reshape(weight.shape)


@pytest.mark.parametrize("name", KINDS)
def test_each_experts_matrix_is_rounded_as_a_linear_of_its_own(name: str) -> None:
    (one,) = [one for one in TABLE if one.name == name]
    model = tiny(one)
    old = {n: p.detach().numpy() for n, p in model.named_parameters()}
    with loaded(in_memory(model, tiny_tokenizer()), parse_variants("int8")[0]) as made:
        new = {n: p.detach().numpy() for n, p in made.model.named_parameters()}
        changed = {n for n in old if not np.array_equal(old[n], new[n])}
        assert made.facts["quantized_parameters"] == sum(old[n].size for n in changed)
        assert made.facts["quantized_share"] > 0.5
    experts = [n for n in old if any(k in n for k in FUSED) and old[n].ndim == (2 if name == "dbrx" else 3)]
    assert len(experts) >= 2
    for n in experts:
        np.testing.assert_array_equal(new[n], as_linears(n, old[n]), err_msg=n)
        assert n in changed


def test_a_fused_tensor_counts_as_one_module_and_with_all_its_elements() -> None:
    (one,) = [one for one in TABLE if one.name == "jetmoe"]
    with loaded(in_memory(tiny(one), tiny_tokenizer()), parse_variants("int8")[0]) as made:
        held = [m for m in made.model.modules() if type(m).__name__ == "JetMoeParallelExperts"]
        head = made.model.get_output_embeddings()
        linear = [m for m in made.model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        assert made.facts["quantized_modules"] == len(held) + len(linear)
        assert made.facts["quantized_parameters"] == sum(m.weight.numel() for m in (*held, *linear))
