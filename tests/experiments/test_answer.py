"""The answer's words and intervals: closed forms, each word with what must not get it, and coverage by simulation."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import running
from scipy import stats

import decodedrift as dd
from decodedrift.experiments.compare.folds.answer import AS_NOISE, quality, wording
from decodedrift.experiments.compare.verdict import answer, assembly, certificate
from decodedrift.experiments.compare.verdict.answer import lines
from decodedrift.measure.tables import TABLES, typed
from decodedrift.numerics.intervals import paired_difference, wilson
from decodedrift.report import phrases

PLAN = {
    "experiment": "compare", "model": "m", "max_new_tokens": 8, "mode": "exact", "strategies": [],
    "reference": {"name": "fp32", "precision": "fp32", "compute": "fp32", "model": None, "knobs": {}},
    "candidates": [{"name": "c", "precision": "bf16", "compute": "bf16", "model": None, "knobs": {}}],
}  # fmt: skip


def rows(table: str, entries: list[dict[str, Any]]) -> pd.DataFrame:
    return typed(
        pd.DataFrame({c: pd.Series([e.get(c) for e in entries], dtype="object") for c in TABLES[table]}), table
    )


def pairs(flags: list[int], role: str, first: int = 0) -> list[dict[str, Any]]:
    """A pair a prompt: whether it parted."""
    sides = {"candidate": ("fp32", "c"), "floor": ("c", "c:batch_size=1")}[role]
    return [
        {"model": "m", "reference": sides[0], "candidate": sides[1], "role": role, "strategy": "greedy", "seed": 0,
         "prompt_id": f"p{first + n}", "compared": 8, "diverged": flag, "nonfinite": 0}
        for n, flag in enumerate(flags)
    ]  # fmt: skip


def study(
    flags: list[int], floor: list[int] = [], nll: dict[str, list[tuple[float, float]]] = {}, **more: Any  # noqa: B006
) -> dd.Study:  # fmt: skip
    """A run of candidate c. nll: window -> of each token, the reference's and the candidate's."""
    positions = [
        {"model": "m", "reference": "fp32", "candidate": "c", "role": "candidate", "strategy": "text", "seed": 0,
         "prompt_id": window, "position": n, "nll_reference": a, "nll_candidate": b, "p_top_reference": 0.5,
         "nonfinite": int(not math.isfinite(b))}
        for window, tokens in nll.items() for n, (a, b) in enumerate(tokens)
    ]  # fmt: skip
    tables = {"divergences": rows("divergences", [*pairs(flags, "candidate"), *pairs(floor, "floor")])}
    return dd.Study(tables | {"positions": rows("positions", positions)}, PLAN | more)


def row(*arguments: Any, **more: Any) -> Any:
    (answer,) = study(*arguments, **more).answer.itertuples()
    return answer


@pytest.mark.parametrize("clusters", [5, 10, 40])
@pytest.mark.parametrize("excess", [0.0, 0.3])
def test_the_interval_covers_the_difference(clusters: int, excess: float) -> None:
    """Four strategies a prompt that are alike: both sides share the prompt's own inclination to part."""
    rng = np.random.default_rng(7)
    names, covered, runs = np.repeat(np.arange(clusters), 4).astype(str), 0, 600
    for _ in range(runs):
        inclined = np.repeat(rng.beta(1, 2, clusters) * (1 - excess), 4)
        a = (rng.random(4 * clusters) < inclined + excess).astype(float)
        b = (rng.random(4 * clusters) < inclined).astype(float)
        _, low, high = paired_difference(a, b, names)
        covered += low <= excess <= high
    assert covered / runs >= 0.93


def test_every_word_of_the_wording_and_what_must_not_get_it() -> None:
    half, few = [1, 0] * 32, [1] * 3 + [0] * 61
    assert row([0] * 64).wording == "same"
    assert "none of 64 texts parted, and 64 prompts cannot exclude that 4.6 of 100 do" in row([0] * 64).wording_note
    assert "1 prompt cannot exclude that 95 of 100 do" in row([0]).wording_note
    assert row([0] * 64, half).wording == "same", "whatever its own layouts do"
    assert row([*[0] * 63, 1]).wording == "differs", "one is not none, and there is no floor"
    assert row(half, [0] * 64).wording == "more than noise"
    assert row(few, few).wording == "as noise"
    assert row(half, half).wording == "as noise", "the same texts part"
    assert row(half, half[::-1]).wording == "cannot tell", "as often, but other texts: the interval is wide"
    assert row(few[:8], few[:8]).wording == "cannot tell", "eight prompts exclude no tenth"
    assert "one prompt" not in row([*[0] * 63, 1]).wording_note
    assert (row([1]).wording, row([1]).wording_note) == (
        "differs",
        "there is no noise floor to hold it against (one prompt has no other batch layout)",
    )
    assert row([]).wording == "not compared"
    one = row([1], [0])
    assert one.wording == "cannot tell"
    assert (one.excess_rate, one.floor_prompts) == (1.0, 1)
    assert one.excess_rate_low < 0


def test_the_difference_is_over_the_prompts_of_the_floor_alone() -> None:
    answer = row([1] * 10 + [0] * 10, [1] * 10)
    assert (answer.prompts, answer.divergence_rate) == (20, 0.5)
    assert (answer.floor_prompts, answer.floor_rate, answer.excess_rate) == (10, 1.0, 0.0)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.001, 0.3, "more than noise"), (0.0, 0.0999, "as noise"), (-0.2, 0.1, "cannot tell"), (0.0, 0.3, "cannot tell")],
)
def test_the_bounds_of_the_wording(low: float, high: float, word: str) -> None:
    rates = {"traces": 9, "diverged": 3, "prompts": 9, "floor_prompts": 9, "floor_rate": 0.1, "divergence_rate_high": 1,
             "excess_rate": 0.05}  # fmt: skip
    assert wording(rates | {"excess_rate_low": low, "excess_rate_high": high})[0] == word


@pytest.mark.parametrize(
    ("excess", "low", "high", "n", "count"),
    [
        (0.0, -0.2, 0.2, 16, "about 70"),  # 16 x (0.2 / 0.1)^2 = 64
        (0.3, -0.1, 0.7, 40, "about 80"),  # 40 x (0.4 / 0.3)^2 = 71.1
        (0.05, -0.15, 0.25, 100, "about 1,600"),  # in the middle, where either end has 0.05 to go
        (-0.1, -0.4, 0.2, 16, "about 40"),  # 16 x (0.3 / 0.2)^2 = 36
        (0.0, -0.2, 0.11, 16, "at least 35"),  # by the width alone 19, of which none exclude a tenth
        (1.0, -0.62, 1.0, 1, "at least 35"),
        (math.nan, math.nan, math.nan, 2, "at least 35"),
    ],
)  # fmt: skip
def test_cannot_tell_says_what_would(excess: float, low: float, high: float, n: int, count: str) -> None:
    """Closed form: an interval narrows as one over the root; Wilson's end for none of 34 is above a tenth, of 35 not."""
    rates = {
        "traces": 99,
        "diverged": 9,
        "prompts": n,
        "floor_prompts": n,
        "floor_rate": 0.1,
        "divergence_rate_high": 1,
    }
    word, note = wording(rates | {"excess_rate": excess, "excess_rate_low": low, "excess_rate_high": high})
    assert word == "cannot tell" and f"; {count} prompts would" in note
    assert wilson(0, 35)[1] < AS_NOISE < wilson(0, 34)[1]


def test_the_note_is_in_plain_words_and_so_is_the_terminals_line() -> None:
    run = study([1, 0] * 8, [0, 1] * 8)
    (cell,) = run.answer.itertuples()
    assert cell.wording_note.startswith(
        f"16 prompts put it between {-100 * cell.excess_rate_low:.0f} fewer and {100 * cell.excess_rate_high:.0f} more of "
        "100 texts than by batching alone; about "
    )
    count = cell.wording_note.rpartition("about ")[2].removesuffix(" would tell")
    assert answer.outlook(run) == f"To tell: about {count} for c."
    assert answer.outlook(study([1] * 16)) == "", "no floor, nothing to tell from"


def test_a_candidate_without_noise_says_which_arithmetic_has_none() -> None:
    fine = {"candidates": [{"name": "c", "precision": "int8", "compute": "fp32", "model": None, "knobs": {}}]}
    why = "it computes in fp32, where batching changed no text"
    run = study([1, 0] * 32, [0] * 64, **fine)
    assert run.answer["wording_note"].str.endswith(f"; {why}").all()
    assert answer.outlook(run) == "c computes in fp32."
    assert why not in row([1, 0] * 32, [0] * 64).wording_note, "bf16"
    mixed = {"candidates": [{**fine["candidates"][0], "precision": "fp32", "knobs": {"mixed": "bf16"}}]}
    assert why not in row([1, 0] * 32, [0] * 64, **mixed).wording_note, "its products are in bf16"
    assert why not in row([1, 0] * 32, [1] + [0] * 63, **fine).wording_note, "it has noise"
    assert why not in row([0] * 64, [0] * 64, **fine).wording_note, "and nothing parted"


def test_screening_predicts_and_says_so() -> None:
    run = study([1, 0] * 8, mode="screen")
    assert run.answer["wording_note"].tolist() == [
        "predicted by reading the same text; there is no noise floor to hold it against"]  # fmt: skip
    (sentence,) = answer.sentences(run)
    assert "50 % of texts predicted to part (" in sentence
    assert row([1, 0] * 8).wording_note == "there is no noise floor to hold it against"


def test_small_percentages_are_words_and_ends_have_the_digits_of_their_interval() -> None:
    assert phrases.change(-6.1e-9, -2e-8, 7.7e-9) == "under 0.001 %"
    assert phrases.change(0.0, 0.0, 0.0) == "0 %"
    assert phrases.change(-0.0014, -0.0105, 0.0078) == "-0.14 % (-1.05 to +0.78 %)"
    assert phrases.change(8.5e-6, -1.8e-4, 2e-4) == "+0.001 % (-0.018 to +0.020 %)"
    assert phrases.percent(1e-8) == "under 0.001 %" and phrases.percent(0.0) == "0 %"


def test_who_is_the_reference_again_is_no_finding() -> None:
    candidate = {"name": "c", "precision": "fp32", "compute": "fp32", "knobs": {"attention": "sdpa"}}
    run = study([0] * 9, candidates=[candidate])
    assert run.answer["wording"].tolist() == ["same"], "nobody has read back that it is"
    run = study([0] * 9, candidates=[candidate])
    run.environment = {"variants": {"c": {"idle_knobs": ["attention"]}}}
    assert run.answer["wording"].tolist() == ["same execution"]
    run = study([0] * 9, candidates=[candidate | {"precision": "bf16"}])
    run.environment = {"variants": {"c": {"idle_knobs": ["attention"]}}}
    assert run.answer["wording"].tolist() == ["same"], "its type is another"


def windows(change: list[float], tokens: int = 40, spread: float = 0.2) -> dict[str, list[tuple[float, float]]]:
    """A window for each change of its mean NLL."""
    wave = spread * np.sin(np.arange(tokens))
    wave -= wave.mean()
    return {f"t#{n}": [(3.0, 3.0 + c + w) for w in wave] for n, c in enumerate(change)}


def test_the_change_of_perplexity_is_clustered_by_window_with_t() -> None:
    change = [0.004, -0.001, 0.002, 0.0, 0.003]
    answer = row([1], nll=windows(change))
    mean, error = np.mean(change), np.std(change, ddof=1) / math.sqrt(5)
    half = stats.t.ppf(0.975, 4) * error
    ends = [answer.ppl_change_low, answer.ppl_change, answer.ppl_change_high]
    np.testing.assert_allclose(ends, np.expm1([mean - half, mean, mean + half]), rtol=1e-9)
    assert (answer.texts, answer.scored_tokens, answer.windows) == ("t", 200, 5)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ([0.001, 0.002, 0.003, 0.002], "no loss above 1 %"),
        ([0.0, 1e-9, 0.0, 1e-9], "no loss above 1 %"),
        ([0.03, 0.02, 0.04, 0.03], "worse"),
        ([-0.03, -0.02, -0.04, -0.03], "better"),
        ([0.02, -0.02, 0.03, -0.03], "cannot tell"),
        ([0.009, 0.011, 0.01, 0.012], "worse"),
        ([0.001], "cannot tell"),
        ([0.001, 0.002], "cannot tell"),
    ],
)
def test_every_word_of_the_quality(change: list[float], word: str) -> None:
    if change == [0.001, 0.002]:
        change = [0.0, 0.01]  # two windows: Student's factor is 12.7
    assert row([1], nll=windows(change)).quality == word


@pytest.mark.parametrize("short", [2, 5, 10, 30, 60])
def test_a_last_window_that_is_short_is_no_second_one(short: int) -> None:
    nll = windows([0.01], 256) | {"t#1": windows([-0.02], short)["t#0"]}
    answer = row([1], nll=nll)
    assert math.isfinite(answer.ppl_change) and math.isnan(answer.ppl_change_low)
    assert answer.quality == "cannot tell"
    assert answer.quality_note == (
        "2 windows of which one has most of the tokens weigh as fewer than two, which have no interval; "
        "give a longer text with --text"
    )
    ((_, _, said),) = lines(study([1], nll=nll))
    assert said.startswith("quality cannot tell: perplexity +0.") and said.endswith(answer.quality_note)
    assert "a single window has no interval" in row([1], nll=windows([0.01])).quality_note


def test_a_change_beyond_all_numbers_is_one_all_the_same() -> None:
    run = study([1], nll=windows([0.0, 400.0]))
    (answer,) = run.answer.itertuples()
    assert (answer.ppl_change_low, answer.ppl_change_high, answer.quality) == (-1.0, math.inf, "cannot tell")
    nothing = (math.nan, math.nan)
    assert (phrases.change(math.inf, *nothing), phrases.change(math.nan, *nothing)) == ("+inf %", "n/a")
    assert phrases.relative(math.inf, math.nan, math.nan) == "+inf %" == phrases.relative(math.inf, -1.0, math.inf)


def test_quality_is_never_read_off_the_references_own_text() -> None:
    answer = row([1])
    assert (answer.quality, answer.texts, answer.scored_tokens) == ("not measured", "", 0)
    own = study([1], nll=windows([0.5, 0.6]))
    own.positions = own.positions.assign(strategy="greedy")
    assert own.answer["quality"].tolist() == ["not measured"]


def test_a_token_that_a_candidate_gives_no_likelihood_is_worse() -> None:
    nll = windows([0.0, 0.0, 0.001])
    nll["t#0"][3] = (3.0, math.inf)
    answer = row([1], nll=nll)
    assert (answer.quality, answer.quality_note) == ("worse", "1 of 120 tokens have no finite likelihood under it")
    assert math.isnan(answer.ppl_change)


def test_the_bounds_of_the_quality() -> None:
    change = {"ppl_change_low": -0.01, "ppl_change_high": 0.0, "ppl_change": 0.0, "scored_tokens": 9, "texts": "t"}
    assert quality(change)[0] == "cannot tell"


def test_a_floor_is_measured_on_the_first_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    from decodedrift.experiments.compare import controls

    monkeypatch.setattr(controls, "FLOOR_PROMPTS", 3)
    run = running.run(
        candidates=["bf16"], strategies=["greedy"], prompts=["w1", "w2 w3", "w4", "w5 w6 w7", "w8"], max_new_tokens=4,
        noise_floor=True, prompts_per_job=2,
    )  # fmt: skip
    floors = run.divergences[run.divergences["role"] == "floor"]
    assert floors["prompt_id"].tolist() == [p["id"] for p in run.plan["prompts"][:3]]
    assert set(run.positions.loc[run.positions["role"] == "floor", "prompt_id"]) == set(floors["prompt_id"])
    assert not run.failed, run.failures.to_string()
    assert run.answer["floor_prompts"].tolist() == [3]


def test_a_bundled_text_that_a_tokenizer_cannot_read_is_left_out_and_said() -> None:
    run = running.run(candidates=["bf16"], strategies=["greedy"], prompts=["w1"], max_new_tokens=2, default_text=True)
    (warning,) = run.environment["warnings"]
    assert warning.startswith("quality is not measured, give a text with --text: text bundled prose: fewer than two")
    assert run.plan["texts"] == []
    assert run.answer["quality"].tolist() == ["not measured"]
    assert not run.failed


def test_a_screening_has_a_floor_of_its_own_and_a_plan_from_before_no_text() -> None:
    from decodedrift.core.settings import make_settings
    from decodedrift.experiments.compare.settings import CompareSettings

    earlier = {"prompt_id": "a", "text": "b", "tags": []}
    assert make_settings(CompareSettings, {}).noise_floor
    assert not make_settings(CompareSettings, {"mode": "screen"}).noise_floor
    with pytest.raises(dd.InputError, match="--noise-floor"):
        make_settings(CompareSettings, {"mode": "screen", "noise_floor": True})
    assert make_settings(CompareSettings, {}).standard_texts()[0].name == "bundled story"
    assert make_settings(CompareSettings, {"model": "gpt2"}).standard_texts()[0].name == "bundled prose"
    assert not make_settings(CompareSettings, {"default_text": False}).standard_texts()
    assert not make_settings(CompareSettings, {"prompts": [earlier], "prompt_source": "given"}).standard_texts()


def test_a_forecast_counts_of_every_floor_the_prompts_that_it_runs_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from decodedrift.core.settings import make_settings
    from decodedrift.experiments.compare import settings
    from decodedrift.experiments.compare.settings import CompareSettings
    from decodedrift.models.workload import flops
    from decodedrift.runs.forecast import forecast
    from decodedrift.runs.prepare import prepare

    ready = prepare(make_settings(CompareSettings, {"limit": 2, "max_new_tokens": 3, "strategies": ["greedy"]}))
    assert len(ready.plan.effort.floors) == 3, "bf16, fp16, int8"
    assert "noise floor: 3 passes over 2 prompts in another layout" in forecast(ready)
    lean = prepare(make_settings(CompareSettings, ready.plan.as_dict() | {"noise_floor": False}))
    more = {n: flops(ready.world, n) - flops(lean.world, n) for n in (1, 2)}
    assert more[1] == 2.0 * ready.world.checkpoint.parameters * 3 * 3 * (1 + 2) and more[2] == 2 * more[1]

    monkeypatch.setattr(settings, "FLOOR_PROMPTS", 7)  # a job of 4, and 3 of one whose two batches hold them
    asked = {"candidates": "bf16,fp16,bf16:batch_size=1", "limit": 9, "batch_size": 2, "prompts_per_job": 4}
    asked |= {"strategies": ["greedy"], "max_new_tokens": 3, "default_text": False}
    ready, lean = (prepare(make_settings(CompareSettings, asked | {"noise_floor": on})) for on in (True, False))
    assert "noise floor: 3 passes over 7 to 8 prompts in another layout" in forecast(ready)
    assert flops(ready.world, 9) - flops(lean.world, 9) == (8 + 8 + 7) * more[1] / 3


def test_draws_that_are_not_shared_have_no_noise_floor() -> None:
    """Another batch layout draws anew: a floor that parts everywhere would make any candidate one of noise."""
    drawn = {"name": "top-p", "label": "greedy", "params": {"p": 0.9, "temperature": 1.0}, "coupling": "none"}
    one = row([1, 0] * 20, [1] * 40, strategies=[drawn])
    assert one.wording == "differs" and math.isnan(one.floor_rate) and math.isnan(one.excess_rate_high)
    assert one.wording_note.endswith("in another batch layout greedy would draw anew, which is no noise of batching")
    shared = row([1, 0] * 20, [1] * 40, strategies=[drawn | {"coupling": "gumbel"}])
    assert shared.wording == "as noise" and shared.floor_rate == 1
    fewer = f"at least {-100 * shared.excess_rate_high:.0f} fewer of 100 texts part than by batching alone"
    assert shared.wording_note == fewer


def test_the_noise_names_the_strategies_that_have_one() -> None:
    """Greedy has a floor and a draw that is not shared has none: the noise beside the share is greedy's."""
    study = running.run("demo", limit=4, max_new_tokens=24, candidates=["bf16"], strategies=["greedy", "top-p"],
                        coupling="none", noise_floor=True, default_text=False)  # fmt: skip
    floor = study.divergences.query("role == 'floor' and strategy == 'greedy'")
    (told,) = study.answer.itertuples()
    assert told.diverged and told.floor_prompts == 4 and told.floor_rate == floor["diverged"].mean()
    assert f"its noise {phrases.percent(told.floor_rate)} under greedy" in lines(study)[0][1]
    assert "top-p would draw anew" in told.wording_note
    (sentence,) = certificate.floor(study)
    assert f"leaves its own text in {int(floor['diverged'].sum())} of 4 traces" in sentence


def test_a_perplexity_of_the_tokens_that_are_left_is_not_told() -> None:
    """Of three tokens one has no likelihood under the candidate: what the others come to is no finding."""
    told = study([0], nll={"t#0": [(1.0, 1.0), (2.0, math.nan), (1.0, 0.5)]})
    told.environment = {"scored_bytes": {"t": 9}}
    (sentence,) = [s for s in assembly.rest(told) if s.startswith("Perplexity")]
    assert sentence.endswith(": c has none, with no finite likelihood of 1 of 3 tokens.")


def test_what_holds_of_many_candidates_is_said_once() -> None:
    names = list("abcdef")
    answers = pd.DataFrame({"candidate": names, "wording": "as noise", "floor_rate": 0.0})
    candidates = [{"name": name, "precision": "fp32", "compute": "bf16" if name == "f" else "fp32"} for name in names]
    run = SimpleNamespace(answer=answers, plan={"candidates": candidates})
    assert answer.outlook(run) == "a, b, c and 2 more compute in fp32."
    run.answer = answers[:2]
    assert answer.outlook(run) == "a and b compute in fp32."
