"""`train`: every arm against a plain torch loop, the controls, what breaks, what a kill loses; and the known facts."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM

import decodedrift as dd
from decodedrift.core.records import InputError
from decodedrift.core.settings import make_settings
from decodedrift.experiments.train import comparing
from decodedrift.experiments.train.arms import AGAIN, BUTTERFLY, ORDER, parse_arms
from decodedrift.experiments.train.data import Material, other_order
from decodedrift.experiments.train.data import material as material_of
from decodedrift.experiments.train.forecast import forecast, needed, parameters
from decodedrift.experiments.train.lockstep import Lockstep
from decodedrift.experiments.train.runner import Runner, apart
from decodedrift.experiments.train.settings import TrainSettings
from decodedrift.experiments.train.split import cases
from decodedrift.models.sources import checkpoints
from decodedrift.models.training.start import moved_by_one_ulp
from decodedrift.runs.gates import parse_gate
from decodedrift.runs.prepare import prepare

CPU = torch.device("cpu")
STEPS, BATCH, CONTEXT = 6, 3, 12
ARMS = [
    "fp64", "fp32", "bf16", "bf16:master=true", "bf16:rounding=kahan", "bf16:rounding=stochastic", "fp16",
    "fp16:loss_scale=dynamic,master=true", "autocast-fp16:loss_scale=dynamic",
]  # fmt: skip


def words(count: int = 400, seed: int = 0) -> str:
    draws = np.random.default_rng(seed).integers(1, 96, size=count)
    return " ".join(f"w{n}" for n in draws)


ASKED: dict[str, Any] = {
    "texts": [dd.Text("words", words())], "steps": STEPS, "batch_size": BATCH, "context": CONTEXT, "threads": 1,
    "prompts": ["w1 w2 w3", "w7", "w9 w11"], "max_new_tokens": 5,
}  # fmt: skip


def train(**asked: Any) -> dd.Study:
    return dd.train(tiny_model("llama"), **({"tokenizer": tiny_tokenizer(), "compare": False} | ASKED | asked))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all kinds of arms, with their checkpoints."""
    out = tmp_path_factory.mktemp("train") / "run"
    train(arms=ARMS, keep_checkpoints=True, out=out)
    return out


@pytest.fixture(scope="module")
def study(folder: Path) -> dd.Study:
    return dd.open_study(folder)


def material() -> Material:
    text = words()
    ids = tiny_tokenizer()(text[: int(len(text) * 0.9)])["input_ids"]
    return Material(torch.tensor(ids), [], ())


def batches() -> list[torch.Tensor]:
    return [material().batches(0, step, BATCH, CONTEXT, 1)[0] for step in range(STEPS)]


def losses(study: dd.Study, arm: str) -> list[float]:
    rows = study.training
    return list(rows[rows["arm"] == arm]["loss"])


def kept(folder: Path, arm: str) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / "seed-0" / arm, dtype="auto")
    return dict(model.named_parameters())


def same(ours: dict[str, torch.Tensor], theirs: Any) -> bool:
    others = dict(theirs)
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


# ---- equal to the loops that anyone would write


def test_the_fp32_arm_is_a_plain_torch_loop_to_the_bit(folder: Path, study: dd.Study) -> None:
    model = tiny_model("llama")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    seen = []
    for ids in batches():
        loss = cross_entropy(model(input_ids=ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen.append(float(loss.detach()))
    assert losses(study, "fp32") == seen
    assert same(kept(folder, "fp32"), model.named_parameters())


def test_the_bf16_arm_is_a_plain_torch_loop_to_the_bit(folder: Path, study: dd.Study, saved: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(saved("llama"), dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for ids in batches():
        loss = cross_entropy(model(input_ids=ids[:, :-1]).logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert losses(study, "bf16")[-1] == float(loss.detach())
    assert same(kept(folder, "bf16"), model.named_parameters())


def test_autocast_is_torchs_own_with_its_own_scaler(folder: Path, study: dd.Study) -> None:
    model = tiny_model("llama")
    optimizer, scaler = torch.optim.AdamW(model.parameters(), lr=3e-4), torch.amp.GradScaler("cpu")
    scales = []
    for ids in batches():
        with torch.autocast("cpu", dtype=torch.float16):
            loss = cross_entropy(model(input_ids=ids[:, :-1]).logits.float().flatten(0, 1), ids[:, 1:].flatten())
        scales.append(scaler.get_scale())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    arm = "autocast-fp16:loss_scale=dynamic"
    rows = study.training[study.training["arm"] == arm]
    assert rows["loss"].iloc[-1] == float(loss.detach())
    assert list(rows["scale"]) == scales
    assert same(kept(folder, "autocast-fp16-loss-scale-dynamic"), model.named_parameters())


def test_masters_are_the_recipe_of_large_trainings(folder: Path, study: dd.Study, saved: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(saved("llama"), dtype=torch.float16)
    masters = [torch.nn.Parameter(p.detach().clone()) for p in tiny_model("llama").parameters()]
    optimizer, scaler = torch.optim.AdamW(masters, lr=3e-4), torch.amp.GradScaler("cpu")
    for ids in batches():
        loss = cross_entropy(model(input_ids=ids[:, :-1]).logits.float().flatten(0, 1), ids[:, 1:].flatten())
        scaler.scale(loss).backward()
        for master, running in zip(masters, model.parameters(), strict=True):
            master.grad, running.grad = running.grad.float(), None
        scaler.unscale_(optimizer)
        clip_grad_norm_(masters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        for master, running in zip(masters, model.parameters(), strict=True):
            running.data.copy_(master.data)
    ours = kept(folder, "fp16-loss-scale-dynamic-master-true")
    assert losses(study, "fp16:loss_scale=dynamic,master=true")[-1] == float(loss.detach())
    assert {p.dtype for p in ours.values()} == {torch.float32}, "masters are saved, not their copies"
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), masters, strict=True))


def test_accumulated_batches_make_one_step_of_their_mean() -> None:
    study = train(arms=["fp32"], accumulate=2, steps=1, controls=False, optimizer="sgd", lr=0.5, clip=None)
    model = tiny_model("llama")
    both = material().batches(0, 0, BATCH, CONTEXT, 2)
    values = []
    for ids in both:
        loss = cross_entropy(model(input_ids=ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
        (loss / 2).backward()
        values.append(float(loss))
    assert study.training["loss"].tolist() == [sum(values) / 2]
    norm = torch.linalg.vector_norm(torch.stack([p.grad.double().norm() for p in model.parameters()]))
    assert study.training["grad_norm"].iloc[0] == pytest.approx(float(norm), rel=1e-6)


# ---- what is measured of a step


def test_distance_and_cosine_are_of_the_weights(folder: Path, study: dd.Study) -> None:
    ours, theirs = kept(folder, "bf16"), kept(folder, "fp64")
    difference = sum(float((ours[n].double() - theirs[n]).square().sum()) for n in theirs)
    length = sum(float(theirs[n].square().sum()) for n in theirs)
    rows = study.training[study.training["arm"] == "bf16"]
    assert rows["distance"].iloc[-1] == pytest.approx((difference / length) ** 0.5, rel=1e-9)
    assert study.arms.set_index("arm")["distance"]["bf16"] == rows["distance"].iloc[-1]
    cosines = study.training.groupby("arm")["cosine"].first()
    assert cosines["fp64"] == pytest.approx(1) and cosines["fp32"] > 0.999 > cosines["bf16"] > 0.5


def test_what_each_arm_is_has_been_read_back(study: dd.Study) -> None:
    told = study.environment["variants"]
    n = sum(p.numel() for p in tiny_model("llama").parameters())
    for arm, running, weights, gradients, moments, head in (
        ("fp64", "fp64", "fp64", "fp64", "fp64", "fp64"), ("fp32", "fp32", "fp32", "fp32", "fp32", "fp32"),
        ("bf16", "bf16", "bf16", "bf16", "bf16", "bf16"), ("bf16:master=true", "bf16", "fp32", "fp32", "fp32", "bf16"),
        ("bf16:rounding=kahan", "bf16", "fp32", "fp32", "fp32", "bf16"),
        ("autocast-fp16:loss_scale=dynamic", "fp32", "fp32", "fp32", "fp32", "fp16"),
    ):  # fmt: skip
        facts = told[arm]
        assert (facts["running"], facts["weights"], facts["gradients"]) == ({running: n}, {weights: n}, {gradients: n})
        assert facts["moments"] == {moments: 2 * n}
        assert facts["activations"]["lm_head"] == head
    assert told["fp64"]["activations"]["model.norm"] == "fp64", "float64 that stays so"
    assert told["autocast-fp16:loss_scale=dynamic"]["scaler"] == "GradScaler"


def test_masters_keep_the_updates_that_bf16_weights_cancel(study: dd.Study) -> None:
    rows = study.arms.set_index("arm")
    assert rows["cancelled"]["bf16"] > 0.1 > 0.001 > rows["cancelled"]["bf16:master=true"]
    assert rows["cancelled"]["bf16:rounding=kahan"] < rows["cancelled"]["bf16"] / 2
    assert rows["distance"]["bf16:master=true"] < rows["distance"]["bf16:rounding=stochastic"]
    assert rows["distance"]["fp32"] < rows["distance"]["bf16:master=true"] < rows["distance"]["bf16"]
    assert rows["arrived"]["fp32"] == pytest.approx(1, abs=1e-3)


def test_fp16_without_masters_breaks_under_adam_and_that_is_a_result(study: dd.Study) -> None:
    row = study.arms.set_index("arm").loc["fp16"]
    assert row["broken_step"] == 1 and row["steps"] == 1 and pd.isna(row["perplexity"])
    assert "infinite or none" in row["broken_why"] and row["broken_module"]
    assert any(s.startswith("fp16 broke at step 1, in ") for s in study.verdict)
    assert not study.failed and len(study.failures) == 0


def test_an_overflow_is_found_at_its_step_and_module(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Runner.step

    def spoilt(self: Runner, number: int, *more: Any) -> dict[str, Any]:
        if number == 3 and self.arm.label == "bf16":
            with torch.no_grad():
                self.model.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
        return step(self, number, *more)

    monkeypatch.setattr(Runner, "step", spoilt)
    study = train(arms=["fp32", "bf16"], controls=False)
    row = study.arms.set_index("arm").loc["bf16"]
    assert (row["broken_step"], row["broken_module"]) == (3, "model.layers.1.mlp.up_proj")
    assert study.arms.set_index("arm")["steps"]["fp32"] == STEPS, "the others go on"
    found = study.training[study.training["arm"] == "bf16"].iloc[-1]
    assert (found["overflow_module"], found["overflow_pass"]) == ("model.layers.1.mlp.up_proj", "forward")


def test_a_training_whose_arms_all_break_ends_as_one(tmp_path: Path) -> None:
    study = train(arms=["fp16"], controls=False, compare=True, out=tmp_path / "run")
    assert study.arms["broken_step"].tolist() == [1] and not study.failed
    assert [line.startswith("fp16 broke at step 1") for line in study.verdict] == [True], "no figures of what broke"
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize("spoilt_arms", [("fp32", BUTTERFLY, ORDER, AGAIN), ("fp32", AGAIN)])
def test_where_fp32_breaks_there_is_no_floor_and_no_alarm(
    spoilt_arms: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Runner.step

    def spoilt(self: Runner, number: int, *more: Any) -> dict[str, Any]:
        if number == 2 and self.arm.label in spoilt_arms:
            with torch.no_grad():
                self.model.model.norm.weight[0] = float("inf")
        return step(self, number, *more)

    monkeypatch.setattr(Runner, "step", spoilt)
    study = train(arms=["fp32", "bf16"], steps=3)
    rows = study.arms.set_index("arm")
    assert (rows["broken_step"].dropna() == 2).all() and set(spoilt_arms) == set(rows["broken_step"].dropna().index)
    assert rows["steps"]["bf16"] == 3 and rows["distance_floors"].isna().all()
    assert not study.experiment.broken(study)
    said = [line for line in study.verdict if line.startswith("bf16: ")]
    assert said[0].startswith("bf16: held against fp32, which broke; ") and "n/a" not in " ".join(study.verdict)
    assert "which broke" in study.to_html()


@pytest.mark.parametrize(
    ("text", "arms"),
    [
        ("distance_floors<0.5", ["fp64", "fp16"]), ("cancelled>0.1", ["bf16"]), ("broken>0", ["fp16"]), ("broken>0:fp32", []),
        ("digits_median<0.01", ["fp16"]), ("flushed_activations>=2", []), ("flushed_activations<2:fp64", []),
        ("kl>1", ARMS[1:]),
    ],
)  # fmt: skip
def test_arms_can_be_gated_and_controls_are_not(study: dd.Study, text: str, arms: list[str]) -> None:
    gating = study.experiment.gating(study.plan)
    said = parse_gate(text, False, gating).exceeded(study.summary, gating)
    assert [line.split(": ")[1] for line in said] == arms
    assert all(": there is no result" not in line for line in said)
    assert ("has no value" in " ".join(said)) == text.startswith(("kl", "digits", "dist")), "it broke, or wrote nothing"


# ---- controls


def test_the_controls_are_what_they_say(folder: Path, study: dd.Study) -> None:
    rows = study.arms.set_index("arm")
    assert rows["differing"][AGAIN] == 0 and losses(study, AGAIN) == losses(study, "fp32")
    assert rows["distance_floors"][BUTTERFLY] == 1 and 0 < rows["distance"][BUTTERFLY] < rows["distance"]["bf16"]
    assert rows["distance_floors"]["bf16"] == rows["distance"]["bf16"] / rows["distance"][BUTTERFLY]
    assert rows["held_against"][[BUTTERFLY, ORDER, AGAIN, "bf16"]].tolist() == ["fp32", "fp32", "fp32", "fp64"]
    order = other_order(0, STEPS)
    assert sorted(order) == list(range(STEPS)) != order
    assert losses(study, ORDER) != losses(study, "fp32")
    assert not study.experiment.broken(study)


def test_every_weight_is_moved_by_one_ulp() -> None:
    before = torch.tensor([1.0, -2.0, 0.0, 3e-5])
    after = before.clone()
    moved_by_one_ulp([after], 0)
    ends = [torch.nextafter(before, torch.full_like(before, end)) for end in (torch.inf, -torch.inf)]
    assert bool(((after == ends[0]) | (after == ends[1])).all())
    many = torch.ones(1000)
    moved_by_one_ulp([many], 0)
    assert 400 < int((many > 1).sum()) < 600


@pytest.mark.parametrize(
    ("control", "says"), [(AGAIN, "trained a second time differs"), (BUTTERFLY, "moved by one ulp")]
)
def test_a_control_that_fails_is_an_alarm(control: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    init = Runner.__init__

    def spoilt(self: Runner, arm: Any, model: Any, *more: Any) -> None:
        init(self, arm, model, *more)
        with torch.no_grad():
            if arm.control == AGAIN == control:
                self.weights.seen[0][0, 0] += 1e-3
            elif arm.control == BUTTERFLY == control:
                for ours, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
                    ours.copy_(theirs)

    monkeypatch.setattr(Runner, "__init__", spoilt)
    study = train(arms=["fp32"], steps=2)
    assert study.experiment.broken(study)
    assert study.verdict[0].startswith("A control failed: ") and says in study.verdict[0]


# ---- the comparison


def stopped(*arguments: Any) -> Any:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose arms are compared. It is stopped when they have been, and goes on."""
    out = tmp_path_factory.mktemp("written") / "run"
    asked: dict[str, Any] = {"arms": ["fp64", "fp32", "bf16", "fp16"], "max_new_tokens": 8, "lr": 0.01, "out": out}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "figures", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(compare=True, **asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lockstep, "_step", stopped)  # the resume trains nothing, and only reads the comparison
        train(compare=True, resume=True, **asked)
    return out


def test_what_the_arms_write_is_compared_in_a_run_of_its_own(written: Path) -> None:
    study, other = dd.open_study(written), dd.open_study(written / "compare-seed-0")
    assert not (written / "checkpoints").exists(), "nobody asked to keep them"
    assert other.plan["reference"]["name"] == "fp64"
    ran = other.environment["variants"]
    assert {facts["precision"] for facts in ran.values()} == {"fp32"}
    rows, theirs = study.arms.set_index("arm"), other.summary.set_index(["candidate", "role"])
    assert set(other.answer["candidate"]) == set(rows.index) - {"fp64", "fp16", AGAIN}
    for arm in ("fp32", "bf16", BUTTERFLY):
        assert rows["kl"][arm] == theirs["kl_mean"][arm, "candidate"]
        assert rows["diverged"][arm] == theirs["diverged"][arm, "candidate"]
        assert rows["wording"][arm] == other.answer.set_index("candidate")["wording"][arm]
    assert rows["kl_floors"][BUTTERFLY] == 1
    assert rows["kl_floors"]["bf16"] == rows["kl"]["bf16"] / rows["kl"][BUTTERFLY]
    digits = rows["digits_median"]
    assert digits["fp32"] > 3 > digits["bf16"] > 0 and pd.isna(digits["fp64"])


def test_the_page_shows_where_the_texts_of_the_arms_part(written: Path, tmp_path: Path) -> None:
    study = dd.open_study(written)
    rows = study.arms.set_index("arm")
    parted = set(rows.index[rows["diverged"].fillna(0) > 0])
    told = cases(study)
    assert told.keys() == parted and "fp32-again" not in parted and len(parted) > 1
    for case in told.values():
        ours, theirs = case.sides
        assert ours.token != theirs.token
    page = study.to_html()
    assert page.count('class="pair"') == len(parted) and "compare-seed-0/report.html" in page
    assert not cases(train(arms=["fp32"], controls=False, steps=1))  # of a run that was not kept
    broken = shutil.copytree(written, tmp_path / "broken")
    min(broken.glob("compare-seed-0/data/positions/*")).unlink()
    with pytest.raises(dd.InputError, match=r"compare-seed-0/data/positions/.*: missing"):
        cases(dd.open_study(broken))


def test_merged_shards_name_the_checkpoints_that_are_there(written: Path, tmp_path: Path) -> None:
    """By their places in the run's folder; the comparison is that of a run that was made elsewhere."""
    shards, whole = [tmp_path / f"shard-{n}" for n in (1, 2)], tmp_path / "whole"
    for n, shard in enumerate(shards, 1):
        train(arms=["fp64", "fp32", "bf16"], controls=False, steps=1, seeds=[0, 1], keep_checkpoints=True,
              shard=f"{n}/2", out=shard)  # fmt: skip
    shutil.copytree(written / "compare-seed-0", shards[0] / "compare-seed-0")
    dd.merge(shards, out=whole)
    for shard in shards:
        shutil.rmtree(shard)
    plan = dd.open_study(whole / "compare-seed-0").plan
    models = {plan["reference"]["name"]: plan["model"]} | {c["name"]: c["model"] for c in plan["candidates"]}
    assert models == {name: f"checkpoints/seed-0/{name}" for name in models}
    for arm in ("fp64", "fp32", "bf16"):
        assert (whole / models[arm] / "model.safetensors").is_file()
    elsewhere = str(written).encode()
    told = [path for path in whole.rglob("*") if path.suffix in (".json", ".csv", ".html", ".txt", ".parquet")]
    assert len(told) > 60 and not [path for path in told if elsewhere in path.read_bytes()]


def test_without_a_folder_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    study = train(arms=["fp32", "bf16"], controls=False, steps=1, compare=True)
    assert study.arms["texts"].tolist()[1] == 3
    assert not list(tmp_path.iterdir())


# ---- what a kill loses


def rows_of(study: dd.Study) -> list[pd.DataFrame]:
    return [study.training, study.arms]


def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path, saved: Any) -> None:
    arms = ["fp32", "bf16:rounding=stochastic", "bf16:rounding=kahan", "fp16:loss_scale=dynamic,master=true"]
    asked: dict[str, Any] = ASKED | {"arms": arms, "compare": False, "every": 2}
    whole = dd.train(str(saved("llama")), **asked)
    child = os.fork()
    if not child:
        run = Lockstep._step

        def ended(self: Lockstep, runner: Runner) -> None:
            if self.done == 3 and runner.arm.label == arms[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            run(self, runner)

        Lockstep._step = ended  # type: ignore[method-assign]
        try:
            dd.train(str(saved("llama")), out=tmp_path / "run", **asked)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    (state,) = (tmp_path / "run/data").glob("state-*.pt")
    assert torch.load(state, weights_only=True)["done"] == 2
    again = dd.train(str(saved("llama")), out=tmp_path / "run", resume=True, **asked)
    for ours, theirs in zip(rows_of(whole), rows_of(again), strict=True):
        pd.testing.assert_frame_equal(ours.drop(columns="model"), theirs.drop(columns="model"), check_exact=True)
    assert not list((tmp_path / "run/data").glob("state*")), "what a finished job went on from is taken away"


def test_a_run_that_is_stopped_loses_no_step(tmp_path: Path) -> None:
    plan = TrainSettings(arms=["fp32"], controls=False, **{n: ASKED[n] for n in ("steps", "batch_size", "context")})
    arms = Lockstep(plan, tiny_model("llama"), material(), 0, CPU, tmp_path / "state.pt")

    def stop() -> None:
        if arms.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        arms.run(lambda tokens: None, stop)
    assert Lockstep(plan, tiny_model("llama"), material(), 0, CPU, tmp_path / "state.pt").done == 5


# ---- what is asked


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"arms": ["fp8"]}, "unknown arm 'fp8'; choices: fp64, fp32, bf16"),
        ({"arms": ["bf16:masters=true"]}, "unknown parameter 'masters'; choices: master, loss_scale, rounding"),
        ({"arms": ["fp32:master=true"]}, "fp32:master=true: master is for arms whose weights have 16 bits"),
        ({"arms": ["bf16:loss_scale=dynamic"]}, "loss_scale is for gradients in fp16"),
        ({"arms": ["bf16:master=true,rounding=kahan"]}, "leave one out"),
        ({"arms": ["fp16:loss_scale=often"]}, "loss_scale must be none, dynamic or a number > 0"),
        ({"arms": ["fp32", "fp32"]}, "arms"),
        ({"arms": ["fp32"], "reference_arm": "bf16"}, "is none of the arms; choices: fp32"),
        ({"optimizer": "adam"}, "optimizer=: must be one of adamw, sgd"),
        ({"lr": 0}, "lr=: must be a number > 0"),
        ({"context": 129}, "context=129: the model reads 128 tokens at most"),
        ({"texts": [dd.Text("short", "w1 w2")]}, "are less than a sequence"),
        ({"memory_bytes": 2**17}, "are needed for 8 arms side by side"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_trained_is_refused_in_a_line(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(dd.InputError) as caught:
        train(**asked)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_dry_run_tells_arms_memory_and_time(saved: Any) -> None:
    asked = {
        "model": str(saved("gpt2")),
        "arms": ["fp32", "bf16:master=true"],
        "steps": 10,
        "seeds": [0, 1],
        "context": 8,
    }
    ready = prepare(make_settings(TrainSettings, asked | {"texts": ASKED["texts"], "prompts": ["w1"]}))
    told = dict(line.split(maxsplit=1) for line in forecast(ready).splitlines()[1:])
    assert told["steps"] == f"10 of 4 x 8 tokens, {2 * 5 * 10 * 4 * 8} tokens in all"
    assert told["rows"] == "100 of training.csv, 10 of arms.csv"
    count = parameters(ready.world)
    assert count == sum(p.numel() for p in tiny_model("gpt2").parameters())
    fp32, masters = 4 * 4 + 8, 2 * 2 + 4 * 4 + 8  # weight, gradient, two moments, and what a step changed in float64
    assert needed(ready.world) > count * (4 * fp32 + masters)


def test_arms_are_read_as_they_are_written() -> None:
    one, two = parse_arms("fp16:master=yes,loss_scale=1024,autocast-bf16")
    assert (one.label, one.params["master"], one.params["loss_scale"]) == (
        "fp16:loss_scale=1024,master=yes",
        True,
        1024,
    )
    assert (two.weights, two.autocast) == ("fp32", "bf16")
    plan = TrainSettings(arms=["bf16"], reference_arm="bf16")
    assert [arm.label for arm in plan.every_arm] == ["bf16", "fp32", AGAIN, BUTTERFLY, ORDER]
    assert [arm.role for arm in plan.every_arm] == ["arm", "control", "control", "control", "control"]


def test_a_batch_is_a_function_of_seed_and_step_alone() -> None:
    one, other = material(), material()
    for step in (4, 0):
        assert torch.equal(one.batches(1, step, 2, 8, 1)[0], other.batches(1, step, 2, 8, 1)[0])
    assert not torch.equal(one.batches(1, 0, 2, 8, 1)[0], one.batches(1, 1, 2, 8, 1)[0])
    assert not torch.equal(one.batches(1, 0, 2, 8, 1)[0], one.batches(2, 0, 2, 8, 1)[0])
    assert one.batches(0, 0, 2, 8, 3)[2].shape == (2, 9)


def test_weights_drawn_anew_are_the_seeds(saved: Any) -> None:
    asked = ASKED | {"arms": ["fp32"], "controls": False, "compare": False, "steps": 1, "seeds": [3, 4]}
    configuration = str(saved("gpt2") / "config.json")
    with pytest.raises(dd.InputError, match="a configuration without weights; name a saved model's folder, or train"):
        dd.train(configuration, **asked)
    study = dd.train(configuration, from_scratch=True, **asked)
    told = losses(study, "fp32")
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(tiny_model("gpt2").config).eval()
    (ids,) = material().batches(3, 0, BATCH, CONTEXT, 1)
    loss = cross_entropy(model(input_ids=ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
    assert told[0] == float(loss.detach()) and told[1] != told[0]


# ---- known facts


@pytest.fixture(scope="module")
def bundled() -> dd.Study:
    """A step of the bundled model in fp16 with and without a scale, and in bf16."""
    arms = ["fp32", "fp16", "fp16:loss_scale=65536", "bf16"]
    return dd.train(arms=arms, steps=1, controls=False, compare=False, threads=1)


def test_fp16_without_a_scale_flushes_a_tenth_of_the_gradients(bundled: dd.Study) -> None:
    flushed = bundled.training.set_index("arm")["flushed_activations"]
    assert 0.08 < flushed["fp16"] < 0.13
    assert 0.01 < flushed["fp16:loss_scale=65536"] < 0.03
    assert np.isnan(flushed["fp32"]), "nothing is held against itself"


def given_out(kind: torch.dtype, ids: torch.Tensor, scale: float) -> dict[str, torch.Tensor]:
    """Gradients of what every module of the bundled model gives out, also of those that hold others."""
    demo = Path(dd.__file__).parent / "data" / "demo"
    model = AutoModelForCausalLM.from_pretrained(demo, dtype=kind).eval()
    gradients: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():

        def keep(module: Any, inputs: Any, output: Any, name: str = name) -> None:
            tensor = output if isinstance(output, torch.Tensor) else output[0]
            tensor.register_hook(lambda g: gradients.__setitem__(name, g.clone()))

        module.register_forward_hook(keep)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    (cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten()) * scale).backward()
    return gradients


def test_what_fp16_flushes_is_the_gradient_of_the_logits(bundled: dd.Study) -> None:
    world = prepare(make_settings(TrainSettings, {})).world
    (ids,) = material_of(world.plan, world.vocab).batches(0, 0, 4, 64, 1)
    wide = given_out(torch.float32, ids, 1)
    inner = {name for name in wide if any(other.startswith(f"{name}.") for other in wide) or not name}
    for arm, scale, counted_twice in (("fp16", 1.0, (0.13, 0.17)), ("fp16:loss_scale=65536", 65536.0, (0.01, 0.03))):
        narrow = given_out(torch.float16, ids, scale)

        def share(names: set[str], narrow: dict[str, torch.Tensor] = narrow) -> float:
            flushed = sum(int(((narrow[n] == 0) & (wide[n] != 0)).sum()) for n in names)
            return flushed / sum(int((wide[n] != 0).sum()) for n in names)

        assert share(wide.keys() - inner) == pytest.approx(
            bundled.training.set_index("arm")["flushed_activations"][arm], rel=1e-9
        )
        assert counted_twice[0] < share(set(wide)) < counted_twice[1]
        rest = share(wide.keys() - inner - {"lm_head"})
        assert rest < 0.015 and share({"lm_head"}) > (0.7 if scale == 1 else 0.05)


def test_a_lower_rate_cancels_nearly_all_updates_of_bf16_weights(bundled: dd.Study) -> None:
    low = dd.train(arms=["fp32", "bf16"], steps=1, controls=False, compare=False, threads=1, lr=3e-5)
    at_3e4, at_3e5 = (s.arms.set_index("arm")["cancelled"]["bf16"] for s in (bundled, low))
    assert 0.15 < at_3e4 < 0.5 and 0.85 < at_3e5 < 1


def test_distances_are_relative_lengths() -> None:
    assert apart([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 3.0])]) == pytest.approx(1 / 18**0.5)


def test_what_a_comparison_does_not_use_is_no_option() -> None:
    assert {"layout", "coupling", "prompts_per_job"} <= TrainSettings.settled()
    with pytest.raises(InputError, match="layout"):
        make_settings(TrainSettings, {"layout": "per-strategy"})


def test_a_configuration_alone_is_a_model_only_where_weights_are_drawn(tmp_path: Path) -> None:
    tiny_model("llama").config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    config = str(tmp_path / "config.json")
    for ask in (lambda: dd.compare(config, limit=1), lambda: checkpoints.find(config)):
        with pytest.raises(InputError, match="a configuration without weights"):
            ask()
    assert checkpoints.find(config, weightless=True).kind == checkpoints.DRAWN
