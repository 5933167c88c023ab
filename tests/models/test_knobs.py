"""Knobs of execution: what each does, against an independent computation; how it is read back; that nothing stays."""

from __future__ import annotations

import copy
import functools
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import running
import torch
from conftest import tiny_model, tiny_tokenizer
from torch.nn import functional

import decodedrift as dd
from decodedrift.core.records import InputError, VariantError
from decodedrift.experiments.compare.execution import unmoved, untold
from decodedrift.models.knobs import KNOBS, check, device_map, rounding
from decodedrift.models.knobs.padding import batch
from decodedrift.models.load import Loaded, loaded
from decodedrift.models.sources.checkpoints import find, in_memory
from decodedrift.models.steps import begin, read_whole, reading
from decodedrift.models.variants import parse_variants

ROOT = Path(__file__).parents[2]
IDS = torch.tensor([[5, 9, 2, 40, 7, 11], [3, 3, 8, 1, 60, 9]])
run = functools.partial(
    running.run, prompts=["w1 w2 w3", "w7", "w9 w11 w13", "w4 w4"], strategies=["greedy"], max_new_tokens=6
)


@contextmanager
def opened(text: str, model: Any = "llama") -> Iterator[Loaded]:
    model = tiny_model(model) if isinstance(model, str) else model
    with loaded(in_memory(model, tiny_tokenizer()), parse_variants(text)[0]) as ready:
        yield ready


def logits(text: str, model: Any = "llama") -> torch.Tensor:
    with opened(text, model) as ready, ready.running():
        return ready.model(IDS).logits


def plainly(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


def state() -> tuple[Any, ...]:
    """What of torch a knob may turn."""
    return (
        torch.is_autocast_enabled("cpu"), torch.backends.mkldnn.matmul.fp32_precision, torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.overrides._get_current_function_mode(),
    )  # fmt: skip


# ---- what each of them does


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "mixtral"])
def test_layercast_has_the_bits_of_float32_over_rounded_weights(family: str) -> None:
    rounded, exact = tiny_model(family), tiny_model(family)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.bfloat16().float()
    ours = logits("fp32:layercast=bf16", family)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, logits("fp32", rounded))
    assert not torch.equal(ours, logits("fp32", exact))
    assert not torch.equal(ours, logits("bf16", exact).float())
    with opened("fp32:layercast=bf16", family) as ready:
        assert set(ready.facts["weight_dtypes"]) == {"bf16"}
        assert ready.facts["rounded_share"] > 0.9
        assert ready.facts["weights_used"] == "bf16 used as fp32"
        assert all(p.dtype == torch.bfloat16 for p in ready.model.parameters())


def test_layercast_texts_are_those_of_rounded_weights(tmp_path: Path) -> None:
    rounded = tiny_model("llama")
    for parameter in rounded.parameters():
        parameter.data = parameter.data.bfloat16().float()
    folder = running.saved_as(rounded, tmp_path / "rounded")
    ours = run("llama", candidates=["fp32:layercast=bf16"], max_new_tokens=20)
    theirs = run("llama", candidates=[f"by-hand={folder}"], max_new_tokens=20)
    for table, column in (("positions", "nll_candidate"), ("traces", "logprob_sum")):
        a, b = (getattr(s, table).query("role == 'candidate'")[column].tolist() for s in (ours, theirs))
        assert a == b and len(a) > 0


def in_bfloat16(model: Any) -> Any:
    """Each Linear of a copy runs in bfloat16 and gives float32: `mixed` by hand."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            weight, bias = (None if p is None else p.detach().bfloat16() for p in (module.weight, module.bias))
            module.forward = functools.partial(
                lambda states, weight, bias: functional.linear(states.bfloat16(), weight, bias).float(),
                weight=weight, bias=bias,
            )  # fmt: skip
    return model


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
def test_mixed_is_every_linear_in_bfloat16_and_nothing_else(family: str) -> None:
    ours = logits("fp32:mixed=bf16", family)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, plainly(in_bfloat16(tiny_model(family))))
    assert not torch.equal(ours, logits("fp32", family))
    assert not torch.equal(ours, logits("fp32:autocast=bf16", family).float())


def test_mixed_takes_the_experts_of_either_kernel_that_it_reaches() -> None:
    eager, grouped = (logits(f"fp32:mixed=bf16,experts={kernel}", "mixtral") for kernel in ("eager", "grouped_mm"))
    attention_alone = in_bfloat16(tiny_model("mixtral"))
    assert not torch.equal(eager, plainly(attention_alone)), "the experts are no Linear"
    scale = float(eager.abs().max())
    assert float((eager - grouped).abs().max()) < 2**-6 * scale
    assert float((eager - logits("fp32", "mixtral")).abs().max()) > 1e-4 * scale


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_is_torchs_own(name: str, dtype: torch.dtype) -> None:
    model = tiny_model("llama")
    with torch.autocast("cpu", dtype=dtype), torch.inference_mode():
        expected = model(IDS).logits
    ours = logits(f"fp32:autocast={name}")
    assert ours.dtype == dtype == expected.dtype
    assert torch.equal(ours, expected)


def test_a_heads_output_is_rounded_or_the_head_is_wide() -> None:
    exact, rounded = logits("fp32"), logits("fp32:head=bf16-output")
    assert torch.equal(rounded, exact.bfloat16()) and rounded.dtype == torch.bfloat16
    with opened("bf16") as ready, ready.running():
        states = ready.model.model(IDS).last_hidden_state
        wide = functional.linear(states.float(), ready.model.lm_head.weight.float())
    assert torch.equal(logits("bf16:head=fp32"), wide) and wide.dtype == torch.float32
    assert not torch.equal(wide, logits("bf16").float())
    with opened("bf16:head=fp32") as ready:
        assert ready.facts["head"] == "bf16 in fp32 to fp32"
    for name, said in (("bf16", "bf16 to bf16"), ("fp32:autocast=bf16", "fp32 in bf16 to bf16")):
        with opened(name) as ready:
            assert ready.facts["head"] == said


def test_experts_are_computed_by_the_kernel_that_is_asked_for() -> None:
    for kernel in ("eager", "batched_mm", "grouped_mm"):
        theirs = tiny_model("mixtral")
        theirs.set_experts_implementation(kernel)
        with opened(f"fp32:experts={kernel}", "mixtral") as ready, ready.running():
            assert ready.facts["experts"] == kernel
            assert torch.equal(ready.model(IDS).logits, plainly(theirs))
    assert not torch.equal(logits("fp32:experts=batched_mm", "mixtral"), logits("fp32", "mixtral"))
    with opened("fp64:experts=batched_mm", "mixtral") as ready:
        assert ready.facts["experts"] == "batched_mm"
    with opened("fp64", "mixtral") as ready:
        assert ready.facts["experts"] == "eager", "the grouped kernels have no float64"


def test_compiled_code_is_what_runs_and_a_failing_compiler_fails_its_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: real(self, backend=backend))
    torch._dynamo.reset()
    ours = logits("fp32:compile=true")
    assert compiled and torch.equal(ours, logits("fp32"))
    with opened("fp32:compile=true") as ready, opened("fp32:compile=false") as off:
        assert (ready.facts["compiled"], off.facts["compiled"]) == (True, False)

    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: real(self, backend=broken))
    torch._dynamo.reset()
    with pytest.raises(VariantError, match=r"fp32:compile=true: cannot be compiled .*no compiler here"):
        logits("fp32:compile=true")
    torch._dynamo.reset()


@pytest.mark.parametrize(("text", "views"), [("fp32", True), ("fp32:compile=true", False)])
def test_compiled_code_is_given_no_views_of_one_buffer(monkeypatch: pytest.MonkeyPatch, text: str, views: bool) -> None:
    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: real(self, backend="eager"))
    torch._dynamo.reset()
    with opened(text) as ready, reading(ready):
        ready.path = "shared"
        steps = begin(ready, [[5, 9, 2], [3]], torch.arange(2), room=4, pad=0)
        steps.advance(torch.tensor([7, 8]))
        storages = [layer.keys.untyped_storage().nbytes() > layer.keys.nbytes for layer in steps.cache.layers]
        assert storages == [views] * len(storages)
    torch._dynamo.reset()


def test_deterministic_refuses_an_operation_that_is_not() -> None:
    ids, values = torch.zeros(1, dtype=torch.long), torch.ones(1)

    def of(text: str) -> bool:
        with opened(text) as ready, ready.running():
            return torch.are_deterministic_algorithms_enabled()

    assert (of("fp32:deterministic=true"), of("fp32")) == (True, False)
    assert torch.zeros(1).put_(ids, values, accumulate=True) == 1


@pytest.mark.parametrize("kind", ["tf32", "bf16"])
def test_matmul_is_leave_that_torch_has_while_the_variant_runs(kind: str) -> None:
    with opened(f"fp32:matmul={kind}") as ready:
        assert ready.facts["matmul"] == kind
        with ready.running():
            assert torch.backends.mkldnn.matmul.fp32_precision == kind
            exact = ready.model(IDS).logits
    off = float((exact - logits("fp32")).abs().max())
    assert off < 2**-6 * float(exact.abs().max()), "no kernel may do more than round its inputs"


# ---- padding


def test_texts_padded_on_the_left_are_read_as_alone() -> None:
    texts, spans = [(5, 9, 2, 40, 7), (3, 8)], [(0, 5), (0, 2)]
    with opened("fp32:padding=left") as ready, opened("fp32") as plain, reading(ready):
        ours = read_whole(ready, texts, spans, pad=0)
        alone = [read_whole(plain, [t], [s], pad=0)[0] for t, s in zip(texts, spans, strict=True)]
        assert ready.facts["padding"] == {"prompts": "none", "texts": "left", "multiple_of": 5}
    for one, other in zip(ours, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("value", "given", "begins", "width"), [
    ("", True, [0, 0], 5), ("", False, [0, 3], 5), ("left", True, [0, 3], 5), ("left", False, [0, 3], 5),
    ("multiple:4", True, [0, 0], 8), ("multiple:4", False, [3, 6], 8), ("multiple:5", True, [0, 0], 5),
    ("multiple:4096", True, [0, 0], 128),
])  # fmt: skip
def test_a_batch_is_filled_as_it_says(value: str, given: bool, begins: list[int], width: int) -> None:
    variant = parse_variants(f"fp32:padding={value}" if value else "fp32")[0]
    ready = Loaded(tiny_model("llama"), variant, torch.device("cpu"))
    ids, mask, starts = batch(ready, [(5, 9, 2, 40, 7), (3, 8)], 99, given=given)
    assert (starts, tuple(ids.shape)) == (begins, (2, width))
    assert ids[1].tolist() == [99] * begins[1] + [3, 8] + [99] * (width - 2 - begins[1])
    assert (mask == (ids != 99)).all()
    assert ready.facts["padding"]["multiple_of"] == width


def test_padding_alone_moves_bits_and_no_text_is_read_otherwise() -> None:
    study = run("llama", candidates=["bf16", "bf16:padding=multiple:8"], reference="bf16:padding=left")
    facts = study.environment["variants"]
    assert facts["bf16:padding=multiple:8"]["padding"]["multiple_of"] == 8
    assert not study.failed


# ---- nothing stays, whatever happens


def test_the_callers_state_is_put_back_also_where_the_model_fails() -> None:
    asked = {"autocast": "bf16", "layercast": "bf16", "head": "bf16-output", "matmul": "tf32", "deterministic": "true",
             "threads": "2", "mixed": "bf16"}  # fmt: skip
    before = state()
    text = "fp32:" + ",".join(f"{name}={value}" for name, value in asked.items())
    with opened(text) as ready:
        assert state() == before
        with ready.running():
            assert state() != before
        with pytest.raises(RuntimeError, match="mat1"), ready.running():
            ready.model.lm_head(torch.ones(1, 3))
        assert state() == before
        assert "forward" not in vars(ready.model.lm_head)


def test_a_head_with_a_forward_of_its_own_gets_it_back() -> None:
    with opened("fp32:head=bf16-output") as ready:
        own = ready.model.lm_head.forward = functools.partial(type(ready.model.lm_head).forward, ready.model.lm_head)
        with ready.running():
            assert ready.model.lm_head.forward is not own
        assert ready.model.lm_head.forward is own


def test_the_model_that_was_given_and_its_donor_keep_their_weights() -> None:
    model = tiny_model("llama")
    before = copy.deepcopy(model.state_dict())
    checkpoint = in_memory(model, tiny_tokenizer())
    with loaded(checkpoint, parse_variants("fp32")[0]) as donor:
        for text in ("fp32:layercast=bf16", "fp32:compile=true", "fp32:mixed=bf16"):
            with loaded(checkpoint, parse_variants(text)[0], donor) as ready:
                assert ready.facts["copy_control"]["moved"] > 0
            assert all(p.dtype == torch.float32 for p in donor.model.parameters()), text
            assert donor.model._compiled_call_impl is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_donor_that_a_knob_has_changed_lends_nothing(tmp_path: Path) -> None:
    checkpoint = find(running.saved_as(tiny_model("mixtral"), tmp_path / "m"))
    for text in ("fp32:layercast=bf16", "fp32:experts=batched_mm", "fp32:attention=eager"):
        plain = parse_variants("fp32")[0]
        with (
            loaded(checkpoint, parse_variants(text)[0]) as donor,
            loaded(checkpoint, plain, donor) as ready,
            ready.running(),
        ):
            ours = ready.model(IDS).logits
        assert torch.equal(ours, plainly(tiny_model("mixtral"))), text


def test_autocast_inside_a_given_model_is_refused_beside_the_knob_too() -> None:
    model = tiny_model("llama")
    attention = model.model.layers[0].self_attn
    attention.forward = functools.partial(_under_fp16, type(attention).forward, attention)
    with pytest.raises(VariantError, match=r"computes under torch\.autocast"), opened("fp32:autocast=bf16", model):
        pass


def _under_fp16(forward: Any, module: Any, *args: Any, **more: Any) -> Any:
    with torch.autocast("cpu", dtype=torch.float16):
        return forward(module, *args, **more)


# ---- refused before weights load


@pytest.mark.parametrize(("text", "family", "words"), [
    ("fp32:experts=eager", "llama", "LlamaForCausalLM has no experts whose kernel can be chosen"),
    ("fp64:experts=grouped_mm", "mixtral", "no float64; choices: eager, batched_mm"),
    ("fp32:attention=bogus", "llama", r"there is no such kernel; choices: eager, .*sdpa"),
    ("fp32:attention=flash_attention_2", "llama", "it runs on a GPU; choices: eager"),
    ("fp32:attention=flex_attention", "gpt_neo", "GPTNeoForCausalLM has no such kernel; choices: eager"),
    ("fp32:attention=paged|eager", "llama", "continuous batching alone; choices: eager, .*paged.sdpa"),
    ("fp64:autocast=bf16", "llama", "leaves float64 as it is"),
    ("bf16:layercast=bf16", "llama", "write fp32:layercast=bf16"),
    ("bf16:mixed=bf16", "llama", "computes in bf16"),
    ("fp32:mixed=bf16,experts=batched_mm", "mixtral", "write experts=eager or experts=grouped_mm"),
    ("bf16:head=bf16-output", "llama", "is bf16 already"),
    ("fp64:head=fp32", "llama", "would narrow the head"),
    ("bf16:matmul=tf32", "llama", "leave for float32 products"),
])  # fmt: skip
def test_what_a_knob_cannot_do_is_refused_in_one_line(text: str, family: str, words: str) -> None:
    import transformers

    config = (
        transformers.GPTNeoConfig(num_layers=2, attention_types=[[["global", "local"], 1]])
        if family == "gpt_neo"
        else tiny_model(family).config
    )
    from decodedrift.models.sources.checkpoints import Checkpoint
    from decodedrift.models.variants import on_device

    variant = on_device("cpu", parse_variants(text)[0])
    with pytest.raises(InputError, match=words) as refused:
        check(variant, Checkpoint("m", "m", "folder", config))
    assert "\n" not in str(refused.value)
    name, value = text.partition(":")[2].split(",")[0].split("=")
    assert str(refused.value).startswith(f"variant {text}: {name}={value}: ") or "," in text


def test_a_run_is_refused_before_its_weights_load(monkeypatch: pytest.MonkeyPatch) -> None:
    from decodedrift.models import load

    monkeypatch.setattr(load, "_ready", lambda *args: pytest.fail("weights were loaded"))
    with pytest.raises(InputError, match="variant fp32:experts=eager: experts=eager: LlamaForCausalLM has no experts"):
        run("llama", candidates=["bf16", "fp32:experts=eager"])


@pytest.mark.parametrize(("text", "words"), [
    ("fp32:padding=right", "padding must be left or multiple:N"), ("fp32:padding=multiple:1", "multiple:N"),
    ("fp32:padding=multiple", "multiple:N"), ("fp32:autocast=bf17", "one of bf16, fp16"),
    ("fp32:head=fp16", "one of fp32, bf16-output"), ("fp32:matmul=fp8", "one of tf32, bf16"),
    ("fp32:experts=fast", "one of eager, batched_mm, grouped_mm"), ("fp32:compile=maybe", "true or false"),
    ("fp32:batch_size=1/x", ">= 1, not 'x'"),
])  # fmt: skip
def test_values_that_are_none_list_the_choices(text: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        parse_variants(text)


# ---- what is said


def test_what_engaged_without_changing_a_bit_is_said() -> None:
    study = run("llama", candidates=["fp32:deterministic=true", "fp32:mixed=bf16", "fp32:matmul=tf32"])
    assert unmoved(study)["fp32:deterministic=true"] == ["deterministic"]
    assert "fp32:mixed=bf16" not in unmoved(study)
    (said,) = (s for s in study.verdict if s.startswith("Engaged, and changed no bit of any figure: "))
    assert "deterministic of fp32:deterministic=true" in said
    row = study.answer.set_index("candidate").loc["fp32:deterministic=true"]
    assert row["wording_note"].endswith("; deterministic engaged and changed no bit")
    assert "deterministic engaged and changed no bit" in study.to_html()
    moved = study.positions.copy()
    moved.loc[(moved["candidate"] == "fp32:deterministic=true") & (moved["position"] == 3), "logit_gap_max"] = 1e-9
    fresh = dd.Study({**{t: getattr(study, t) for t in study.experiment.tables}, "positions": moved}, study.plan)
    fresh.environment = study.environment
    assert "fp32:deterministic=true" not in unmoved(fresh), "one logit that moved is enough"


def test_what_cannot_be_told_and_what_did_not_engage_is_said() -> None:
    study = run("llama", candidates=["fp32:deterministic=true", "fp32:attention=sdpa"])
    assert untold(study) == {}
    assert study.environment["variants"]["fp32:attention=sdpa"]["idle_knobs"] == ["attention"]
    study.environment["variants"]["fp32:deterministic=true"]["deterministic"] = None
    assert untold(study) == {"fp32:deterministic=true": ["deterministic"]}
    (said,) = (s for s in study.verdict if "cannot be told" in s)
    assert (
        said == "Whether it engaged cannot be told, as nothing is read back: deterministic of fp32:deterministic=true."
    )


def test_a_knob_engaged_if_it_did_in_any_job() -> None:
    study = run(
        "llama", candidates=["fp32:padding=multiple:2"], prompts_per_job=2, prompts=["w1 w2 w3", "w7", "w4 w4", "w5 w5"]
    )
    assert study.environment["variants"]["fp32:padding=multiple:2"]["idle_knobs"] == []


# ---- the notation of several values


@pytest.mark.parametrize(("text", "names"), [
    ("fp32:batch_size=1/2/4/8/16", [f"fp32:batch_size={n}" for n in (1, 2, 4, 8, 16)]),
    ("bf16:threads=1/2,batch_size=1/2", ["bf16:batch_size=1,threads=1", "bf16:batch_size=2,threads=1",
                                         "bf16:batch_size=1,threads=2", "bf16:batch_size=2,threads=2"]),
    ("int8:head=false/true", ["int8:head=false", "int8:head=true"]),
    ("fp32:padding=left/multiple:8,matmul=tf32", ["fp32:matmul=tf32,padding=left", "fp32:matmul=tf32,padding=multiple:8"]),
    ("fp32:attention=owner/kernel", ["fp32:attention=owner/kernel"]),
    ("mine=owner/name:batch_size=1/2,revision=a/b,threads=1", ["mine:batch_size=1", "mine:batch_size=2"]),
])  # fmt: skip
def test_several_values_are_as_many_variants(text: str, names: list[str]) -> None:
    variants = parse_variants(text)
    assert [v.name for v in variants] == names
    assert len({(v.batch_size, v.threads, *v.options.values(), *v.knobs.values()) for v in variants}) == len(names)


def test_a_reference_is_one_variant() -> None:
    with pytest.raises(InputError, match="reference= takes one variant"):
        run("llama", reference="fp32:batch_size=1/2")


# ---- the registry


def test_every_knob_says_what_it_is_read_back_by_and_is_in_the_table() -> None:
    table = (ROOT / "docs/knobs.md").read_text("utf-8")
    for name, knob in KNOBS.items():
        (line,) = re.findall(rf"^\| `{name}=.*$", table, re.MULTILINE)
        assert f"`{knob.fact}`" in line, name
        assert ("as the model runs" in line) == (knob.read_back is None), name


def test_a_probe_judges_by_the_coarsest_type() -> None:
    of = {"fp32": "fp32", "bf16": "bf16", "fp32:autocast=fp16": "fp16", "fp32:mixed=bf16": "bf16",
          "fp64:head=bf16-output": "bf16", "bf16:head=fp32": "bf16", "fp32:matmul=tf32": "fp16",
          "fp16:autocast=bf16": "bf16", "fp32:layercast=bf16": "fp32"}  # fmt: skip
    assert {text: rounding(parse_variants(text)[0]) for text in of} == of
    study = run("llama", candidates=["fp32:mixed=bf16", "fp32:autocast=bf16", "fp32:head=bf16-output"])
    assert study.environment["generation"]["path"] == "shared"


# ---- device_map


@functools.cache
def spread_logits(kind: str, text: str) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """Of the tiny model read from files: where its weights were, logits of a batch, and of a row's single token."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = find(running.saved_as(tiny_model(kind), Path(folder)))
        with loaded(checkpoint, parse_variants(text)[0]) as ready, ready.running():
            return ready.facts["placement"], ready.model(IDS).logits, ready.model(IDS[:1, :1]).logits


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(("precision", "gib"), [("fp32", 0.00008), ("bf16", 0.00004)])
def test_a_model_spread_over_memory_and_disk_has_the_bits_of_one_in_memory(
    kind: str, precision: str, gib: float
) -> None:
    pytest.importorskip("accelerate")
    where, *ours = spread_logits(kind, f"{precision}:device_map=auto@{gib:f}")
    plain, *theirs = spread_logits(kind, precision)
    assert min(where["parameters"].get(place, 0) for place in ("cpu", "disk")) > 0 < where["hooks"]
    assert sum(where["parameters"].values()) == sum(plain["parameters"].values())
    assert plain["hooks"] == 0
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_model_that_fits_one_device_was_not_spread() -> None:
    pytest.importorskip("accelerate")
    assert spread_logits("llama", "fp32:device_map=auto")[0] == spread_logits("llama", "fp32")[0]


@pytest.mark.parametrize(("text", "reason"), [
    ("int8:device_map=auto", "int8 walks over weights"), ("fp64:device_map=auto", "fp64 walks over weights"),
    ("bf16:round=weights,device_map=auto", "bf16 walks over weights"),
    ("fp32:device_map=auto,layercast=bf16", "layercast= needs all weights on one device"),
    ("fp32:device_map=auto", "give a folder or hub id"),
])  # fmt: skip
def test_what_walks_over_weights_is_not_spread(text: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_map, "find_spec", lambda name: object())
    checkpoint = in_memory(tiny_model("llama"), tiny_tokenizer()) if reason.startswith("give") else find("demo")
    with pytest.raises(InputError, match=reason):
        check(parse_variants(text)[0], checkpoint)
    monkeypatch.setattr(device_map, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'decodedrift\[accelerate\]'"):
        check(parse_variants(text)[0], checkpoint)


@pytest.mark.parametrize("value", ["cuda", "auto@", "auto@0", "auto@x", "@3"])
def test_how_a_model_is_spread_is_auto(value: str) -> None:
    with pytest.raises(InputError, match="must be auto, or auto@GIB"):
        parse_variants(f"fp32:device_map={value}")
