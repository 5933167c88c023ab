"""The folds of compounding: small tables by hand, whole runs, and every run that has nothing to say."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from running import LEAN
from scipy import stats

import decodedrift as dd
from decodedrift.experiments.compare.folds import comparisons, compounding, prediction
from decodedrift.experiments.compare.verdict import hazard
from decodedrift.measure.tables import typed
from decodedrift.numerics.intervals import for_all
from decodedrift.runs import tablefiles

KEYS = {"model": "m", "reference": "fp32", "candidate": "bf16", "role": "candidate", "strategy": "greedy", "seed": 0}
FOLDS = ("survival", "growth", "after", "risk", "comparisons", "flip_law", "flip_calibration")


def divergences(rows: list[dict[str, Any]]) -> pd.DataFrame:
    filled = [KEYS | {"prompt_id": f"p{n}", "diverged": int("first_divergence" in r)} | r for n, r in enumerate(rows)]
    return typed(pd.DataFrame(filled), "divergences")


def left(t: int, **more: Any) -> dict[str, Any]:
    return {"first_divergence": t, "compared": t + 1, **more}


def stayed(tokens: int, **more: Any) -> dict[str, Any]:
    return {"compared": tokens, **more}


def traces(ids: dict[tuple[str, str], str]) -> pd.DataFrame:
    rows = [
        {"model": "m", "variant": v, "role": "reference" if v == "fp32" else "candidate", "strategy": "greedy",
         "seed": 0, "prompt_id": p, "token_ids": t, "n_tokens": len(t.split())} for (v, p), t in ids.items()
    ]  # fmt: skip
    return typed(pd.DataFrame(rows), "traces")


def positions(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return typed(pd.DataFrame([KEYS | r for r in rows]), "positions")


def run(model: Any = None, **more: Any) -> dd.Study:
    asked: dict[str, Any] = {"strategies": ["greedy"], "prompts": ["w1 w2", "w3", "w9 w8 w7", "w20 w21"]}
    asked |= {"max_new_tokens": 10, "candidates": ["bf16"]}
    return dd.compare(model or tiny_model("gpt2"), tokenizer=tiny_tokenizer(), **asked | more, **LEAN)


def test_agreement_by_lag_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = divergences([left(1), left(0), stayed(3)])
    ids = {("fp32", "p0"): "1 2 3 4 5", ("bf16", "p0"): "1 9 3 4 6", ("fp32", "p1"): "1 2 3", ("bf16", "p1"): "7 2",
           ("fp32", "p2"): "1 2 3", ("bf16", "p2"): "1 2 3"}  # fmt: skip
    few = compounding.after(rows, traces(ids))
    assert few["n"].tolist() == [2, 1, 1] and few["agreement"].isna().all(), "no share of so few pairs"
    monkeypatch.setattr(compounding, "LEAST_PAIRS", 1)
    found = compounding.after(rows, traces(ids))
    assert found[["lag", "n", "agreement"]].to_numpy().tolist() == [[1, 2, 1.0], [2, 1, 1.0], [3, 1, 0.0]]
    table = compounding.risk(rows, positions([]), traces(ids)).iloc[0]
    assert table["agreement_after"] == pytest.approx(3 / 4)
    # after t*: 3 4 5 against 3 4 6, two ids shared, each a third of either; 2 against 2, which no order can part
    assert table["agreement_chance"] == pytest.approx((2 / 3 + 1) / 4)


def topical(rng: np.random.Generator, p: np.ndarray, pairs: int, tokens: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs that part at once, both sides drawn from the pair's own distribution, the rows of `p` in turn."""
    ids = {}
    for n in range(pairs):
        for name, first in (("fp32", 0), ("bf16", 1)):
            length = tokens + int(rng.integers(0, tokens))
            drawn = 2 + rng.choice(p.shape[1], size=length, p=p[n % len(p)])
            ids[name, f"p{n}"] = " ".join(map(str, [first, *drawn]))
    return divergences([left(0)] * pairs), traces(ids)


def test_independent_texts_agree_by_chance_and_no_more() -> None:
    """Two texts about one thing share its words: pooled over all pairs, chance would look four times too small."""
    rng = np.random.default_rng(11)
    p = np.kron(np.eye(4), np.full((1, 8), 1 / 8)) * 0.9 + 0.1 / 32  # four topics of eight words each
    rows, texts = topical(rng, p, pairs=60, tokens=40)
    row = compounding.risk(rows, positions([]), texts).iloc[0]
    expected = float((p**2).sum(1).mean())
    assert row["agreement_chance"] == pytest.approx(expected, rel=0.03)
    assert row["agreement_after_low"] < row["agreement_chance"] < row["agreement_after_high"]
    assert expected > 3 * float((p.mean(0) ** 2).sum())


def test_chance_is_not_what_texts_share_in_order() -> None:
    """The negative control: a candidate that tells the reference's text, word for word, is far above it."""
    rng = np.random.default_rng(12)
    rows, texts = topical(rng, np.full((1, 32), 1 / 32), pairs=20, tokens=40)
    ours = texts[texts["variant"] == "fp32"].set_index("prompt_id")["token_ids"]
    same = texts["prompt_id"].map(ours).str.replace("0 ", "1 ", n=1)
    texts["token_ids"] = texts["token_ids"].where(texts["variant"] == "fp32", same)
    row = compounding.risk(rows, positions([]), texts).iloc[0]
    assert row["agreement_after"] == 1.0
    assert row["agreement_chance"] == pytest.approx(1 / 32 + (1 - 1 / 32) / 60, rel=0.2)


def test_growth_by_hand() -> None:
    """Two prompts, the error ten times as large 50 positions on: one decade, 2 per 100; a zero says nothing of size."""
    rows = positions([
        {"prompt_id": p, "position": t, "logit_gap_rms": g, "kl": g}
        for p, size in (("a", 1.0), ("b", 100.0)) for t, g in ((0, 0.001 * size), (50, 0.01 * size), (60, 0.0))
    ])  # fmt: skip
    table = compounding.growth(rows)
    assert table["position"].tolist() == [0, 50, 60]
    assert table.loc[0, "logit_gap_rms_median"] == pytest.approx((0.001 + 0.1) / 2)
    assert table.loc[1, "logit_gap_rms_p90"] == pytest.approx(0.01 + 0.9 * 0.99)
    assert table["n"].tolist() == [2, 2, 2]
    slope = compounding.slope(rows)
    assert (slope.value, slope.low, slope.high) == pytest.approx((2.0, 2.0, 2.0))
    ids = {(v, p): "1 2" for v in ("fp32", "bf16") for p in "ab"}
    figures = compounding.risk(divergences([stayed(2, prompt_id=p) for p in "ab"]), rows, traces(ids)).iloc[0]
    assert figures["growth_length"] == 51, "the position without an error has no say"


def test_survival_of_a_run_is_its_rows() -> None:
    study = dd.compare(
        "demo", candidates=["bf16", "int8"], strategies=["greedy", "top-p"], limit=8, max_new_tokens=48, **LEAN
    )
    table = study.survival
    for row in study.risk.itertuples():
        cell = study.divergences[
            (study.divergences[["candidate", "role", "strategy"]] == [row.candidate, row.role, row.strategy]).all(
                axis=1
            )
        ]
        curve = table[(table[["candidate", "role", "strategy"]] == [row.candidate, row.role, row.strategy]).all(axis=1)]
        assert curve["position"].tolist() == list(range(int(cell["compared"].max())))
        assert curve["events"].sum() == cell["diverged"].sum() == row.diverged
        assert curve["at_risk"].sum() == cell["compared"].sum() == row.exposure
        product = np.cumprod(1 - curve["events"] / curve["at_risk"])
        np.testing.assert_allclose(curve["survival"], product, atol=1e-12)
        np.testing.assert_allclose(curve["incidence"], curve["events"].cumsum() / len(cell), atol=1e-12)
        if row.role != "self":  # which ends on purpose
            assert row.ended == ((cell["diverged"] == 0) & (cell["compared"] < 48)).sum()
        assert row.restricted_mean <= row.horizon
    assert study.risk["ended"].sum() > 0
    summary = study.summary
    merged = summary.merge(study.risk, on=["candidate", "role", "strategy"], suffixes=("", "_risk"))
    assert len(merged) == len(summary)
    for name in compounding.HALF_LIFE:
        pd.testing.assert_series_equal(merged[name], merged[f"{name}_risk"], check_names=False)
    last = table.groupby(["candidate", "role", "strategy"], sort=False).tail(1).reset_index(drop=True)
    for name in ("", "_low", "_high"):
        assert last[f"incidence{name}"].tolist() == summary[f"divergence_rate{name}"].tolist()
    assert (summary["identical_share"] == 1 - summary["divergence_rate"]).all()
    assert (summary["identical_share_low"] == 1 - summary["divergence_rate_high"]).all()
    assert (summary["half_life"].notna() == (summary["divergence_rate"] >= 0.5)).all()
    self_rows = study.risk[study.risk["role"] == "self"]
    assert (self_rows["diverged"] == 0).all() and (self_rows["compounding_note"] == "nothing diverged").all()
    np.testing.assert_allclose(self_rows["certified_per_token"], np.minimum(1, 3 / self_rows["exposure"]))
    law = study.flip_law[study.flip_law["law"] == "empirical"]
    assert law["flips"].tolist() == study.risk[study.risk["role"] == "candidate"]["diverged"].tolist()
    assert (law["positions"].to_numpy() == study.risk[study.risk["role"] == "candidate"]["exposure"].to_numpy()).all()


def test_an_end_is_joint_where_the_reference_chose_to_stop() -> None:
    """Not where it reached the last token, or broke; and a control is held against its own type's text."""
    rows = divergences([left(1), stayed(3), stayed(3), stayed(3), stayed(0, diverged=None)])
    floor = rows.assign(reference="bf16", candidate="bf16:batch_size=1", role="floor")
    ids = {(v, f"p{n}"): "1 2 3" for n in range(5) for v in ("fp32", "bf16")}
    texts = traces(ids)
    texts["finish"] = ["eos", "eos"] * 2 + ["length", "eos"] + ["nonfinite", "eos"] * 2
    twice = texts[texts["variant"] == "bf16"].assign(
        role="floor", variant="fp32", finish="eos"
    )  # no control's name says
    found = compounding.with_ends(pd.concat([rows, floor]), pd.concat([texts, twice]))
    assert found["ended"].tolist() == [False, True, False, False, False, False, True, True, True, False]
    curve = compounding.survival(rows, texts, prediction.survival([]))
    assert curve["incidence"].tolist() == [0, 0.25, 0.25]


def test_the_law_expects_no_more_divergences_than_texts() -> None:
    """Four texts whose every token all but flips; and none is expected where no error was seen."""
    rows = divergences([left(0), left(1), left(0), left(2)])
    forced = [{"prompt_id": f"p{n}", "position": t, "choice_margin": 0.01, "choice_error": e, "choice_agree": int(e > 0),
               "logit_gap_rms": 0.1, "significant_digits": 1.0}
              for n in range(4) for t, e in enumerate((-0.3, 0.2, -0.4, -0.1, -0.2, -0.5))]  # fmt: skip
    law = prediction.flip_law(prediction.predict(rows, positions(forced))).set_index("law")
    chance = law["flips_predicted"]["empirical"]
    assert 3.5 < chance <= 4 and law["flips"].eq(4).all()
    assert (law["flips_predicted"] <= 4).all()
    still = [row | {"choice_error": 0.0, "choice_agree": 1} for row in forced]
    none = prediction.flip_law(prediction.predict(divergences([stayed(6)] * 4), positions(still)))
    assert none["flips_predicted"].isna().all() and set(none["flip_note"]) == {"no error was seen"}
    forbidden = [row | {"choice_error": -math.inf if row["position"] == 5 else 0.0} for row in still]
    assert "" in set(prediction.flip_law(prediction.predict(rows, positions(forbidden)))["flip_note"])


def test_errors_of_rounding_foretell_none_and_a_surprise_costs_a_finite_score() -> None:
    """Margins of 0.01 to 1 and errors of 1e-7: no text is expected to part, and the one that did cost ln(2 (n + 1))."""
    rng = np.random.default_rng(0)
    forced = [{"prompt_id": f"p{n}", "position": t, "choice_margin": rng.uniform(0.01, 1), "choice_agree": 1,
               "choice_error": rng.normal(0, 1e-7), "logit_gap_rms": 1e-7, "significant_digits": 7.0}
              for n in range(4) for t in range(6)]  # fmt: skip
    law = prediction.flip_law(prediction.predict(divergences([stayed(6)] * 3 + [left(2)]), positions(forced)))
    law = law.set_index("law")
    assert (law["flips_predicted"] == 0).all()
    at_risk, least = 6 * 3 + 3, 0.5 / 25
    assert law["positions"]["empirical"] == at_risk
    expected = -(np.log(least) + (at_risk - 1) * np.log(1 - least)) / at_risk
    assert law["log_score"]["empirical"] == law["log_score"]["constant"] == pytest.approx(expected)
    assert law["log_score"]["normal"] == math.inf, "a formula is taken at its word"


def test_choices_turn_where_margin_and_error_say_so() -> None:
    """The two columns that the law reads, against the choices themselves, on both kinds of strategy."""
    study = dd.compare("demo", candidates=["int8"], strategies=["greedy", "top-p"], limit=8, max_new_tokens=48, **LEAN)
    rows = study.positions[study.positions["role"] == "candidate"]
    greedy, drawn = (rows[rows["strategy"] == s] for s in ("greedy", "top-p"))
    np.testing.assert_array_equal(greedy["choice_margin"], greedy["logit_margin_reference"])
    np.testing.assert_array_equal(greedy["choice_error"], greedy["directional_error"])
    turned = rows["choice_margin"] + rows["choice_error"] < 0
    assert turned.sum() > 0
    assert (rows.loc[turned, "choice_agree"] == 0).all(), "the second best has overtaken the best"
    assert (drawn["choice_margin"] != drawn["logit_margin_reference"]).mean() > 0.9, "the noise is in it"
    assert np.isinf(drawn["choice_error"]).any(), "a nucleus that closes before one of the two"


@pytest.mark.parametrize(
    "rows",
    [[], [stayed(5)], [left(0)], [left(0)] * 4, [stayed(5)] * 4, [left(3)] * 4, [stayed(0)] * 2, [left(0), stayed(0)],
     [left(2, prompt_id="a", seed=0), stayed(4, prompt_id="a", seed=1)]],
    ids=["none", "one stayed", "one left", "all at 0", "all censored", "ties", "nothing compared", "empty too", "seeds"],
)  # fmt: skip
def test_any_run_gives_numbers_or_a_reason(rows: list[dict[str, Any]]) -> None:
    table = divergences(rows) if rows else typed(pd.DataFrame(), "divergences")
    ids = {(v, f"p{n}"): "1 2 3 4" for n in range(len(rows)) for v in ("fp32", "bf16")}
    texts = traces(ids) if rows else typed(pd.DataFrame(), "traces")
    if any("seed" in r for r in rows):
        texts = pd.concat([texts.assign(prompt_id="a", seed=s) for s in (0, 1)]).drop_duplicates(["variant", "seed"])
    forced = positions([])
    predictions = prediction.predict(table, forced)
    figures = compounding.risk(table, forced, texts)
    for row in figures.itertuples():
        assert math.isnan(row.compounding_index) is bool(row.compounding_note)
        assert math.isnan(row.growth_slope) is bool(row.growth_note)
        assert math.isnan(row.certified_per_token) is bool(row.diverged or not row.exposure)
    law = prediction.flip_law(predictions)
    assert (law["flips_predicted"].isna() == (law["flip_note"] != "")).all()
    assert prediction.calibration(predictions).empty
    compounding.survival(table, texts, prediction.survival(predictions))
    compounding.after(table, texts)
    comparisons.comparisons(table)
    said = hazard.sentences(figures, law)
    assert not any("nan" in s for s in said)


def test_a_model_that_breaks_leaves_numbers_of_the_others() -> None:
    """A NaN candidate diverges where it breaks; what it cannot say is empty with a reason."""
    model = tiny_model("llama")
    broken = tiny_model("llama")
    with torch.no_grad():
        broken.lm_head.weight[5] = math.nan
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        broken.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        study = run(model, candidates=[f"broken={folder}", "bf16"])
    row = study.risk.set_index(["candidate", "role"]).loc[("broken", "candidate")]
    assert row["compounding_note"] == "all diverged at position 0"
    assert row["growth_note"] == "no position has an error above 0"
    law = study.flip_law.set_index(["candidate", "law"])
    assert law.loc[("broken", "empirical"), "flip_note"].startswith("no choice is made a position")
    assert law.loc[("bf16", "empirical"), "flip_note"] == ""
    assert all(len(getattr(study, name)) for name in FOLDS if name != "after")


def test_strategies_without_a_choice_a_position_say_so() -> None:
    study = run(strategies=["beam:num_beams=2", "top-p"], coupling="none")
    assert study.flip_law["flip_note"].str.startswith("no choice is made a position").all()
    assert study.survival["survival_predicted"].isna().all()
    assert study.risk["exposure"].gt(0).all(), "survival needs no margins"


def test_one_prompt_has_curves_and_no_prediction() -> None:
    study = run(prompts=["w1 w2"], candidates=["bf16"])
    assert set(study.flip_law["flip_note"]) == {"one prompt: nothing to hold out"}
    assert set(study.risk["growth_note"]) <= {"one prompt: no interval", "no position has an error above 0"}


def test_candidates_are_paired_by_what_both_ran() -> None:
    rows = [left(2), left(3), stayed(9), left(5)]
    other = [left(6, candidate="fp16"), stayed(9, candidate="fp16"), stayed(9, candidate="fp16")]  # its last job failed
    table = comparisons.comparisons(divergences([*rows, *(r | {"prompt_id": f"p{n}"} for n, r in enumerate(other))]))
    row = table.iloc[0]
    assert (row["candidate"], row["other"]) == ("bf16", "fp16")
    assert (row["pairs"], row["candidate_earlier"], row["other_earlier"], row["p_value"]) == (3, 2, 0, 0.5)


def test_runs_over_different_prompts_are_compared_unpaired() -> None:
    first = divergences([left(2), left(3), stayed(9), left(5)])
    second = divergences([r | {"prompt_id": f"q{n}"} for n, r in enumerate([stayed(9), left(8), stayed(9)])])
    row = comparisons.between(first, second).iloc[0]
    assert (row["hazard"], row["other_hazard"]) == (3 / 22, 1 / 27)
    assert 0 < row["p_value"] < 1
    with pytest.raises(dd.InputError, match=r"prompt 'p0' is in both runs \(4 are\)"):
        comparisons.between(first, first)
    seeds = pd.concat([second, second.assign(seed=1)])
    with pytest.raises(dd.InputError, match=r"bf16 greedy: .*one seed"):
        comparisons.between(first, seeds)
    none = divergences([stayed(4, prompt_id="z")])
    assert comparisons.between(none, none.assign(prompt_id="y"))["p_value"].isna().all()


def test_several_seeds_are_clustered_by_prompt() -> None:
    study = run(strategies=["top-p"], seeds=[0, 1, 2], candidates=["int8"], max_new_tokens=24)
    row = study.risk[study.risk["role"] == "candidate"].iloc[0]
    assert (row["prompts"], row["traces"]) == (4, 12)
    alone = run(strategies=["top-p"], seeds=[0], candidates=["int8"], max_new_tokens=24)
    assert alone.risk[alone.risk["role"] == "candidate"].iloc[0]["traces"] == 4


def test_folds_are_files_and_come_back_the_same(tmp_path: Path) -> None:
    study = run(candidates=["bf16", "fp16"], max_new_tokens=16)
    folder = study.save(tmp_path / "run")
    again = dd.open_study(folder)
    for name in FOLDS:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(study, name))
        assert (folder / f"tables/{name}.csv").is_file() == (len(getattr(study, name)) > 0)
        if not len(getattr(study, name)):
            continue
        read = tablefiles.read_csv(folder / f"tables/{name}.csv", name)
        pd.testing.assert_frame_equal(read, getattr(study, name), check_dtype=False)


def test_columns_are_explained() -> None:
    """Every column of every fold of compounding is in docs/metrics.md."""
    study = run()
    said = set(re.findall(r"`([a-z0-9_]+)`", (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")))
    keys = {"model", "reference", "candidate", "role", "strategy"}
    for name in ("summary", *FOLDS):
        assert set(getattr(study, name).columns) - keys <= said, name
    assert {"directional_error", "choice_margin", "choice_error", "chrf_after", "reconvergence_lag"} <= said


def cell(candidate: str, strategy: str = "greedy", **more: Any) -> dict[str, Any]:
    """A row of risk.csv: 40 of 100 texts part, and nothing is shown of anything else."""
    return {
        "candidate": candidate, "role": "candidate", "strategy": strategy, "traces": 100, "diverged": 40, "ended": 0,
        "prompts": 100, "agreement_after_low": 0.04, "agreement_after_high": 0.08,
        "exposure": 5000, "hazard": 0.008, "half_life": math.nan, "compounding_index": 1.0,
        "compounding_index_low": 0.8, "compounding_index_high": 1.2, "compounding_index_p_holm": 1.0,
        "compounding_note": "", "agreement_after": 0.06, "agreement_chance": 0.02, "growth_slope": 0.01,
        "growth_slope_low": -0.01, "growth_slope_high": 0.03, "growth_length": 64,
    } | more  # fmt: skip


def never(candidate: str, strategy: str = "greedy") -> dict[str, Any]:
    nothing = dict.fromkeys(("compounding_index", "compounding_index_p_holm", "agreement_after", "agreement_chance",
                             "agreement_after_low", "agreement_after_high"))  # fmt: skip
    return cell(candidate, strategy, diverged=0, hazard=0.0, compounding_note="nothing diverged", **nothing)


def said(*cells: dict[str, Any]) -> list[str]:
    law = pd.DataFrame(columns=["candidate", "law", "strategy", "flips", "flips_predicted", "km_distance"])
    return hazard.sentences(
        pd.DataFrame(list(cells)).astype(
            dict.fromkeys(("agreement_after", "agreement_chance", "agreement_after_low", "agreement_after_high"), float)
        ),
        law,
    )


def test_half_of_the_texts_are_gone_only_where_they_are() -> None:
    first = said(cell("a", half_life=84.0), cell("b"), never("c"))[0]
    assert "a 0.8 % (half of 100 texts gone by token 84; " in first
    assert "b 0.8 % (40 of 100 texts, nowhere half of them; " in first
    assert "c below 0.06 % (95 %, none in 5000 tokens, were they independent)" in first
    some = said(cell("a", half_life=45.0), cell("a", "top-p"), cell("a", "beam"), never("a", "min-p"))[0]
    assert "a 0 to 0.8 % (half of 100 texts gone by token 45 under greedy, never under top-p, beam and min-p; " in some
    two = said(cell("a", half_life=15.0, traces=2, diverged=1))[0]
    assert "a 0.8 % (1 of 2 texts); too few" in two and "half" not in two
    assert "as if the ends of texts were unrelated to it" in said(cell("a", ended=3))[0]
    assert "as if" not in some


def test_a_shape_is_named_after_ten_divergences_and_all_looks() -> None:
    first = said(cell("a"))[0]
    assert (
        "; no change with length shown from 40 divergences, 0.87 to 1.1 times at twice the length not excluded)"
        in first
    )
    growing = {"compounding_index": 1.5, "compounding_index_low": 1.2, "compounding_index_high": 1.9}
    assert (
        "growing with length: 1.1 to 1.9 times at twice the length, 40 divergences"
        in said(cell("a", **growing, compounding_index_p_holm=0.01))[0]
    )
    looks = said(cell("a", **growing, compounding_index_p_holm=0.2))[0]
    assert "growing" not in looks and "1 to 1.9 times at twice the length not excluded" in looks
    few = said(cell("a", **growing, diverged=3, compounding_index_p_holm=math.nan))[0]
    assert few.endswith(": a 0.8 % (3 of 100 texts); too few divergences to tell a shape for a.")
    three = said(*(cell(name, diverged=3) for name in "abc"), cell("d"))[0]
    assert three.endswith("; too few divergences to tell a shape for a, b and c.") and three.count("too few") == 1
    assert said(*(cell(f"v{n}", diverged=3) for n in range(9)))[0].endswith("to tell a shape for 9 candidates.")
    mixed = said(
        cell("a", **growing, compounding_index_p_holm=0.01), cell("a", "top-p", compounding_index_high=math.inf),
        cell("a", "beam", diverged=9),
    )[0]  # fmt: skip
    assert "growing with length under greedy: 1.1 to 1.9 times" in mixed
    assert "no change with length shown under top-p from 40 divergences, 0.87 to any number of times" in mixed
    assert "too few divergences under beam to tell a shape)." in mixed
    none = said(cell("a", compounding_index=math.nan, compounding_note="all diverged at position 0"))[0]
    assert "; no shape under greedy: all diverged at position 0)" in none
    assert not any("constant" in text for text in (first, looks, few, mixed))


def test_growth_is_told_where_it_is_shown_and_no_further_than_measured() -> None:
    known = {"growth_slope": 0.301, "growth_slope_low": 0.2, "growth_slope_high": 0.4}
    assert (
        "by +100 % over 100 tokens for a (+59 to +152 %, 100 prompts)."
        in said(cell("a", **known, growth_length=200))[1]
    )
    assert "by +41 % over 50 tokens for a (+26 to +59 %, 100 prompts)." in said(cell("a", **known, growth_length=50))[1]
    assert not any("logit error" in text for text in said(cell("a", **known, prompts=9)))
    steep = {"growth_slope": 4.09, "growth_slope_low": 1.0, "growth_slope_high": 7.0, "growth_length": 4}
    assert "changes by +46 % over 4 tokens for a" in said(cell("a", **steep))[1], "not +1229706 % per 100"
    alone = {"growth_slope": 4.09, "growth_slope_low": math.nan, "growth_slope_high": math.nan}
    assert not any("logit error" in text for text in (*said(cell("a")), *said(cell("a", **alone))))
    assert (
        "%, 100 prompts; none shown under top-p)" in said(cell("a", **known, growth_length=50), cell("a", "top-p"))[1]
    )
    agree = said(cell("a"), never("a", "top-p"))[1]
    assert "the tokens agree in 6 % for a (4 to 8 %, 40 texts; 2 % by chance; too few texts under top-p)" in agree
    assert not any("agree" in text for text in said(cell("a", diverged=9)))


def test_a_slope_is_told_where_it_holds_beside_all_that_were_looked_at() -> None:
    """Closed form: with 16 prompts and 12 looks, t(1 - 0.025/12, 15) / t(0.975, 15) times as wide."""
    wider = stats.t.ppf(1 - 0.025 / 12, 15) / stats.t.ppf(0.975, 15)
    np.testing.assert_allclose(for_all(np.array([16.0]), 12), wider)
    assert wider > 1.5
    slope = {"growth_slope": 0.3, "growth_slope_low": 0.1, "growth_slope_high": 0.5, "prompts": 16}
    none = {"growth_slope": 0.0, "prompts": 16}
    alone = said(cell("a", **slope))
    assert any("logit error" in text for text in alone)
    among = said(cell("a", **slope), *(cell(f"v{n}", **none) for n in range(11)))
    assert not any("logit error" in text for text in among)


def test_what_was_foreseen_says_for_which_strategies() -> None:
    law = pd.DataFrame({"candidate": "a", "law": "empirical", "strategy": ["greedy", "beam"], "flips": [8, math.nan],
                        "flips_predicted": [7.6, math.nan], "km_distance": [0.04, math.nan]})  # fmt: skip
    third = hazard.sentences(pd.DataFrame([cell("a")]), law)[2]
    assert "8 for a (8 came; none foretold under beam)" in third and "off by at most 0.04" in third


def test_holm_is_over_the_runs_candidates_with_ten_divergences() -> None:
    rng = np.random.default_rng(2)
    parts = []
    for name, role, n in (("a", "candidate", 30), ("b", "candidate", 30), ("c", "candidate", 9), ("a2", "floor", 30)):
        part = divergences([left(int(t)) for t in rng.integers(1, 60, n)])
        parts.append(part.assign(candidate=name, role=role))
    ids = {("fp32", f"p{n}"): "1" for n in range(30)} | {("bf16", f"p{n}"): "1" for n in range(30)}
    texts = pd.concat([traces(ids), *(traces(ids).query("variant == 'bf16'").assign(variant=v) for v in "abc"),
                       traces(ids).query("variant == 'bf16'").assign(variant="a2", role="floor")])  # fmt: skip
    table = compounding.risk(pd.concat(parts, ignore_index=True), positions([]), texts).set_index("candidate")
    p = table.loc[["a", "b"], "compounding_index_p"].sort_values()
    assert table["compounding_index_p"].notna().all()
    assert table.loc[p.index, "compounding_index_p_holm"].tolist() == [
        min(1, 2 * p.iloc[0]), max(min(1, 2 * p.iloc[0]), p.iloc[1]),
    ]  # fmt: skip
    assert table.loc[["c", "a2"], "compounding_index_p_holm"].isna().all()
