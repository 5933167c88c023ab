"""`formats`: what a model's tensors lose in each format, against counts by hand; and that what is lost is named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from forking import command
from torch import nn

import decodedrift as dd
from decodedrift.core.progress import Progress
from decodedrift.core.records import Variant
from decodedrift.experiments.formats.kinds import Kind, parse_kinds
from decodedrift.numerics.formats import FORMATS

PROMPTS = [dd.Prompt("a", "w1 w2 w3"), dd.Prompt("b", "w7"), dd.Prompt("c", "w9 w11 w13 w5 w6")]
TOKENS = 9


def run(model: Any = None, **asked: Any) -> dd.Study:
    given: dict[str, Any] = {"prompts": PROMPTS, "threads": 1, "formats": "bf16,fp16"} | asked
    return dd.formats(model or tiny_model("llama"), tokenizer=tiny_tokenizer(), **given)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dd.Study:
    """A run with every format and a job for each prompt."""
    folder = tmp_path_factory.mktemp("formats") / "run"
    every = "fp64,fp32,tf32,bf16,fp16,fp8-e4m3,fp8-e4m3:scale=none,fp8-e5m2:scale=tensor,int8,int4:group=16,fp4-e2m1"
    return run(formats=every, prompts_per_job=1, out=folder)


def only(table: pd.DataFrame, **named: str) -> pd.Series:
    """The one row of these names."""
    for name, value in named.items():
        table = table[table[name] == value]
    assert len(table) == 1, table
    return table.iloc[0]


def test_shares_of_a_model_are_those_of_its_tensors(study: dd.Study) -> None:
    weight = dict(tiny_model("llama").named_parameters())["model.layers.1.mlp.down_proj.weight"].detach()
    row = only(study.formats, module="layers.1.mlp.down_proj", tensor="weight", format="fp8-e4m3:scale=none")
    rounded = FORMATS["fp8-e4m3"].round(weight)
    assert row["numbers"] == weight.numel()
    assert row["flushed"] == pytest.approx(float((rounded == 0).double().mean()))
    assert row["unchanged"] == pytest.approx(float((rounded == weight).double().mean()))
    assert row["headroom"] == pytest.approx(math.log2(448 / float(weight.abs().max())))
    ranges = only(study.ranges, module="layers.1.mlp.down_proj", tensor="weight")
    assert ranges["largest"] == float(weight.abs().max())
    assert ranges["rms"] == pytest.approx(float(weight.double().square().mean().sqrt()))
    assert ranges["range"] == pytest.approx(math.log2(ranges["largest"] / ranges["smallest"]))
    wide = study.formats[study.formats["format"].isin(["fp64", "fp32"])]
    assert (wide["unchanged"] == 1).all() and (wide["rms_error"] == 0).all()
    every = study.ranges.loc[study.ranges["what"] == "weights", "n"]
    assert every.sum() == sum(p.numel() for p in tiny_model("llama").parameters())


def test_activations_are_what_the_model_computes_and_nothing_of_padding(study: dd.Study) -> None:
    model, states = tiny_model("llama"), []
    model.model.layers[0].register_forward_hook(lambda *a: states.append(a[2] if torch.is_tensor(a[2]) else a[2][0]))
    products: list[torch.Tensor] = []
    model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda m, a: products.append(a[0]))
    with torch.inference_mode():
        for prompt in PROMPTS:
            model(tiny_tokenizer()(prompt.text, return_tensors="pt")["input_ids"])
    for name, tensor, seen in (("layers.0", "output", states), ("layers.1.mlp.down_proj", "input", products)):
        row, values = only(study.ranges, module=name, tensor=tensor), torch.cat([t.flatten() for t in seen])
        assert row["n"] == len(values)
        assert row["largest"] == pytest.approx(float(values.abs().max()), rel=1e-5)
        assert row["rms"] == pytest.approx(float(values.double().square().mean().sqrt()), rel=1e-5)
    assert only(study.ranges, module="layers.0", tensor="output")["n"] == TOKENS * 32
    names = set(study.ranges["module"])
    assert {"embedding", "head", "norm", "layers.1.self_attn.o_proj", "layers.0.mlp.act_fn"} <= names
    attention = study.ranges[study.ranges["module"] == "layers.0.self_attn.q_proj"]
    assert list(attention["tensor"]) == ["weight", "output"], "its input is the norm's output, which is counted there"
    assert "layers.0.self_attn" not in names, "it gives what its last projection gave"
    given = study.ranges[study.ranges["tensor"] == "input"]["module"]
    assert set(given) == {f"layers.{n}.{name}" for n in (0, 1) for name in ("self_attn.o_proj", "mlp.down_proj")}


def test_jobs_and_types_change_nothing_but_bits(study: dd.Study) -> None:
    whole = run(formats=list(study.plan["formats"]))
    pd.testing.assert_frame_equal(whole.ranges, study.ranges, rtol=1e-6)
    pd.testing.assert_frame_equal(whole.formats, study.formats, rtol=1e-6)
    exact = run(formats=["fp16"], reference="fp64")
    both = exact.ranges.merge(study.ranges, on=["what", "module", "tensor"], suffixes=("", "_32"))
    assert len(both) == len(study.ranges)
    np.testing.assert_allclose(both["largest"], both["largest_32"], rtol=1e-4)
    assert (both["n"] == both["n_32"]).all()


def test_the_verdict_names_headroom_and_what_is_flushed(study: dd.Study) -> None:
    row = only(study.summary, format="fp16", what="activations")
    least = study.formats[(study.formats["format"] == "fp16")]["headroom"].min()
    (fp16,) = (s for s in study.verdict if s.startswith("fp16: "))
    assert row["headroom"] == least
    assert f"nothing overflows, headroom 2^{least:.1f} at {row['headroom_at']}; " in fp16
    (bare,) = (s for s in study.verdict if s.startswith("fp8-e4m3:scale=none: "))
    worst = study.kinds.query("format == 'fp8-e4m3:scale=none' and what == 'weights'").nlargest(1, "flushed").iloc[0]
    assert f"of weights (most of {worst['kind']}: " in bare
    assert study.verdict[0] == bare, "what loses most comes first"
    assert study.verdict[-1].endswith("run in fp16, each adds them in a wider type than its own.")


def test_real_tensors_come_near_to_theory(study: dd.Study) -> None:
    rows = study.summary[study.summary["format"].isin(["tf32", "bf16", "fp16", "fp8-e4m3"])]
    rows = rows[rows["what"] == "weights"]
    assert len(rows) == 4
    np.testing.assert_allclose(rows["rms_error_normal"], rows["theory"], rtol=0.03)


def test_a_planted_number_is_named_with_its_module() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight[0, 3] = 70_000.0
    broken = run(model, prompts=["w4"])
    row = only(broken.summary, format="fp16", what="weights")
    assert row["overflow_at"] == "layers.1.self_attn.v_proj.weight"
    assert row["overflow"] * row["numbers"] == pytest.approx(1)
    assert "1 of " in broken.verdict[0] and "overflow, in layers.1.self_attn.v_proj.weight" in broken.verdict[0]
    assert broken.verdict[0].startswith("fp16: ")
    assert "bf16: nothing overflows" in " ".join(broken.verdict)
    assert run(prompts=["w4"]).summary["overflow"].max() == 0, "without it nothing does"


@pytest.mark.parametrize(
    ("path", "place"), [("embed_tokens", "embedding (output)"), ("down_proj", "layers.0.mlp.down_proj (output)")]
)
def test_a_stream_beyond_fp16_fails_in_fp16_and_passes_in_bf16(path: str, place: str) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        weight = (
            model.model.embed_tokens.weight if path == "embed_tokens" else model.model.layers[0].mlp.down_proj.weight
        )
        weight *= 100_000.0 / float(weight.abs().max()) if path == "embed_tokens" else 1e6
    found = run(model)
    rows = found.formats[(found.formats["format"] == "fp16") & (found.formats["what"] == "activations")]
    over = set(rows.loc[rows["overflow"] > 0, "module"] + " (" + rows.loc[rows["overflow"] > 0, "tensor"] + ")")
    assert {place, "layers.0 (output)"} <= over
    assert found.summary.query("format == 'bf16'")["overflow"].max() == 0
    with torch.inference_mode():
        ids = torch.tensor([[1, 2, 3]])
        assert model.bfloat16()(ids).logits.isfinite().all()
        assert not model.half()(ids).logits.isfinite().all() or path == "embed_tokens"


class OwnNorm(nn.Module):
    """A norm that squares in whatever type it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)


def test_a_squared_sum_alarms_only_where_it_is_added_in_fp16() -> None:
    said = {}
    for own in (False, True):
        model = tiny_model("llama")
        with torch.no_grad():
            model.model.embed_tokens.weight *= 3000 / float(model.model.embed_tokens.weight.abs().max())
        if own:
            model.model.layers[0].input_layernorm = OwnNorm(32)
        said[own] = run(model)
    for own, found in said.items():
        row = only(found.ranges, module="layers.0.input_layernorm", what="squares")
        assert row["largest"] > 65_504
        assert row["added_in"] == ("own" if own else "wider")
        lost = found.formats[found.formats["what"] == "squares"]
        assert list(lost["format"]) == ["fp16"] * own
        assert only(found.summary, format="fp16", what="activations")["overflow"] == 0, "no number is beyond it"
    assert only(said[True].formats, what="squares")["overflow"] == 1
    assert (
        said[True]
        .verdict[0]
        .startswith("fp16: layers.0.input_layernorm adds up its squares in its own type, and loses 9 of 9")
    )
    assert "own type, and loses" not in " ".join(said[False].verdict)


def test_weights_that_a_format_has_have_no_error() -> None:
    """A checkpoint of bf16 numbers, and one of which fp16 holds all but a few below its full precision."""
    said = run(tiny_model("llama").bfloat16().float(), prompts=["w4"]).verdict
    assert all("rms relative error 0 of weights and 0.0" in s for s in said if s.startswith(("bf16: ", "fp16: ")))


def test_a_quantized_checkpoint_is_refused_with_what_is_the_matter() -> None:
    from decodedrift.core.settings import make_settings
    from decodedrift.experiments.formats.settings import FormatsSettings

    settings = make_settings(FormatsSettings, {"model": "quantized", "prompts": []})
    stored = settings.model_copy(update={"reference": Variant("fp32", "stored", compute="fp32")})
    with pytest.raises(dd.InputError, match="--model quantized: its weights are stored quantized"):
        stored.check_resolved()


# ---- the frame


class Stop(Progress):
    """Stops a run at the reading of a prompt."""

    def __init__(self, after: int) -> None:
        self.left = after

    def batch(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_run_that_was_stopped_goes_on(study: dd.Study, tmp_path: Path) -> None:
    asked = {"formats": list(study.plan["formats"]), "prompts_per_job": 1, "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        run(progress=Stop(2), **asked)
    assert len(list((tmp_path / "run/data/jobs").iterdir())) == 2
    again = run(resume=True, **asked)
    pd.testing.assert_frame_equal(again.formats, study.formats, check_exact=True)
    assert dd.open_study(tmp_path / "run").verdict == again.verdict


def test_a_folder_without_texts_has_the_same_tables(study: dd.Study, tmp_path: Path) -> None:
    run(formats=["fp16", "int8"], no_text=True, out=tmp_path / "run")
    again = dd.open_study(tmp_path / "run")
    assert again.plan["prompts"][0]["text"] is None
    for name in ("formats", "summary", "ranges", "kinds"):
        ours = getattr(study, name)
        ours = ours[ours["format"].isin(["fp16", "int8"])].reset_index(drop=True) if "format" in ours else ours
        pd.testing.assert_frame_equal(getattr(again, name), ours, rtol=1e-6)


def test_the_page_and_the_other_ways_out_have_it(study: dd.Study) -> None:
    assert study.path is not None
    page = (study.path / "report.html").read_text("utf-8")
    assert "Numbers of mlp by binade" in page and "windows-residual" in page
    assert [name for name, _, _ in study.plot] == ["windows"] * 7
    assert study.table().shape == (22, 7)
    assert "n/a" not in study.experiment.shown(study, 80)
    assert max(map(len, study.experiment.shown(study, 80).splitlines())) <= 80
    assert "max_new_tokens" not in study.plan and "batch_size" not in study.plan
    assert "fp16" in study._repr_html_()
    with pytest.raises(dd.InputError, match="compares no texts"):
        study.case()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"formats": "fp12"}, "unknown format 'fp12'"),
        ({"formats": "fp16:scale=some"}, "must be one of none, tensor, channel"),
        ({"formats": "fp16,fp16"}, "given twice"),
        ({"formats": "int4:gruop=3"}, "unknown parameter 'gruop'"),
        ({"reference": "bf16"}, "use fp32 or fp64"),
        ({"reference": "fp32:autocast=bf16"}, "use fp32 or fp64"),
        ({"max_new_tokens": 3}, "unknown setting 'max_new_tokens'"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_said_in_a_line(asked: dict[str, Any], says: str) -> None:
    from decodedrift.core.settings import make_settings
    from decodedrift.experiments.formats.settings import FormatsSettings
    from decodedrift.runs.prepare import draft

    with pytest.raises(dd.InputError, match=says):
        draft(make_settings(FormatsSettings, asked))


def test_a_gate_on_a_format(study: dd.Study) -> None:
    assert study.path is not None
    for gate, code in (("flushed>0.5", 0), ("flushed>0.001:fp8-e4m3:scale=none", 4), ("headroom<20:fp16", 4)):
        done = command("check", study.path, "--fail-on", gate)
        assert done.returncode == code, done.stderr


@pytest.mark.parametrize("kind", parse_kinds("fp16,fp8-e4m3,int4"), ids=lambda kind: kind.label)
def test_a_scale_takes_the_place_of_headroom(kind: Kind, study: dd.Study) -> None:
    assert kind.scaled == (kind.label != "fp16")
    rows = study.summary[
        study.summary["format"].str.startswith(kind.form.name) & ~study.summary["format"].str.contains("none")
    ]
    assert rows["headroom"].isna().all() == kind.scaled
