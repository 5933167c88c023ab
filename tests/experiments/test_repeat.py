"""`repeat`: one thing varies, and what is counted is counted right."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

import decodedrift as dd
from decodedrift.core.progress import Progress
from decodedrift.core.records import Strategy
from decodedrift.decoding.loop import generate
from decodedrift.experiments.repeat import folds, published, sources
from decodedrift.experiments.repeat.figures import Lengths
from decodedrift.experiments.repeat.routing import routing
from decodedrift.experiments.repeat.varying import VARY, parse_vary
from decodedrift.experiments.repeat.verdict import routes, verdict
from decodedrift.measure.bits import Digests
from decodedrift.models.load import loaded
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.text.vocabulary import vocabulary
from decodedrift.models.variants import parse_variants
from decodedrift.numerics.sequences import loop_period, shared_prefix
from decodedrift.report.html import Options

PROMPTS = [dd.Prompt("a", "w1 w2 w3"), dd.Prompt("b", "w7"), dd.Prompt("c", "w9 w11 w13 w5 w6")]
SMALL: dict[str, Any] = {"prompts": PROMPTS, "max_new_tokens": 8, "batch_size": 4, "runs": 5, "threads": 1}


def run(family: str = "llama", **asked: Any) -> dd.Study:
    return dd.repeat(tiny_model(family), tokenizer=tiny_tokenizer(), **SMALL | asked)


@pytest.fixture(scope="module")
def study() -> dd.Study:
    return run(vary=["rerun", "batch", "companions", "order", "padding", "threads", "summation"])


# ---- what varies


IDS: Mapping[str, tuple[int, ...]] = {"a": (1, 5, 6, 7), "b": (1, 9), "c": (1, 20, 21, 22, 23, 24)}


def made(name: str, **params: Any) -> list[sources.Batch]:
    seats = sources.seated(dict(IDS), 4, IDS, 6, 1000)
    (varying,) = parse_vary(name)
    model = type("Model", (), {"path": "shared", "variant": parse_variants("fp32")[0]})()
    return list(sources.batches(seats, varying, model, None))


def test_a_rerun_is_the_same_batch_and_really_runs() -> None:
    batches = made("rerun")
    assert [b.base for b in batches] == [True, False, False, False, False, False]
    assert all(list(b.rows.items()) == list(batches[0].rows.items()) for b in batches)
    assert batches[0].measured == ("a", "b", "c")
    assert [len(ids) for ids in batches[0].rows.values()] == [4, 2, 6, 4], "filled up with a row of another's length"


def test_companions_change_their_content_and_nothing_else() -> None:
    batches = made("companions")
    base = batches[0]
    assert len(batches) == 1 + 3 * 5
    for batch in batches[1:]:
        (own,) = batch.measured
        assert batch.rows[own] == IDS[own]
        assert list(batch.rows) == list(base.rows), "the place is the same"
        assert [len(ids) for ids in batch.rows.values()] == [len(ids) for ids in base.rows.values()]
        others = [ids for name, ids in batch.rows.items() if name != own]
        theirs = {token for name, ids in IDS.items() if name != own for token in ids}
        assert all(set(ids) <= theirs for ids in others), "tokens of the other prompts alone"
    assert len({tuple(b.rows.values()) for b in batches}) > 10
    assert made("companions") == batches, "the same for ever"


def test_the_order_alone_changes_and_every_place_is_taken() -> None:
    batches = made("order")
    assert all(dict(b.rows) == dict(batches[0].rows) for b in batches)
    assert {list(b.rows).index("a") for b in batches[:4]} == {0, 1, 2, 3}


def test_batches_of_several_sizes_bring_no_padding() -> None:
    batches = [b for b in made("batch") if b.measured == ("c",)]
    assert [len(b.rows) for b in batches] == [1, 2, 4, 3]
    assert all(next(iter(b.rows)) == "c" and {len(ids) for ids in b.rows.values()} == {6} for b in batches)


def test_every_source_makes_batches(study: dd.Study) -> None:
    """No name is registered that nothing stands behind."""
    assert {name for name in VARY if VARY[name].here} - {"experts", "capacity"} == set(sources.MADE)
    assert set(study.plan["vary"]) == set(sources.MADE)
    assert {(r.variant, r.vary) for r in study.summary.itertuples()} == {
        *((v, name) for v in ("fp32", "bf16") for name in sources.MADE), ("fp32", "seed")
    }  # fmt: skip


def test_a_prompt_alone_has_companions_of_its_own_tokens() -> None:
    assert sources.told({"a": (1, 5, 6)}, "a", 5, "x")[0] == 1
    assert set(sources.told({"a": (1, 5, 6)}, "a", 5, "x")) <= {1, 5, 6}
    assert len(sources.told(IDS, "a", 9, "x")) == 9


# ---- bits


def test_digests_are_of_the_logits_and_of_nothing_else() -> None:
    checkpoint = in_memory(tiny_model("llama"), tiny_tokenizer())
    cells = [(Strategy("greedy", "greedy"), 0)]
    seen: list[torch.Tensor] = []
    with loaded(checkpoint, parse_variants("fp32")[0]) as model:
        digests = Digests(cells, list(IDS), ["a", "c"])
        again, nudged = Digests(cells, list(IDS), ["c"]), Digests(cells, list(IDS), ["c"])

        def see(logits: torch.Tensor) -> None:
            digests.see(logits)
            seen.append(logits.clone())

        output = generate(model, vocabulary(checkpoint), IDS, cells, 6, see=see)
    for step, logits in enumerate(seen):
        again.see(logits[[0, 1, 2]])
        moved = logits.clone()
        moved[2, 50] = torch.nextafter(moved[2, 50], torch.tensor(9.9)) if step == 3 else moved[2, 50]
        nudged.see(moved)
    key = output.traces["greedy", 0, "c"].key
    tokens = len(output.traces[key].token_ids)
    assert torch.equal(seen[0][2].argmax(), torch.tensor(output.traces[key].token_ids[0])), "it is c's row"
    assert digests.of(key, tokens) == again.of(key, tokens)
    assert digests.of(key, tokens) != nudged.of(key, tokens), "one spacing of one logit"
    assert digests.of(key, 3) == nudged.of(key, 3), "before the step that moved"


def test_nothing_is_read_behind_the_end_of_what_is_measured() -> None:
    """The companions' longer texts are cut off; what is measured, and its logits, stay what they are."""
    checkpoint = in_memory(tiny_model("llama"), tiny_tokenizer())
    cells = [(Strategy("greedy", "greedy"), 0)]
    with loaded(checkpoint, parse_variants("fp32")[0]) as model:
        vocab = replace(vocabulary(checkpoint), eos=())
        free = generate(model, vocab, IDS, cells, 8).traces["greedy", 0, "b"].token_ids
        vocab, steps, digests = replace(vocab, eos=free[:1]), [0, 0], [Digests(cells, list(IDS), "b") for _ in "ab"]
        for n, wanted in enumerate((None, ("b",))):

            def see(logits: torch.Tensor, n: int = n) -> None:
                digests[n].see(logits)
                steps[n] += 1

            trace = generate(model, vocab, IDS, cells, 8, wanted=wanted, see=see).traces["greedy", 0, "b"]
            assert trace.token_ids == free[:1] and trace.finish == "eos"
    assert steps == [8, 1]
    assert digests[0].of(trace.key, 1) == digests[1].of(trace.key, 1)


# ---- folds in closed form


def rows(texts: list[str], **more: Any) -> pd.DataFrame:
    ids = list(dict.fromkeys(texts))
    first = texts[0].split()
    keys = {"model": "m", "variant": "v", "vary": "order", "strategy": "greedy", "seed": 0, "prompt_id": "p"} | more
    made = []
    for n, text in enumerate(texts):
        tokens = text.split()
        parts = [i for i, (a, b) in enumerate(zip(first, tokens, strict=False)) if a != b]
        at = None if text == texts[0] else (parts or [min(len(first), len(tokens))])[0]
        made.append(keys | {
            "run": n, "setting": "", "unique_id": ids.index(text), "first_divergence": at, "n_tokens": len(tokens),
            "loop": loop_period(list(map(int, tokens))) or 0, "logits": text, "right": None, "token_ids": text, "compared_by": "token ids",
        })  # fmt: skip
    return pd.DataFrame(made)


SPREAD = pd.DataFrame(columns=["model", "variant", "vary", "strategy", "seed", "prompt_id", "positions", "top1_prob_std",
                               "noise_square", "error_square"])  # fmt: skip


def test_unique_in_closed_form() -> None:
    (row,) = folds.unique(rows(["1 2 3", "1 2 3", "1 9 3", "1 2 3 4"]), SPREAD).itertuples()
    assert (row.runs, row.unique, row.modal_share, row.differ) == (4, 3, 0.5, 0.5)
    assert row.entropy == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))
    assert (row.first_divergence, row.bit_equal, row.bit_unique) == (1, 0.5, 3)
    assert row.output_length_std == pytest.approx(np.std([3, 3, 3, 4], ddof=1))
    assert row.differ_low == pytest.approx(0.15003898915214947), "Wilson of 2 of 4"
    (same,) = folds.unique(rows(["1 2"] * 30), SPREAD).itertuples()
    assert (same.unique, same.entropy, same.differ, same.differ_low) == (1, 0, 0, 0)
    assert same.differ_high == pytest.approx(1 - 0.05 ** (1 / 30)), "about 3/n where nothing differed"
    assert same.differ_high == pytest.approx(3 / 30, rel=0.06)
    assert math.isnan(same.first_divergence)


def test_one_run_answers_for_every_shorter_one() -> None:
    long = ["1 1 1 1 1 1 1 1 1 1", "1 1 1 1 2 2 2 2 2 2", "1 1 1 1 2 2 2 2 2 3"]
    whole = folds.by_length(rows(long)).set_index("length")["unique"]
    assert whole.to_dict() == {1: 1, 2: 1, 4: 1, 8: 2, 10: 3}
    for length, count in whole.items():
        cut = [" ".join(text.split()[:length]) for text in long]
        assert folds.by_length(rows(cut)).set_index("length")["unique"].iloc[-1] == count
    assert whole.is_monotonic_increasing


def test_the_published_spread_of_accuracies() -> None:
    """Yuan et al.: twelve accuracies and their Std@Acc; with n in place of n - 1 it would be another."""
    accuracies = [80.00, 83.33, 83.33, 76.67, 83.33, 73.33, 73.33, 83.33, 70.00, 83.33, 76.67, 73.33]
    assert folds.spread_of(accuracies) == pytest.approx(5.0244, abs=5e-5)
    assert np.std(accuracies) != pytest.approx(5.0244, abs=0.1)
    parts = []
    for run_, accuracy in enumerate(accuracies):  # thirty prompts, so many of them right
        right = round(accuracy * 30 / 100)
        parts += [{"run": run_, "right": int(n < right)} for n in range(30)]
    assert folds.std_at_acc(pd.DataFrame(parts)) == pytest.approx(5.0244, abs=2e-3)
    assert math.isnan(folds.std_at_acc(pd.DataFrame({"run": [0, 1], "right": [None, None]})))


def test_the_published_counts() -> None:
    gpt4 = published.CHANN[0]
    assert gpt4.unique == pytest.approx(np.mean(gpt4.counts), abs=0.005)
    assert [entry.unique for entry in published.CHANN] == [11.67, 3.67, 3, 2, 1, 1]
    assert published.AT_256 == (30, 9, 5, 2)


@pytest.mark.parametrize(
    ("tokens", "period"),
    [([1, 2] * 3, 2), ([9, *([4] * 3)], 1), ([1, 2, 3] * 2, None), ([*range(8)] * 3, 8), ([*range(9)] * 3, None),
     ([], None), ([1, 2] * 3 + [5], None)],
)  # fmt: skip
def test_a_loop_is_a_short_period_three_times_at_the_end(tokens: list[int], period: int | None) -> None:
    assert loop_period(tokens) == period


def test_shared_prefix() -> None:
    assert shared_prefix([[1, 2, 3], [1, 2], [1, 2, 4]]) == 2
    assert shared_prefix([[1, 2]]) == 2
    assert shared_prefix([[1], []]) == 0


# ---- a run


def test_a_rerun_is_one_text_and_one_set_of_bits(study: dd.Study) -> None:
    rerun = study.summary[study.summary["vary"] == "rerun"]
    assert (rerun[["unique", "unique_most", "tar", "bit_equal", "bit_unique"]] == 1).all(axis=None)
    assert set(rerun["runs"]) == {5}
    assert (rerun["avg_std_top1_prob"] == 0).all()
    assert not study.failed
    assert all(f"{name} (dense), greedy: rerun: identical to the bit in 5 runs, as it must be on a CPU" in " ".join(study.verdict)
               for name in ("fp32", "bf16"))  # fmt: skip


def test_the_runs_are_what_compare_writes(study: dd.Study) -> None:
    other = dd.compare(
        tiny_model("llama"), tokenizer=tiny_tokenizer(), prompts=PROMPTS, max_new_tokens=8, batch_size=4, threads=1,
        candidates=["bf16"], strategies=["greedy"], noise_floor=False, default_text=False,
    )  # fmt: skip
    ours = study.repeats[(study.repeats["variant"] == "fp32") & (study.repeats["vary"] == "batch")]
    theirs = other.traces[other.traces["role"] == "reference"].set_index("prompt_id")["token_ids"]
    assert all(row.token_ids == theirs[row.prompt_id] for row in ours.itertuples())


def test_other_seeds_are_other_texts(study: dd.Study) -> None:
    (row,) = study.summary[study.summary["vary"] == "seed"].itertuples()
    assert row.unique > 1
    assert study.verdict[-1] == f"Control: 4 other seeds at temperature 1 write {row.unique:.3g} texts a prompt."


def test_a_rerun_from_other_logits_is_a_control_that_failed(study: dd.Study) -> None:
    """One text is not enough: on a CPU nothing moves a bit where nothing changes."""
    assert not study.failed
    moved, elsewhere = copy.copy(study), copy.copy(study)
    moved.summary = study.summary.copy()
    moved.summary.loc[moved.summary["vary"] == "rerun", ["bit_equal", "bit_unique"]] = 0.8, 2.0
    assert moved.failed
    said = verdict(moved)
    assert said[0].startswith(
        "A control failed: fp32, greedy, run again with nothing changed gives other logits on a CPU"
    )
    assert "as it must be" not in " ".join(said)
    elsewhere.summary, elsewhere.plan = moved.summary, copy.deepcopy(study.plan) | {"device": "cuda"}
    for variant in (elsewhere.plan["reference"], *elsewhere.plan["candidates"]):
        variant["device"] = "cuda"
    assert not elsewhere.failed, "of a GPU it is a finding"


def test_a_figure_that_is_not_there_is_told_with_those_that_are(study: dd.Study) -> None:
    with pytest.raises(AttributeError, match=r"^no figure 'nosuch'; choices: by_length$"):
        study.plot.nosuch  # noqa: B018
    assert len(set(dir(study))) == len(dir(study))


def test_where_no_token_takes_other_experts_nothing_is_said_of_a_replay(study: dd.Study) -> None:
    row = {"layer": "all", "candidate": "bf16", "strategy": "greedy", "tokens": 48, "kl": 5e-6, "kl_replayed": 5e-6}
    for changed, said in ((0.0, "."), (0.5, "; with its experts the KL to it is 0 % smaller.")):
        routed = copy.copy(study)
        routed.routing = pd.DataFrame([row | {"changed": changed}])
        (line,) = routes(routed)
        assert line.endswith(f"of the reference's tokens take other experts in some layer{said}")


def test_other_orders_of_summation_move_last_bits(study: dd.Study) -> None:
    rows = study.summary[study.summary["vary"] == "summation"].set_index("variant")
    assert rows.loc["fp32", "bit_unique"] > 1, "the weights were permuted"
    assert 0.1 < rows.loc["fp32", "reorder_ratio"] < 3
    assert 0 <= rows.loc["bf16", "reorder_ratio"] < 1, "its products are accumulated in float32"
    facts = study.environment["variants"]
    assert all(facts[name]["summation"]["legality"] <= 1e-12 for name in ("fp32", "bf16"))
    error = study.spread.groupby("variant")["error_square"].sum()
    assert error["bf16"] > 1e4 * error["fp32"] > 0, "bf16 has 16 bits of mantissa less"


def test_page_terminal_and_case(study: dd.Study) -> None:
    page = study.to_html()
    assert "gpt-4" in page
    assert "11.67" in page
    assert "published" in page
    assert "companions" in study.experiment.shown(study, 80, True)
    assert max(map(len, study.experiment.shown(study, 80, True).splitlines())) <= 80
    assert study.case(candidate="bf16", prompt_id="a").where.startswith("a, bf16, greedy")
    assert list(study.table().columns)[:3] == ["Variant", "Varied", "Strategy"]
    assert "unique" in study._repr_html_() or "Different texts" in study._repr_html_()
    with pytest.raises(dd.InputError, match="no case with prompt_id"):
        study.case(prompt_id="nosuch")


def test_the_curve_by_length_has_a_line_per_variant_and_source(study: dd.Study) -> None:
    figure = Lengths(study).figure()
    assert figure is not None and figure.choices == ["greedy"]
    drawn = {line.name: line.data_source.data for line in figure.model.renderers}
    assert set(drawn) == {
        *(f"{v}, {name}" for v in ("fp32", "bf16") for name in sources.MADE),
        "another seed (control)",
    }
    for row in study.by_length[study.by_length["vary"] != "seed"].itertuples():
        data = drawn[f"{row.variant}, {row.vary}"]
        assert data["unique"][list(data["length"]).index(row.length)] == row.unique
    ends = {list(data["length"])[-1] for data in drawn.values()}
    assert ends == {study.by_length["length"].max()}, "texts that have ended stay what they are"
    looks = [entry[1:3] for entry in figure.entries]
    assert len(set(looks)) == len(looks) == len(drawn)
    assert 'id="plot-by_length"' in study.to_html()
    assert study.plot.by_length().name == "Different texts of a prompt, by length, greedy"
    assert [(name, strategy) for name, strategy, _ in study.plot] == [("by_length", "greedy")]
    with pytest.raises(ValueError, match="choices: greedy"):
        study.plot.by_length("nosuch")
    bare = copy.copy(study)
    bare.by_length = study.by_length[study.by_length["vary"] == "seed"]
    assert "Different texts by length" in bare.to_html() and not list(bare.plot), "nothing ran but the control"


def test_a_folder_is_opened_again_without_its_words(tmp_path: Path) -> None:
    made = run(vary="rerun,order", no_text=True, out=tmp_path / "run")
    again = dd.open_study(tmp_path / "run")
    pd.testing.assert_frame_equal(again.summary, made.summary)
    pd.testing.assert_frame_equal(again.by_length, made.by_length)
    assert again.repeats["text"].isna().all()
    assert again.verdict == made.verdict


def test_answers_are_checked_run_by_run() -> None:
    prompts = [dd.Prompt("a", "w1 w2 w3", answer="w"), dd.Prompt("b", "w7", answer="no such text")]
    study = run(vary="rerun", prompts=prompts, answer_check="contains", candidates=())
    assert study.repeats[study.repeats["vary"] == "rerun"].groupby("prompt_id")["right"].unique().map(list).to_dict() == {
        "a": [1], "b": [0]
    }  # fmt: skip
    assert study.summary.iloc[0]["std_at_acc"] == 0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"vary": "nosuch"}, "unknown 'nosuch'; choices: rerun, batch"),
        ({"vary": "order,order"}, "'order' is given twice"),
        ({"batch_size": 1}, "a batch of one has no other rows, which batch needs; raise it, or vary rerun"),
        ({"runs": 1}, "one completion is no repetition"),
        ({"vary": "experts"}, "experts"),
        ({"vary": "capacity"}, "expert"),
        ({"vary": "capacity:factor=0"}, "factor must be a number > 0"),
        ({"strategies": "top-p", "coupling": "none"}, "depend on the batch"),
        ({"vary": []}, "give at least one"),
        ({"trust_check_code": True}, "none is checked"),
    ],
)
def test_what_cannot_be_asked(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(dd.InputError, match=says):
        run(**asked)


def test_the_reference_is_no_candidate_twice() -> None:
    study = run(vary="rerun", candidates="fp32,bf16", runs=2)
    assert [v["name"] for v in study.plan["candidates"]] == ["bf16"]


class Stopping(Progress):
    """Stops a run when its second job begins."""

    jobs = 0

    def job(self, key: str) -> None:
        self.jobs += 1
        if self.jobs == 2:
            raise KeyboardInterrupt


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"vary": "rerun,order", "runs": 2, "prompts_per_job": 1, "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        run(**asked, progress=Stopping())
    study = run(**asked, resume=True)
    whole = run(**asked | {"out": tmp_path / "whole"})
    pd.testing.assert_frame_equal(study.repeats, whole.repeats)
    assert set(study.repeats["prompt_id"]) == {"a", "b", "c"}


# ---- mixtures of experts


@pytest.fixture(scope="module")
def mixture() -> dd.Study:
    many = [
        dd.Prompt(f"p{n}", " ".join(f"w{(n * 7 + k * (n + 3)) % 90 + 2}" for k in range(3 + n % 4))) for n in range(6)
    ]
    return run(
        "mixtral", prompts=many, vary="rerun,companions,experts,capacity:factor=0.5", candidates="bf16", runs=6,
    )  # fmt: skip


def test_experts_of_limited_capacity_make_a_text_depend_on_its_neighbours(mixture: dd.Study) -> None:
    rows = mixture.summary.set_index(["variant", "vary"])
    assert rows.loc[("fp32", "capacity:factor=0.5"), "unique"] > 1
    assert rows.loc[("fp32", "companions"), "unique"] == 1
    assert rows.loc[("fp32", "rerun"), "bit_unique"] == 1
    dropped = mixture.environment["variants"]["fp32"]["capacity"]["0.5"]
    assert 0 < dropped["dropped"] < dropped["choices"]
    assert "fp32 (mixture of experts), greedy" in " ".join(mixture.verdict)
    assert rows.loc[("fp32", "experts"), "runs"] == 3


def test_choices_of_experts_are_told_by_layer(mixture: dd.Study) -> None:
    table = mixture.routing
    assert set(table["layer"]) == {"0", "1", "all"}
    assert table["changed"].between(0, 1).all()
    assert table[table["layer"] == "all"]["kl"].gt(0).all()
    assert set(table["candidate"]) == {"bf16"}
    again = table.assign(tokens=3 * table["tokens"], changed=1.0, kl=2 * table["kl"], kl_replayed=table["kl"] / 2)
    jobs = pd.concat([table, again])
    context = routing(SimpleNamespace(routing=jobs), Options())  # type: ignore[arg-type]
    assert context is not None and [row[2].text for row in context["table"].rows] == ["0", "1", "all"]
    whole = jobs[jobs["layer"] == "all"].reset_index()
    kl, replayed = (whole[column][0] + 3 * whole[column][1] for column in ("kl", "kl_replayed"))
    ratio, changed = (float(context["table"].rows[n][m].text.rstrip(" %")) for n, m in ((-1, -1), (0, 3)))
    assert ratio == pytest.approx(100 * (1 - replayed / kl), abs=0.06)
    assert changed == pytest.approx(25 * table["changed"].iloc[0] + 75, abs=0.06)
    assert "Which experts are chosen" in mixture.to_html()
    assert routing(SimpleNamespace(routing=table.iloc[:0]), Options()) is None  # type: ignore[arg-type]


# ---- the command


def test_the_command_gates(tmp_path: Path) -> None:
    words = ["repeat", "--runs", "2", "--vary", "rerun,order", "--limit", "2", "--max-new-tokens", "4"]
    words += ["--candidates", "bf16", "--batch-size", "2", "--prompts-per-job", "1", "--threads", "1"]

    def command(*more: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "decodedrift", *words, *more]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = command("--out", "run", "--fail-on", "unique>1", "--json")
    assert done.returncode == 0, done.stderr
    assert {row["vary"] for row in json.loads(done.stdout)["summary"]} == {"rerun", "order", "seed"}
    exceeded = command("--out", "other", "--fail-on", "runs>1:order")
    assert exceeded.returncode == 4
    assert "runs>1:order: fp32 order greedy" in exceeded.stderr
    unknown = command("--fail-on", "uniqe>1")
    assert unknown.returncode == 2
    assert "did you mean 'unique'" in unknown.stderr
