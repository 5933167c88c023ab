"""A model in memory is really the one that is measured: no copy of it runs the given model, and that is proved each time."""

from __future__ import annotations

import copy
import functools
import json
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import running
import torch
from conftest import FAMILIES, tiny_model, tiny_tokenizer
from torch.nn.utils import parametrizations

import decodedrift as dd
from decodedrift.core.records import VariantError
from decodedrift.models.load import Loaded, loaded
from decodedrift.models.sources import checkpoints, copycontrol
from decodedrift.models.sources.checkpoints import Checkpoint, in_memory
from decodedrift.models.variants import parse_variants

NOTEBOOK: Any = None  # as a model is in a notebook: a global name
IDS = torch.tensor([[5, 9, 2, 40, 7]])


run = functools.partial(
    running.run, prompts=["w1 w2 w3", "w9"], candidates=["bf16", "int8"], strategies=["greedy"], max_new_tokens=4
)


def opened(model: Any, text: str = "fp32", donor: Loaded | None = None) -> Any:
    """One variant of a model in memory, loaded."""
    return loaded(in_memory(model, tiny_tokenizer()), parse_variants(text)[0], donor)


def unchecked(model: Any) -> Checkpoint:
    """A checkpoint of a model that the refusals by name have not seen."""
    return Checkpoint("m", "m", "memory", model.config, module=model, tokenizer=tiny_tokenizer())


def kl(study: dd.Study) -> dict[str, float]:
    rows = study.summary[study.summary["role"] == "candidate"]
    return dict(zip(rows["candidate"], rows["kl_mean"], strict=True))


@pytest.fixture(autouse=True)
def dynamo() -> Iterator[None]:
    """What one test compiled must not use up the recompilations of the next."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model: Any) -> None:
    model.forward = torch.compile(model.forward)


def autocast(model: Any) -> None:
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)


def closure_in_a_submodule(model: Any) -> None:
    before = model.model.layers[1].mlp.forward
    model.model.layers[1].mlp.forward = lambda *args, **more: before(*args, **more)


def partial_of_a_closure(model: Any) -> None:
    before = model.model.forward
    model.model.forward = functools.partial(lambda *args, **more: before(*args, **more))


def bound_closure(model: Any) -> None:
    before = model.forward
    model.forward = types.MethodType(lambda self, *args, **more: before(*args, **more), model)


def default_argument(model: Any) -> None:
    def forward(*args: Any, before: Any = model.lm_head.forward) -> Any:
        return before(*args)

    model.lm_head.forward = forward


def generate(model: Any) -> None:
    before = model.generate
    model.generate = lambda *args, **more: before(*args, **more)


def a_name_of_this_module(model: Any) -> None:
    global NOTEBOOK
    NOTEBOOK = model
    model.lm_head.forward = lambda states: states @ NOTEBOOK.lm_head.weight.T.to(states.dtype)


def hook_on_a_tensor(model: Any) -> None:
    weight = model.lm_head.weight
    model.lm_head.register_forward_hook(lambda module, args, out: args[0] @ weight.T.to(args[0].dtype))


def hook_on_a_box(model: Any) -> None:
    box = {"deep": [model.model.norm]}
    model.model.norm.register_forward_pre_hook(lambda module, args: args[0] * box["deep"][0].weight.to(args[0].dtype))


REPLACED: dict[Callable[[Any], None], str] = {
    compiled: r"its forward was replaced by a function that runs this model .* before its forward is replaced, or torch.comp",
    autocast: r"its forward was replaced by a function that runs this model .*; give the model before its forward is replaced$",
    closure_in_a_submodule: r"its model\.layers\.1\.mlp\.forward was replaced",
    partial_of_a_closure: r"its model\.forward was replaced",
    bound_closure: r"its forward was replaced",
    default_argument: r"its lm_head\.forward was replaced",
    a_name_of_this_module: r"its lm_head\.forward was replaced",
    generate: r"its generate was replaced",
    hook_on_a_tensor: r"a hook on lm_head \(hook_on_a_tensor.*\) holds the model itself",
    hook_on_a_box: r"a hook on model\.norm \(hook_on_a_box.*\) holds the model itself",
}


@pytest.mark.parametrize("replace", REPLACED, ids=lambda f: f.__name__)
def test_what_a_copy_would_not_take_over_is_refused_by_name(replace: Callable[[Any], None]) -> None:
    model = tiny_model("llama")
    replace(model)
    with pytest.raises(dd.InputError, match=REPLACED[replace]) as caught:
        run(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("replace", [r for r in REPLACED if r not in (generate, compiled)], ids=lambda f: f.__name__)
@pytest.mark.parametrize("variant", ["fp32", "bf16", "int8"])
def test_past_that_refusal_the_control_finds_it(replace: Callable[[Any], None], variant: str) -> None:
    model = tiny_model("llama")
    replace(model)
    mixed = variant == "bf16"  # float32 weights amid bfloat16 may fail on their own
    with (
        pytest.raises(VariantError, match=r"its copy reads .*weight of the given model" + "|same dtype" * mixed),
        loaded(unchecked(model), parse_variants(variant)[0]),
    ):
        pass


def test_a_compiled_closure_is_found_by_the_control_too() -> None:
    model = tiny_model("llama")
    model.forward = torch.compile(model.forward, backend="eager")
    with (
        pytest.raises(VariantError, match=r"bf16: its copy reads .* of the given model.*; see .* of the model"),
        loaded(unchecked(model), parse_variants("bf16")[0]),
    ):
        pass


def test_a_reference_to_the_given_model_inside_a_class_is_found() -> None:
    model = tiny_model("llama")
    given = model.model.layers[0].mlp

    class Hidden(torch.nn.Module):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return given(states.float()).to(states.dtype)  # type: ignore[no-any-return]

    model.model.layers[0].mlp = Hidden()
    model.model.kept = given  # still the model's, under another name
    said = r"the reference cannot run: fp32: its copy reads model\.kept\..* of the given model, so that no variant"
    with pytest.raises(dd.InputError, match=said):
        run(model)


def test_a_forward_of_a_third_model_is_found_as_the_copy_does_not_move() -> None:
    other = tiny_model("llama")
    whole = tiny_model("llama")
    whole.forward = lambda *args, **more: other(*args, **more)
    with pytest.raises(VariantError, match="reads none of its own weights"), opened(whole):
        pass
    part = tiny_model("llama")
    part.model.layers[1].mlp.forward = lambda states: other.model.layers[1].mlp(states)
    with pytest.raises(VariantError, match=r"fp32: no weight of its copy's model\.layers\.1\.mlp moves"), opened(part):
        pass
    head = tiny_model("llama")
    head.lm_head.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    with pytest.raises(VariantError, match=r"lm_head\.weight of its copy doubled moves no logit"), opened(head):
        pass


def test_a_hook_that_drops_what_its_module_computed_is_found() -> None:
    model = tiny_model("llama")
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, out: args[0])
    with pytest.raises(VariantError, match=r"copy's model\.layers\.0\.mlp moves a logit .* give the model without it"):
        opened(model).__enter__()


def rebound_method(model: Any) -> Any:
    model.forward = types.MethodType(type(model).forward, model)
    return model


def rebound_partial(model: Any) -> Any:
    model.base_model.forward = functools.partial(model.base_model.forward)
    return model


def logging_hooks(model: Any) -> Any:
    seen: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, args, out, name=name: seen.append(name))
    return model


def with_accelerate(model: Any) -> Any:
    accelerate = pytest.importorskip("accelerate")
    return accelerate.dispatch_model(model, device_map={"": "cpu"}, force_hooks=True)


def attribute_of_a_global_name(model: Any) -> Any:
    global NOTEBOOK
    NOTEBOOK = model
    model.register_forward_hook(lambda module, args, out: getattr(module, "NOTEBOOK", None) and module.NOTEBOOK)
    return model


HONEST = [
    attribute_of_a_global_name,
    rebound_method,
    rebound_partial,
    logging_hooks,
    with_accelerate,
]


@pytest.mark.parametrize("honest", HONEST, ids=lambda f: f.__name__)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_bound_to_the_copy_measures_as_the_plain_model(
    family: str, honest: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    plain, study = run(family), run(honest(tiny_model(family)))
    assert study.failures.empty, study.failures.to_string()
    assert min(kl(study).values()) > 0
    same = study.positions["kl"].to_numpy() == plain.positions["kl"].to_numpy()
    assert same.all() or family == "gpt2", "a Conv1D with hooks stays one, and has last bits of its own"
    assert kl(study) == pytest.approx(kl(plain), rel=1e-3)
    control = study.environment["variants"]["bf16"]["copy_control"]
    assert not any("move" in record.message for record in caplog.records), "the given model is not moved"
    if honest is with_accelerate:
        assert {"llama": "lm_head", "gpt2": "transformer.ln_f"}[family] in {m["module"] for m in control["modules"]}


def test_the_model_is_left_as_it_was() -> None:
    model = with_hooks_and_all(tiny_model("gpt2"))
    model.train()
    before = {n: (t.data_ptr(), t.detach().clone()) for n, t in model.state_dict(keep_vars=True).items()}
    attributes = {n: dict(vars(m)) for n, m in model.named_modules()}
    hooks = {n: (list(m._forward_hooks), list(m._forward_pre_hooks)) for n, m in model.named_modules()}
    assert run(model, noise_floor=True).failures.empty
    assert {n: dict(vars(m)) for n, m in model.named_modules()} == attributes
    assert {n: (list(m._forward_hooks), list(m._forward_pre_hooks)) for n, m in model.named_modules()} == hooks
    assert model.training
    assert all(m.training for m in model.modules())
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor.data_ptr() == before[name][0]
        assert torch.equal(tensor, before[name][1]), name


def with_hooks_and_all(model: Any) -> Any:
    model.forward = types.MethodType(type(model).forward, model)
    model.transformer.h[0].register_forward_pre_hook(lambda module, args: None)
    return model


@pytest.mark.parametrize("variant", ["fp32", "bf16", "fp16", "fp64", "int8"])
def test_the_copy_has_its_weights_back_bit_by_bit(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def noting(model: Any, *rest: Any) -> dict[str, Any]:
        seen.append({name: (t.data_ptr(), t.clone()) for name, t in model.state_dict().items()})
        return copycontrol.control(model, *rest)

    monkeypatch.setattr("decodedrift.models.load.control", noting)
    with opened(with_hooks_and_all(tiny_model("gpt2")), variant) as held:
        after = held.model.state_dict()
        assert all(after[n].data_ptr() == at and torch.equal(after[n], t) for n, (at, t) in seen[0].items())
        assert held.facts["copy_control"]["moved"] > 0


def test_the_weights_come_back_where_the_doubled_model_cannot_run() -> None:
    model = tiny_model("llama")
    before = model.model.norm.weight.data.clone()
    calls = iter([model(IDS).logits.detach()])
    watched: dict[str, Any] = {}

    def logits() -> torch.Tensor:
        watched["norm"] = model.model.norm.weight.data.clone()
        if "ran" not in watched:
            watched["ran"] = model(IDS)
            return next(calls)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        copycontrol.control(model, "x", logits, [tiny_model("llama")])
    assert torch.equal(watched["norm"], before * 2)
    assert torch.equal(model.model.norm.weight.data, before)


NORMS = {
    "gpt2": "transformer.ln_f.weight",
    "llama": "model.norm.weight",
    "qwen2": "model.norm.weight",
    "mistral": "model.norm.weight",
    "mixtral": "model.norm.weight",
    "gpt_neox": "gpt_neox.final_layer_norm.weight",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_final_norm_is_found_and_what_it_did_is_on_record(family: str) -> None:
    facts = run(family).environment["variants"]
    for name in ("fp32", "bf16", "int8"):
        control = json.loads(json.dumps(facts[name]["copy_control"]))
        assert control["weight"] == NORMS[family]
        assert control["moved"] > 0.1
        assert control["modules"] == []


def other_configs() -> dict[str, tuple[Any, str]]:
    import transformers as t

    common: dict[str, Any] = {"vocab_size": 96, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    size: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    wide = common | size | {"intermediate_size": 48, "max_position_embeddings": 64}
    opt: dict[str, Any] = common | size | {"ffn_dim": 48, "max_position_embeddings": 64}
    return {
        "flex attention": (t.LlamaConfig(**wide, attn_implementation="flex_attention"), "model.norm.weight"),
        "opt": (t.OPTConfig(**opt, word_embed_proj_dim=32), "model.decoder.final_layer_norm.weight"),
        "opt without a final norm": (
            t.OPTConfig(**opt, word_embed_proj_dim=16, do_layer_norm_before=False),
            "model.decoder.layers.1.final_layer_norm.weight",
        ),
        "bloom": (t.BloomConfig(**common, hidden_size=32, n_layer=2, n_head=4), "transformer.ln_f.weight"),
        "phi": (t.PhiConfig(**wide), "model.final_layernorm.weight"),
        "gemma2": (t.Gemma2Config(**wide, head_dim=8, num_key_value_heads=2), "model.norm.weight"),
        "olmo, whose norms have no weights": (t.OlmoConfig(**wide), "lm_head.weight"),
        "falcon": (t.FalconConfig(**common | size), "transformer.ln_f.weight"),
        "qwen3": (t.Qwen3Config(**wide, head_dim=8, num_key_value_heads=2), "model.norm.weight"),
    }


@pytest.mark.parametrize("name", other_configs())
def test_the_final_norm_of_other_families(name: str) -> None:
    from transformers import AutoModelForCausalLM

    config, weight = other_configs()[name]
    torch.manual_seed(0)
    with opened(AutoModelForCausalLM.from_config(config).eval(), "bf16") as held:
        assert held.facts["copy_control"]["weight"] == weight
        assert held.facts["copy_control"]["moved"] > 0


def test_a_head_of_zeros_and_logits_that_are_no_numbers_are_no_fault() -> None:
    zero = tiny_model("llama")
    torch.nn.init.zeros_(zero.lm_head.weight)
    with opened(zero) as held:
        assert held.facts["copy_control"]["weight"] == "lm_head.weight"
        assert held.facts["copy_control"]["moved"] > 0
    broken = tiny_model("llama")
    broken.model.norm.weight.data[3] = float("nan")
    with opened(broken) as held:
        assert held.facts["copy_control"]["moved"] is None


def test_experts_that_no_token_is_sent_to_are_no_fault() -> None:
    model = tiny_model("llama")
    idle = torch.nn.Linear(32, 32)
    idle.register_forward_hook(lambda module, args, out: out)
    model.model.idle = idle
    with opened(model) as held:
        assert held.facts["copy_control"]["modules"] == []


def test_a_hook_is_measured_and_its_module_is_on_record() -> None:
    plain, model = tiny_model("gpt2"), tiny_model("gpt2")
    model.transformer.h[0].attn.c_attn.register_forward_hook(lambda module, args, out: out * 1.5)
    with opened(plain) as one, opened(model) as other, one.running():
        assert not torch.equal(one.model(IDS).logits, other.model(IDS).logits), "the hook is on the copy"
        assert torch.allclose(other.model(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-4)
        (entry,) = other.facts["copy_control"]["modules"]
        assert entry["module"] == "transformer.h.0.attn.c_attn"
        assert entry["weight"] == "transformer.h.0.attn.c_attn.weight"
        assert entry["moved"] > 0
    with opened(plain, "int8") as one, opened(model, "int8") as other:
        assert other.facts["quantized_modules"] == one.facts["quantized_modules"] == 8
        rounded = one.model.transformer.h[0].attn.c_attn.weight, other.model.transformer.h[0].attn.c_attn.weight
        assert torch.equal(rounded[0], rounded[1].T)


def test_a_candidate_copied_from_the_resident_reference_has_the_control_too() -> None:
    model = tiny_model("llama")
    with opened(model) as reference:
        for name in ("bf16", "int8", "fp32:attention=eager"):
            with opened(model, name, reference) as held:
                assert held.facts["copy_control"]["moved"] > 0
        weight = reference.model.lm_head.weight
        before = {n: t.clone() for n, t in reference.model.state_dict().items()}
        reference.model.lm_head.register_forward_hook(lambda module, args, out: args[0].float() @ weight.T)
        with (
            pytest.raises(VariantError, match=r"bf16: its copy reads lm_head\.weight"),
            opened(model, "bf16", reference),
        ):
            pass
        assert all(torch.equal(t, before[n]) for n, t in reference.model.state_dict().items())
    study = run(model, prompts_per_job=1)
    assert study.environment["generation"]["resident"] == "every variant"
    assert all(v["copy_control"]["moved"] > 0 for v in study.environment["variants"].values())


def test_files_need_no_control(saved: Any) -> None:
    with loaded(checkpoints.find(str(saved("llama"))), parse_variants("bf16")[0]) as held:
        assert "copy_control" not in held.facts


def test_autocast_around_the_call_is_off_and_inside_the_model_refused() -> None:
    model = tiny_model("llama")
    plain = run(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(model)
    assert (plain.positions["kl"].to_numpy() == inside.positions["kl"].to_numpy()).all()
    model.forward = types.MethodType(torch.autocast("cpu", dtype=torch.bfloat16)(type(model).forward), model)
    with pytest.raises(
        dd.InputError, match=r"fp32: it computes under torch\.autocast, .* of the model; give the model"
    ):
        run(model)


def picky(graph: Any, inputs: list[Any]) -> Any:
    if any(isinstance(t, torch.Tensor) and t.dtype == torch.bfloat16 for t in inputs):
        raise RuntimeError("no bf16 here")
    return graph


def part_compiled(model: Any) -> Any:
    model.model.layers[0].mlp = torch.compile(model.model.layers[0].mlp, backend=picky, dynamic=True)
    return model


def whole_compiled(model: Any) -> Any:
    return torch.compile(model, backend=picky, dynamic=True)


@pytest.mark.parametrize("wrap", [part_compiled, pytest.param(whole_compiled, marks=pytest.mark.slow)])
def test_what_is_compiled_is_measured_and_what_cannot_be_compiled_fails_alone(wrap: Callable[[Any], Any]) -> None:
    study = run(wrap(tiny_model("llama")), max_new_tokens=2)
    (failure,) = study.failures.to_dict("records")
    assert failure["variant"] == "bf16"
    assert failure["error"].startswith("bf16: cannot be compiled (backend='picky' raised: RuntimeError: no bf16 here")
    plain = run("llama", candidates=["int8"], max_new_tokens=2)
    assert kl(study) == kl(plain)
    assert kl(study)["int8"] > 0


def test_a_backend_that_cannot_compile_the_reference_ends_the_run_in_one_line() -> None:
    def never(graph: Any, inputs: list[Any]) -> Any:
        raise RuntimeError("not today")

    with pytest.raises(dd.InputError, match=r"the reference cannot run: fp32: cannot be compiled .*not today"):
        run(torch.compile(tiny_model("llama"), backend=never))


def test_a_model_whose_own_code_fails_ends_the_run_in_one_line() -> None:
    model = tiny_model("llama")
    model.lm_head.register_forward_pre_hook(lambda module, args: args[7])
    with pytest.raises(dd.InputError, match="the reference cannot run: fp32: IndexError: tuple index out of range"):
        run(model)


def offloaded(model: Any) -> None:
    model.lm_head.to("meta")


def uncopyable(model: Any) -> None:
    model.lock = threading.Lock()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (offloaded, "1 of its weights are not in memory .offloaded., for example lm_head.weight; load it whole"),
        (uncopyable, "cannot be copied .cannot pickle '_thread.lock' object.; give one"),
    ],
)
def test_where_no_copy_can_be_made_one_line_says_so(spoil: Callable[[Any], None], said: str) -> None:
    model = tiny_model("llama")
    spoil(model)
    with pytest.raises(dd.InputError, match=f"^the given model:? {said}"):
        run(model)


def test_weights_that_are_computed_as_the_model_runs() -> None:
    model = tiny_model("llama")
    parametrizations.weight_norm(model.model.layers[0].mlp.up_proj)
    study = run(model, candidates=["bf16", "int8"])
    (failure,) = study.failures.to_dict("records")
    assert failure["error"] == (
        "int8: the weight of model.layers.0.mlp.up_proj is computed as it runs; remove the parametrization"
    )
    assert kl(study)["bf16"] > 0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_of_peft_is_measured(family: str) -> None:
    peft = pytest.importorskip("peft")
    target = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn"]}[family]
    torch.manual_seed(0)
    settings = peft.LoraConfig(target_modules=target, r=4, init_lora_weights=False, task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny_model(family), settings)
    plain = copy.deepcopy(model).merge_and_unload()
    study = run(model)
    assert study.failures.empty, study.failures.to_string()
    assert study.environment["variants"]["bf16"]["copy_control"]["weight"].endswith(NORMS[family])
    assert kl(study)["bf16"] == pytest.approx(kl(run(plain))["bf16"], rel=0.5)


@pytest.mark.parametrize("part", ["", "model.layers.0.mlp"])
def test_what_is_compiled_in_place_is_refused_as_no_copy_takes_it_over(part: str) -> None:
    model = tiny_model("llama")
    model.get_submodule(part).compile(backend="eager")
    with pytest.raises(
        dd.InputError, match=rf"{part or 'the given model'}: compiled in place .* torch\.compile\(model\)"
    ):
        run(model)


def test_every_variant_of_a_compiled_model_is_compiled_whatever_came_before() -> None:
    """Copies share one code, for which dynamo by itself gives up after 8 recompilations, with a line of log."""
    runs: dict[torch.dtype, int] = {}

    def counting(graph: Any, inputs: list[Any]) -> Any:
        def forward(*values: Any) -> Any:
            kinds = {v.dtype for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()}
            runs[min(kinds, key=lambda t: t.itemsize)] = runs.get(min(kinds, key=lambda t: t.itemsize), 0) + 1
            return graph.forward(*values)

        return forward

    model = tiny_model("llama")
    model.model.layers[0].mlp = torch.compile(model.model.layers[0].mlp, backend=counting, dynamic=True)
    study = run(model, candidates=["fp64", "int8", "bf16", "fp16"])
    assert study.failures.empty, study.failures.to_string()
    assert min(runs[torch.bfloat16], runs[torch.float16]) > 3, runs
    assert torch._dynamo.config.recompile_limit == 8, "the caller's settings are as they were"
