"""Prompts of like length share a batch: less padding, the same tokens, the same tables, one layout for every variant."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import running
import torch
from conftest import tiny_model
from hypothesis import given
from hypothesis import strategies as st

import decodedrift as dd
from decodedrift.core.batches import by_length, filed, padding
from decodedrift.core.records import Key
from decodedrift.measure import bench

STRATEGIES = ["greedy", "beam:num_beams=3", "top-k:k=8", "top-p:p=0.8"]
LENGTHS = {"a": 21, "b": 1, "c": 20, "d": 2, "e": 1, "f": 22}
PROMPTS = [
    dd.Prompt(name, " ".join(f"w{1 + (7 * i + ord(name)) % 95}" for i in range(n))) for name, n in LENGTHS.items()
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


run = functools.partial(
    running.run, prompts=PROMPTS, candidates=["bf16"], strategies=STRATEGIES, batch_size=3, max_new_tokens=10
)


@pytest.fixture
def unsorted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: the run as it is when prompts enter the batches as they come in the file."""

    def again(**more: Any) -> dd.Study:
        with monkeypatch.context() as patch:
            patch.setattr(bench, "by_length", lambda items, length, size: list(items))
            return run(**more)

    return again


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 9))
def test_sorting_never_adds_padding_and_never_loses_a_prompt(lengths: list[int], size: int) -> None:
    items = list(enumerate(lengths))
    found = by_length(items, lambda item: item[1], size)
    assert sorted(found) == items
    assert padding([n for _, n in found], size) <= padding(lengths, size)
    if found != items:
        assert found == sorted(items, key=lambda item: (item[1], item[0])), "equal lengths as they came"
        assert padding([n for _, n in found], size) < padding(lengths, size)
    if size == 1:
        assert found == items


def test_the_file_order_stays_where_sorting_would_pad_more() -> None:
    """The last batch is the short one: sorted, the longest of three would be alone and the shortest with a long one."""
    assert padding([10, 10, 1], 2) == 0
    assert padding(sorted([10, 10, 1]), 2) == 9
    assert by_length([10, 10, 1], int, 2) == [10, 10, 1]
    assert by_length([10, 1, 10, 1], int, 2) == [1, 1, 10, 10]


def test_padding_is_the_filler_of_left_padded_batches() -> None:
    rows = [[0] * n for n in LENGTHS.values()]
    filler = sum(max(map(len, rows[i : i + 4])) - len(row) for i in (0, 4) for row in rows[i : i + 4])
    assert padding(list(LENGTHS.values()), 4) == filler == 61


def test_filed_leaves_windows_of_a_text_alone() -> None:
    windows = {Key("text", 0, name): 0 for name in ("t:9", "t:10", "t:1")}
    assert list(filed(windows, PROMPTS)) == list(windows)


@pytest.mark.parametrize("size", [2, 3])
def test_sorted_batches_say_the_same_and_file_the_same_rows(unsorted: Any, size: int) -> None:
    asked = {"reference": "fp64", "candidates": ["fp32"], "batch_size": size}
    ours, plain = run(**asked), unsorted(**asked)
    keys = ["variant", "role", "strategy", "seed", "prompt_id", "token_ids"]
    cut = lambda study: study.traces.loc[study.traces["role"] != "self", keys].reset_index(drop=True)  # noqa: E731
    assert len(cut(ours)) == 2 * len(STRATEGIES) * len(PROMPTS)
    assert cut(ours).equals(cut(plain)), "tokens, and the order of the rows"
    rows = [study.positions[study.positions["role"] == "candidate"] for study in (ours, plain)]
    named = ["strategy", "prompt_id", "position", "token_id"]
    assert rows[0][named].reset_index(drop=True).equals(rows[1][named].reset_index(drop=True))
    assert rows[0]["kl"].to_numpy() == pytest.approx(rows[1]["kl"].to_numpy(), abs=1e-9)


def test_the_layout_is_felt_in_sixteen_bits(unsorted: Any) -> None:
    """What the test above calls equal is not so because nothing was sorted."""
    assert not run().positions["kl"].equals(unsorted().positions["kl"])


@pytest.mark.parametrize("mode", ["exact", "screen"])
def test_tables_are_in_file_order(mode: str) -> None:
    more = {"noise_floor": True, "inject": True, "decompose": True}
    study = run(**more) if mode == "exact" else run(mode=mode, strategies=[s for s in STRATEGIES if "beam" not in s])
    for name in ("traces", "divergences", "positions", "alternatives", "injection", "steps"):
        frame = getattr(study, name)
        if mode == "screen" and name in ("injection", "steps"):
            continue
        sides = [c for c in ("variant", "candidate", "role") if c in frame and name != "alternatives"] or ["candidate"]
        assert len(frame) > 0, name
        for _, part in frame.groupby(sides):
            met = list(dict.fromkeys(part["prompt_id"]))
            assert met == [p for p in LENGTHS if p in met], name


def test_one_prompt_a_batch_is_left_as_it_was(unsorted: Any) -> None:
    ours, plain = run(batch_size=1), unsorted(batch_size=1)
    for table in ("traces", "divergences", "positions", "alternatives"):
        assert getattr(ours, table).equals(getattr(plain, table)), table


def test_every_variant_meets_the_same_batches_and_the_control_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, list[str]] = {}
    read: dict[str, set[tuple[int, ...]]] = {}
    real, force = bench.generate, bench.force

    def generate(model: Any, vocab: Any, prompts: Any, *rest: Any, **more: Any) -> Any:
        made.setdefault(model.variant.name, []).append("".join(prompts))
        return real(model, vocab, prompts, *rest, **more)

    def forced(model: Any, readings: Any, *sizes: Any) -> Any:
        read.setdefault(model.variant.name, set()).add(tuple(dict.fromkeys(len(r.context) for r in readings)))
        return force(model, readings, *sizes)

    monkeypatch.setattr(bench, "generate", generate)
    monkeypatch.setattr(bench, "force", forced)
    study = run(candidates=["bf16", "fp16"], noise_floor=True)
    assert made["bf16"] == made["fp16"] == ["bed", "caf"] * 2, "and the floor, filled wider, the same"
    assert made["fp32"] == ["bed", "caf", "bed"], "the self control is the first batch again"
    assert set(study.traces.loc[study.traces["role"] == "self", "prompt_id"]) == {"b", "e", "d"}
    assert (study.divergences.loc[study.divergences["role"] == "self", "diverged"] == 0).all()
    assert all(lengths == tuple(sorted(lengths)) for names in read.values() for lengths in names)


def test_less_of_a_mixed_set_is_padding(unsorted: Any) -> None:
    def share(study: Any) -> float:
        model, filler, total = tiny_model("llama"), 0, 0

        def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            nonlocal filler, total
            mask = kwargs.get("attention_mask")
            if isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.shape == kwargs["input_ids"].shape:
                filler += int((mask == 0).sum())
                total += mask.numel()

        model.register_forward_pre_hook(look, with_kwargs=True)
        study(model=model, candidates=["fp32:attention=eager"])
        return filler / total

    before, after = share(unsorted), share(run)
    assert before > 0.2
    assert after < before / 3
