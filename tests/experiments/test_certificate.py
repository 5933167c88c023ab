"""The noise certificate: closed forms of every column, what leaves it and what does not, and its gates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from running import run
from scipy import integrate, stats

import decodedrift as dd
from decodedrift.core.records import Variant
from decodedrift.decoding.strategies import parse_strategies
from decodedrift.experiments.compare.folds.certificate import bhattacharyya
from decodedrift.experiments.compare.gating import gating
from decodedrift.experiments.compare.settings import CompareSettings, is_cast
from decodedrift.experiments.compare.verdict import certificate
from decodedrift.experiments.study import Study
from decodedrift.measure.tables import typed
from decodedrift.models.variants import parse_variants
from decodedrift.numerics import intervals as iv
from decodedrift.numerics import ratios
from decodedrift.runs.gates import parse_gate

PROMPTS, TOKENS = 12, 30
PLAN = {
    "model": "m", "near_tie_below": 0.1, "max_new_tokens": TOKENS,
    "reference": {"name": "fp32", "precision": "fp32", "compute": "fp32"},
    "candidates": [
        {"name": "mine", "precision": "bf16", "compute": "bf16", "model": "folder"},
        {"name": "int8", "precision": "int8", "compute": "fp32"},
    ],
    "strategies": [{"name": "greedy", "label": "greedy", "params": {}},
                   {"name": "top-p", "label": "top-p:p=1", "params": {"p": 1.0, "temperature": 1.0}}],
}  # fmt: skip


def positions(role: str, reference: str, candidate: str, strategy: str = "greedy", **columns: np.ndarray) -> Any:
    keys = {"model": "m", "reference": reference, "candidate": candidate, "role": role, "strategy": strategy, "seed": 0}
    place = {"prompt_id": np.repeat([f"p{i}" for i in range(PROMPTS)], TOKENS), "nonfinite": 0,
             "position": np.tile(np.arange(TOKENS), PROMPTS)}  # fmt: skip
    return typed(pd.DataFrame(keys | place | columns), "positions")


def made(scale: float = 1.0, shift: float = 0.0, strategy: str = "greedy") -> tuple[Study, dict[str, np.ndarray]]:
    """A study of one candidate, its floor and the cast: errors of known size at every position."""
    rng = np.random.default_rng(3)
    n = PROMPTS * TOKENS
    cast = rng.normal(0, 0.1, n)
    data = {
        "error": scale * cast[rng.permutation(n)] + shift, "cast": cast, "kl": rng.exponential(1.6e-4, n),
        "kl_floor": rng.exponential(1e-4, n), "gap": rng.uniform(0.1, 0.2, n), "gap_floor": rng.uniform(0.1, 0.2, n),
        "nll": rng.exponential(2, n), "log_ratio": rng.normal(0, 0.05, n),
    }  # fmt: skip
    frames = [
        positions("candidate", "fp32", "mine", strategy, kl=data["kl"], logit_gap_rms=data["gap"],
                  directional_error=data["error"], nll_reference=data["nll"],
                  nll_candidate=data["nll"] - data["log_ratio"]),
        positions("floor", "mine", "mine:batch_size=1", strategy, kl=data["kl_floor"], logit_gap_rms=data["gap_floor"]),
        positions("cast", "fp32", "bf16", strategy, directional_error=data["cast"]),
    ]  # fmt: skip
    return Study({"positions": pd.concat(frames, ignore_index=True)}, PLAN), data


def test_the_columns_beside_noise_are_their_formulas() -> None:
    study, data = made(scale=1.3, shift=0.02)
    (row,) = study.certificate.itertuples()
    kl, floor, gap, gap_floor = (data[n] for n in ("kl", "kl_floor", "gap", "gap_floor"))
    assert (row.floor_positions, row.cast_positions) == (360, 360)
    assert row.excess_kl == pytest.approx(kl.mean() - floor.mean())
    half = stats.t.ppf(0.975, 11) * stats.sem((kl - floor).reshape(12, 30).mean(1))
    assert (row.excess_kl_low, row.excess_kl_high) == pytest.approx((row.excess_kl - half, row.excess_kl + half))
    assert row.noise_ratio == pytest.approx(kl.sum() / floor.sum()) and row.noise_ratio_low < 1.6 < row.noise_ratio_high
    rms = [math.sqrt((g**2).mean()) for g in (gap, gap_floor)]
    assert row.excess_rms == pytest.approx(rms[0] - rms[1])
    assert row.saturation == pytest.approx(rms[1] / (math.sqrt(2) * rms[0]))
    assert row.sigma_ratio == pytest.approx(data["error"].std() / data["cast"].std()) == pytest.approx(1.3)
    assert 1 < row.sigma_ratio_low < 1.3 < row.sigma_ratio_high
    spread = [data["error"].std(), data["cast"].std()]
    both = spread[0] ** 2 + spread[1] ** 2
    apart = (data["error"].mean() - data["cast"].mean()) ** 2
    overlap = math.sqrt(2 * spread[0] * spread[1] / both) * math.exp(-apart / (4 * both))
    assert row.bhattacharyya == pytest.approx(overlap)
    assert row.bhattacharyya_low < overlap < row.bhattacharyya_high <= 1


def test_a_candidate_that_is_all_layout_noise_has_a_saturation_of_one() -> None:
    """Two layouts' errors are independent and alike; their difference is sqrt 2 times as large, its KL twice."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 0.01, (2, PROMPTS * TOKENS, 400))
    gap, between = (np.sqrt((e**2).mean(1)) for e in (one, one - other))
    frames = [positions("candidate", "fp32", "mine", kl=gap**2 / 2, logit_gap_rms=gap),
              positions("floor", "mine", "other", kl=between**2 / 2, logit_gap_rms=between)]  # fmt: skip
    (row,) = Study({"positions": pd.concat(frames, ignore_index=True)}, PLAN).certificate.itertuples()
    assert row.saturation == pytest.approx(1, abs=0.01) and row.noise_ratio == pytest.approx(0.5, abs=0.01)
    assert row.excess_kl_high < 0, "within the noise"


def test_the_overlap_of_two_gaussians_is_the_integral() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(0, 1, 50), rng.normal(0.5, 1.5, 50)
    sums = np.array([50, one.sum(), one @ one, other.sum(), other @ other])
    densities = [stats.norm(e.mean(), e.std()).pdf for e in (one, other)]
    overlap = integrate.quad(lambda x: math.sqrt(densities[0](x) * densities[1](x)), -20, 20)[0]
    assert float(bhattacharyya(sums)) == pytest.approx(overlap, rel=1e-9)
    assert float(bhattacharyya(np.array([50, *[one.sum(), one @ one] * 2]))) == pytest.approx(1)


def test_a_floor_is_told_as_a_ratio_of_two_noises_with_its_interval() -> None:
    study, data = made()
    study.summary = pd.DataFrame(
        {"role": ["floor"], "reference": ["mine"], "strategy": ["greedy"], "diverged": [3], "traces": [12]}
    )
    (sentence,) = certificate.floor(study)
    row = study.certificate.iloc[0]
    ends = row.noise_ratio, row.noise_ratio_low, row.noise_ratio_high
    value, low, high = (f"{end:.2g}" for end in ends)
    assert f"mine leaves its own text in 3 of 12 traces (mean KL {data['kl_floor'].mean():.2g}" in sentence
    assert f"to the reference {value} times ({low} to {high}) that" in sentence and "%" not in sentence
    rows = study.positions
    study.positions = rows.assign(kl=rows["kl"].where(rows["role"] != "floor", rows["kl"] * 1e-8))
    assert "over 1,000 times that" in certificate.floor(study)[0]
    one = study.positions
    study.positions = one[one["prompt_id"] == one["prompt_id"].iloc[0]]
    assert "to the reference over 1,000 times that" in certificate.floor(study)[0], "one prompt: no interval"
    study.positions = rows.assign(kl=rows["kl"].where(rows["role"] != "floor", 0.0))
    assert certificate.floor(study) == [], "nothing moved: no floor to speak of"


@pytest.mark.parametrize(("scale", "said"), [(1.0, False), (1.3, True)])
def test_what_leaves_the_certificate_is_said_and_gated(scale: float, said: bool) -> None:
    study, _ = made(scale=scale)
    sentences = certificate.outside(study)
    assert bool(sentences) is said
    gates = [parse_gate(text, True, gating(PLAN)) for text in ("sigma_ratio>1:mine", "bhattacharyya<0.99:mine")]
    cells = pd.DataFrame({"model": ["m"], "reference": ["fp32"], "candidate": ["mine"], "role": ["candidate"],
                          "strategy": ["greedy"], "traces": [12], "diverged": [1]})  # fmt: skip
    study.summary = cells
    rows = gating(PLAN).table(study)
    exceeded = [s for gate in gates for s in gate.exceeded(rows, gating(PLAN)) if " greedy" in s]
    assert bool(exceeded) is said


def test_an_interval_that_holds_no_1_does_not_read_as_if_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """A low end of 1.0017 has three decimals, and the others with it."""
    study, _ = made(scale=1.3)
    close = {"sigma_ratio": 1.12, "sigma_ratio_low": 1.0017, "sigma_ratio_high": 1.238, "prompts": 12.0,
             "bhattacharyya": 0.9964, "bhattacharyya_low": 0.99}  # fmt: skip
    monkeypatch.setattr(certificate, "beside_casts", lambda study: {"mine": close})
    (sentence,) = certificate.outside(study)
    assert sentence.endswith(": mine, 1.120 times its spread (1.002 to 1.238), overlap 0.996.")
    monkeypatch.setattr(certificate, "beside_casts", lambda study: {"mine": close, "layout": close})
    assert certificate.outside(study) == [], "two looks at once"


def test_a_spread_that_one_strategy_shows_by_chance_is_no_finding_over_all() -> None:
    """Its interval under one strategy lies above 1, and that over both, on three times the tokens, does not."""
    (wide, _), (plain, _) = made(scale=1.1), made(strategy="top-p:p=1")
    rows = [wide.positions, *[plain.positions.assign(seed=seed) for seed in (0, 1)]]
    study = Study({"positions": pd.concat(rows, ignore_index=True)}, PLAN)
    mine = study.certificate.set_index(["candidate", "strategy"])
    assert mine.loc[("mine", "greedy"), "sigma_ratio_low"] > 1
    assert certificate.outside(wide) and certificate.outside(study) == []


@pytest.mark.parametrize("strategy", ["greedy", "top-p:p=1"])
def test_the_ratio_band_on_the_references_text(strategy: str) -> None:
    study, data = made(strategy=strategy)
    (row,) = study.certificate.itertuples()
    r = np.exp(data["log_ratio"])
    for name, low, high in (("10", 0.9, 1.1), ("1", 0.99, 1.01), ("mlperf", 0.999, 1.002)):
        share = getattr(row, f"ratio_out_{name}")
        assert share == pytest.approx(((r < low) | (r > high)).mean()) and 0 < share < 1
        flags, prompts = ((r < low) | (r > high)).astype(float), np.repeat(np.arange(PROMPTS), TOKENS)
        variance = iv.clustered_se(flags, prompts) ** 2
        n = share * (1 - share) / max(variance, share * (1 - share) / len(flags))
        (low_end, high_end), unseen = iv.wilson(share * n, n, iv.t95(PROMPTS)), iv.wilson(0, len(flags))[1]
        ends = min(low_end, 1 - unseen), max(high_end, unseen)
        told = getattr(row, f"ratio_out_{name}_low"), getattr(row, f"ratio_out_{name}_high")
        assert told == pytest.approx(ends)
    assert row.logratio_rms == pytest.approx(math.sqrt((np.log(r) ** 2).mean()))
    texts = np.log(r).reshape(PROMPTS, TOKENS).sum(1)
    assert row.sequence_logratio_rms == pytest.approx(math.sqrt((texts**2).mean()))
    assert row.sequence_logratio_max == pytest.approx(abs(texts).max())
    if strategy == "greedy":
        assert math.isnan(row.k3), "a greedy text is no draw"
    else:
        assert row.k3 == pytest.approx((r - 1 - np.log(r)).mean())


def test_a_ratio_that_is_forbidden_is_outside_every_band_and_not_left_out() -> None:
    log_ratio = np.array([-math.inf, math.inf, 0.0, math.log(1.0015), math.log(0.95)])
    counts = {name: int(out.sum()) for name, out in ratios.outside(log_ratio).items()}
    assert counts == {"10": 2, "1": 3, "mlperf": 3}
    assert ratios.k3(log_ratio)[:3].tolist() == [math.inf, math.inf, 0]


def test_k3_is_the_divergence_of_the_writer_from_the_reader() -> None:
    """In expectation, over the tokens that the writer draws: sum p ((r - 1) - ln r) = KL(p || q)."""
    p, q = (np.exp(x) / np.exp(x).sum() for x in np.random.default_rng(2).normal(0, 1, (2, 50)))
    assert p @ ratios.k3(np.log(q / p)) == pytest.approx(p @ np.log(p / q))
    assert (ratios.k3(np.log(q / p)) >= 0).all()


@pytest.mark.parametrize(
    ("text", "plain"),
    [("greedy", False), ("beam", False), ("top-p:p=1", True), ("top-p:p=1,temperature=0.8", False), ("top-p", False),
     ("top-k:k=50", False), ("min-p:p=0.1", False)],
)  # fmt: skip
def test_only_untruncated_sampling_at_temperature_one_is_plain(text: str, plain: bool) -> None:
    assert parse_strategies(text)[0].plain is plain


def test_the_cast_is_added_where_it_is_not_there() -> None:
    reference = Variant("fp32", "fp32", compute="fp32")

    def casts(text: str, **more: Any) -> list[str]:
        asked = {"model": "demo", "reference": reference, "candidates": parse_variants(text, reference)} | more
        return [v.name for v in CompareSettings.model_construct(**asked).casts]

    assert casts("bf16,int8") == [], "it is itself the cast; int8 computes in fp32"
    assert casts("bf16:batch_size=1,bf16:attention=eager,fp16:threads=1") == ["bf16", "fp16"], "one a type"
    assert casts("bf16,mine=owner/model:precision=bf16") == [], "a candidate is it"
    assert casts("bf16=owner/model:precision=bf16") == ["bf16 (cast)"], "its name is taken"
    assert casts("bf16:batch_size=1", noise_floor=False) == []
    assert casts("bf16:batch_size=1", reference=Variant("bf16", "bf16", compute="bf16")) == []
    assert is_cast(parse_variants("bf16")[0]) and not is_cast(parse_variants("bf16:use_cache=false")[0])


ASKED: dict[str, Any] = {
    "candidates": ["bf16:batch_size=1", "fp32:batch_size=1"], "strategies": ["greedy", "top-p:p=1"], "batch_size": 4,
    "prompts": {"a": "w1 w2 w3", "b": "w5 w9", "c": "w7"}, "max_new_tokens": 12, "noise_floor": True,
}  # fmt: skip


def test_a_run_reads_the_cast_and_judges_each_token() -> None:
    study: dd.Study = run(**ASKED)
    cast = study.positions[study.positions["role"] == "cast"]
    assert set(cast["candidate"]) == {"bf16"} and set(study.summary["role"]) == {"self", "candidate", "floor"}
    table = study.certificate.set_index(["candidate", "strategy"])
    assert table.loc["bf16:batch_size=1", "sigma_ratio"].notna().all()
    assert table.loc["fp32:batch_size=1", "sigma_ratio"].isna().all()
    its = study.traces[study.traces["role"] == "candidate"].set_index(["variant", "strategy", "seed", "prompt_id"])
    for row in study.judged.itertuples():
        trace = its.loc[row.candidate, row.strategy, row.seed, row.prompt_id]
        judged = -trace.n_tokens * math.log(trace.perplexity_judge)
        assert row.tokens == trace.n_tokens
        assert row.sequence_logratio == pytest.approx(judged - trace.logprob_sum, abs=1e-9)
    fine = study.judged[study.judged["candidate"] == "fp32:batch_size=1"]
    assert (fine["ratio_out_mlperf"] == 0).all() and (fine["difr"].abs() < 1e-4).all() and len(fine) == 6
    coarse = study.judged[study.judged["candidate"] != "fp32:batch_size=1"]
    assert (coarse["ratio_out_mlperf"] > 0).any() and (coarse["difr"] >= 0).all()
    whole = table.loc[("bf16:batch_size=1", "top-p:p=1")]
    part = coarse[coarse["strategy"] == "top-p:p=1"]
    assert whole.k3_own == pytest.approx(part["k3"].sum() / part["tokens"].sum())
    assert whole.ratio_out_1_own == pytest.approx(part["ratio_out_1"].sum() / part["tokens"].sum())
    assert "Is it more than noise?" in study.to_html()


def test_the_margin_is_what_the_reference_would_rather_have_taken() -> None:
    """Greedy: 0 at each token that is the reference's own first choice, else how far its logit lies below the best."""
    study = run(**ASKED)
    rows = study.divergences[(study.divergences["role"] == "candidate") & (study.divergences["strategy"] == "greedy")]
    judged = study.judged.set_index(["candidate", "strategy", "prompt_id"])["difr"]
    for row in rows.itertuples():
        margin = judged[row.candidate, "greedy", row.prompt_id]
        assert margin >= (row.reference_gap - 1e-4 if row.diverged else 0)


def test_an_old_run_has_no_certificate_of_what_it_did_not_measure() -> None:
    study, _ = made()
    bare = study.positions[study.positions["role"] == "candidate"]
    (row,) = Study({"positions": bare}, PLAN).certificate.itertuples()
    assert math.isnan(row.excess_kl) and math.isnan(row.sigma_ratio) and math.isnan(row.difr)
    assert row.tokens == 360
    assert not len(Study({}, PLAN).certificate)
