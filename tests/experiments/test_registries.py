"""Registries that cannot lie: what is registered works everywhere, or fails by name. One contract over each.

The second half follows CONTRIBUTING.md: a newcomer of each kind is registered by its steps and takes part in a run.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import FITTING, tiny_model, tiny_tokenizer
from running import LEAN

import decodedrift as dd
from decodedrift.core.notation import Param, boolean
from decodedrift.core.records import Strategy
from decodedrift.decoding.loop import generate
from decodedrift.decoding.strategies import STRATEGIES, parse_strategies
from decodedrift.decoding.strategies.base import StrategyKind
from decodedrift.decoding.warping import warp
from decodedrift.experiments import EXPERIMENTS, experiment
from decodedrift.experiments.compare.sections import SECTIONS
from decodedrift.measure.metrics import TOKEN_METRICS, TRACE_METRICS
from decodedrift.measure.metrics.base import INTEGERS, Metric
from decodedrift.measure.tables import TABLES, JobResult
from decodedrift.models.knobs import KNOBS, idle
from decodedrift.models.knobs.base import Knob
from decodedrift.models.load import loaded
from decodedrift.models.precisions import PRECISIONS
from decodedrift.models.processors import processed
from decodedrift.models.sources.checkpoints import find, in_memory
from decodedrift.models.text.vocabulary import vocabulary
from decodedrift.models.variants import parse_variants
from decodedrift.report.html import Options

ROOT = Path(__file__).parents[2]
IDS = {"a": [5, 17, 3], "b": [9], "c": [30, 31, 32, 33], "d": [80, 2, 80, 2]}
SAMPLING = [name for name, kind in STRATEGIES.items() if kind.samples]
TURNS = {
    "revision": None, "merge": None, "device": "cpu", "device_map": None, "attention": "eager", "batch_size": 2, "use_cache": False,
    "cache": "static", "kv": "int8", "assisted": None, "threads": 2, "padding": "multiple:8", "experts": None, "autocast": "bf16",
    "layercast": "bf16", "mixed": "bf16", "head": "bf16-output", "matmul": "tf32", "compile": None,
    "deterministic": True,
}  # fmt: skip
"""What each is turned to here; None where this model has none of it, or where compiling would take long."""
READ_BACK = TURNS | {
    "use_cache": "", "padding": {"prompts": "left", "texts": "right", "multiple_of": 8}, "cache": "StaticLayer",
    "kv": "int8: keys and values, symmetric, a scale for each 8 values of a token and head",
    "layercast": "bf16 used as fp32", "head": "fp32 to bf16", "compile": False,
    "device_map": {"parameters": {"cpu": sum(p.numel() for p in tiny_model("llama").parameters())}, "hooks": 0},
}  # fmt: skip
SAME = (
    "revision",
    "merge",
    "device",
    "device_map",
    "experts",
    "compile",
    "assisted",
)  # what comes to the same as the reference's here


def texts(strategies: str, coupling: str = "gumbel") -> dict[str, list[tuple[int, ...]]]:
    """Strategy name -> what it generates."""
    checkpoint = in_memory(tiny_model("llama"), tiny_tokenizer())
    cells = [(s, 0) for s in parse_strategies(strategies, coupling)]
    with loaded(checkpoint, parse_variants("fp32")[0]) as model:
        result = generate(model, vocabulary(checkpoint), IDS, cells, 16)
    return {s.name: [result.traces[s.label, 0, p].token_ids for p in IDS] for s, _ in cells}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dd.Study:
    """A tiny run with a candidate for each knob that can be turned here."""
    turned = [f"fp32:{name}={value}" for name, value in TURNS.items() if value is not None]
    folder = tmp_path_factory.mktemp("contract")
    tiny_model("llama").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    return dd.compare(
        str(folder / "model"), candidates=[*turned, "bf16", "int8"], strategies=[*STRATEGIES], max_new_tokens=6,
        prompts=["w1 w2 w3", "w7", "w9 w11 w13", "w4 w4"], out=folder / "run", threads=1, batch_size=4, **LEAN,
    )  # fmt: skip


# ---- strategies


@pytest.mark.parametrize("coupling", ["gumbel", "none"])
def test_every_strategy_takes_other_tokens_than_greedy_or_says_that_it_may_not(coupling: str) -> None:
    made = texts(",".join(STRATEGIES), coupling)
    largest_logit = [name for name, kind in STRATEGIES.items() if kind.allowed is None and kind.chooser is None]
    assert largest_logit == ["greedy"], "once is enough"
    assert [name for name in STRATEGIES if made[name] == made["greedy"]] == largest_logit


@pytest.mark.parametrize("name", SAMPLING)
def test_what_a_sampling_strategy_may_draw_is_what_transformers_would(name: str) -> None:
    torch.manual_seed(0)
    (strategy,) = parse_strategies(name)
    logits = torch.randn(5, 700, dtype=torch.float64) * 3
    logits[3, 1:] = -math.inf
    theirs = processed(logits, strategy.params, STRATEGIES[name].processors).softmax(-1)
    allowed = warp(logits, strategy)
    ours = torch.zeros_like(theirs).scatter_add(-1, allowed.ids, allowed.log_p.exp())
    assert torch.equal(ours > 0, theirs > 0)
    assert torch.allclose(ours, theirs, atol=1e-14)
    assert 1 < int((ours > 0).sum(-1).max()) < (701 if strategy.plain else 700)


def test_no_code_outside_their_folder_asks_for_a_strategy_by_its_name() -> None:
    names = "|".join(map(re.escape, STRATEGIES))
    asks = re.compile(rf"""name\s*(?:==|!=|in)\s*\(?\s*["'](?:{names})["']""")
    for path in sorted((ROOT / "decodedrift").rglob("*.py")):
        if "strategies" not in path.parts:
            assert not asks.search(path.read_text("utf-8")), path


def test_a_strategy_that_is_not_registered_is_an_error_that_lists_the_choices() -> None:
    stranger = Strategy("min-q", "min-q", {"temperature": 1.0})
    for ask in (lambda: stranger.samples, lambda: stranger.searches, lambda: warp(torch.zeros(1, 3), stranger)):
        with pytest.raises(dd.InputError, match=r"unknown strategy 'min-q'; choices: greedy, .*did you mean 'min-p'"):
            ask()
    with pytest.raises(dd.InputError, match="unknown strategy 'min-q'"):
        parse_strategies(stranger)


def test_a_strategy_that_does_not_say_what_it_draws_from_cannot_be_registered() -> None:
    with pytest.raises(TypeError):
        StrategyKind("draws", {}, samples=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="what it draws from"):
        StrategyKind("draws", {}, None, samples=True)
    with pytest.raises(TypeError, match="how many hypotheses"):
        StrategyKind("searches", {}, None, chooser=print)


def test_a_strategy_of_an_old_plan_is_what_it_was() -> None:
    plan = json.loads((ROOT / "tests/fixtures/run-0.1.0/plan.json").read_text("utf-8"))
    strategies = {s["name"]: Strategy(**s) for s in plan["strategies"]}
    assert {name: (s.samples, s.searches, s.rows) for name, s in strategies.items()} == {
        "greedy": (False, False, 1), "beam": (False, True, 4), "top-k": (True, False, 1), "top-p": (True, False, 1)
    }  # fmt: skip


# ---- precisions and knobs


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_is_read_back_or_says_why_it_cannot_run(name: str, study: dd.Study) -> None:
    if PRECISIONS[name].unavailable("cpu") is not None:
        assert name in str(PRECISIONS[name].unavailable("cpu"))
        return
    with loaded(find(study.plan["model"]), parse_variants(FITTING.get(name, name))[0]) as model:
        assert model.facts["precision"] == name
        rounds = PRECISIONS[name].compute is None and not PRECISIONS[name].own  # `stored` of plain weights rounds none
        assert bool(model.facts["quantized_parameters"]) == rounds
        if PRECISIONS[name].load is None:  # a backend leaves some weights in their own type
            assert model.facts["weight_dtypes"] == {PRECISIONS[name].compute or "fp32": model.facts["parameters"]}


def test_every_knob_is_turned_in_the_contract() -> None:
    assert list(TURNS) == list(KNOBS) == list(READ_BACK)


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_is_read_back(name: str, study: dd.Study) -> None:
    told = study.environment["variants"]
    of = "bf16" if TURNS[name] is None else f"fp32:{name}={TURNS[name]}"
    assert told[of][KNOBS[name].fact] == READ_BACK[name]
    if name not in SAME:
        assert told["fp32"][KNOBS[name].fact] != READ_BACK[name]
        assert told[of]["idle_knobs"] == []


def test_a_knob_that_comes_to_what_the_reference_does_did_not_engage() -> None:
    reference, same, other = parse_variants("fp32,fp32:attention=sdpa,fp32:attention=eager")
    facts = {v.name: {"attention": k} for v, k in ((reference, "sdpa"), (same, "sdpa"), (other, "eager"))}
    assert idle(same, reference, facts) == ["attention"]
    assert idle(other, reference, facts) == []
    assert idle(same, reference, facts | {same.name: {}}) == [], "what was not read back is not judged"


def test_a_knob_that_is_set_while_loading_is_refused_of_a_model_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOBS, "folded", Knob(Param(boolean, None), "folded", load=lambda value: {"folded": value}))
    variant = parse_variants("fp32:folded=true")[0]
    assert variant.knobs == {"folded": True}
    with (
        pytest.raises(RuntimeError, match="folded is set while loading; give a folder"),
        loaded(in_memory(tiny_model("gpt2"), tiny_tokenizer()), variant),
    ):
        pass


# ---- metrics, tables and sections


def test_every_metric_is_a_column_of_its_type(study: dd.Study) -> None:
    assert study.path is not None
    positions = pd.read_parquet(study.path / "data/positions")
    divergences = pd.read_csv(study.path / "tables/divergences.csv")
    for name, metric in TOKEN_METRICS.items():
        assert str(study.positions[name].dtype) == metric.column
        assert str(positions[name].dtype).lower() == metric.column.lower()
        assert positions[name].notna().any(), name
    for name, trace_metric in TRACE_METRICS.items():
        assert str(study.divergences[name].dtype) == trace_metric.column
        assert name in divergences
        whole = divergences[name].dropna() % 1 == 0
        assert whole.all() or trace_metric.column != INTEGERS


@pytest.mark.parametrize("metric", [*TOKEN_METRICS.values(), *TRACE_METRICS.values()])
def test_every_metric_is_defined_in_a_line(metric: Metric[Any]) -> None:
    assert 10 < len(metric.about) <= 120
    assert metric.about.endswith((".", ":"))


def test_a_key_that_is_no_column_is_an_error() -> None:
    result = JobResult("x")
    result.fail("demo", "bf16", "load", "failed", "no")
    assert len(result.frame("failures")) == 1
    result.rows["failures"][0]["reason"] = "lost without a word"
    with pytest.raises(ValueError, match=r"failures: no column for \['reason'\]; choices: model, variant"):
        result.frame("failures")


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_has_a_template_or_nothing_to_show(name: str, study: dd.Study) -> None:
    context = SECTIONS[name](study, Options(None, True))
    template = f"{name}.html.j2" if context is None else context.get("template", f"{name}.html.j2")
    assert context is None or (ROOT / "decodedrift/report/templates" / template).exists()


# ---- a newcomer of each kind


@pytest.fixture(scope="module")
def newcomers(tmp_path_factory: pytest.TempPathFactory) -> dd.Study:
    folder = tmp_path_factory.mktemp("newcomers")
    script = Path(__file__).parents[1] / "newcomers.py"
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dd.open_study(folder / "run")


def test_new_metrics_are_in_the_files_with_their_types(newcomers: dd.Study) -> None:
    assert newcomers.path is not None
    positions = pd.read_parquet(newcomers.path / "data/positions")
    assert (positions["kl_twice"] == 2 * positions["kl"]).all()
    assert positions["kl_twice"].max() > 0
    assert str(positions["argmax_candidate"].dtype).lower() == "int64"
    agrees = positions["top1_agree"] == 1
    greedy = positions["strategy"] == "greedy"
    assert (positions["argmax_candidate"] == positions["token_id"])[agrees & greedy].all()
    divergences, traces = pd.read_csv(newcomers.path / "tables/divergences.csv"), newcomers.traces
    assert list(divergences.columns)[-2:] == ["shared_ids", "nonfinite"]
    keys = ["strategy", "prompt_id"]
    ours = traces.query("role == 'reference'").set_index(keys)["token_ids"]
    theirs = traces.query("variant == 'int8'").set_index(keys)["token_ids"]
    for row in divergences.query("candidate == 'int8'").itertuples():
        at = (row.strategy, row.prompt_id)
        assert row.shared_ids == len({*ours[at].split()} & {*theirs[at].split()})


def test_new_strategies_take_their_own_tokens(newcomers: dd.Study) -> None:
    forced = newcomers.positions.query("candidate == 'fp32:attention=sdpa'")
    by = dict(iter(forced.groupby("strategy")))
    assert (by["greedy"]["rank"] == 1).all()
    assert (by["second"]["rank"] == 2).all()
    assert not newcomers.divergences.query("candidate == 'fp32:attention=sdpa'")["diverged"].any()
    drawn = by["epsilon:epsilon=0.05"]
    assert (drawn["rank"] > 1).any()
    assert (drawn["nll_reference"] <= -math.log(0.05)).all()
    assert newcomers.positions["choice_agree"].notna().all(), "coupled: it chooses a position at a time"


def test_a_new_knob_is_read_back_and_its_logits_have_their_own_spacing(newcomers: dd.Study) -> None:
    told = newcomers.environment["variants"]
    on, off = told["fp32:halved=true"], told["fp32:halved=false"]
    assert (on["halved"], on["logits_dtype"], on["compute"], on["idle_knobs"]) == (True, "bf16", "fp32", [])
    assert (off["halved"], off["logits_dtype"], off["idle_knobs"]) == (False, "fp32", ["halved"])
    assert told["fp32:attention=sdpa"]["idle_knobs"] == ["attention"]
    rows = newcomers.positions.set_index(["candidate", "strategy", "prompt_id", "position"]).sort_index()
    assert rows.loc["fp32:halved=true", "kl"].max() > 0
    ulps = rows["logit_margin_ulps"]
    assert (ulps["fp32:halved=true"] * 2**16 == ulps["fp32:halved=false"]).all(), "bf16 has 16 bits fewer"
    plan = {v["name"]: v for v in newcomers.plan["candidates"]}
    assert plan["fp32:halved=true"]["knobs"] == {"halved": True}


def test_a_new_section_and_a_new_knob_are_on_the_page(newcomers: dd.Study) -> None:
    assert newcomers.path is not None
    page = (newcomers.path / "report.html").read_text("utf-8")
    assert "A newcomer" in page
    assert "halved=True" in page
    assert f"{pd.read_parquet(newcomers.path / 'data/positions')['kl_twice'].max():.6e}" in page


def test_a_new_fold_is_a_file_and_an_attribute(newcomers: dd.Study) -> None:
    assert newcomers.path is not None
    lengths = pd.read_csv(newcomers.path / "tables/lengths.csv").set_index("variant")["n_tokens"]
    assert lengths["int8"] == newcomers.traces.query("variant == 'int8'")["n_tokens"].sum() > 0


def test_a_new_experiment_has_its_command_its_option_and_its_table(newcomers: dd.Study) -> None:
    assert newcomers.path is not None
    folder = newcomers.path.parent / "counting"
    plan = json.loads((folder / "data/plan.json").read_text("utf-8"))
    assert (plan["experiment"], plan["times"], plan["executor"]) == ("counting", 3, "backwards")
    counts = pd.read_csv(folder / "tables/counts.csv")
    assert list(counts["count"]) == [3, 3]
    assert list(counts["prompt_id"]) == [p["id"] for p in plan["prompts"]], "whatever ran first, rows are in file order"
    assert "Counted" in (folder / "report.html").read_text("utf-8")
    starts = [
        (folder / "data/jobs" / job).stat().st_mtime_ns
        for job in sorted(p.name for p in (folder / "data/jobs").iterdir())
    ]
    assert starts[0] > starts[1], "the executor took the last job first"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_table_is_called_like_something_else_of_a_study(name: str) -> None:
    kind = experiment(name)
    assert not {*kind.tables, *kind.folds()} & {*dir(dd.Study)}
    assert "summary" in kind.folds()
    assert {*kind.stored} <= {*kind.folds()}
    assert {*kind.tables} <= {*TABLES}


def test_an_unknown_experiment_lists_those_that_are() -> None:
    with pytest.raises(dd.InputError, match="choices: compare, inject"):
        experiment("repeet")


def test_the_newcomers_are_gone_again() -> None:
    assert "second" not in STRATEGIES
    with pytest.raises(dd.InputError, match="unknown parameter 'halved'"):
        parse_variants([dd.Variant("x", "fp32", knobs={"halved": True})])
