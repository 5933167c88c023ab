"""What the content of a row's neighbours does to its logits: nothing in a dense model, last bits in a mixture.

Same prompt, same place, same lengths beside it, float32, no limit of capacity: in a mixture the neighbours' tokens say
how many rows each expert multiplies, and a product of another shape may have other last bits.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tiny_model
from test_capacity import family, ready

from decodedrift.models import steps
from decodedrift.models.load import Loaded

PROMPTS, ROWS, LENGTH = 9, 4, 12


def logits(model: Loaded, prompts: list[list[int]]) -> torch.Tensor:
    """Those of the first prompt: after its prefill, and after three more tokens that are the same in every row."""
    with steps.reading(model):
        state = steps.begin(model, prompts, torch.arange(len(prompts)), room=4, pad=0)
        read = [state.logits[0].clone()]
        for token in (3, 4, 5):
            state.advance(torch.tensor([token] * len(prompts)))
            read.append(state.logits[0].clone())
    return torch.stack(read)


def moved(model: Any, variant: str = "fp32") -> tuple[int, float]:
    """Of how many prompts other neighbours move a bit, and by how much of the largest logit at most."""
    generator = torch.Generator().manual_seed(1)
    count, most = 0, 0.0
    with ready(model, variant) as made:
        for _ in range(PROMPTS):
            own, *others = torch.randint(1, 96, (2 * ROWS - 1, LENGTH), generator=generator).tolist()
            first, second = (logits(made, [own, *company]) for company in (others[: ROWS - 1], others[ROWS - 1 :]))
            assert torch.equal(first, logits(made, [own, *others[: ROWS - 1]])), "the same company twice: no bit"
            count += not torch.equal(first, second)
            most = max(most, float((first - second).abs().max() / first.abs().max()))
    return count, most


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_neighbours_content_moves_last_bits_of_a_mixture(name: str) -> None:
    count, most = moved(tiny_model(name) if name == "mixtral" else family(name))
    assert count > 0
    assert most < 1e-5, "rounding, no more"


def test_neighbours_content_moves_no_bit_of_a_dense_model() -> None:
    assert moved(tiny_model("llama")) == (0, 0.0)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_a_kernel_with_a_product_for_each_choice_makes_rows_independent_again(name: str) -> None:
    assert moved(tiny_model(name) if name == "mixtral" else family(name), "fp32:experts=batched_mm") == (0, 0.0)
