"""Weights are loaded seldom: counted as they are, foretold as they will be, and in jobs that are worth it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from running import LEAN, content, run

import decodedrift as dd
from decodedrift.core.progress import Progress
from decodedrift.core.settings import make_settings
from decodedrift.experiments.compare.settings import CompareSettings
from decodedrift.models import budget, load, workload
from decodedrift.runs.forecast import _percent, forecast
from decodedrift.runs.prepare import Prepared, prepare
from decodedrift.runs.resume import stored_settings
from decodedrift.runs.runfolder import RunFolder

PROMPTS = [f"w{1 + i} w{1 + 2 * i}" for i in range(40)]
ASKED: dict[str, Any] = {
    "prompts": PROMPTS, "candidates": ["bf16", "int8"], "strategies": ["greedy"], "max_new_tokens": 40,
}  # fmt: skip
SHORT = ASKED | {"prompts": PROMPTS[:6], "max_new_tokens": 4, "prompts_per_job": 2}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def ready(**more: Any) -> Prepared:
    return prepare(
        make_settings(CompareSettings, {"model": tiny_model("llama")} | LEAN | ASKED | more), tiny_tokenizer()
    )


def apart(patch: pytest.MonkeyPatch, *names: str) -> None:
    """As if the memory were too small for this."""
    for name in names:
        patch.setattr(budget, name, lambda world: False)


@pytest.mark.parametrize(
    ("small", "more", "loads"),
    [
        ((), {}, (1, 1, 1)), (("all_fit",), {}, (3, 3, 3)), (("all_fit", "both_fit"), {}, (6, 3, 3)),
        (("all_fit", "both_fit"), {"mode": "screen"}, (4, 3, 3)),
        (("all_fit", "both_fit"), {"mode": "screen", "continued": True}, (6, 3, 3)),
    ],
    ids=str,
)  # fmt: skip
def test_loads_are_counted_and_foretold(
    monkeypatch: pytest.MonkeyPatch, small: tuple[str, ...], more: dict[str, Any], loads: tuple[int, ...]
) -> None:
    apart(monkeypatch, *small)
    made: list[str] = []
    real = load._ready
    monkeypatch.setattr(load, "_ready", lambda c, v, *rest: made.append(v.name) or real(c, v, *rest))
    study = run(**SHORT | more)
    facts = study.environment["variants"]
    assert [facts[name]["loads"] for name in ("fp32", "bf16", "int8")] == list(loads)
    assert [made.count(name) for name in ("fp32", "bf16", "int8")] == list(loads)
    timed = study.timings[study.timings["phase"] == "load"].groupby("variant")["seconds"].sum()
    assert {name: facts[name]["load_seconds"] for name in facts} == pytest.approx(timed.to_dict())
    foretold = ready(**SHORT | more)
    times = workload.loading(foretold.world, foretold.jobs).loads
    unread = 2 if more.get("mode") == "screen" and "continued" not in more else 0  # only the self control is judged
    assert times == sum(loads) + unread
    assert f"loading   weights {times} times (" in forecast(foretold)


def test_of_a_resumed_run_the_loads_of_its_finished_jobs_count_too(saved: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        dd.compare(saved(), out=tmp_path / "run", progress=Dying(2), **SHORT, **LEAN)
    study = dd.compare(saved(), out=tmp_path / "run", resume=True, **SHORT, **LEAN)
    assert {v["loads"] for v in study.environment["variants"].values()} == {2}


class Dying(Progress):
    """Ends the process's run when the bf16 variant begins to generate for a job too many."""

    def __init__(self, jobs: int) -> None:
        self.left = jobs

    def start(self, variant: str, what: str, tokens: int) -> None:
        if variant == "bf16" and what != "reading":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_jobs_are_enlarged_where_weights_are_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [f"w{1 + i % 95} w{1 + i // 2}" for i in range(100)]
    roomy = ready(prompts=many)
    assert roomy.plan.prompts_per_job == 16
    assert not roomy.enlarged
    weights = [budget.weight_bytes(roomy.world, v) for v in roomy.plan.variants]
    small = ready(prompts=many, memory_bytes=int((max(weights) + budget.batch_bytes(roomy.world)) / 0.75) + 1)
    assert small.plan.batch_size == roomy.plan.batch_size
    assert not budget.all_fit(small.world)
    assert [len(job.prompts) for job in small.jobs] == [56, 44], "43 would do; 43, 43 and 14 load once more"
    assert "jobs of 56 prompts" in small.announcement()
    asked = ready(prompts=many, memory_bytes=small.world.memory, prompts_per_job=16)
    assert asked.plan.prompts_per_job == 16, "what is asked is done"
    assert not asked.enlarged
    shard = ready(prompts=many, memory_bytes=small.world.memory, shard="2/3")
    assert shard.plan.prompts_per_job == 16, "no shard knows the memory of the others"
    assert [job.index for job in shard.jobs] == [1, 4]
    shares = [workload.loading(r.world, r.jobs).share for r in (small, asked)]
    assert shares[0] < workload.SHARE < shares[1]
    assert "more --prompts-per-job" in forecast(asked)
    assert (_percent(0.001), _percent(0.2)) == ("less than 1 %", "about 20 %")
    assert "more --prompts-per-job" not in forecast(small)


def test_enlarged_jobs_keep_to_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    apart(monkeypatch, "all_fit")
    assert ready().plan.prompts_per_job == 40, "all of them: two jobs of 32 would not be worth it"
    each = 40 * 96 * 4 * 2  # tokens, vocabulary, float32; forced logits and greedy's own
    monkeypatch.setattr(workload, "DISK", 25 * each)
    assert ready().plan.prompts_per_job == 24, "whole batches within the disk"
    monkeypatch.setattr(workload, "DISK", each)
    assert ready().plan.prompts_per_job == 16
    assert ready(prompts=PROMPTS[:16]).plan.prompts_per_job == 16, "one job it is already"


def test_longer_texts_need_no_larger_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    apart(monkeypatch, "all_fit")
    assert ready(max_new_tokens=110, strategies=["greedy", "beam"]).plan.prompts_per_job == 16


def test_a_resumed_run_keeps_the_size_of_its_jobs(saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "SHARE", 0.16)
    with monkeypatch.context() as patch:
        apart(patch, "all_fit")
        whole = dd.compare(saved(), out=tmp_path / "whole", **ASKED, **LEAN)
        assert whole.plan["prompts_per_job"] == 24
        with pytest.raises(KeyboardInterrupt):
            dd.compare(saved(), out=tmp_path / "run", progress=Dying(2), **ASKED, **LEAN)
    assert len(RunFolder(tmp_path / "run").finished_jobs()) == 1
    assert prepare(make_settings(CompareSettings, {"model": str(saved())} | ASKED)).plan.prompts_per_job == 16, (
        "asked anew, all fits"
    )
    with pytest.raises(dd.InputError, match="prompts_per_job 24 there, 16 here"):
        dd.compare(saved(), out=tmp_path / "run", resume=True, **ASKED | {"prompts_per_job": 16}, **LEAN)
    stored = RunFolder(tmp_path / "run").stored()
    assert stored is not None
    assert stored_settings(CompareSettings, stored).prompts_per_job == 24
    dd.compare(saved(), out=tmp_path / "run", resume=True, **ASKED, **LEAN)
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_what_a_type_rounds_is_read_once(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from decodedrift.models import facts
    from decodedrift.models.sources.checkpoints import find
    from decodedrift.models.variants import parse_variants

    reads: list[Any] = []
    real = facts.tensors
    monkeypatch.setattr(facts, "tensors", lambda files: reads.append(files) or real(files))
    facts._changed_in_files.cache_clear()
    checkpoint, shares = find(str(saved("qwen2"))), []
    for name in ("bf16", "bf16", "fp16"):
        with load.loaded(checkpoint, parse_variants(name)[0]) as model:
            shares.append(model.facts["rounded_share"])
    assert len(reads) == 2
    assert shares[0] == shares[1] > shares[2] > 0
