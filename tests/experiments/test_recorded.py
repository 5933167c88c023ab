"""What another engine wrote, as a candidate: held against a run of the same, read back by hand, planted errors."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from running import run as any_run
from running import saved_as

import decodedrift as dd
from decodedrift.core.records import InputError
from decodedrift.experiments.compare.folds.consistency import MORE as MORE_THAN
from decodedrift.experiments.compare.folds.consistency import in_words
from decodedrift.experiments.compare.gating import gating
from decodedrift.runs.wordgates import parse_gates

MORE = {f"p{i}": " ".join(f"w{1 + (7 * i + 3 * j) % 90}" for j in range(4)) for i in range(24)}
PROMPTS = MORE
NEW = 16
FEW = {name: MORE[name] for name in list(MORE)[:8]}


@cache
def model() -> Any:
    """Weights so small that bf16 often turns a choice."""
    return tiny_model("llama", scale=0.25)


def run(model_: Any = None, **asked: Any) -> dd.Study:
    lean = {"prompts": PROMPTS, "strategies": "greedy", "max_new_tokens": NEW, "batch_size": 24}
    return any_run(model_ or model(), **lean | asked)


@cache
def direct() -> dd.Study:
    """The reference, and the engine run here: bf16."""
    return run(candidates="bf16")


def rows_of(study: dd.Study, variant: str, tops: bool = True, role: str = "candidate") -> list[dict[str, Any]]:
    """What an engine would have written that is this variant of a study, with log-probabilities of its top tokens."""
    every = study.alternatives
    every = every[(every["variant"] == variant) & (every["pass"] == "generated")]
    shown = dict(iter(every.groupby(["strategy", "seed", "prompt_id"], sort=False)))
    rows = []
    traces = study.traces[(study.traces["variant"] == variant) & (study.traces["role"] == role)]
    for trace in traces.itertuples():
        ids = [int(i) for i in str(trace.token_ids).split()]
        row = {"prompt_id": trace.prompt_id, "prompt": MORE[str(trace.prompt_id)], "token_ids": ids,
               "finish_reason": "stop" if trace.finish == "eos" else "length", "strategy": trace.strategy,
               "seed": int(str(trace.seed))}  # fmt: skip
        if tops:
            frame = shown[trace.strategy, trace.seed, trace.prompt_id]
            at = dict(iter(frame.groupby("position")))
            pairs = [
                list(zip(at[t]["token_id"].tolist(), at[t]["logprob"].tolist(), strict=True)) for t in range(len(ids))
            ]
            row |= {"top_logprobs": pairs, "logprobs": [dict(pair).get(i) for pair, i in zip(pairs, ids, strict=True)]}
        rows.append(row)
    return rows


def written(folder: Path, rows: list[dict[str, Any]], header: Mapping[str, Any] | None = None) -> Path:
    lines = [{"decodedrift": header}] if header else []
    path = folder / "recorded.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*lines, *rows]))
    return path


def greedy_rows(engine: Any, new: int) -> list[dict[str, Any]]:
    """What a model writes to the end of its length, all prompts at once."""
    tokenizer = tiny_tokenizer()
    ids = torch.tensor([tokenizer.encode(text) for text in MORE.values()])
    begin = ids.shape[1]
    with torch.no_grad():
        for _ in range(new):
            ids = torch.cat([ids, engine(ids).logits[:, -1:].argmax(-1)], dim=1)
    return [
        {"prompt_id": name, "prompt": MORE[name], "token_ids": row[begin:], "finish_reason": "length"}
        for name, row in zip(MORE, ids.tolist(), strict=True)
    ]


def candidate(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["role"] == "candidate"].reset_index(drop=True)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dd.Study:
    """A bf16 engine, recorded with its top tokens."""
    path = written(tmp_path_factory.mktemp("honest"), rows_of(direct(), "bf16"))
    return run(candidates=f"vllm={path}:precision=bf16")


def test_a_recording_of_a_variant_is_measured_as_the_variant(honest: dd.Study) -> None:
    ours, theirs = candidate(honest.divergences), candidate(direct().divergences)
    assert 3 <= ours["diverged"].sum() < len(ours), "some part and some do not"
    same = ["prompt_id", "diverged", "first_divergence", "compared", "reference_token", "candidate_token",
            "reference_margin", "reference_gap", "logprob_gap", "at_end", "agreement_after", "cause"]  # fmt: skip
    pd.testing.assert_frame_equal(ours[same], theirs[same], check_exact=True)
    traces = [candidate(s.traces)[["token_ids", "finish", "perplexity_judge"]] for s in (honest, direct())]
    pd.testing.assert_frame_equal(*traces, check_exact=True)
    judged = [s.judged.drop(columns="candidate") for s in (honest, direct())]
    pd.testing.assert_frame_equal(*judged, rtol=1e-12)
    own = [name for name in honest.certificate if name.endswith("_own") or "_own_" in name or name.startswith("difr")]
    pd.testing.assert_frame_equal(honest.certificate[own], direct().certificate[own], rtol=1e-9)
    assert honest.certificate["difr"][0] > 0


def test_what_cannot_be_known_is_empty(honest: dd.Study) -> None:
    assert not len(candidate(honest.positions)) and not len(honest.perplexity)
    row = honest.summary.iloc[-1]
    assert row["candidate"] == "vllm" and math.isnan(row["kl_mean"]) and math.isnan(row["top1_agreement"])
    assert candidate(honest.divergences)["gap_ulps"].isna().all()


def test_gaps_ranks_and_likelihoods_are_those_of_a_forward_pass(honest: dd.Study) -> None:
    exact, rows = copy.deepcopy(model()).double(), honest.recorded
    rough, tokenizer = copy.deepcopy(model()).bfloat16(), tiny_tokenizer()
    for name in ("p0", "p5"):
        part = rows[rows["prompt_id"] == name]
        ids, context = part["token_id"].tolist(), tokenizer.encode(PROMPTS[name])
        with torch.no_grad():
            z, coarse = (m(torch.tensor([context + ids])).logits[0, len(context) - 1 : -1] for m in (exact, rough))
        z, at = z.double(), torch.tensor(ids)[:, None]
        assert part["gap"].to_numpy() == pytest.approx((z.max(-1).values - z.gather(-1, at)[:, 0]).numpy(), abs=1e-4)
        assert part["nll_reference"].to_numpy() == pytest.approx(
            -z.log_softmax(-1).gather(-1, at)[:, 0].numpy(), abs=1e-4
        )
        assert (part["rank"] == (z > z.gather(-1, at)).sum(-1).numpy() + 1).mean() > 0.95, "but for near ties"
        takes = coarse.argmax(-1)[:, None]
        agree = part["cast_token_id"].to_numpy(int) == takes[:, 0].numpy()
        assert agree.mean() > 0.9
        given_up = (z.max(-1).values - z.gather(-1, takes)[:, 0]).numpy()
        assert part["cast_gap"].to_numpy()[agree] == pytest.approx(given_up[agree], abs=1e-4)


def test_an_honest_engine_is_rounding(honest: dd.Study) -> None:
    (row,) = honest.consistency.itertuples()
    assert (
        row.rounding != MORE_THAN
        and row.excess_low <= 0
        and row.turns > 0
        and row.tokens == honest.recorded["gap"].notna().sum() > 200
    )
    said = in_words(row.rounding, "bf16")
    assert any(f"vllm, {said}: " in s and "largest gap" in s for s in honest.verdict)
    assert row.logprob_delta_rms == pytest.approx(row.cast_delta_rms, rel=0.5), "both are bf16's rounding"
    assert 0 < row.kl_shown < 1e-3 and 0 < row.missing_candidate < 1
    assert said in honest.to_html() and said in repr(honest)


def test_an_engine_with_one_matrix_off_is_found(tmp_path: Path) -> None:
    sharp = tiny_model("llama")
    wrong = copy.deepcopy(sharp)
    with torch.no_grad():
        wrong.model.layers[0].mlp.down_proj.weight.mul_(1.05)
    path = written(tmp_path, greedy_rows(wrong.bfloat16(), 24))
    study = run(sharp, candidates=f"vllm={path}:precision=bf16", max_new_tokens=24)
    (row,) = study.consistency.itertuples()
    assert row.rounding == "more than rounding" and row.excess_low > 0 and row.gap_max > row.cast_gap_max
    assert any("vllm, more than bf16 rounding: " in sentence for sentence in study.verdict)
    assert study.answer["rounding"].tolist() == ["more than rounding"]


def test_without_a_precision_rounding_is_not_judged(tmp_path: Path) -> None:
    study = run(candidates=f"vllm={written(tmp_path, rows_of(direct(), 'bf16', tops=False)[:4])}")
    assert study.consistency["rounding"].tolist() == ["not measured"] and study.recorded["cast_gap"].isna().all()
    assert any("add it, as in NAME=FILE:precision=bf16" in sentence for sentence in study.verdict)
    assert study.judged["tokens"].tolist() == [0] * 4 and study.judged["difr_tokens"].gt(0).all()
    assert study.certificate["difr"].notna().all() and study.certificate["tokens_own"].isna().all()
    assert any("texts of this run that are not in it: 20" in sentence for sentence in study.verdict)


def test_what_the_header_says_that_it_ran_in_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path, rows_of(direct(), "bf16", tops=False)[:2], {"precision": "bf16"})
    for asked in (f"vllm={path}", f"vllm={path}:precision=bf16"):
        study = run(candidates=asked)
        assert study.consistency["recorded_in"].tolist() == ["bf16"] and study.recorded["cast_gap"].notna().all()
    with pytest.raises(InputError, match=r"says precision bf16, and precision=fp16 is asked for") as error:
        run(candidates=f"vllm={path}:precision=fp16")
    assert "\n" not in str(error.value)
    written(tmp_path, rows_of(direct(), "bf16", tops=False)[:2], {"precision": "zz9"})
    with pytest.raises(
        InputError, match=r"recorded\.jsonl says precision 'zz9', which is none; choices: .*fp32"
    ) as error:
        run(candidates=f"vllm={path}:precision=bf16")
    assert "\n" not in str(error.value)


def test_a_file_whose_log_probabilities_are_not_greedys_is_told(tmp_path: Path) -> None:
    def drawn(low: float) -> list[dict[str, Any]]:
        (first, *_), ours = rows_of(direct(), "bf16"), direct().traces
        ours = ours[(ours["role"] == "reference") & (ours["prompt_id"] == first["prompt_id"])]
        ids = [int(i) for i in str(ours["token_ids"].iloc[0]).split()]
        other = (ids[0] + 1) % 90
        top = [[[ids[0], -0.5], [other, low]]]
        return [first | {"token_ids": [other], "logprobs": [low], "top_logprobs": top}]

    said = "By its own log-probabilities vllm under greedy did not take its best token at 1 of its first divergences"
    study = run(candidates=f"vllm={written(tmp_path, drawn(-2.0))}", max_new_tokens=1)
    assert any(said in s and "by up to 1.5 nats" in s for s in study.verdict), study.verdict
    study = run(candidates=f"vllm={written(tmp_path, drawn(-0.25))}", max_new_tokens=1)
    assert not any("By its own log-prob" in s for s in study.verdict)
    assert any("sum to more than 1" in s for s in study.verdict)


def test_a_text_that_was_cut_off_is_no_divergence(tmp_path: Path) -> None:
    rows = [row for row in rows_of(direct(), "bf16", tops=False) if len(row["token_ids"]) == NEW][:3]
    study = run(candidates=f"vllm={written(tmp_path, [row | {'token_ids': row['token_ids'][:5]} for row in rows])}")
    whole = candidate(direct().divergences).set_index("prompt_id")["first_divergence"]
    for row in candidate(study.divergences).itertuples():
        early = whole[row.prompt_id] < 5
        assert row.diverged == int(bool(early) if not pd.isna(early) else 0) and row.compared <= 5


def test_a_prompt_of_other_ids_is_said_first_and_only_its_text_is_compared(tmp_path: Path) -> None:
    rows = rows_of(direct(), "bf16", tops=False)[:3]
    ids = tiny_tokenizer().encode(PROMPTS["p1"])
    rows[1]["prompt_token_ids"] = [0, *ids]
    study = run(candidates=f"vllm={written(tmp_path, rows)}:precision=bf16")
    assert study.verdict[0].startswith("vllm read 1 prompt as other ids than the reference, first p1, from id 0")
    assert set(study.recorded["prompt_id"]) == {"p0", "p2"} and len(candidate(study.divergences)) == 3
    judged = candidate(study.traces).set_index("prompt_id")["perplexity_judge"]
    assert math.isnan(judged["p1"]) and judged.drop("p1").notna().all()


def test_a_text_that_was_encoded_again_is_not_held_beside_rounding(tmp_path: Path) -> None:
    rows = rows_of(direct(), "bf16", tops=False)[:4]
    tokenizer = tiny_tokenizer()
    for row in rows:
        row["text"] = " " + tokenizer.decode(row.pop("token_ids"))
    study = run(candidates=f"vllm={written(tmp_path, rows)}:precision=bf16")
    assert study.recorded["gap"].isna().all() and study.recorded["nll_reference"].notna().all()
    assert study.consistency["rounding"].tolist() == ["not measured"]
    assert any("encoded again" in sentence for sentence in study.verdict)


@cache
def drawn_here() -> dd.Study:
    """The same by a shared draw."""
    return run(strategies="sample", candidates="bf16", prompts=FEW)


@pytest.mark.parametrize("coupling", [None, "gumbel"])
def test_a_draw_is_shared_only_where_the_file_says_so(coupling: str | None, tmp_path: Path) -> None:
    drawn = drawn_here()
    rows = rows_of(drawn, "bf16")
    rows[0]["token_ids"][2] = 1 + rows[0]["token_ids"][2] % 90
    path = written(tmp_path, rows, {"coupling": coupling} if coupling else None)
    study = run(strategies="sample", prompts=FEW, candidates=f"vllm={path}:precision=bf16")
    causes = set(candidate(study.divergences)["cause"].dropna())
    if coupling:
        assert causes and "uncoupled" not in causes
        assert study.consistency["tokens"].gt(0).all()
    else:
        assert causes == {"uncoupled"} and study.consistency["tokens"].tolist() == [0]


def test_beside_candidates_that_run_here_nothing_of_these_changes(honest: dd.Study, tmp_path: Path) -> None:
    path = written(tmp_path, rows_of(direct(), "bf16"))
    both = run(candidates=f"bf16,vllm={path}:precision=bf16")
    for table in ("divergences", "judged", "positions"):
        for name, alone in (("bf16", direct()), ("vllm", honest)):
            parts = [candidate(getattr(s, table)) for s in (both, alone)]
            parts = [p[p["candidate"] == name] for p in parts]
            pd.testing.assert_frame_equal(*(p.reset_index(drop=True) for p in parts), check_exact=True)
    pd.testing.assert_frame_equal(both.recorded, honest.recorded)
    assert both.answer["rounding"].tolist() == ["not measured", honest.answer["rounding"][0]]
    assert np.isnan(both.certificate.set_index("candidate").loc["vllm", "sigma_ratio"])


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("recorded", "unknown precision 'recorded'"),
        ("vllm=missing.jsonl", "missing.jsonl"),
        ("vllm={path}:batch_size=2", "batch_size= belongs to what runs here"),
        ("vllm={path}:precision=int8", "which floating type"),
        ("fp32={path}", "is the reference's name; give the recording another"),
    ],
)
def test_what_cannot_be_a_recorded_side_is_one_line(asked: str, named: str, tmp_path: Path) -> None:
    path = written(tmp_path, rows_of(direct(), "bf16", tops=False)[:1])
    with pytest.raises(InputError, match=named) as error:
        run(candidates=asked.format(path=path))
    assert "\n" not in str(error.value)


def test_strategies_are_those_of_the_file_where_none_is_asked_for(tmp_path: Path) -> None:
    checkpoint = saved_as(model(), tmp_path / "model")
    rows = [
        row | {"strategy": label} for label, row in zip([None, "top-k:k=3"], rows_of(direct(), "bf16"), strict=False)
    ]
    path = written(tmp_path, [{k: v for k, v in row.items() if v is not None} for row in rows])
    prompts = [dd.Prompt(name, PROMPTS[name]) for name in ("p0", "p1")]
    ask = {"prompts": prompts, "max_new_tokens": 4, "noise_floor": False, "default_text": False}
    study = dd.compare(checkpoint, candidates=f"vllm={path}", **ask)
    assert [s["label"] for s in study.plan["strategies"]] == ["greedy", "top-k:k=3"]
    with pytest.raises(InputError, match="reads no other"):
        dd.compare(checkpoint, reference=f"vllm={path}", **ask)


def test_a_recorded_side_does_not_read(tmp_path: Path) -> None:
    path = written(tmp_path, rows_of(direct(), "bf16", tops=False)[:1])
    with pytest.raises(InputError, match="vllm was recorded, and does not read"):
        run(candidates=f"vllm={path}", mode="screen")


def test_a_folder_goes_on_reads_the_same_and_is_gated(tmp_path: Path) -> None:
    checkpoint = saved_as(model(), tmp_path / "model")
    path = written(tmp_path, rows_of(direct(), "bf16")[:4])
    ask = {"candidates": f"vllm={path}:precision=bf16", "out": tmp_path / "run", "prompts_per_job": 2}
    ask["prompts"] = {name: PROMPTS[name] for name in list(PROMPTS)[:4]}
    study = run(checkpoint, **ask)
    again, back = run(checkpoint, **ask, resume=True), dd.open_study(tmp_path / "run")
    for other in (again, back):
        assert other.verdict == study.verdict and len(other.recorded) > 0
        for name in ("recorded", "consistency", "answer", "certificate"):
            pd.testing.assert_frame_equal(getattr(other, name), getattr(study, name))
    assert back.environment["checkpoints"]["vllm"]["kind"] == "recorded"
    told = json.loads((tmp_path / "run" / "verdict.json").read_text())["candidates"][0]
    assert told["rounding"] == study.answer["rounding"][0] and told["recorded_in"] == "bf16"
    assert "vllm" in back._repr_html_() and "What another engine wrote" in back.to_html()
    gates = gating(back.plan)
    more, same = parse_gates(["rounding==more than rounding", f"rounding=={told['rounding']}"], False, gates)
    assert not more.exceeded(back.answer, gates) and len(same.exceeded(back.answer, gates)) == 1
    path.write_text(path.read_text().replace('"finish_reason": "length"', '"finish_reason": "abort"'))
    with pytest.raises(InputError, match="holds another run: checkpoints vllm files"):
        run(checkpoint, **ask, resume=True)


def test_without_texts_no_token_of_it_is_kept(tmp_path: Path) -> None:
    rows = rows_of(direct(), "bf16")[:2]
    rows[0]["prompt_token_ids"] = [0, 41, 42]
    folder = tmp_path / "run"
    checkpoint = saved_as(model(), tmp_path / "model")
    study = run(checkpoint, candidates=f"vllm={written(tmp_path, rows)}:precision=bf16", no_text=True, out=folder)
    back = dd.open_study(folder)
    assert back.recorded["token_id"].isna().all() and back.recorded["cast_token_id"].isna().all()
    assert back.recorded["gap"].notna().any() and back.consistency.equals(study.consistency)
    assert "it [0, 41, 42]" not in (folder / "verdict.txt").read_text()


def test_top_tokens_told_by_their_text_are_those_told_by_id(honest: dd.Study, tmp_path: Path) -> None:
    vocab = {i: w for w, i in tiny_tokenizer().get_vocab().items()}
    rows = rows_of(direct(), "bf16")
    for row in rows:
        row["top_logprobs"] = [[[vocab[i], p] for i, p in at] for at in row["top_logprobs"]]
        row["tokens"] = [vocab[i] for i in row.pop("token_ids")]
    path = written(tmp_path, rows)
    study = run(candidates=f"vllm={path}:precision=bf16", out=tmp_path / "run")
    back = dd.open_study(tmp_path / "run")
    for other in (study, back):
        pd.testing.assert_frame_equal(other.recorded, honest.recorded)
        tops = [s.alternatives[s.alternatives["variant"] == "vllm"].reset_index(drop=True) for s in (other, honest)]
        pd.testing.assert_frame_equal(*tops, check_dtype=False)
    assert (honest.recorded["shown"] == 5).all()
    text = dd_json(tmp_path / "run")
    assert text["candidates"][0]["candidate"] == "vllm" and text["candidates"][0]["recorded_in"] == "bf16"


def dd_json(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "verdict.json").read_text())
    return content


def test_the_engines_own_top_tokens_are_in_the_token_view(honest: dd.Study) -> None:
    ours = honest.alternatives[honest.alternatives["variant"] == "vllm"]
    theirs = direct().alternatives
    theirs = theirs[(theirs["variant"] == "bf16") & (theirs["pass"] == "generated")]
    columns = ["prompt_id", "position", "rank", "token_id", "logprob"]
    pd.testing.assert_frame_equal(*(f[columns].reset_index(drop=True) for f in (ours, theirs)))
    assert set(ours["pass"]) == {"generated"}


def test_fewer_top_tokens_leave_no_rows_and_runs_that_differ_are_counted(tmp_path: Path) -> None:
    rows = rows_of(direct(), "bf16")[:2]
    rows[0]["top_logprobs"] = [at[:2] for at in rows[0]["top_logprobs"]]
    again = [copy.deepcopy(row) | {"run": 1} for row in rows]
    again[1]["token_ids"][3] = 1 + again[1]["token_ids"][3] % 90
    study = run(candidates=f"vllm={written(tmp_path, rows + again)}")
    counts = study.alternatives[study.alternatives["variant"] == "vllm"].groupby("prompt_id")["rank"].max()
    assert counts.tolist() == [2, 5] and (study.alternatives["token_id"] >= 0).all()
    said = " ".join(study.verdict)
    assert "written several times, of which the first is compared: 2" in said
    assert "texts of these that are not the same each time: 1" in said


def test_parts_of_an_error_and_layers_need_a_candidate_that_runs(tmp_path: Path) -> None:
    path = written(tmp_path, rows_of(direct(), "bf16", tops=False)[:4])
    for part in ("decompose", "where"):
        with pytest.raises(InputError, match=f"{part}.* is about candidates that run here"):
            run(candidates=f"vllm={path}", **{part: True})


def test_its_tokens_are_put_into_the_reference_as_a_candidates_are(tmp_path: Path) -> None:
    path = written(tmp_path, rows_of(direct(), "bf16", tops=False))
    ours, theirs = run(candidates=f"vllm={path}", inject=True), run(candidates="bf16", inject=True)
    assert len(ours.injection) == len(theirs.injection) > 0
    pd.testing.assert_frame_equal(*(s.injection.drop(columns="candidate") for s in (ours, theirs)))
