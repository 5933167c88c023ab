"""Runs on real trained models and real text, where the optional assets are; docs/real-run.md holds the figures of a longer one."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import assets

import decodedrift as dd


@pytest.fixture(scope="module")
def study() -> dd.Study:
    model, other = assets("models", "stories260K"), assets("models", "stories260K-q80")
    text = assets("text", "alice29.txt").read_text("utf-8")[:6000]
    return dd.compare(
        str(model),
        candidates=["fp64", "fp16", "bf16", "int8", f"q80={other}"],
        prompts="stories",
        limit=4,
        texts=[dd.Text("alice", text)],
        context=256,
        noise_floor=True,
        default_text=False,
    )


def test_the_order_of_damage_is_the_known_one(study: dd.Study) -> None:
    rows = study.summary[study.summary["role"] == "candidate"]
    kl = rows.groupby("candidate")["kl_mean"].mean()
    assert kl["fp64"] < 1e-11 < kl["fp16"] < kl["bf16"]
    assert 20 < kl["bf16"] / kl["fp16"] < 200, "three mantissa bits: about 64"
    digits = rows.groupby("candidate")["significant_digits"].mean()
    assert digits["fp64"] > 6 > digits["fp16"] > digits["bf16"] > digits["q80"] - 0.5
    assert not study.failed


def test_the_self_control_is_exactly_zero(study: dd.Study) -> None:
    forced = study.positions[study.positions["role"] == "self"]
    assert len(forced) > 100
    assert (forced[["kl", "kl_reverse", "tv", "logit_gap_max", "delta_p"]] == 0).all(axis=None)
    assert np.isinf(forced["significant_digits"]).all()


def test_the_noise_floor_lies_below_the_rounding(study: dd.Study) -> None:
    rows = study.summary
    floor = rows[(rows["role"] == "floor") & (rows["reference"] == "bf16")]["kl_mean"].mean()
    shift = rows[(rows["role"] == "candidate") & (rows["candidate"] == "bf16")]["kl_mean"].mean()
    assert 0 < floor < shift


def test_the_greedy_story_is_a_story(study: dd.Study) -> None:
    rows = study.traces[(study.traces["role"] == "reference") & (study.traces["strategy"] == "greedy")]
    assert all(len(re.findall(r"[a-z]+", text)) > 15 for text in rows["text"])


def test_someone_elses_int8_checkpoint_is_told_apart_from_rounding_in_place(study: dd.Study) -> None:
    rows = study.perplexity.set_index("variant")
    assert rows.loc["q80", "kl_mean"] > 10 * rows.loc["fp16", "kl_mean"]
    assert abs(rows.loc["fp64", "ln_ppl_ratio"]) < 1e-6
    assert study.environment["checkpoints"]["q80"]["files"] != study.environment["model"]["files"]
