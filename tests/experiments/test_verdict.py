"""The verdict's sentences, on runs where nothing, everything and something broken happened."""

from __future__ import annotations

import functools
import io
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import running
import torch
from conftest import tiny_model, tiny_tokenizer

from decodedrift.cli.working import show
from decodedrift.experiments.compare.verdict import causes
from decodedrift.experiments.compare.verdict.assembly import folded, verdict
from decodedrift.measure.tables import typed
from decodedrift.report import failures

PROMPTS = ["w1 w2", "w3", "w9 w8 w7", "w20 w21"]


run = functools.partial(running.run, prompts=PROMPTS, strategies=["greedy"], max_new_tokens=10)


def test_nothing_diverged_says_what_that_cannot_exclude() -> None:
    study = run("gpt2", candidates=["fp64"])
    assert study.divergences["diverged"].sum() == 0
    (first, second, *_) = study.verdict
    assert "fp64: wording same (none of 4 texts parted, and 4 prompts cannot exclude that 53 of 100 do)" in first
    assert "nothing diverged: fp64 (0 of 4)" in second
    assert not [s for s in study.verdict if "No weight" in s]


def test_everything_diverged_is_counted(tmp_path: Path) -> None:
    other = tiny_model("llama")  # its head is not tied
    with torch.no_grad():
        other.lm_head.weight.copy_(other.lm_head.weight.roll(1, 0))
    other.save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    study = run(tiny_model("llama"), candidates=[f"other={tmp_path / 'm'}"])
    assert "other: wording differs (100 % of texts part (51 to 100 %); there is no noise floor" in study.verdict[0]
    (said,) = (s for s in study.verdict if "other left it in 4 of 4 traces (100 %)" in s)
    assert "position 0 " in said


def test_the_numbers_in_the_sentences_are_the_tables() -> None:
    study = running.run("demo", candidates=["bf16", "int8"], strategies=["greedy", "top-k"], limit=6, max_new_tokens=40)
    rows = study.divergences[study.divergences["role"] == "candidate"]
    for name in ("bf16", "int8"):
        mine = rows[rows["candidate"] == name]
        assert f"{name} left it in {int(mine['diverged'].sum())} of {len(mine)} traces" in " ".join(study.verdict)
    said = " ".join(study.verdict)
    for name, cells in study.summary[study.summary["role"] == "candidate"].groupby("candidate"):
        kl = (cells["kl_mean"] * cells["traces"]).sum() / cells["traces"].sum()
        found = re.search(rf"{name} is at mean KL ([\d.e+-]+) nats", said)
        assert found
        assert float(found[1]) == pytest.approx(kl, rel=0.06)
    assert "distances, not quality" in said
    assert 4 <= len(study.verdict) <= 9


def test_strategies_are_pooled_by_their_traces() -> None:
    """Twelve sampled traces weigh three times what four greedy ones do."""
    study = run("gpt2", candidates=["bf16"], strategies=["greedy", "top-k"], seeds=[0, 1, 2], max_new_tokens=4)
    table = study.summary.copy()
    cells = (table["role"] == "candidate") & (table["candidate"] == "bf16")
    assert table.loc[cells, ["strategy", "traces"]].to_numpy().tolist() == [["greedy", 4], ["top-k", 12]]
    table.loc[cells, "kl_mean"], table.loc[cells, "top1_agreement"] = [1.0, 3.0], [0.5, 0.9]
    table.loc[cells, "ln_ppl_ratio"] = np.log([1.5, 1.1])
    study.summary = table
    (said,) = (s for s in verdict(study) if "is at mean KL" in s)
    assert "bf16 is at mean KL 2.5 nats, the same top token at 80 % of positions" in said
    assert "perplexity" not in said, "on the reference's own text it is a distance"


def test_a_16_bit_checkpoint_under_its_own_type_rounds_nothing() -> None:
    study = run(tiny_model("llama").to(torch.bfloat16), candidates=["bf16", "fp16"])
    said = " ".join(study.verdict)
    assert "No weight of this checkpoint is rounded under bf16" in said
    assert study.environment["variants"]["bf16"]["rounded_share"] == 0.0


def test_many_candidates_are_not_all_listed() -> None:
    names = [f"fp32:threads={n}" for n in range(1, 9)]
    study = run("gpt2", candidates=["bf16", *names], max_new_tokens=4)
    assert all(len(s) < 900 for s in study.verdict)


def test_uncoupled_draws_are_said_so() -> None:
    study = run("gpt2", candidates=["bf16"], strategies=["top-p"], coupling="none", max_new_tokens=40)
    parted = study.divergences[study.divergences["diverged"] == 1]
    assert set(parted["cause"]) == {"uncoupled"}
    assert any("not coupled" in s for s in study.verdict)
    assert parted["swing"].isna().all()


def test_a_candidate_that_cannot_run_is_named_and_the_rest_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    from decodedrift.models.precisions import int8

    def fails(*_: Any, **__: Any) -> Any:
        raise MemoryError("can't allocate memory")

    monkeypatch.setattr(int8, "convert", fails)
    study = run("gpt2", candidates=["int8", "bf16"])
    assert study.failed
    assert study.failures[["variant", "status", "stage"]].to_numpy().tolist() == [["int8", "out_of_memory", "load"]]
    assert any("int8 (out_of_memory)" in s for s in study.verdict)
    assert study.verdict[-1] == "int8 (load): out of memory (can't allocate memory)."
    assert study.verdict[-1] in folded(study)[0]
    assert study.verdict[0].startswith("int8: wording not compared (no text of it could be held against")
    assert study.verdict[1].startswith("bf16: wording ")
    alone = run("gpt2", candidates=["int8"])
    assert "Nothing was compared: no candidate finished." in alone.verdict
    assert "int8 (load): out of memory (can't allocate memory)." in alone.verdict
    show(alone, False, out := io.StringIO())
    assert "- int8 (load): out of memory (can't allocate memory).\n" in out.getvalue()


def failed(*rows: tuple[str, str, str, str]) -> list[str]:
    names = ["variant", "stage", "status", "error"]
    return failures.sentences(typed(pd.DataFrame([dict(zip(names, row, strict=True)) for row in rows]), "failures"))


def test_a_reason_is_given_once_with_its_count_short_and_without_control_characters() -> None:
    many = [("a", "score", "failed", "the same")] * 3 + [("a", "score", "failed", "another")]
    evil = ("\x1b[2Jb", "load", "failed", "line one\nline \x1b[31mtwo\u202e" + "x" * 1000)
    head, *reasons = failed(*many, evil, ("", "prompt", "refused", "too long"))
    assert head == (
        "Not everything ran as it should: a (failed), <U+001B>[2Jb (failed) and prompts (refused); nothing that failed "
        "to run is averaged in."
    )
    assert reasons[0] == "a (score): the same (3 times); 1 other reason in failures.csv."
    assert reasons[1].startswith("<U+001B>[2Jb (load): line one⏎line <U+001B>[31mtwo<U+202E>xxx")
    assert len(reasons[1]) < 260
    assert reasons[2] == "prompts (prompt): too long."
    assert failed(*((f"v{i}", "load", "failed", "e") for i in range(20)))[-1].startswith("12 more variants and stages")
    assert "averaged" not in failed(("a", "generate", "nonfinite", "NaN"))[0]
    assert not failed()


def test_where_nothing_could_be_looked_into_the_rest_of_the_variant_stands() -> None:
    assert failed(("a", "where", "failed", "compiled"))[0].startswith(
        "Not everything ran as it should: a (failed in where)"
    )


def test_the_error_before_a_near_tie_is_said_of_how_many_it_is_known() -> None:
    """Two exact ties at the first tokens, before which no error is known, and one later at once the error."""
    row = {"role": "candidate", "candidate": "c", "cause": "near_tie", "candidate_gap": 1.0}
    gaps = pd.DataFrame({"logprob_gap": [0.0, 0.0, 0.02], "gap_over_error": [math.nan, math.nan, 1.0],
                         "gap_ulps": [0.0, 0.0, 0.3]}).assign(**row)  # fmt: skip
    study: Any = SimpleNamespace(divergences=gaps, plan={"near_tie_below": 0.1}, environment={})
    (sentence,) = causes.sentences(study)
    assert "(median gap 0 nats, 1 times the error before it in 1 of them and 0 spacings of its logits)" in sentence
    study.divergences = gaps.assign(gap_over_error=1.0)
    assert "1 times the error before it and 0 spacings" in causes.sentences(study)[0]
