"""Teacher-forced reading: a prompt read once for all its continuations has the logits of each sequence read alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, tiny_model, tiny_tokenizer
from running import run, saved_as
from safetensors.torch import load_file, save_file

from decodedrift.core.records import Reading, Variant
from decodedrift.decoding import forcing
from decodedrift.decoding.forcing import force
from decodedrift.models.load import loaded
from decodedrift.models.sources import checkpoints

CONTEXTS = [(5,), (7, 8, 9, 10, 11), (3, 4)]
CONTINUATIONS = [(1, 2, 3, 4, 5, 6), (9,), (20, 21, 22)]
READINGS = [Reading(context, tokens) for tokens in CONTINUATIONS for context in CONTEXTS]


def read(family: str, readings: list[Reading], batch_size: int) -> dict[int, torch.Tensor]:
    checkpoint = checkpoints.in_memory(tiny_model(family), tiny_tokenizer())
    with loaded(checkpoint, Variant("fp64", "fp64", compute="fp64")) as held:
        held.path = "stock" if family == "mistral" else "shared"
        return dict(force(held, readings, batch_size, pad=0))


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_contexts_give_the_logits_of_whole_sequences(family: str) -> None:
    together = read(family, READINGS, batch_size=3)
    alone = read(family, READINGS, batch_size=1)
    assert sorted(together) == sorted(alone) == list(range(len(READINGS)))
    for index, reading in enumerate(READINGS):
        assert together[index].shape == (len(reading.continuation), 96)
        torch.testing.assert_close(together[index], alone[index], rtol=1e-11, atol=1e-11)
    moved = [Reading(c.context[::-1], c.continuation) for c in READINGS]
    assert not torch.allclose(read(family, moved, batch_size=3)[1], together[1])  # the context counts


@pytest.mark.parametrize(("family", "shares"), [("llama", True), ("mistral", False)])
def test_each_context_is_read_once_where_the_cache_can_be_shared(
    family: str, shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, real = [], forcing._whole

    def noted(held: Any, batch: Any, pad: int) -> Any:
        whole.append(len(batch))
        return real(held, batch, pad)

    monkeypatch.setattr(forcing, "_whole", noted)
    read(family, READINGS, batch_size=3)
    assert sum(whole) == (0 if shares else len(READINGS))  # a sliding window's cache is not the whole past


def test_a_batch_beyond_the_bound_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    real = forcing._part
    monkeypatch.setattr(forcing, "_part", lambda *args: counts.append(len(part := real(*args))) or part)
    expected, whole = read("llama", READINGS, batch_size=3), counts.copy()
    counts.clear()
    monkeypatch.setattr(forcing, "CHUNK_BYTES", 2 * 6 * 96 * 4)
    parts = read("llama", READINGS, batch_size=3)
    assert sum(counts) == sum(whole) == len(READINGS)
    assert max(counts) < max(whole)
    assert parts.keys() == expected.keys()
    for index in expected:
        torch.testing.assert_close(parts[index], expected[index], rtol=1e-11, atol=1e-11)


def test_where_a_files_weights_lie_changes_no_bit(tmp_path: Path) -> None:
    """Files of the same weights whose headers end at different places of a 64-byte grid."""
    model, found = tiny_model("llama", vocab=257), []
    for padding in range(8):
        folder = Path(saved_as(model, tmp_path / str(padding)))
        file = folder / "model.safetensors"
        save_file(load_file(file), file, metadata={"format": "pt", "more": "x" * 8 * padding})
        checkpoint = checkpoints.find(str(folder))
        with loaded(checkpoint, Variant("fp32", "fp32", compute="fp32")) as held:
            assert all(p.data_ptr() % 64 == 0 for p in held.model.parameters())
            found.append(dict(force(held, READINGS, batch_size=1, pad=0)))
    assert all(torch.equal(other[i], found[0][i]) for other in found for i in range(len(READINGS)))


def test_two_prompts_of_one_text_are_read_as_two_also_by_the_self_control(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, part = [], forcing._part
    monkeypatch.setattr(forcing, "_part", lambda b, *more: batches.append((len(b), more[-1])) or part(b, *more))
    run("gpt2", prompts=["w1 w2", "w1 w2", "w3 w4", "w5 w6"], batch_size=2, strategies=["greedy"], candidates=["bf16"])
    assert batches[:5] == [(2, False)] * 5, "the reference's two readings, its control's, the candidate's two"
