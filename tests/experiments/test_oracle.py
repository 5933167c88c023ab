"""Every number of a run against the closed form, on bigram models whose logits are known tables (see bigram.py)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bigram import EOS, bigram_model, ids_of, log_softmax, rolled, saved_bigram, words
from conftest import tiny_tokenizer
from running import LEAN

import decodedrift as dd
from decodedrift.numerics import gumbel
from decodedrift.report import phrases

VOCAB, NEW = 16, 28
TOP_K, TOP_P, BEAM = "top-k:k=5,temperature=0.7", "top-p:p=0.8", "beam:length_penalty=0.5,num_beams=3"
SINGLE = ("greedy", TOP_K, TOP_P)
SEEDS = (0, 3)
REL, ABS = 1e-11, 1e-13


def tables() -> tuple[np.ndarray, np.ndarray]:
    """A reference table whose greedy walk is long, and a candidate that errs everywhere and flips some choices."""
    rng = np.random.default_rng(8)
    reference = rng.normal(size=(VOCAB, VOCAB)) * 1.5
    reference[:, EOS] -= 1.5
    for i in range(1, VOCAB):
        reference[i, i % (VOCAB - 1) + 1] += 3.0
        reference[i, (i + 4) % (VOCAB - 1) + 1] += 2.6
    return reference, reference + rng.normal(size=reference.shape) * 0.25


R, C = tables()
PROMPTS = [dd.Prompt(f"from {i}", words([3, i])) for i in range(1, VOCAB)]
LAST = {p.id: int(p.text.rsplit("w", 1)[1]) for p in PROMPTS}
TEXT = [int(i) for i in np.random.default_rng(1).integers(1, VOCAB, size=41)]
CONTEXT, STRIDE = 12, 5


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.set_num_threads(1)
    other = saved_bigram(C, tmp_path_factory.mktemp("other"))
    return dd.compare(
        bigram_model(R), tokenizer=tiny_tokenizer(VOCAB), reference="fp64", candidates=[f"other={other}"],
        strategies=[*SINGLE, BEAM], seeds=list(SEEDS), prompts=PROMPTS, texts=[dd.Text("text", words(TEXT))],
        max_new_tokens=NEW, context=CONTEXT, stride=STRIDE, **LEAN,
    )  # fmt: skip


# The strategies, written again in numpy.


def preferred(strategy: str, row: np.ndarray) -> np.ndarray:
    """What the strategy makes of a row without any noise: raw logits for greedy, else ln p~, -inf where not allowed."""
    if strategy == "greedy":
        return row
    z = row / temperature(strategy)
    order = np.sort(z)[::-1]
    if strategy == TOP_K:
        least = order[4]
    else:
        p = np.exp(log_softmax(order))
        before = np.concatenate([[0.0], np.cumsum(p)[:-1]])
        least = order[np.flatnonzero(before < 0.8)[-1]]
    return log_softmax(np.where(z >= least, z, -np.inf))


def temperature(strategy: str) -> float:
    return 0.7 if strategy == TOP_K else 1.0


def scores(strategy: str, seed: int, prompt: str, row: np.ndarray, position: int) -> np.ndarray:
    """s_V over the vocabulary, -inf where not allowed."""
    noise = 0.0 if strategy == "greedy" else gumbel.gumbel(seed, prompt, position, VOCAB)
    return preferred(strategy, row) + noise


def walk(table: np.ndarray, strategy: str, seed: int, prompt: str) -> list[int]:
    return rolled(lambda previous, t: np.argmax(scores(strategy, seed, prompt, table[previous], t)), LAST[prompt], NEW)


def cells() -> Iterator[tuple[str, int, str]]:
    for strategy, prompt in itertools.product(SINGLE, LAST):
        yield from ((strategy, seed, prompt) for seed in (SEEDS if strategy != "greedy" else (0,)))


def before(tokens: list[int], prompt: str) -> list[int]:
    """The token that each position follows: all that a bigram model sees."""
    return [LAST[prompt], *tokens[:-1]]


def keyed(frame: pd.DataFrame, *keys: str) -> dict[Any, Any]:
    """Rows by (strategy, seed, prompt, ...)."""
    return {tuple(getattr(r, k) for k in ("strategy", "seed", "prompt_id", *keys)): r for r in frame.itertuples()}


def candidates(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["role"] == "candidate"]


def close(value: Any, expected: float | None) -> bool:
    if expected is None or math.isnan(expected):
        return bool(pd.isna(value))
    return bool(value == pytest.approx(expected, rel=REL, abs=ABS))


# Traces.


def test_greedy_and_coupled_tokens_are_predicted_exactly(study: Any) -> None:
    traces = keyed(study.traces, "role")
    for cell in cells():
        assert ids_of(traces[(*cell, "reference")].token_ids) == walk(R, *cell), cell
        assert ids_of(traces[(*cell, "candidate")].token_ids) == walk(C, *cell), cell


def test_the_oracle_run_holds_every_case_worth_checking(study: Any) -> None:
    rows = candidates(study.divergences)
    assert set(rows["cause"].dropna()) == {"near_tie", "draw", "shift", "truncation", "search"}
    assert rows["gap_over_error"].notna().any()
    assert rows["at_end"].sum() > 0
    assert {"eos", "length"} == set(study.traces["finish"])
    assert (rows["diverged"] == 0).any()
    assert rows["agreement_after"].between(0, 1, inclusive="neither").any()


def test_trace_scores_are_those_of_the_tables(study: Any) -> None:
    for row in study.traces.itertuples():
        tokens = ids_of(row.token_ids)
        previous = before(tokens, row.prompt_id)
        own, judge = (log_softmax(t)[previous, tokens] for t in (C if row.role == "candidate" else R, R))
        assert close(row.logprob_sum, own.sum())
        assert close(row.perplexity_self, math.exp(-own.mean()))
        assert close(row.perplexity_judge, math.exp(-judge.mean()))
        assert row.n_tokens == len(tokens)
        assert row.finish == ("eos" if tokens[-1] == EOS else "length")
        assert row.text.split() == [f"w{i}" if i else "<|end|>" for i in tokens]


def test_the_least_margin_of_a_trace_is_the_scores_first_minus_second(study: Any) -> None:
    traces = keyed(study.traces, "role")
    for (strategy, seed, prompt), (role, table) in itertools.product(cells(), (("reference", R), ("candidate", C))):
        tokens = walk(table, strategy, seed, prompt)
        margins = []
        for t, previous in enumerate(before(tokens, prompt)):
            ranked = np.sort(scores(strategy, seed, prompt, table[previous], t))
            if np.isfinite(ranked[-2]):
                margins.append(ranked[-1] - ranked[-2])
        assert close(traces[(strategy, seed, prompt, role)].min_margin, min(margins, default=math.nan))


# First divergences.


def edit_distance(a: list[int], b: list[int]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def again(a: list[int], b: list[int]) -> float | None:
    """Whether a longest common run has 16 tokens, 8 of them distinct; by looking at every pair of places."""
    if min(len(a), len(b)) < 16:
        return None
    runs = []
    for i, j in itertools.product(range(len(a)), range(len(b))):
        n = next((k for k in range(min(len(a) - i, len(b) - j)) if a[i + k] != b[j + k]), min(len(a) - i, len(b) - j))
        runs.append((n, len(set(a[i : i + n]))))
    longest = max(runs)[0]
    return float(longest >= 16 and max(d for n, d in runs if n == longest) >= 8)


def first_difference(a: list[int], b: list[int]) -> int | None:
    return None if a == b else next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def test_divergence_positions_and_what_follows_them(study: Any) -> None:
    traces = keyed(study.traces, "role")
    rows = keyed(candidates(study.divergences))
    assert set(rows) == {*cells(), *((BEAM, 0, p) for p in LAST)}
    for cell, row in rows.items():
        r, c = (ids_of(traces[(*cell, role)].token_ids) for role in ("reference", "candidate"))
        t = first_difference(r, c)
        assert row.diverged == (t is not None)
        if t is None:
            assert pd.isna(row.first_divergence)
            assert (row.compared, row.prefix_fraction) == (len(r), 1.0)
            continue
        after_r, after_c = r[t + 1 :], c[t + 1 :]
        n = min(len(after_r), len(after_c))
        longer = max(len(after_r), len(after_c))
        equal = sum(x == y for x, y in zip(after_r, after_c))
        assert (row.first_divergence, row.compared) == (t, t + 1)
        assert (row.reference_token_id, row.candidate_token_id) == (r[t], c[t])
        assert close(row.prefix_fraction, t / max(len(r), len(c)))
        assert close(row.agreement_after, equal / n if n else None)
        assert close(row.edit_similarity, 1 - edit_distance(after_r, after_c) / longer if longer else None)
        assert row.at_end == (EOS in (r[t], c[t]))
        assert close(row.reconverged, again(after_r, after_c))


def test_margins_gaps_swing_and_cause_are_those_of_the_tables(study: Any) -> None:
    rows = keyed(candidates(study.divergences))
    for cell in cells():
        row, r, c = rows[cell], walk(R, *cell), walk(C, *cell)
        t = first_difference(r, c)
        if t is None:
            assert pd.isna(row.cause)
            continue
        previous = before(r, cell[2])[t]
        s_r, s_c = (scores(*cell, table[previous], t) for table in (R, C))
        a, b = r[t], c[t]
        ranked_r, ranked_c = np.sort(s_r)[::-1], np.sort(s_c)[::-1]
        assert close(row.reference_margin, ranked_r[0] - ranked_r[1] if np.isfinite(ranked_r[1]) else None)
        assert close(row.candidate_margin, ranked_c[0] - ranked_c[1] if np.isfinite(ranked_c[1]) else None)
        gap_r = s_r[a] - s_r[b] if np.isfinite(s_r[b]) else None
        gap_c = s_c[b] - s_c[a] if np.isfinite(s_c[a]) else None
        assert close(row.reference_gap, gap_r)
        assert close(row.candidate_gap, gap_c)
        assert close(row.swing, None if gap_r is None or gap_c is None else gap_r + gap_c)
        if gap_r is None or gap_c is None:
            assert row.cause == "truncation"
        else:
            own = preferred(cell[0], R[previous])
            assert close(row.logprob_gap, abs(own[a] - own[b]))
            assert row.cause == ("near_tie" if row.logprob_gap < 0.1 else "draw" if gap_r < 0.1 else "shift")
            spacing = 2.0 ** (math.floor(math.log2(max(abs(R[previous][[a, b]])))) - 52)
            assert close(row.gap_ulps, abs(R[previous][a] - R[previous][b]) / spacing)
            if cell[0] == "greedy":
                raw = C[previous] - R[previous]
                assert close(row.swing, raw[b] - raw[a])


def test_gap_over_error_is_over_the_rms_directional_error_before(study: Any) -> None:
    rows = keyed(candidates(study.divergences))
    seen = 0
    for cell in cells():
        row, r = rows[cell], walk(R, *cell)
        if pd.isna(row.first_divergence) or row.first_divergence < 8 or pd.isna(row.logprob_gap):
            assert pd.isna(row.gap_over_error)
            continue
        errors = []
        for previous in before(r, cell[2])[: row.first_divergence]:
            first, second = np.argsort(R[previous])[::-1][:2]
            d = C[previous] - R[previous]
            errors.append((d[first] - d[second]) / temperature(cell[0]))
        previous = before(r, cell[2])[row.first_divergence]
        own = preferred(cell[0], R[previous])
        gap = abs(own[row.reference_token_id] - own[row.candidate_token_id])
        assert close(row.gap_over_error, gap / np.sqrt(np.mean(np.square(errors))))
        seen += 1
    assert seen > 3


# Forced positions.


def bf16_spacing(x: float) -> float:
    return 2.0 ** (math.floor(math.log2(abs(x))) - 7)


def closed_form(r: np.ndarray, c: np.ndarray, token: int) -> dict[str, float]:
    """Every column of positions/ that needs no strategy, for one row of logits on each side."""
    lp, lq = log_softmax(r), log_softmax(c)
    p, q = np.exp(lp), np.exp(lq)
    d = (c - r) - (c - r).mean()
    rms = math.sqrt(np.mean(d**2))
    ranked_r, ranked_c = np.sort(r)[::-1], np.sort(c)[::-1]
    return {
        "kl": float(np.sum(p * (lp - lq))),
        "kl_reverse": float(np.sum(q * (lq - lp))),
        "tv": float(np.abs(p - q).sum() / 2),
        "logit_gap_max": float(np.abs(d).max()),
        "logit_gap_rms": rms,
        "significant_digits": -math.log10(rms / math.sqrt(np.mean((r - r.mean()) ** 2))) if rms else math.inf,
        "logit_margin_reference": ranked_r[0] - ranked_r[1],
        "logit_margin_candidate": ranked_c[0] - ranked_c[1],
        "top1_agree": float(r.argmax() == c.argmax()),
        "rank": 1 + int((c > c[token]).sum()),
        "delta_p": q[token] - p[token],
        "nll_reference": -lp[token],
        "nll_candidate": -lq[token],
        "entropy_reference": float(-np.sum(p * lp)),
        "p_top_reference": p.max(),
        "nonfinite": 0,
    }


def test_every_forced_column_is_the_closed_form(study: Any) -> None:
    traces = keyed(study.traces, "role")
    rows = candidates(study.positions)
    for cell, part in rows[rows["strategy"] != "text"].groupby(["strategy", "seed", "prompt_id"]):
        tokens = ids_of(traces[(*cell, "reference")].token_ids)
        assert part["token_id"].tolist() == tokens
        assert part["position"].tolist() == list(range(len(tokens)))
        expected = pd.DataFrame([closed_form(R[b], C[b], y) for b, y in zip(before(tokens, cell[2]), tokens)])
        for name in expected:
            np.testing.assert_allclose(part[name].to_numpy(float), expected[name], rtol=1e-9, atol=ABS, err_msg=name)


def test_the_strategys_choice_is_compared_at_the_references_context(study: Any) -> None:
    rows = candidates(study.positions)
    assert rows[rows["strategy"].isin([BEAM, "text"])]["choice_agree"].isna().all()
    single = rows[rows["strategy"].isin(SINGLE)]
    assert (single["choice_agree"] == 0).any()
    for cell, part in single.groupby(["strategy", "seed", "prompt_id"]):
        tokens = walk(R, *cell)
        agree = [
            float(np.argmax(scores(*cell, R[b], t)) == np.argmax(scores(*cell, C[b], t)))
            for t, b in enumerate(before(tokens, cell[2]))
        ]
        assert part["choice_agree"].tolist() == agree


def test_margins_in_units_of_the_last_place_of_the_candidates_type() -> None:
    table = R.astype(np.float32).astype(np.float64)
    study = dd.compare(
        bigram_model(table, torch.float32), tokenizer=tiny_tokenizer(VOCAB), candidates=["bf16"], strategies=["greedy"],
        prompts=PROMPTS, max_new_tokens=4, **LEAN,
    )  # fmt: skip
    rows = candidates(study.positions)
    rounded = torch.from_numpy(table).bfloat16().double().numpy()
    start = rows[rows["position"] == 0]
    for row in start.itertuples():
        r, c = table[LAST[row.prompt_id]], rounded[LAST[row.prompt_id]]
        top, second = np.sort(r)[::-1][:2]
        assert row.logit_margin_ulps == pytest.approx(
            (top - second) / bf16_spacing(max(abs(top), abs(second))), rel=1e-12
        )
        expected = closed_form(r, c, row.token_id)
        for name in ("kl", "tv", "logit_gap_max", "logit_gap_rms", "significant_digits", "nll_candidate"):
            assert getattr(row, name) == pytest.approx(expected[name], rel=1e-9), name


# Beam search.


def test_beam_gaps_are_of_whole_hypotheses_from_four_forced_scores(study: Any) -> None:
    traces = keyed(study.traces, "role")
    rows = keyed(candidates(study.divergences))
    errors = 0
    for prompt in LAST:
        row = rows[(BEAM, 0, prompt)]
        r, c = (ids_of(traces[(BEAM, 0, prompt, role)].token_ids) for role in ("reference", "candidate"))
        if r == c:
            assert pd.isna(row.reference_gap)
            continue
        value = {
            (table is R, who): log_softmax(table)[before(ids, prompt), ids].sum() / len(ids) ** 0.5
            for table in (R, C)
            for who, ids in (("r", r), ("c", c))
        }
        gap_r, gap_c = value[True, "r"] - value[True, "c"], value[False, "c"] - value[False, "r"]
        assert close(row.reference_gap, gap_r)
        assert close(row.candidate_gap, gap_c)
        assert close(row.swing, gap_r + gap_c)
        assert row.cause == "search"
        if abs(gap_r) > 1e-12:  # two hypotheses of the same bigrams in another order tie but for rounding
            assert row.search_error == int(gap_r < 0)
        assert pd.isna(row.reference_margin)
        assert pd.isna(row.candidate_margin)
        errors += 1
    assert errors > 1


def test_beams_as_wide_as_the_vocabulary_find_the_best_of_all_hypotheses() -> None:
    study = dd.compare(
        bigram_model(R), tokenizer=tiny_tokenizer(VOCAB), reference="fp64", candidates=["fp32"],
        strategies=[f"beam:length_penalty=0.7,num_beams={VOCAB}"], prompts=PROMPTS[:5], max_new_tokens=2, **LEAN,
    )  # fmt: skip
    lp = log_softmax(R)
    for row in study.traces[study.traces["role"] == "reference"].itertuples():
        start = LAST[row.prompt_id]
        every = {(EOS,): lp[start, EOS]}
        for a, b in itertools.product(range(1, VOCAB), range(VOCAB)):
            every[a, b] = (lp[start, a] + lp[a, b]) / 2**0.7
        best, second = sorted(every, key=every.__getitem__, reverse=True)[:2]
        assert tuple(ids_of(row.token_ids)) == best
        assert row.min_margin == pytest.approx(every[best] - every[second], rel=1e-9)


# Folds and texts.


def clustered(values: pd.Series, clusters: pd.Series) -> float:
    m, groups = values.mean(), clusters.nunique()
    inner = sum((values[clusters == g] - m).sum() ** 2 for g in clusters.unique())
    return math.sqrt(groups / (groups - 1) * inner) / len(values)


def closed_positions(strategy: str) -> pd.DataFrame:
    found = []
    for _, seed, prompt in (c for c in cells() if c[0] == strategy):
        tokens = walk(R, strategy, seed, prompt)
        found += [closed_form(R[b], C[b], y) | {"prompt_id": prompt} for b, y in zip(before(tokens, prompt), tokens)]
    return pd.DataFrame(found)


@pytest.mark.parametrize("strategy", SINGLE)
def test_summary_folds_the_closed_forms(study: Any, strategy: str) -> None:
    (row,) = candidates(study.summary).query("strategy == @strategy").itertuples()
    known = closed_positions(strategy)
    assert close(row.kl_mean, known["kl"].mean())
    assert row.kl_se == pytest.approx(clustered(known["kl"], known["prompt_id"]), rel=1e-9)
    assert row.kl_median == pytest.approx(known["kl"].median(), rel=1e-9)
    assert row.kl_p99 == pytest.approx(known["kl"].quantile(0.99), rel=1e-9)
    assert row.kl_max == pytest.approx(known["kl"].max(), rel=1e-9)
    assert close(row.perplexity_reference, math.exp(known["nll_reference"].mean()))
    assert close(row.perplexity_candidate, math.exp(known["nll_candidate"].mean()))
    assert close(row.ln_ppl_ratio, (known["nll_candidate"] - known["nll_reference"]).mean())
    assert close(row.top1_agreement, known["top1_agree"].mean())
    pooled = np.mean(10.0 ** (-2 * known["significant_digits"]))
    assert row.significant_digits == pytest.approx(-0.5 * math.log10(pooled), rel=1e-9)
    pairs = [(walk(R, *c), walk(C, *c)) for c in cells() if c[0] == strategy]
    places = [first_difference(r, c) for r, c in pairs]
    assert row.traces == len(pairs)
    assert row.diverged == sum(t is not None for t in places)
    assert row.first_divergence_median == np.median([t for t in places if t is not None])
    equal, total = 0, 0
    for (r, c), t in zip(pairs, places):
        if t is not None:
            after = list(zip(r[t + 1 :], c[t + 1 :]))
            equal, total = equal + sum(a == b for a, b in after), total + len(after)
    assert row.agreement_after == pytest.approx(equal / total, rel=1e-12)


@pytest.mark.parametrize("strategy", SINGLE)
def test_distribution_buckets_by_the_references_confidence(study: Any, strategy: str) -> None:
    rows = candidates(study.distribution).query("strategy == @strategy").set_index("bucket")
    known = closed_positions(strategy)
    limits = {"all": (0, 2), "[0,0.25)": (0, 0.25), "[0.25,0.5)": (0.25, 0.5), "[0.5,0.75)": (0.5, 0.75),
              "[0.75,0.95)": (0.75, 0.95), "[0.95,1]": (0.95, 2)}  # fmt: skip
    assert list(rows.index) == list(limits)
    for name, (low, high) in limits.items():
        part = known[(known["p_top_reference"] >= low) & (known["p_top_reference"] < high)]
        assert rows.loc[name, "n"] == len(part)
        if len(part) < 2:
            continue
        for column in ("kl", "delta_p"):
            assert rows.loc[name, f"{column}_mean"] == pytest.approx(part[column].mean(), rel=1e-9, abs=1e-15)
            for q in (0.1, 5, 25, 95, 99.9):
                expected = part[column].quantile(q / 100)
                assert rows.loc[name, f"{column}_p{q:g}"] == pytest.approx(expected, rel=1e-9, abs=1e-15)
        assert rows.loc[name, "delta_p_rms"] == pytest.approx(math.sqrt((part["delta_p"] ** 2).mean()), rel=1e-9)
        assert rows.loc[name, "kl_se_iid"] == pytest.approx(part["kl"].std() / math.sqrt(len(part)), rel=1e-9)
        if part["nll_reference"].round(9).nunique() > 2:
            correlation = part["nll_reference"].corr(part["nll_candidate"])
            assert rows.loc[name, "nll_correlation"] == pytest.approx(correlation, rel=1e-9)


def test_text_perplexity_and_its_ratio(study: Any) -> None:
    losses = {name: -log_softmax(t)[TEXT[:-1], TEXT[1:]] for name, t in (("fp64", R), ("other", C))}
    rows = study.perplexity.set_index("variant")
    for name, nll in losses.items():
        assert rows.loc[name, "tokens"] == len(nll)
        assert close(rows.loc[name, "perplexity"], math.exp(nll.mean()))
        assert close(rows.loc[name, "nll_mean"], nll.mean())
        size = sum(len(f"w{i}") for i in TEXT[1:])
        assert rows.loc[name, "bytes"] == size
        assert close(rows.loc[name, "bits_per_byte"], nll.sum() / math.log(2) / size)
    # a window scores what no earlier one did: up to its end, from the end of the one before
    windows = pd.Series([max(0, -(-(t + 2 - CONTEXT) // STRIDE)) for t in range(len(TEXT) - 1)])
    ratio = pd.Series(losses["other"] - losses["fp64"])
    assert close(rows.loc["other", "ln_ppl_ratio"], ratio.mean())
    assert rows.loc["other", "ln_ppl_ratio_se"] == pytest.approx(clustered(ratio, windows), rel=1e-9)
    kl = [closed_form(R[b], C[b], 0)["kl"] for b in TEXT[:-1]]
    assert close(rows.loc["other", "kl_mean"], float(np.mean(kl)))
    assert pd.isna(rows.loc["fp64", "ln_ppl_ratio"])


# One perturbed place.


def ring(gap: float) -> np.ndarray:
    """1 -> 2 -> ... -> 15 -> 1, five nats clear of everything but one runner-up: at 7, token 9 lies `gap` below 8."""
    table = np.zeros((VOCAB, VOCAB))
    for i in range(1, VOCAB):
        table[i, i % (VOCAB - 1) + 1] = 5.0
    table[7, 9] = 5.0 - gap
    return table


@pytest.mark.parametrize(("gap", "cause"), [(0.0625, "near_tie"), (0.125, "shift"), (0.5, "shift")])
def test_one_changed_entry_shows_where_the_walk_meets_it_and_nowhere_else(
    tmp_path: Any, gap: float, cause: str
) -> None:
    r, c = ring(gap), ring(gap)
    c[7, 9] = 5.03125
    other = saved_bigram(c, tmp_path / "other", torch.float32)
    study = dd.compare(
        bigram_model(r, torch.float32), tokenizer=tiny_tokenizer(VOCAB), candidates=[f"other={other}"],
        strategies=["greedy"], prompts=[dd.Prompt("three", "w3"), dd.Prompt("nine", "w9")], max_new_tokens=10,
        near_tie_below=0.125, **LEAN,
    )  # fmt: skip
    rows = candidates(study.divergences).set_index("prompt_id")
    assert rows.loc["nine", "diverged"] == 0  # 10 .. 15, 1 .. 4: it never reads a 7
    three = rows.loc["three"]
    assert (three["logprob_gap"], three["gap_ulps"], three["layout"]) == (gap, gap / 2.0**-21, "decoded")
    assert (three["first_divergence"], three["reference_token_id"], three["candidate_token_id"]) == (4, 8, 9)
    assert (three["reference_margin"], three["reference_gap"]) == (gap, gap)
    assert (three["candidate_margin"], three["candidate_gap"]) == (0.03125, 0.03125)
    assert (three["swing"], three["cause"]) == (gap + 0.03125, cause)
    assert three["agreement_after"] == 0.0  # one step ahead for ever
    positions = candidates(study.positions)
    touched = positions[positions["kl"] != 0]
    assert list(zip(touched["prompt_id"], touched["position"])) == [("three", 4)]
    assert (
        positions["rank"].astype(int) == 1 + ((positions["prompt_id"] == "three") & (positions["position"] == 4))
    ).all()


@pytest.mark.parametrize(("mode", "layout"), [("exact", "decoded"), ("screen", "forced")])
@pytest.mark.parametrize(("apart", "edge", "cause"), [(0.495, 0.016, "draw"), (0.016, 0.495, "near_tie")])
def test_a_near_tie_is_of_the_distribution_and_a_draw_on_the_edge_of_the_noise(
    tmp_path: Any, mode: Any, layout: str, apart: float, edge: float, cause: str
) -> None:
    """At 7 the reference holds 8 before 9 by `apart` in ln p~; with the noise of this prompt, 8 is ahead by `edge`."""
    ids = [f"three {n}" for n in range(3000)]
    noise = np.array([gumbel.gumbel(0, i, 4, VOCAB, np.array([8, 9])) for i in ids])
    ahead = apart + noise[:, 0] - noise[:, 1]
    name, ahead = min(zip(ids, ahead.tolist()), key=lambda pair: abs(pair[1] - edge))
    assert abs(ahead - edge) < 5e-3
    temperature = 0.5
    r = 20 * ring(0.0)
    r[7, [8, 9]] = 20.0, 20.0 - apart * temperature
    c = r.copy()
    c[7, 9] += (edge + 0.03) * temperature
    other = saved_bigram(c, tmp_path / "other")
    study = dd.compare(
        bigram_model(r), tokenizer=tiny_tokenizer(VOCAB), reference="fp64", candidates=[f"other={other}"], mode=mode,
        strategies=[f"top-p:p=0.9,temperature={temperature}"], prompts=[dd.Prompt(name, "w3")], max_new_tokens=8,
    )  # fmt: skip
    (row,) = candidates(study.divergences).itertuples()
    assert (row.first_divergence, row.reference_token_id, row.candidate_token_id) == (4, 8, 9)
    assert row.reference_gap == pytest.approx(ahead, rel=1e-9)
    assert row.logprob_gap == pytest.approx(apart, rel=1e-9)
    assert row.gap_ulps == pytest.approx(apart * temperature / 2.0**-48, rel=1e-9)
    assert (row.cause, row.layout) == (cause, layout)
    (table,) = candidates(study.summary).itertuples()
    assert table.near_tie_share == (cause == "near_tie")
    said = " ".join(study.verdict)
    near = f"make up 1 of 1 for other (median gap {phrases.number(apart)} nats"
    assert (near if cause == "near_tie" else "make up 0 of 1 for other of the divergences") in said
    assert ("held further apart in 1 of 1 for other." in said) == (cause == "draw")


def test_a_head_rounded_to_int8_errs_exactly_by_that_rounding() -> None:
    table = R.astype(np.float32)
    study = dd.compare(
        bigram_model(table.astype(float), torch.float32), tokenizer=tiny_tokenizer(VOCAB),
        candidates=["int8", "int8:head=true"], strategies=["greedy"], prompts=PROMPTS, max_new_tokens=3, **LEAN,
    )  # fmt: skip
    scale = np.abs(table / np.float32(4)).max(0) / np.float32(127)  # per output token: a column of the table
    rounded = (np.clip(np.rint(table / np.float32(4) / scale), -127, 127) * scale * np.float32(4)).astype(float)
    rows = candidates(study.positions)
    assert (rows[rows["candidate"] == "int8"]["logit_gap_max"] == 0).all()  # nothing but zeros and the head to round
    for row in rows[(rows["candidate"] == "int8:head=true") & (rows["position"] == 0)].itertuples():
        expected = closed_form(table[LAST[row.prompt_id]].astype(float), rounded[LAST[row.prompt_id]], row.token_id)
        assert row.kl == pytest.approx(expected["kl"], rel=1e-6)
        assert row.logit_gap_max == pytest.approx(expected["logit_gap_max"], rel=1e-6)


# Ill-behaved candidates.


def test_a_candidate_wrong_by_thousands_of_nats_is_reported_and_not_a_crash(tmp_path: Any) -> None:
    other = saved_bigram(-300 * ring(0.5), tmp_path / "other")
    study = dd.compare(
        bigram_model(ring(0.5)), tokenizer=tiny_tokenizer(VOCAB), reference="fp64", candidates=[f"other={other}"],
        strategies=["greedy"], prompts=["w3"], texts=[dd.Text("text", words([3, 4, 5, 6]))], max_new_tokens=3, **LEAN,
    )  # fmt: skip
    (row,) = candidates(study.summary).itertuples()
    assert row.ln_ppl_ratio > 1000
    assert row.perplexity_candidate == math.inf
