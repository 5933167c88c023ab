"""Where inside a model its numbers end: the module that is named, and the weights that a format cannot hold."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import torch
from bigram import bigram_model
from conftest import tiny_model

import decodedrift as dd

run = functools.partial(running.run, max_new_tokens=8, strategies=["greedy"])


def overflowing(weight: float = 1.0) -> Any:
    """A model whose second layer's MLP gives numbers beyond fp16's largest; weight: its largest there."""
    model = tiny_model("llama")
    with torch.no_grad():
        down = model.model.layers[1].mlp.down_proj.weight
        down *= 30_000.0 * weight / down.abs().max()
        model.model.layers[1].mlp.up_proj.weight *= 100.0
    return model


@pytest.fixture(scope="module")
def overflows() -> dd.Study:
    candidates = ["fp16", "bf16", "fp8-e4m3:scale=none"]
    return run(overflowing(), candidates=candidates, prompts={"a": "w1 w2", "b": "w5"})


def test_where_fp16_and_fp8_overflow_is_said_with_the_module(overflows: dd.Study) -> None:
    facts = overflows.environment["variants"]
    assert facts["fp16"]["breaks"] == {"module": "layers.1.mlp.down_proj", "tensor": "output", "own": False}
    assert facts["fp8-e4m3:scale=none"]["breaks"] == {
        "module": "layers.1.mlp.down_proj",
        "tensor": "output",
        "own": True,
    }
    assert "breaks" not in facts["bf16"] and "breaks" not in facts["fp32"]
    said = {name: next(s for s in overflows.verdict if s.startswith(f"{name} overflows")) for name in ("fp16",)}
    assert "inside, first in layers.1.mlp.down_proj. No gate" in said["fp16"]
    answer = overflows.answer.set_index("candidate")
    assert answer.loc["fp16", "wording"] == "nonfinite"
    assert "first in layers.1.mlp.down_proj" in answer.loc["fp16", "wording_note"]
    assert "down_proj, which holds weights that are no numbers" in answer.loc["fp8-e4m3:scale=none", "wording_note"]
    assert "first in" not in str(answer.loc["bf16", "wording_note"])


def test_numbers_that_end_between_two_modules_are_said_with_the_one_that_is_given_them() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight *= 1e3
        model.model.layers[0].mlp.gate_proj.weight *= 1e3
    study = run(model, candidates=["fp16", "bf16"], prompts={"a": "w1"})
    assert study.environment["variants"]["fp16"]["breaks"]["tensor"] == "input"
    assert "inside, first in what layers.0.mlp.down_proj is given. No gate" in " ".join(study.verdict)
    assert not any(s.startswith("bf16 breaks") for s in study.verdict)


def test_what_weights_lose_is_said_with_the_module(overflows: dd.Study) -> None:
    facts, model = overflows.environment["variants"]["fp8-e4m3:scale=none"], overflowing()
    down, up = (getattr(model.model.layers[1].mlp, name).weight for name in ("down_proj", "up_proj"))
    lost = {name: int((weight.abs() >= 464).sum()) for name, weight in (("down_proj", down), ("up_proj", up))}
    assert facts["overflowed"] == sum(lost.values())
    assert facts["overflowed_at"] == f"model.layers.1.mlp.{max(lost, key=lambda name: lost[name])}"
    assert any(f"and are lost, most in {facts['overflowed_at']}." in s for s in overflows.verdict)
    assert facts["flushed"] > 0
    assert any(
        "are flushed to 0" in s and f"the largest share in {facts['flushed_at']} (" in s for s in overflows.verdict
    )
    assert "overflowed" not in overflows.environment["variants"]["fp16"], "its weights all fit"
    beyond = run(overflowing(3.0), candidates=["fp16"], prompts={"a": "w1"}).environment["variants"]["fp16"]
    assert (
        beyond["overflowed"] == int((overflowing(3.0).model.layers[1].mlp.down_proj.weight.abs() >= 65_520).sum()) > 0
    )
    assert beyond["overflowed_at"] == "model.layers.1.mlp.down_proj.weight"
    assert beyond["breaks"] == {"module": "layers.1.mlp.down_proj", "tensor": "output", "own": True}


def test_where_a_reference_breaks_is_said_with_the_module() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0] = 3e38
        model.model.layers[1].mlp.up_proj.weight *= 100.0
    study = run(model, candidates=["fp64"], prompts={"a": "w1 w2", "b": "w5"})
    assert study.environment["variants"]["fp32"]["breaks"] == {
        "module": "layers.1.mlp.down_proj", "tensor": "output", "own": False,
    }  # fmt: skip
    (said,) = (s for s in study.verdict if s.startswith("The reference fp32 breaks"))
    assert said.endswith("; inside, first in layers.1.mlp.down_proj.")
    assert "breaks" not in study.environment["variants"]["fp64"], "double precision holds it"


@pytest.mark.parametrize("words", ["w1 w2 w3 w7 w8", "w1 w2 w3 w4 w5"])
def test_where_a_reference_breaks_in_a_text_that_it_reads_is_said(words: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(words, "utf-8")
    model = bigram_model(np.eye(16).take([0, *range(2, 16), 9], 0) * 9, torch.float32)  # 9 to 15, and again
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = torch.nan
    study = run(model, candidates=["fp64"], prompts={"a": "w9"}, texts=[tmp_path / "text.txt"])
    facts = study.environment["variants"]["fp32"]
    if "w7" not in words:
        assert "breaks" not in facts
        return
    assert facts["breaks"] == {"module": "embedding", "tensor": "output", "own": True}
    assert "; inside, first in embedding, which holds weights that are no numbers." in " ".join(study.verdict)
