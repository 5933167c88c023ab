"""Weights copied from the resident reference, and weights kept from job to job: the bits of reading the files."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import running
import torch
from conftest import FAMILIES, tiny_model
from running import same_rows, saved_as

from decodedrift.models import budget, load
from decodedrift.models.load import loaded
from decodedrift.models.sources import checkpoints
from decodedrift.models.variants import parse_variants

VARIANTS = ("fp32", "bf16", "fp16", "int8", "fp32:attention=eager")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_is_what_the_files_give(family: str, tmp_path: Path) -> None:
    checkpoint = checkpoints.find(saved_as(tiny_model(family), tmp_path / "m"))
    ids, several = torch.arange(1, 11)[None], torch.arange(1, 13).view(4, 3)
    with loaded(checkpoint, parse_variants("fp32")[0]) as reference:
        before = {k: v.clone() for k, v in reference.model.state_dict().items()}
        for variant in parse_variants(",".join(VARIANTS)):
            with loaded(checkpoint, variant) as read, loaded(checkpoint, variant, reference) as copied:
                assert copied.facts == read.facts
                assert copied.model.config._attn_implementation == read.model.config._attn_implementation
                with copied.running():
                    assert torch.equal(copied.model(ids).logits, read.model(ids).logits), variant.name
                    last = [m.model(several, logits_to_keep=1).logits for m in (copied, read)]  # a slice: not folded
                    assert torch.equal(*last), variant.name
        assert all(torch.equal(v, before[k]) for k, v in reference.model.state_dict().items())  # lent, not touched


def test_what_cannot_be_copied_exactly_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoints.find(saved_as(tiny_model("llama"), tmp_path / "m"))
    read: list[str] = []
    real = load.read
    monkeypatch.setattr(load, "read", lambda c, v, d: read.append(v.name) or real(c, v, d))
    with (
        loaded(checkpoint, parse_variants("bf16")[0]) as rounded,
        loaded(checkpoint, parse_variants("fp32")[0], rounded),
    ):
        assert read == ["bf16", "fp32"]
    read.clear()
    with loaded(checkpoint, parse_variants("fp32")[0]) as exact:
        for name in ("fp64", "int8", "bf16"):
            with loaded(checkpoint, parse_variants(name)[0], exact):
                pass
    assert read == ["fp32", "fp64"]


def test_kept_weights_change_no_row_and_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = functools.partial(
        running.run, prompts=[f"w{i} w{i + 3}" for i in range(1, 7)], prompts_per_job=2, max_new_tokens=6,
        candidates=["bf16", "int8"], strategies=["greedy", "beam"],
    )  # fmt: skip
    kept = run()
    assert (kept.timings[kept.timings["phase"] == "load"].groupby("variant").size() == 1).all()
    monkeypatch.setattr(budget, "all_fit", lambda world: False)
    swapped = run()
    assert (swapped.timings[swapped.timings["phase"] == "load"].groupby("variant").size() == 3).all()
    for table in ("traces", "divergences", "positions"):
        same_rows(getattr(kept, table), getattr(swapped, table))
