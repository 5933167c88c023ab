"""Choosers work on whole tensors: no loop over rows, no look at a value, and what is not looked at changes nothing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode

from decodedrift.decoding import loop, tops
from decodedrift.decoding.beams import Beams
from decodedrift.decoding.choosers import Single
from decodedrift.decoding.strategies import parse_strategies, strategy
from decodedrift.decoding.survey import survey
from decodedrift.models.load import loaded
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.text.vocabulary import vocabulary
from decodedrift.models.variants import parse_variants
from decodedrift.numerics import gumbel
from decodedrift.numerics.ranks import argmax

WIDTH = 96
META = torch.device("meta")  # has no values: whatever would wait for a GPU fails on it


class Calls(TorchDispatchMode):
    """Counts what is asked of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def single(name: str, rows: int, device: torch.device = torch.device("cpu"), **more: Any) -> Single:  # noqa: B008
    names = [f"p{n}" for n in range(rows)]
    settings: dict[str, Any] = {"eos": [0], "pad": 1, "max_new_tokens": 9, "contexts": {name: [1] for name in names}}
    return Single(parse_strategies(name)[0], 0, names, device=device, **settings | more)


PENALTIES = "repetition_penalty=1.3,no_repeat_ngram"


@pytest.mark.parametrize("name", ["greedy", "top-k", "top-p", f"greedy:{PENALTIES}=3", f"top-p:{PENALTIES}=1"])
def test_a_step_of_many_rows_asks_torch_for_no_more_than_one_of_a_few(name: str) -> None:
    counts = []
    for rows in (4, 64):
        chooser = single(name, rows, watch={"p1": [3, 4, 5]})
        with Calls() as calls:
            chooser.step(torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(0)), 0)
        counts.append(calls.count)
    assert counts[0] == counts[1] > 10


def test_a_step_of_greedy_and_of_beams_looks_at_no_value() -> None:
    greedy = single("greedy", 3, META, watch={"p1": [3, 4, 5]})
    long = {"p0": [1] * WIDTH, "p1": [2], "p2": []}  # as many as may leave no token
    penalised = [single(f"greedy:{PENALTIES}={size}", 3, META, contexts=long) for size in (1, 3, 999)]
    beam = Beams(strategy("beam", num_beams=4), ["a", "b"], eos=[0], max_new_tokens=9, device=META, dtype=torch.float32)
    for position in range(2):
        for chooser in (greedy, *penalised):
            assert chooser.step(torch.empty(3, WIDTH, device=META), position).tokens.shape == (3,)
        assert beam.step(torch.empty(8, WIDTH, device=META), position).tokens.shape == (8,)
    for look in (lambda: greedy.done, lambda: beam.done, greedy.traces):
        with pytest.raises((NotImplementedError, RuntimeError)):
            look()


def test_steps_behind_the_last_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = in_memory(tiny_model("gpt2"), tiny_tokenizer())
    cells = [(s, 0) for s in parse_strategies("greedy,beam:num_beams=3,beam:early_stopping=true,top-k:k=3,top-p:p=0.5")]
    prompts = {"a": [5, 17, 3], "b": [9], "c": [30, 31, 32]}
    steps = []
    with loaded(checkpoint, parse_variants("fp32")[0]) as model:
        vocab = vocabulary(checkpoint)
        free = loop.generate(model, vocab, prompts, cells, 6)
        ends = {trace.token_ids[at] for at, trace in enumerate(free.traces.values(), 1) if at < 6}
        common = {token for trace in free.traces.values() for token in trace.token_ids[1:4]}
        vocab = dataclasses.replace(vocab, eos=tuple(sorted(ends | common)))
        results = []
        for every in (1, 4, 100):
            monkeypatch.setattr(loop, "_looks", lambda logits, position, every=every: position % every == every - 1)
            seen: list[Any] = []
            results.append(loop.generate(model, vocab, prompts, cells, 12, keep_scores=True, see=seen.append))
            steps.append(len(seen))
    assert steps[0] < steps[1] <= steps[2] == 12, "it did go on behind the end"
    for other in results[1:]:
        assert other.traces == results[0].traces and other.scores == results[0].scores
        assert all(np.array_equal(other.tops[key].ids, top.ids) for key, top in results[0].tops.items())
        assert {key: len(log.taken) for key, log in other.logs.items()} == {
            key: len(trace.token_ids) for key, trace in results[0].traces.items() if key in other.logs
        }
    assert {t.finish for t in results[0].traces.values()} >= {"eos"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_largest_one_by_one_are_those_of_a_topk(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    z = (torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(1)) * 9).round().to(dtype)  # full of ties
    z[0, 4:] = -math.inf
    z[1, 7] = math.nan
    one_by_one = [tops.largest(row[None])[0] for row in z]
    assert torch.equal(tops.largest(z[:20], z[20:])[1][1], torch.cat([i for _, i in one_by_one[20:]])), "in parts"
    monkeypatch.setattr(tops, "_one_by_one", lambda left: (torch.zeros(len(left), 5).long(), torch.arange(len(left))))
    ((values, ids),) = tops.largest(z)
    torch.testing.assert_close(torch.cat([v for v, _ in one_by_one]), values, equal_nan=True, rtol=0, atol=0)
    assert torch.equal(torch.cat([i for _, i in one_by_one]), ids)
    assert torch.equal(argmax(z)[2:], ids[2:, 0])


def test_noise_of_many_rows_is_that_of_each_and_whatever_is_kept_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [(0, "a", 3), (1, "b", 0), (0, "a", 4), (0, "a", 3)]
    ids = np.array([[5, 0], [1, 1], [90, 2], [7, 8]])
    whole = np.stack([gumbel.gumbel(*key, WIDTH) for key in keys])
    assert (gumbel.rows(keys, WIDTH) == whole).all()
    assert (gumbel.rows(keys, WIDTH, ids) == np.take_along_axis(whole, ids, -1)).all()
    monkeypatch.setattr(gumbel, "KEPT_BYTES", 2 * WIDTH * 8)
    assert (gumbel.rows(keys, WIDTH) == whole).all()
    assert len(gumbel._kept) <= 2
    gumbel.gumbel_bits(0, "a", 3, WIDTH)[:] = 0
    assert (gumbel.rows(keys, WIDTH) == whole).all(), "what is handed out is the caller's own"


def test_a_survey_of_many_rows_is_that_of_each_span_and_counts_what_is_broken() -> None:
    logits = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(2)).bfloat16()
    logits[4, :2], logits[8, 3] = math.nan, math.inf
    spans = [slice(1, 4), slice(4, 9)]
    together = survey(logits, spans)
    assert [seen.broken.tolist() for seen in together] == [[0, 0, 0], [2, 0, 0, 0, 1]]
    for seen, rows in zip(together, spans, strict=True):
        (alone,) = survey(logits[rows], [slice(None)])
        assert torch.equal(seen.logits, alone.logits) and bool(seen.logits.isfinite().all())
        assert torch.equal(seen.top[1], alone.top[1]) and torch.equal(seen.log_total, alone.log_total)
        assert torch.equal(seen.log_total, seen.logits.double().logsumexp(-1))
    assert survey(logits, []) == []
