"""At most the reference and one candidate resident, one where both do not fit; what waits is exact, in memory or in files."""

from __future__ import annotations

import functools
import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import running
import torch
from conftest import tiny_model, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

import decodedrift as dd
from decodedrift.decoding.spool import Spool
from decodedrift.models import budget, load, workload


@pytest.fixture
def residents(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many models were alive just after each load."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    counts: list[int] = []
    ready = load._ready

    def counted(*arguments: Any) -> Any:
        model = ready(*arguments)
        alive.add(model)
        gc.collect()
        counts.append(len(alive))
        return model

    monkeypatch.setattr(load, "_ready", counted)
    return counts


run = functools.partial(
    running.run, "gpt2", prompts=["w1 w2", "w3", "w9 w8 w7"], candidates=["bf16", "fp16", "fp32:batch_size=1"],
    strategies=["greedy", "beam"], max_new_tokens=6,
)  # fmt: skip


def test_two_are_resident_at_most(residents: list[int]) -> None:
    run()
    assert len(residents) == 4
    assert max(residents) == 2


def test_one_is_resident_where_both_do_not_fit(residents: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    apart_of = run()
    residents.clear()
    monkeypatch.setattr(budget, "both_fit", lambda world: False)
    apart = run()
    assert len(residents) == 5, "the reference loads a second time, to judge"
    assert max(residents) == 1
    loads = apart.timings[apart.timings["phase"] == "load"]["variant"].tolist()
    assert loads == ["fp32", "bf16", "fp16", "fp32:batch_size=1", "fp32"]
    assert [study.environment["generation"]["resident"] for study in (apart_of, apart)] == [
        "both variants",
        "one variant",
    ]
    for table in ("traces", "divergences", "positions"):
        assert getattr(apart, table).equals(getattr(apart_of, table)), table


def test_spilled_to_files_the_rows_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    held = run()
    monkeypatch.setattr(budget, "spool_bytes", lambda world: 0)
    spilled = run()
    assert spilled.positions.equals(held.positions)
    made = [study.environment["generation"] for study in (held, spilled)]
    assert made[0]["spilled_bytes"] == 0
    assert made[1]["spilled_bytes"] >= 3 * 2 * 6 * 96 * 4, "what two strategies read of three prompts, at the least"


def test_declared_memory_decides(tmp_path: Path) -> None:
    from decodedrift.core.settings import make_settings
    from decodedrift.experiments.compare.settings import CompareSettings
    from decodedrift.runs.forecast import forecast
    from decodedrift.runs.prepare import prepare

    def prepared(memory: int) -> Any:
        asked = {"model": tiny_model("gpt2"), "prompts": ["w1"] * 8, "max_new_tokens": 64, "memory_bytes": memory}
        asked["noise_floor"] = False
        return prepare(make_settings(CompareSettings, asked), tiny_tokenizer())

    roomy = prepared(2**30)
    assert budget.both_fit(roomy.world)
    assert roomy.plan.batch_size == 8
    weights = budget.weight_bytes(roomy.world, roomy.plan.reference)
    tight = prepared(int((weights + budget.batch_bytes(roomy.world, 2)) / 0.75) + 1)
    assert tight.plan.batch_size == 2
    assert "lowered from 8 to 2" in tight.announcement()
    assert not budget.both_fit(tight.world)
    assert "(both variants resident, batch size 8)" in forecast(roomy)
    assert "(one variant resident, batch size 2)" in forecast(tight)
    assert "wait for the candidates in a job, in memory" in forecast(roomy)
    with pytest.raises(dd.InputError, match="too little"):
        prepared(weights)
    tight.world.memory = 4 * 2**20
    waiting = 8 * 4 * 64 * 96 * 4 * 2 / 2**20  # prompts, strategies, tokens, vocabulary, bytes; read and generated
    assert f"logits    up to {waiting:.1f} MiB of the reference's wait for the candidates" in forecast(tight)
    assert "in a job, 1.0 MiB in memory, the rest in files" in forecast(tight)


def test_weights_count_in_the_types_that_they_are_kept_in_and_read_in() -> None:
    from decodedrift.core.settings import make_settings
    from decodedrift.experiments.compare.settings import CompareSettings
    from decodedrift.runs.prepare import prepare

    bytes_a_weight = {  # (while it runs, while it loads)
        "bf16": (2, 2), "fp32:batch_size=1": (4, 4), "fp32:layercast=bf16": (2, 4), "fp32:mixed=bf16": (4 + 2, 6),
        "int8:compute=bf16": (2, 4), "bf16:round=weights": (4, 4),
    }  # fmt: skip
    asked = {"model": tiny_model("gpt2"), "prompts": ["w1"], "candidates": list(bytes_a_weight)}
    world = prepare(make_settings(CompareSettings, asked), tiny_tokenizer()).world
    count = sum(p.numel() for p in asked["model"].parameters())
    both = {c.name: (budget.weight_bytes(world, c), budget.loading_bytes(world, c)) for c in world.plan.candidates}
    assert both == {name: (count * a, count * b) for name, (a, b) in bytes_a_weight.items()}
    assert budget.pair_bytes(world) == count * (4 + 6) + budget.batch_bytes(world)


def test_another_order_of_summation_holds_other_copies_of_the_weights() -> None:
    from decodedrift.core.settings import make_settings
    from decodedrift.experiments.repeat.settings import RepeatSettings
    from decodedrift.runs.forecast import forecast
    from decodedrift.runs.prepare import prepare

    asked: dict[str, Any] = {"model": tiny_model("gpt2"), "prompts": ["w1"], "candidates": ["bf16"], "runs": 3}
    count = sum(p.numel() for p in asked["model"].parameters())

    def world(vary: str, **more: Any) -> Any:
        return prepare(make_settings(RepeatSettings, asked | {"vary": vary} | more), tiny_tokenizer())

    plain, permuted = world("rerun"), world("rerun,summation")
    batch = budget.batch_bytes(plain.world)
    assert budget.pair_bytes(plain.world) == count * (4 + 2) + batch
    assert budget.pair_bytes(permuted.world) == count * (4 + 2 + 10) + batch
    assert "up to 6 traces" in forecast(plain) and "up to 12 traces" in forecast(permuted)
    room = int((count * 6 + batch) / (1 - budget.SPOOL_SHARE)) + 1
    assert budget.all_fit(world("rerun", memory_bytes=room).world)
    tight = world("rerun,summation", memory_bytes=room, batch_size=8)
    assert tight.plan.batch_size < 8, "what the copies take a batch cannot have"
    tight.world.plan = tight.plan.having(batch_size=8)
    assert not budget.all_fit(tight.world) and not budget.both_fit(tight.world)


def test_on_a_gpu_logits_wait_in_the_hosts_memory_and_steps_wait_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    from decodedrift.core.settings import make_settings
    from decodedrift.experiments.compare.settings import CompareSettings
    from decodedrift.runs.prepare import prepare

    asked = {
        "model": tiny_model("gpt2"), "prompts": [f"w{i}" for i in range(1, 7)], "max_new_tokens": 10, "batch_size": 3,
        "candidates": ["bf16", "int8"], "noise_floor": True, "device": "cpu", "memory_bytes": 100 * 2**30,
    }  # fmt: skip
    world = prepare(make_settings(CompareSettings, asked), tiny_tokenizer()).world
    monkeypatch.setattr(budget, "available_memory", lambda device: {"cpu": 10 * 2**30}[device])
    assert budget.spool_bytes(world) == 25 * 2**30
    assert workload.waiting_seconds(world, 6) == 0
    there = tuple(replace(v, device="cuda") for v in world.plan.candidates)
    world.plan = world.plan.having(device="cuda", candidates=there)
    assert budget.spool_bytes(world) == 2 * 2**30
    for size, batches in ((3, 3 * 2 + 2 * 6), (6, 3 * 1 + 2 * 6 / 4)):  # three variants; two floors in 1s, in 4s
        world.plan = world.plan.having(batch_size=size)
        assert workload.waiting_seconds(world, 6) == pytest.approx(batches * 10 * 2 * workload.LAUNCH)


@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    st.integers(0, 400),
    st.integers(0, 5),
)
@settings(max_examples=40)
def test_a_spool_gives_back_every_bit(dtype: torch.dtype, budget: int, rows: int) -> None:
    torch.manual_seed(rows)
    kept = {i: torch.randn(rows, 7).to(dtype) for i in range(4)}
    kept[9] = torch.tensor([[float("nan"), float("-inf"), -0.0, 1e-30]]).to(dtype)
    with Spool(budget) as spool:
        for key, tensor in kept.items():
            spool.put(key, tensor)
        for key, tensor in kept.items():
            back = spool.get(key)
            assert back.dtype == tensor.dtype
            assert back.shape == tensor.shape
            assert back.view(-1).view(torch.uint8).tolist() == tensor.view(-1).view(torch.uint8).tolist()
        total = sum(t.numel() * t.element_size() for t in kept.values())
        assert spool.spilled_bytes >= total - budget


def test_a_spool_leaves_no_file(tmp_path: Path) -> None:
    with Spool(0, str(tmp_path)) as spool:
        spool.put("a", torch.ones(3))
        assert list(tmp_path.iterdir())
        assert spool.get("a").tolist() == [1, 1, 1]
    assert not list(tmp_path.iterdir())


def test_weights_that_change_under_way_are_refused(saved: Any, tmp_path: Path) -> None:
    import os
    import shutil

    from decodedrift.models.sources.checkpoints import find
    from decodedrift.models.variants import parse_variants

    folder = tmp_path / "model"
    shutil.copytree(saved("gpt2"), folder)
    checkpoint = find(str(folder))
    (variant,) = parse_variants("fp32")
    with load.loaded(checkpoint, variant):
        pass
    os.utime(folder / "model.safetensors", ns=(1, 1))
    with pytest.raises(dd.InputError, match="changed while the run"), load.loaded(checkpoint, variant):
        pass
