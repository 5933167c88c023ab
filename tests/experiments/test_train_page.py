"""What a training's page draws and says, of rows whose values are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

import decodedrift as dd
from decodedrift.experiments.train import split
from decodedrift.experiments.train.figures import FIGURES
from decodedrift.experiments.train.read_back import types
from decodedrift.experiments.train.settings import TrainSettings
from decodedrift.measure.tables import typed
from decodedrift.report.case import Case, Side
from decodedrift.report.html import Options

ARMS = {"fp32": 0.0, "bf16": 1e-3, "fp16:loss_scale=dynamic": 2e-3, "fp32-again": 0.0, "butterfly": 1e-6, "other-order": 1e-2}  # fmt: skip
STEPS = 5


def steps() -> pd.DataFrame:
    """Distances that grow with the step, losses that differ by them, a scale that is halved at step 2."""
    rows = [
        {
            "model": "m", "arm": arm, "role": "arm" if n < 3 else "control", "held_against": "fp32", "seed": seed,
            "step": step, "loss": 3.0 - step / 10 + distance, "distance": step * distance, "skipped": 0,
            "scale": (65536 if step < 3 else 32768) if "dynamic" in arm else 1.0, "cancelled": 100 * distance,
            "flushed_activations": distance if n in (1, 2) else None, "flushed_weights": None,
        }
        for seed in (0, 7) for step in range(1, STEPS + 1) for n, (arm, distance) in enumerate(ARMS.items())
    ]  # fmt: skip
    return typed(pd.DataFrame(rows), "training")


def study_of(**tables: pd.DataFrame) -> dd.Study:
    plan = TrainSettings(arms=list(ARMS)[:3], seeds=[0, 7], steps=STEPS).as_dict()
    return dd.Study({"training": steps()} | tables, plan | {"prompts": [], "strategies": []})


def drawn(name: str, study: dd.Study | None = None) -> dict[str, Any]:
    """Series of a figure by arm: the data of its source."""
    figure = FIGURES[name](study or study_of(), "seed 7").figure()
    assert figure is not None
    return {r.tags[0]["series"]: r.data_source.data for r in figure.model.renderers}


def test_distance_is_drawn_on_two_logarithmic_axes_with_the_floor() -> None:
    figure = FIGURES["distance"](study_of()).figure()
    assert figure is not None and figure.choices == ["seed 0", "seed 7"]
    assert {type(axis).__name__ for axis in (*figure.model.xaxis, *figure.model.yaxis)} == {"LogAxis"}
    assert [entry[0] for entry in figure.entries][-1] == "butterfly floor" and len(figure.entries) == 4
    lines = drawn("distance")
    assert set(lines) == {"bf16", "fp16:loss_scale=dynamic", "butterfly", "other-order"}  # the others are 0 all along
    for arm, data in lines.items():
        assert data["_y"] == pytest.approx(ARMS[arm] * np.arange(1, STEPS + 1))


def test_losses_are_held_against_those_of_the_same_step() -> None:
    lines = drawn("loss_gap")
    assert set(lines) == {"bf16", "fp16:loss_scale=dynamic", "butterfly"}  # another order reads other batches
    for arm, data in lines.items():
        assert data["loss_gap"] == pytest.approx([ARMS[arm]] * STEPS)
    assert set(drawn("loss")) == {"fp32", "bf16", "fp16:loss_scale=dynamic", "other-order"}


def test_shares_and_scales_are_of_the_arms_that_have_them() -> None:
    assert drawn("cancelled").keys() == drawn("flushed").keys() == {"bf16", "fp16:loss_scale=dynamic"}
    (data,) = drawn("scale").values()
    assert data["scale"].tolist() == [65536, 65536, 32768, 32768, 32768]
    with pytest.raises(ValueError, match="seed 0, seed 7"):
        FIGURES["scale"](study_of(), "seed 1").figure()
    plain = steps()
    assert FIGURES["scale"](study_of(training=plain[plain["arm"] == "bf16"])).figure() is None


def test_the_page_has_every_part_that_has_something_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = pd.DataFrame([
        {"model": "lstm", "seed": 0, "pair": "equal", "epoch": e, "significant_digits": d, "digits_weights": math.inf}
        for e, d in ((0, math.inf), (1, 7.3))
    ])  # fmt: skip
    arms = [
        {"model": "m", "arm": arm, "role": "arm", "held_against": "fp32", "seed": seed, "steps": STEPS, "loss": 2.5,
         "distance": distance, "digits_median": 1.25, "skipped": 0}
        for seed in (0, 7) for arm, distance in ARMS.items()
    ]  # fmt: skip
    study = study_of(digits=typed(digits, "digits"), arms=typed(pd.DataFrame(arms), "arms"))
    case = Case("", "<b>once</b>", "a", (Side("fp32", " red", " ball"), Side("bf16", " big", " tree")), 1)
    monkeypatch.setattr(split, "cases", lambda study: {"bf16": case})
    page = study.to_html()
    for heading in ("What each arm came to", "How far the arms drift", "Loss", "What is lost on the way", "Loss scale",
                    "Where the arms&#39; texts part", "An LSTM in fp32 and fp64"):  # fmt: skip
        assert f">{heading}<" in page
    assert '<span class="mark"> big</span> tree' in page and "&lt;b&gt;once" in page and ">all<" in page
    assert split.texts(study, Options(texts=False)) is None
    assert "before training and after 1 epochs: equal: all and 7.3." in study.verdict[-1]
    assert not any(line.startswith("LSTM") for line in study_of().verdict)


def test_types_are_told_by_their_share() -> None:
    assert types({"fp32": 12}) == "fp32" and types({}) == ""
    assert types({"bf16": 300, "fp32": 100}) == "bf16 (75%), fp32 (25%)"
    assert types({"a": "bf16", "b": "fp32", "c": "bf16", "d": "bf16"}) == "bf16 (75% of modules), fp32 (25% of modules)"
