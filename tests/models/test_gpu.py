"""On a CUDA device; skipped without one. What was measured there is in docs/gpu.md."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from running import run

import decodedrift as dd
from decodedrift.models.arithmetic import pinned
from decodedrift.models.precisions.int8 import absmax_int8

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PROMPTS = ["w1 w2 w3", "w1 w2 w3", "w9", "w30 w31 w32 w33 w34"]


def test_every_precision_and_both_devices_in_one_run() -> None:
    study = run("llama", device="cuda", candidates=["bf16", "fp16", "int8", "fp64", "fp32:device=cpu"], prompts=PROMPTS)
    assert not len(study.failures), study.failures.to_string()
    assert study.environment["numerical"]["device"] == "cuda"
    assert study.environment["variants"]["bf16"]["device"].startswith("cuda")
    assert study.environment["variants"]["fp32:device=cpu"]["device"] == "cpu"
    cpu = study.positions.query("candidate == 'fp32:device=cpu'")
    assert 0 < cpu["logit_gap_max"].max() < 1e-3


@pytest.mark.parametrize("reference", ["fp32", "bf16", "fp16"])
def test_one_execution_repeated_is_exactly_itself(reference: str) -> None:
    study = run("llama", device="cuda", reference=reference, candidates=["fp64"], prompts=PROMPTS, batch_size=2)
    same = study.positions.query("role == 'self'")
    assert len(same) > 0
    assert (same["logit_gap_max"] == 0).all()


def test_int8_rounds_as_on_a_cpu() -> None:
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    assert torch.equal(absmax_int8(weight.cuda()).cpu(), absmax_int8(weight))


def test_convolutions_are_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*shape, generator=generator).cuda() for shape in ((8, 256, 64), (256, 256, 4)))
    truth = torch.nn.functional.conv1d(x.double(), weight.double())

    def error() -> float:
        return float((torch.nn.functional.conv1d(x, weight).double() - truth).abs().max())

    loose = error()
    with pinned():
        assert error() < loose / 10


def test_a_model_on_the_gpu_is_measured_there_and_left_as_it_was() -> None:
    model: Any = tiny_model("llama").cuda()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    study = dd.compare(
        model, tokenizer=tiny_tokenizer(), candidates=["bf16", "int8"], prompts=PROMPTS, max_new_tokens=4, device="cuda"
    )
    assert not study.failed
    assert all(v.is_cuda and torch.equal(v, before[k]) for k, v in model.state_dict().items())
