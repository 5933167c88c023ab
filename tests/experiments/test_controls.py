"""What a run does not do twice: the self control's horizon, and texts that the reference has read already."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bigram import EOS, bigram_model
from running import run
from transformers import LlamaForCausalLM

import decodedrift as dd
from decodedrift.experiments.compare.controls import CONTROL_TOKENS
from decodedrift.measure import bench
from decodedrift.measure.bench import Bench

PROMPTS = {"a": "w1 w2", "b": "w9 w4", "c": "w7 w6 w5 w3", "d": "w8 w11", "e": "w12 w30"}
BEAM = "beam:num_beams=2"


def study(*strategies: str, **more: Any) -> dd.Study:
    asked: dict[str, Any] = {"candidates": ["bf16"], "max_new_tokens": CONTROL_TOKENS + 4, "batch_size": 3}
    return run(**asked | {"prompts": PROMPTS, "strategies": list(strategies)} | more)


def sides(frame: pd.DataFrame, role: str) -> pd.DataFrame:
    return frame[frame["role"] == role].set_index(["strategy", "prompt_id"])


def test_the_self_control_writes_the_beginning_and_reads_all(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    real = Bench.logits

    def reading(*arguments: Any, **more: Any) -> Any:
        for passage, logits in real(*arguments, **more):
            lengths.append(len(logits))
            yield passage, logits

    monkeypatch.setattr(Bench, "logits", reading)
    made = study("greedy", BEAM, "top-k", noise_floor=True)
    ours, again = sides(made.traces, "reference"), sides(made.traces, "self")
    assert set(again.index.get_level_values("strategy")) == {"greedy", "top-k"} and len(again) == 2 * 3
    for key, trace in again.iterrows():
        ids = ours.loc[key, "token_ids"].split()
        assert trace["token_ids"].split() == ids[:CONTROL_TOKENS]
        assert trace["perplexity_judge"] == pytest.approx(trace["perplexity_self"], rel=1e-5)
    assert (again["n_tokens"] == CONTROL_TOKENS).any()
    compared = sides(made.divergences, "self")
    assert (compared["diverged"] == 0).all() and (compared["compared"] == again["n_tokens"]).all()
    whole = ours.loc[(slice(None), ["a", "b", "d"]), "n_tokens"]
    assert sorted(lengths[len(ours) : len(ours) + len(whole)]) == sorted(whole), "beams too, to the end"
    rows = made.positions[made.positions["role"] == "self"]
    assert (rows["kl"] == 0).all() and len(rows) == whole.clip(upper=CONTROL_TOKENS).sum() < whole.sum()


def test_a_self_control_that_differs_late_is_measured_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = Bench.logits, iter(range(1000))

    def reading(*arguments: Any, **more: Any) -> Any:
        for passage, logits in real(*arguments, **more):
            if passage.key.prompt_id == "a" and next(count) == 1:  # the control's reading of it
                logits = logits.clone()
                logits[-1, 0] += 1
            yield passage, logits

    monkeypatch.setattr(Bench, "logits", reading)
    made = study("greedy", noise_floor=False)
    rows = made.positions[made.positions["role"] == "self"].set_index("prompt_id")
    whole = sides(made.traces, "reference").loc["greedy", "n_tokens"]
    assert len(rows.loc["a"]) == whole["a"] > CONTROL_TOKENS and rows.loc["a", "logit_gap_max"].iloc[-1] > 0.5
    assert rows.loc["b", "logit_gap_max"].max() == 0 and len(rows.loc["b"]) == min(whole["b"], CONTROL_TOKENS)


class Unsteady(LlamaForCausalLM):
    """While `call` counts, its fourth call has `more` at the top logit of the first row."""

    call, more = -1, 0.0

    @functools.wraps(LlamaForCausalLM.forward)  # its signature is looked at
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        if Unsteady.call >= 0:
            Unsteady.call += 1
            if Unsteady.call == 4:
                outputs.logits[0, -1, outputs.logits[0, -1].argmax()] += Unsteady.more
        return outputs


@pytest.mark.parametrize("more", [0.0, 2.0**-21, 0.25])  # the spacing of float32 at 5, and what nobody overlooks
def test_numbers_of_equal_texts_that_differ_fail_the_self_control(more: float, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = bench.generate, []

    def generate(model: Any, *arguments: Any, **kwargs: Any) -> Any:
        made.append(model.variant.name)
        Unsteady.call = 0 if made.count("fp32") == 2 else -1
        done = real(model, *arguments, **kwargs)
        Unsteady.call = -1
        return done

    logits = np.zeros((16, 16))
    logits[range(16), [(i + 1) % 15 + 1 for i in range(16)]] = 5.0
    logits[:, EOS] = -4.0
    model = bigram_model(logits, torch.float32)
    model.__class__ = Unsteady
    monkeypatch.setattr(bench, "generate", generate)
    monkeypatch.setattr(Unsteady, "more", more)
    again = study("greedy", model=model, prompts={"a": "w1 w2", "b": "w1 w4"}, max_new_tokens=8, noise_floor=False)
    texts, rows = sides(again.divergences, "self"), again.positions[again.positions["role"] == "self"]
    assert made.count("fp32") == 2 and (texts["diverged"] == 0).all() and (rows["logit_gap_max"] == 0).all()
    assert texts["swing"].tolist()[: int(more > 0)] == [more][: int(more > 0)]
    assert texts["swing"].notna().sum() == (more > 0)
    assert again.failed == (more > 0) and not len(again.failures)
    said = f"0 of 2 repeated traces diverged, 1 chose equal tokens by numbers up to {more:.2g} (greedy) apart"
    assert (said in again.verdict[0]) == (more > 0)


def test_a_cache_of_fixed_length_is_as_long_for_the_self_control() -> None:
    """16 tokens in a shorter cache have other last bits."""
    made = study("greedy", reference="fp32:cache=static", max_new_tokens=48, noise_floor=False)
    rows = sides(made.divergences, "self")
    assert len(rows) == 3 and rows["swing"].isna().all() and not made.failed


def test_beams_by_themselves_are_searched_to_their_end() -> None:
    made = study(BEAM)
    ours, again = sides(made.traces, "reference"), sides(made.traces, "self")
    assert (again["n_tokens"] > CONTROL_TOKENS).any()
    assert (again["token_ids"] == ours.loc[again.index, "token_ids"]).all()
    assert (sides(made.divergences, "self")["diverged"] == 0).all()


def tokens_judged(made: dd.Study, variant: str) -> int:
    rows = made.timings[(made.timings["phase"] == "judge") & (made.timings["variant"] == variant)]
    return int(rows["tokens"].sum())


def test_only_what_the_reference_has_not_read_is_judged() -> None:
    made = study("greedy", BEAM, "top-k", noise_floor=True)
    ours, theirs, floor = (sides(made.traces, role) for role in ("reference", "candidate", "floor"))
    parted = theirs["token_ids"] != ours["token_ids"]
    alone = theirs.index.get_level_values("strategy") != BEAM
    assert 0 < parted[alone].sum() < alone.sum(), "some batches are in part the reference's own text"
    batches = [("a", "b", "d"), ("c", "e")]
    beams = [
        theirs.loc[[(BEAM, p) for p in names]] for names in batches if parted.loc[[(BEAM, p) for p in names]].any()
    ]
    whole = sum(batch["n_tokens"].sum() for batch in beams)
    assert tokens_judged(made, "bf16") == theirs["n_tokens"][parted & alone].sum() + whole
    same = ~parted & alone
    assert (theirs["perplexity_judge"][same] == ours["perplexity_judge"][same]).all()
    assert tokens_judged(made, "fp32") == 0, "the self control"
    other = parted & (floor["token_ids"] != theirs["token_ids"]) | (floor["token_ids"] != theirs["token_ids"])
    other &= (floor["token_ids"] != ours["token_ids"]) & alone
    assert tokens_judged(made, "bf16:batch_size=1") >= floor["n_tokens"][other].sum()
    assert tokens_judged(made, "bf16:batch_size=1") < floor["n_tokens"].sum()


def test_a_reader_of_16_bits_reads_batches_whole() -> None:
    """In a smaller batch its logits are others, and only the texts that parted would have been read so."""
    made = study("greedy", "top-k", reference="bf16", candidates=["fp16"])
    ours, theirs = (sides(made.traces, role) for role in ("reference", "candidate"))
    parted = (theirs["token_ids"] != ours["token_ids"]).groupby("prompt_id").any()
    assert 0 < parted.sum() < len(parted)
    names = [p for batch in (["a", "b", "d"], ["c", "e"]) if parted[batch].any() for p in batch]
    assert tokens_judged(made, "fp16") == theirs.loc[(slice(None), names), "n_tokens"].sum()
