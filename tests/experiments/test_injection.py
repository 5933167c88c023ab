"""Injection: a replaced token's text against closed forms and uncached loops; the pass's own control; the folds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bigram import bigram_model, ids_of, rolled, saved_bigram
from conftest import tiny_model, tiny_tokenizer
from forking import command
from running import LEAN, saved_as
from test_generate import NEW as STEPS
from test_generate import PROMPTS as IDS
from test_generate import free_run
from test_oracle import BEAM, EOS, NEW, PROMPTS, SEEDS, SINGLE, VOCAB, C, R, scores, walk

import decodedrift as dd
from decodedrift.core.records import InputError
from decodedrift.decoding import scripted
from decodedrift.decoding.warping import warp
from decodedrift.experiments.compare.folds import second
from decodedrift.experiments.compare.verdict.injection import sentences as injection_sentences
from decodedrift.experiments.inject.face import inject
from decodedrift.measure import trajectory
from decodedrift.measure.tables import typed

MIXED = "greedy,beam:num_beams=3,top-p:p=0.9"
NAMES = ["strategy", "seed", "prompt_id"]


# ---- one pass


@pytest.mark.parametrize(("family", "precision"), [("gpt2", "bf16"), ("llama", "fp32"), ("mixtral", "fp32")])
def test_its_own_token_changes_nothing_at_all(family: str, precision: str) -> None:
    plain = free_run(family, MIXED, precision, "gumbel")
    own = {k: (t := len(v.token_ids) // 2, v.token_ids[t]) for k, v in plain.traces.items() if "beam" not in k[0]}
    again = free_run(family, MIXED, precision, "gumbel", inject=own)
    assert again.traces == plain.traces  # tokens, log-probabilities and margins, bit for bit
    other = free_run(family, MIXED, precision, "gumbel", inject={k: (t, (v + 1) % 96) for k, (t, v) in own.items()})
    assert any(other.traces[key].token_ids != plain.traces[key].token_ids for key in own)


@pytest.mark.parametrize("strategy", ["greedy", "top-p:p=0.9", "top-k:k=5,temperature=0.7", "min-p:p=0.1"])
def test_the_text_goes_on_as_an_uncached_loop_says(strategy: str) -> None:
    plain = free_run("gpt2", MIXED + ",top-k:k=5,temperature=0.7,min-p:p=0.1", "fp64", "gumbel", ignore_eos=True)
    put = {(strategy, 0, p): (6 + i, 40 + i) for i, p in enumerate(IDS)}
    found = free_run(
        "gpt2", MIXED + ",top-k:k=5,temperature=0.7,min-p:p=0.1", "fp64", "gumbel", ignore_eos=True, inject=put
    )
    model = tiny_model("gpt2").double()
    (chosen,) = (s for s in dd_strategies(strategy))
    for key, (at, token) in put.items():
        ids = [*plain.traces[key].token_ids[:at], token]
        while len(ids) < STEPS:
            with torch.no_grad():
                logits = model(torch.tensor([IDS[key[2]] + ids])).logits[:, -1]
            if strategy == "greedy":
                ids.append(int(logits.argmax()))
                continue
            allowed = warp(logits, chosen)
            best = allowed.coupled_scores([(0, key[2], len(ids))], 96).argmax()
            ids.append(int(allowed.ids[0, best]))
        assert list(found.traces[key].token_ids) == ids
    assert any(found.traces[k].token_ids[t + 1 :] != plain.traces[k].token_ids[t + 1 :] for k, (t, _) in put.items())
    for key in set(plain.traces) - set(put):
        assert found.traces[key] == plain.traces[key]


def dd_strategies(text: str) -> Any:
    from decodedrift.decoding.strategies import parse_strategies

    return parse_strategies(text)


# ---- within compare, against the closed form


def compare(candidate: np.ndarray, folder: Path, **settings: Any) -> Any:
    torch.set_num_threads(1)
    other = saved_bigram(candidate, folder)
    return dd.compare(
        bigram_model(R), tokenizer=tiny_tokenizer(VOCAB), reference="fp64", candidates=[f"other={other}"],
        prompts=PROMPTS, max_new_tokens=NEW, inject=True, **settings, **LEAN,
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return compare(C, tmp_path_factory.mktemp("other"), strategies=[*SINGLE, BEAM], seeds=list(SEEDS))


def resumed(table: np.ndarray, key: tuple[str, int, str], start: list[int]) -> list[int]:
    """A walk of the table that goes on from given tokens."""
    strategy, seed, prompt = key
    if start[-1] == EOS or len(start) == NEW:
        return start
    offset = len(start)
    rest = rolled(
        lambda previous, t: np.argmax(scores(strategy, seed, prompt, table[previous], t + offset)),
        start[-1], NEW - offset,
    )  # fmt: skip
    return start + rest


def test_every_divergence_is_replayed_with_the_one_token(study: Any) -> None:
    assert not len(study.failures)
    rows = study.injection.set_index(NAMES)
    seen = 0
    for strategy in SINGLE:
        for seed in (0,) if strategy == "greedy" else SEEDS:
            for prompt in PROMPTS:
                key = (strategy, seed, prompt.id)
                ours, its = (walk(table, *key) for table in (R, C))
                parted = next((t for t, (a, b) in enumerate(zip(ours, its, strict=False)) if a != b), None)
                if parted is None:
                    assert key not in rows.index
                    continue
                row = rows.loc[key]
                text = resumed(R, key, [*ours[:parted], its[parted]])
                assert ids_of(row.token_ids) == text
                assert (row.position, row.original_token_id, row.injected_token_id) == (
                    parted,
                    ours[parted],
                    its[parted],
                )
                pairs = list(zip(text[parted + 1 :], ours[parted + 1 :], strict=False))
                if pairs:
                    assert row.agreement == pytest.approx(np.mean([a == b for a, b in pairs]), abs=1e-15)
                if its[parted] == EOS:
                    assert pd.isna([row.trajectory_share, row.recovered, row.distance_injected]).all()
                else:
                    distances = (edits(side[parted + 1 :], its[parted + 1 :]) for side in (text, ours))
                    assert (row.distance_injected, row.distance_reference) == tuple(distances)
                    again = next((t for t, (a, b) in enumerate(zip(text, its, strict=False)) if a != b), None)
                    assert again is None or again > parted
                    assert row.second_compared == (len(its) if again is None else again + 1) - parted - 1
                    assert pd.isna(row.second_divergence) if again is None else row.second_divergence == again
                seen += 1
    assert seen == len(rows) > 40
    assert set(study.injection["strategy"]) == set(SINGLE)  # a beam takes no token


def edits(a: list[int], b: list[int]) -> int:
    """Levenshtein's table, written out."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def test_the_summary_pools_the_distances(study: Any) -> None:
    for row in study.summary.query("role == 'candidate'").itertuples():
        cell = study.injection[study.injection["strategy"] == row.strategy]
        if row.strategy == BEAM:
            assert math.isnan(row.injected)
            continue
        assert row.injected == len(cell)
        share = 1 - cell["distance_injected"].sum() / cell["distance_reference"].sum()
        assert row.trajectory_share == pytest.approx(share, abs=1e-12)
        assert row.trajectory_share_low <= share <= row.trajectory_share_high
        assert row.recovered_share == pytest.approx(cell["recovered"].mean())
        left = [len(ids_of(ids)) - at - 1 for ids, at in zip(cell["token_ids"], cell["position"], strict=True)]
        assert row.trajectory_horizon == np.median(np.array(left)[cell["distance_reference"].notna()])
        first = study.risk.query("role == 'candidate' and strategy == @row.strategy").iloc[0]
        rate = cell["second_divergence"].count() / cell["second_compared"].sum()
        assert row.second_hazard == pytest.approx(rate)
        assert row.second_hazard_ratio == pytest.approx(rate / first["hazard"])
        assert row.second_hazard_ratio_low < row.second_hazard_ratio < row.second_hazard_ratio_high
    assert math.isnan(study.summary.query("role == 'self'")["trajectory_share"].iloc[0])
    after = study.after[(study.after["lag"] == 1) & (study.after["role"] == "injected")]
    assert set(after["strategy"]) == set(SINGLE)
    firsts = [ids_of(r.token_ids)[r.position + 1 :][:1] for r in study.injection.itertuples() if r.strategy == "greedy"]
    assert after.set_index("strategy")["n"]["greedy"] <= sum(map(len, firsts))
    explained, again = (s for s in study.verdict if "trajectory" in s or "a second time" in s)
    assert "is trajectory, not growing arithmetic error" in explained and " tokens in the median" in explained
    pooled = second.pooled(
        second.beside(study.divergences.query("role == 'candidate' and strategy != @BEAM"), study.injection)
    )
    low, high = (float(f"{pooled[f'second_hazard_ratio_{end}']:.2g}") for end in ("low", "high"))
    assert (
        f"times the first split's risk, {low:g} to {high:g}). A factor beyond an interval (95 %) is excluded." in again
    )


def test_an_error_at_one_place_is_all_trajectory_and_one_that_goes_on_is_not(tmp_path: Path, study: Any) -> None:
    """A candidate that errs once (at a token visited once) leaves nothing but the forced token to explain."""
    table = np.full((VOCAB, VOCAB), -4.0)
    for i in range(VOCAB):
        table[i, 1 + i % (VOCAB - 1)] = 4.0
    table[:, EOS] = -9.0
    other = table.copy()
    other[3, 9] = 5.0  # from 3 to 9 instead of 4
    study_ = dd.compare(
        bigram_model(table), tokenizer=tiny_tokenizer(VOCAB), reference="fp64", max_new_tokens=10, inject=True,
        candidates=[f"other={saved_bigram(other, tmp_path / 'once')}"], prompts=PROMPTS[:3], strategies=["greedy"], **LEAN,
    )  # fmt: skip
    assert len(study_.injection) == 3
    assert (study_.injection["trajectory_share"] == 1).all()
    assert study_.summary.query("role == 'candidate'")["trajectory_share"].iloc[0] == 1
    row = study_.summary.query("role == 'candidate'").iloc[0]
    assert (row["second_hazard"], row["second_hazard_ratio"]) == (0, 0), "never a second time"
    assert row["second_hazard_high"] == min(1, 3 / study_.injection["second_compared"].sum())
    tokens = study_.injection["second_compared"].sum()
    assert any(
        f"happens at 0 % of the tokens for other (0 in {tokens} tokens; 0 times the first" in s for s in study_.verdict
    )
    few = injection_sentences(study_.injection.iloc[:1].assign(second_compared=1), study_.divergences)
    assert few[0].endswith(" put into the reference's text: too few texts to tell for other (1).")
    assert few[1].endswith("too few to hold against the first split)."), "and no interval that would exclude a factor"
    share = study.summary.query("role == 'candidate' and strategy == 'greedy'")["trajectory_share"].iloc[0]
    assert share < 1  # C errs everywhere


def test_a_row_that_moves_without_being_touched_is_a_failure_of_this_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = scripted.Injecting._choose

    def disturbed(self: Any, logits: Any) -> Any:
        tokens = plain(self, logits)
        loose = [i for i, name in enumerate(self.prompt_ids) if name not in self.inject]
        if self.steps == 2 and loose:
            tokens[loose[0]] = (tokens[loose[0]] + 1) % VOCAB
        return tokens

    monkeypatch.setattr(scripted.Injecting, "_choose", disturbed)
    broken = compare(C, tmp_path / "other", strategies=["top-p:p=0.8"])
    assert broken.failures["stage"].tolist() == ["inject"]
    assert "depend on their neighbours" in broken.failures["error"].iloc[0]
    assert not len(broken.injection)
    assert len(broken.divergences) > 0
    assert broken.failed


# ---- rows and folds by hand

STORY = list(range(10, 40))


def test_rows_by_hand() -> None:
    back = trajectory.injection_row(STORY, [*STORY[:5], 99, *STORY[6:]], 5, [*STORY[:5], 99, 1, 2, *STORY[8:]])
    assert (back["recovered"], back["recovery_lag"], back["agreement"]) == (1, 0, 1.0)
    assert (back["distance_injected"], back["distance_reference"], back["trajectory_share"]) == (2, 2, 0.0)
    assert (back["second_divergence"], back["second_compared"]) == (6, 1)
    late = trajectory.injection_row(STORY, [*STORY[:5], 99, 98, 97, *STORY[6:]], 5)
    assert (late["recovered"], late["recovery_lag"], late["agreement"]) == (1, 2, 0.0)
    assert "trajectory_share" not in late
    short = trajectory.injection_row(STORY[:12], [*STORY[:5], 99, *STORY[6:12]], 5)
    assert (short["recovered"], short["recovery_lag"], short["agreement"]) == (None, None, 1.0)
    gone = trajectory.injection_row(STORY, [*STORY[:5], *[7] * 25], 5)
    assert (gone["recovered"], gone["recovery_lag"]) == (0, None)
    own = trajectory.injection_row(STORY, STORY, 5)
    assert (own["recovered"], own["agreement"], own["original_token_id"]) == (None, 1.0, own["injected_token_id"])
    broken = trajectory.injection_row(STORY, [*STORY[:5], 99, *STORY[6:]], 5, STORY, broken=True)
    assert [broken.get(name) for name in ("recovered", "recovery_lag", "trajectory_share")] == [None] * 3
    assert broken["agreement"] == 1.0
    ended = trajectory.injection_row(STORY, [*STORY[:5], 0], 5, [*STORY[:5], 0], ended=True)
    assert "distance_injected" not in ended and "second_compared" not in ended and "second_compared" not in broken
    together = trajectory.injection_row(STORY, [*STORY[:5], 99, 1, 2, 3], 5, [*STORY[:5], 99, 1, 2, 3])
    assert (together["second_divergence"], together["second_compared"]) == (None, 3)
    goes_on = trajectory.injection_row([*STORY[:5], 0], STORY, 5, STORY)
    assert (goes_on["trajectory_share"], goes_on["agreement"]) == (1.0, None)
    same = trajectory.injection_row(STORY, [*STORY[:5], 99, *[3] * 20], 5, [*STORY[:5], 98, *STORY[6:]])
    assert same["trajectory_share"] is None  # the candidate said the same again: nothing to explain


def table_of(rows: list[dict[str, Any]], name: str) -> pd.DataFrame:
    return typed(pd.DataFrame(rows), name)


def test_folds_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"model": "m", "reference": "r", "candidate": "c", "role": "candidate", "strategy": "greedy", "seed": 0}
    texts = {"p": "1 2 3 4 5", "q": "6 7 8"}
    traces = table_of(
        [keys | {"variant": "r", "role": "reference", "prompt_id": p, "token_ids": t} for p, t in texts.items()],
        "traces",
    )
    base = {"original_token_id": 2, "injected_token_id": 9, "recovered": 1, "recovery_lag": 0}
    injection = table_of(
        [
            keys | base | {"prompt_id": "p", "position": 1, "token_ids": "1 9 3 0 5",
                           "distance_injected": 1, "distance_reference": 4},
            keys | base | {"prompt_id": "q", "position": 1, "token_ids": "6 9 8 8", "recovered": 0, "recovery_lag": None,
                           "distance_injected": 3, "distance_reference": 4},
        ],
        "injection",
    )  # fmt: skip
    few = trajectory.by_lag(injection, traces)
    assert few["n"].tolist() == [2, 1, 1] and few["agreement"].isna().all(), "no share of so few pairs"
    assert math.isnan(trajectory.by_position(injection, traces).iloc[0]["agreement_lag_1"])
    monkeypatch.setattr(trajectory, "LEAST_PAIRS", 1)
    after = trajectory.by_lag(injection, traces)
    assert after[["role", "lag", "n", "agreement"]].values.tolist() == [
        ["injected", 1, 2, 1.0], ["injected", 2, 1, 0.0], ["injected", 3, 1, 1.0],
    ]  # fmt: skip
    row = trajectory.by_position(injection, traces).iloc[0]
    assert (row.texts, row.long_enough, row.recovered, row.in_step, row.unchanged) == (2, 2, 1, 1, 0)
    assert row.agreement == 3 / 4
    assert (row.agreement_lag_1, math.isnan(row.agreement_lag_5)) == (1.0, True)
    assert 0 < row.recovered_share_low < 0.5 < row.recovered_share_high < 1
    share = trajectory.pooled(injection)
    assert share["trajectory_share"] == 0.5
    assert math.isnan(share["trajectory_share_low"]), "two prompts are too few to draw anew"
    assert share["trajectory_horizon"] == 2.5  # three tokens and two
    none = trajectory.pooled(injection.iloc[:0])
    assert all(math.isnan(v) for v in none.values())
    assert not len(trajectory.by_lag(injection.iloc[:0], traces))


def test_the_second_split_by_hand() -> None:
    """Four prompts of which three part in 60 tokens; given the token, two of them part again in 20 more."""
    keys = {"model": "m", "reference": "r", "candidate": "c", "role": "candidate", "strategy": "greedy", "seed": 0}
    compared, again = {"p": 10, "q": 20, "r": 25, "s": 5}, {"p": (5, 14), "q": (5, 24), "r": (10, None)}
    firsts = [keys | {"prompt_id": p, "compared": n, "diverged": int(p != "s")} for p, n in compared.items()]
    put = [keys | {"prompt_id": p, "second_compared": n, "second_divergence": t} for p, (n, t) in again.items()]
    rows = second.beside(table_of(firsts, "divergences"), table_of(put, "injection"))
    figures = second.pooled(rows)
    assert (figures["second_hazard"], figures["second_hazard_ratio"]) == pytest.approx((2 / 20, 2 / 20 / (3 / 60)))
    assert 0 < figures["second_hazard_ratio_low"] < 2 < figures["second_hazard_ratio_high"]
    old = second.pooled(rows.assign(second_compared=None, second_divergence=None))
    assert all(math.isnan(value) for value in old.values()), "a run of an earlier version does not say"


# ---- the command


def test_beams_alone_are_refused_by_name() -> None:
    for settings in ({"strategies": ["beam"]}, {"strategies": ["top-p"], "coupling": "none"}):
        with pytest.raises(InputError, match="inject=True: a beam search"):
            dd.compare("demo", inject=True, **settings, **LEAN)
        with pytest.raises(InputError, match="inject: a beam search"):
            inject("demo", **settings)
    with pytest.raises(InputError, match="at=8: positions count from 0 and 8 tokens are generated"):
        inject("demo", at=[8], max_new_tokens=8)
    with pytest.raises(InputError, match="rank=99999: the vocabulary has"):
        inject("demo", at=[3], rank=99999, max_new_tokens=8)


def test_the_runner_up_is_the_strategys_second(tmp_path: Path) -> None:
    done = inject(
        bigram_model(R), tokenizer=tiny_tokenizer(VOCAB), reference="fp64", prompts=PROMPTS, at=[3, 7], rank=2,
        strategies=[*SINGLE, BEAM], max_new_tokens=NEW, out=tmp_path / "run",
    )  # fmt: skip
    assert not len(done.failures)
    rows = done.injection.set_index([*NAMES, "position"])
    for (strategy, seed, prompt, position), row in rows.iterrows():
        ours = walk(R, strategy, seed, prompt)
        order = np.argsort(-scores(strategy, seed, prompt, R[ours[position - 1]], position), kind="stable")
        assert (row.original_token_id, row.injected_token_id) == (order[0], order[1])
        assert ids_of(row.token_ids) == resumed(R, (strategy, seed, prompt), [*ours[:position], int(order[1])])
    reached = sum(len(walk(R, s, 0, p.id)) > at for s in SINGLE for p in PROMPTS for at in (3, 7))
    assert reached - 8 < len(rows) <= reached  # a nucleus of a single token has no second
    assert set(done.injection["role"]) == {"injected"}
    files = {str(f.relative_to(tmp_path / "run")) for f in (tmp_path / "run").rglob("*") if "jobs/" not in str(f)}
    tables = ("injection", "traces", "after", "summary", "tokens", "timings")
    assert files == {
        "verdict.txt", "verdict.json", "report.html", "README.txt", "tables", *(f"tables/{name}.csv" for name in tables),
        "data", "data/jobs", "data/plan.json", "data/environment.json", "data/rows.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "run" / "data/plan.json").read_text())["at"] == [3, 7]


def test_where_the_set_holds_one_token_nothing_is_replaced() -> None:
    done = inject("demo", at=[2], strategies=["top-k:k=1"], limit=2, max_new_tokens=6)
    assert not len(done.injection)
    assert done.verdict == ["Nothing was replaced: no text reaches the position, or its strategy allows no such token."]


def test_rank_one_is_the_control() -> None:
    done = inject("demo", at=[2, 5], rank=1, limit=2, max_new_tokens=24)
    assert (done.summary["agreement"] == 1).all()
    assert (done.summary["unchanged"] == done.summary["texts"]).all()
    assert all("100 % of the tokens after it are the reference's, as they must be" in s for s in done.verdict)


def test_what_deployment_would_see_is_said_first(tmp_path: Path) -> None:
    folder = Path(saved_as(tiny_model("llama"), tmp_path / "model"))
    for settings, said in (({"repetition_penalty": 1.3, "bos_token_id": 1}, "repetition_penalty=1.3"), ({}, "")):
        (folder / "generation_config.json").write_text(json.dumps(settings))
        told = inject(str(folder), at=[1], strategies=["greedy"], prompts=["w1"], max_new_tokens=3).verdict
        first = f"Run without the model's own settings; deployed, fp32 applies {said}."
        assert (told[0] == first) == bool(said), told


def test_the_command(tmp_path: Path) -> None:
    words_ = ["inject", "--limit", "2", "--max-new-tokens", "24", "--quiet"]
    done = command(*words_, "--at", "2,5", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "replaced by the one ranked 2" in " ".join(done.stdout.split())
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if not line.startswith(("tables", "report")))
    assert pd.read_csv(tmp_path / "run" / "tables/summary.csv")["position"].tolist() == [2, 2, 5, 5]
    refused = command(*words_, "--rank", "0")
    assert refused.returncode == 2
    assert refused.stderr == "decodedrift: --rank: must be a whole number >= 1, not '0'\n"


def test_a_folder_in_the_users_home_is_found(tmp_path: Path) -> None:
    """A shell leaves the ~ of `--out=~/run` as it is."""
    words_ = ["inject", "--limit", "1", "--max-new-tokens", "4", "--at", "1", "--quiet", "--out=~/run"]
    done = command(*words_, cwd=tmp_path, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "~").exists()
