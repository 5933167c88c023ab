"""Which path a run takes: what transformers breaks silently is caught, and the plainer path gives the true tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, tiny_model, tiny_tokenizer
from running import LEAN

import decodedrift as dd
from decodedrift.core.records import VariantError
from decodedrift.core.versions import untested
from decodedrift.models import calling, probe
from decodedrift.models.load import Loaded, loaded
from decodedrift.models.probe import needed
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.text.vocabulary import Vocabulary, vocabulary
from decodedrift.models.variants import parse_variants

PROMPTS = ["w1 w2 w3", "w9", "w30 w31 w32 w33 w34"]


@contextmanager
def opened(model: Any, variant: str = "fp32") -> Iterator[tuple[Loaded, Vocabulary]]:
    checkpoint = in_memory(model, tiny_tokenizer())
    (parsed,) = parse_variants(variant)
    with loaded(checkpoint, parsed) as ready:
        yield ready, vocabulary(checkpoint)


def patched(monkeypatch: pytest.MonkeyPatch, model: Any, change: Callable[[dict[str, Any]], Any]) -> None:
    """The class's forward with its arguments changed before, and the outputs after, as a release might do silently."""
    original = type(model).forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        after = change(kwargs)
        outputs = original(self, *args, **kwargs)
        return after(outputs) if after else outputs

    forward.__signature__ = __import__("inspect").signature(original)  # type: ignore[attr-defined]
    monkeypatch.setattr(type(model), "forward", forward)


def ignore_cache(kwargs: dict[str, Any]) -> Any:
    """The cache is lengthened, as it must be, and nothing that was in it is ever read."""
    name = next((k for k, v in kwargs.items() if hasattr(v, "get_seq_length")), None)
    if name is None:
        return None
    cache, ids = kwargs.pop(name), kwargs["input_ids"]
    kwargs.pop("attention_mask", None)
    kwargs.pop("position_ids", None)
    kwargs["use_cache"] = False

    def after(outputs: Any) -> Any:
        states = torch.zeros(ids.shape[0], 2, ids.shape[1], 8)
        for layer in range(2):
            cache.update(states, states, layer)
        outputs[name] = cache
        return outputs

    return after


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", ["fp32", "bf16", "fp64"])
def test_sound_families_take_the_first_path_that_their_cache_allows(family: str, variant: str) -> None:
    with opened(tiny_model(family), variant) as (model, vocab):
        path, reasons = needed(model, vocab, "shared")
    assert path == ("stock" if family == "mistral" else "shared"), reasons
    assert len(reasons) == (family == "mistral")
    assert all("DynamicSlidingWindowLayer" in reason for reason in reasons)


def test_a_cache_that_is_silently_ignored_is_caught_and_the_tokens_are_the_plain_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama")
    asked: dict[str, Any] = {"candidates": ["bf16"], "prompts": PROMPTS, "max_new_tokens": 6}
    sound = dd.compare(model, tokenizer=tiny_tokenizer(), **asked, **LEAN)
    patched(monkeypatch, model, ignore_cache)
    with opened(model) as (ready, vocab):
        ready.path = "shared"
        path, reasons = needed(ready, vocab, "shared")
        assert path == "plain"
        assert [r.split(":")[0] for r in reasons] == ["with a cache that is written in place", "with its own cache"]
        assert all("continues otherwise than it reads" in r for r in reasons)
    study = dd.compare(model, tokenizer=tiny_tokenizer(), **asked, **LEAN)
    assert study.environment["generation"]["path"] == "plain"
    assert set(study.environment["generation"]["path_reasons"]) == {"fp32"}
    own = [
        t.query("variant == 'fp32' and role == 'reference'")["token_ids"].tolist() for t in (sound.traces, study.traces)
    ]
    assert own[0] == own[1]
    assert not study.failed
    assert study.environment["variants"]["fp32"]["cache"] == ""


def test_without_the_probe_an_ignored_cache_would_change_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the control: what is caught above does matter."""
    model = tiny_model("llama")
    asked: dict[str, Any] = {"candidates": ["bf16"], "prompts": PROMPTS, "max_new_tokens": 6}
    sound = dd.compare(model, tokenizer=tiny_tokenizer(), **asked, **LEAN)
    patched(monkeypatch, model, ignore_cache)
    monkeypatch.setattr(probe, "needed", lambda loaded, vocab, path, batched: (path, []))
    study = dd.compare(model, tokenizer=tiny_tokenizer(), **asked, **LEAN)
    assert study.traces["token_ids"].tolist() != sound.traces["token_ids"].tolist()


def test_rows_that_do_not_cross_in_the_cache_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from decodedrift.models.kvcache import RoomyLayer

    monkeypatch.setattr(RoomyLayer, "reorder_cache", lambda self, parents: None)
    with opened(tiny_model("llama")) as (model, vocab):
        path, reasons = needed(model, vocab, "shared")
    assert path == "stock"
    assert "continues otherwise" in reasons[0]


def test_a_cache_of_its_own_that_mixes_rows_up_is_a_failure_of_its_variant_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.cache_utils import CacheLayerMixin, StaticLayer

    with opened(tiny_model("llama"), "fp32:cache=static") as (model, vocab):
        assert needed(model, vocab, "shared") == ("shared", []), "as it is, it is sound"
        monkeypatch.setattr(
            StaticLayer, "reorder_cache", lambda self, rows: CacheLayerMixin.reorder_cache(self, rows * 0)
        )
        with pytest.raises(VariantError, match="fp32:cache=static: cache=static: it continues otherwise than it reads"):
            needed(model, vocab, "shared")
    with opened(tiny_model("llama"), "fp32:kv=int4") as (model, vocab):
        assert needed(model, vocab, "shared") == ("shared", []), "what it rounds is no fault of a path"


@pytest.mark.parametrize("name", ["prepare_inputs_for_generation", "_update_model_kwargs_for_generation"])
def test_a_method_that_a_release_takes_away_leaves_the_plain_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GenerationMixin

    monkeypatch.delattr(GenerationMixin, name)
    with opened(tiny_model("gpt2")) as (model, vocab):
        path, reasons = needed(model, vocab, "shared")
        assert path == "plain"
        assert f"has no attribute '{name}'" in reasons[0]
        version = __import__("transformers").__version__
        assert f"with transformers {version}" in reasons[0]


def test_a_model_that_sees_what_follows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")

    def leak(kwargs: dict[str, Any]) -> Any:
        def after(outputs: Any) -> Any:
            outputs["logits"] = outputs["logits"] + kwargs["input_ids"].double().mean().to(outputs["logits"].dtype)
            return outputs

        return after

    patched(monkeypatch, model, leak)
    with opened(model) as (ready, vocab), pytest.raises(VariantError, match="no causal model"):
        needed(ready, vocab, "shared")
    with pytest.raises(dd.InputError, match=r"the reference cannot run: fp32: .*no causal model"):
        dd.compare(model, tokenizer=tiny_tokenizer(), candidates=["bf16"], prompts=PROMPTS, max_new_tokens=4, **LEAN)


@pytest.mark.parametrize(("in_float64", "refused"), [(0.0, False), (1e-9, False), (2e-5, True)])
def test_a_refusal_in_float32_is_decided_in_float64(
    in_float64: float, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a kernel that rounds one shape otherwise than the next."""
    model = tiny_model("gpt2")

    def rounding(kwargs: dict[str, Any]) -> Any:
        width = kwargs["input_ids"].shape[1]

        def after(outputs: Any) -> Any:
            off = {torch.float32: 2e-5, torch.float64: in_float64}[outputs["logits"].dtype]
            outputs["logits"] = outputs["logits"] * (1 + off * width)
            return outputs

        return after

    patched(monkeypatch, model, rounding)
    with opened(model) as (ready, vocab):
        if refused:
            with pytest.raises(VariantError, match="no causal model"):
                needed(ready, vocab, "shared")
        else:
            assert needed(ready, vocab, "shared") == ("shared", [])


def test_padding_that_is_read_as_text_is_refused_and_the_mend_works(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")

    def width(kwargs: dict[str, Any]) -> Any:
        mask = kwargs.get("attention_mask")
        padded = mask is not None and not bool(mask.all())

        def after(outputs: Any) -> Any:
            outputs["logits"] = outputs["logits"].flip(-1) if padded else outputs["logits"]
            return outputs

        return after

    patched(monkeypatch, model, width)
    asked: dict[str, Any] = {"candidates": ["bf16"], "prompts": PROMPTS, "max_new_tokens": 4, "strategies": ["greedy"]}
    with pytest.raises(dd.InputError, match=r"reads otherwise than alone: .*batch_size=1"):
        dd.compare(model, tokenizer=tiny_tokenizer(), **asked, **LEAN)
    assert not dd.compare(model, tokenizer=tiny_tokenizer(), batch_size=1, **asked, **LEAN).failed


def test_a_deviation_in_16_bits_is_decided_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    wide: list[Loaded] = []
    widened = probe._widened
    monkeypatch.setattr(probe, "_widened", lambda *given: wide.append(widened(*given)) or wide[-1])
    off = probe._off

    def doubtful(loaded: Loaded, pairs: Any, truth: Any, how: str, *tolerance: float) -> str | None:
        if loaded.variant.compute == "bf16" and how.startswith("it continues"):
            return how
        return off(loaded, pairs, truth, how, *tolerance)

    monkeypatch.setattr(probe, "_off", doubtful)
    with opened(tiny_model("llama"), "bf16") as (model, vocab):
        assert needed(model, vocab, "shared") == ("shared", [])
    assert wide
    assert {p.dtype for p in wide[0].model.parameters()} == {torch.float32}
    assert wide[0].variant.compute == "fp32"


def test_one_candidate_that_needs_a_plainer_path_takes_all_along(saved: Callable[..., Path], tmp_path: Path) -> None:
    """Its checkpoint keeps a window: the run's first job is run again, and rows of one path alone are kept."""
    llama, mistral = str(saved("llama")), str(saved("mistral"))
    asked: dict[str, Any] = {"prompts": PROMPTS, "max_new_tokens": 6, "strategies": ["greedy"]}
    study = dd.compare(llama, candidates=["bf16", f"other={mistral}"], out=tmp_path / "run", **asked, **LEAN)
    made = study.environment["generation"]
    assert made["path"] == "stock"
    assert set(made["path_reasons"]) == {"other"}
    assert not study.failed
    assert len(study.traces.query("variant == 'bf16'")) == len(PROMPTS)
    alone = dd.compare(llama, candidates=["bf16"], **asked, **LEAN)
    assert alone.environment["generation"]["path"] == "shared"
    fact = json.loads(next((tmp_path / "run" / "data/jobs").glob("*/facts.json")).read_text())
    assert fact["path"]["path"] == "stock"


def test_a_path_is_part_of_what_a_run_is(saved: Callable[..., Path]) -> None:
    """Jobs on disk hold a run to their path: a variant that would need another fails, and rows do not mix."""
    with opened(tiny_model("mistral")) as (model, vocab):
        route = probe.Route("shared", fixed=True)
        with pytest.raises(VariantError, match="'stock', and finished jobs of this run were on 'shared'"):
            route.admit(model, vocab, batched=True, first=True)
        held = probe.Route("plain", fixed=True)
        held.admit(model, vocab, batched=True, first=True)
        assert model.path == "plain"


@pytest.mark.parametrize("where", ["a token that the probe meets", "every logit"])
def test_what_breaks_a_model_is_no_matter_of_its_path(where: str) -> None:
    """A NaN spoils what stands beside it in some kernels and not in others: tokens are sought that have none."""
    model = tiny_model("llama")
    with opened(model) as (ready, vocab):
        token = probe._Probe(ready, vocab).texts[0][1]
    with torch.no_grad():
        if where == "every logit":
            model.lm_head.weight[3] = float("nan")
        else:
            model.model.embed_tokens.weight[token] = float("nan")
    with opened(model) as (ready, vocab):
        probed = probe._Probe(ready, vocab)
        assert needed(ready, vocab, "shared") == ("shared", [])
    assert (probed.truth == {}) == (where == "every logit")


@pytest.mark.parametrize(("version", "said"), [("5.3.0", False), ("5.24.1", False), ("5.25.0.dev0", True), ("5.2.9", True), ("6.0.0", True)])  # fmt: skip
def test_versions_outside_the_tested_ones_are_told(version: str, said: bool) -> None:
    assert bool(untested(version)) == said


def test_two_objects_that_could_be_the_cache_are_an_error() -> None:
    from transformers import DynamicCache

    with opened(tiny_model("gpt2")) as (model, _):
        cache = DynamicCache()
        assert calling.cache_of(model, {"a": cache, "b": {}, "c": cache}) is cache
        assert calling.cache_of(model, {"b": {}, "c": None}) is None
        with pytest.raises(VariantError, match="several KV caches"):
            calling.cache_of(model, {"a": cache, "b": DynamicCache()})


def test_the_path_is_in_the_verdict_where_it_is_not_the_first_choice() -> None:
    asked: dict[str, Any] = {"candidates": ["bf16"], "prompts": PROMPTS, "max_new_tokens": 4}
    sentence = (
        "All variants were read over the model's own kind of cache. The faster way does not fit fp32, with a cache "
    )
    assert any(
        s.startswith(sentence)
        for s in dd.compare(tiny_model("mistral"), tokenizer=tiny_tokenizer(), **asked, **LEAN).verdict
    )
    assert not any(
        "were read" in s for s in dd.compare(tiny_model("llama"), tokenizer=tiny_tokenizer(), **asked, **LEAN).verdict
    )


def test_a_library_that_fails_under_way_is_a_failure_of_the_candidate_with_the_version_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the probe could not see: the sixth token."""
    model = tiny_model("llama")

    def break_bf16(kwargs: dict[str, Any]) -> Any:
        name = next((k for k, v in kwargs.items() if hasattr(v, "get_seq_length")), None)
        cache = kwargs.get(name) if name else None
        if cache is not None and cache.get_seq_length() > 12 and cache.layers[0].keys.dtype == torch.bfloat16:
            raise KeyError("cache_position")
        return None

    patched(monkeypatch, model, break_bf16)
    study = dd.compare(
        model,
        tokenizer=tiny_tokenizer(),
        candidates=["bf16", "fp16"],
        prompts=PROMPTS,
        max_new_tokens=16,
        **LEAN,
    )
    (row,) = study.failures.to_dict("records")
    assert row["variant"] == "bf16"
    assert f"transformers {__import__('transformers').__version__}: KeyError: 'cache_position'" in row["error"]
    assert set(study.summary.query("role == 'candidate'")["candidate"]) == {"fp16"}
    with pytest.raises(dd.InputError, match=r"the reference cannot run: bf16: .*KeyError: 'cache_position'"):
        dd.compare(
            model,
            tokenizer=tiny_tokenizer(),
            reference="bf16",
            candidates=["fp16"],
            prompts=PROMPTS,
            max_new_tokens=16,
            **LEAN,
        )


def test_the_page_has_the_path_and_the_warnings() -> None:
    asked: dict[str, Any] = {"candidates": ["bf16"], "prompts": ["w1 w2 <|end|> w3"], "max_new_tokens": 4}
    page = dd.compare(tiny_model("mistral"), tokenizer=tiny_tokenizer(), **asked, **LEAN).to_html()
    assert "<dt>Read on the path</dt><dd><bdi>stock</bdi></dd>" in page
    assert "<dt>Warning</dt><dd><bdi>prompt " in page


@pytest.mark.parametrize("room", [True, False])
def test_a_fault_smaller_than_64_spacings_is_found_under_16_bits_too(
    room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the largest logit is a bound that real faults pass; where there is no room for float32 it is the only one."""
    model = tiny_model("llama")

    def stretch(kwargs: dict[str, Any]) -> Any:
        cache = next((v for v in kwargs.values() if hasattr(v, "get_seq_length")), None)
        known = cache.get_seq_length() if cache is not None else 0

        def after(outputs: Any) -> Any:
            outputs["logits"] = outputs["logits"] * (1.1 if known else 1.0)
            return outputs

        return after

    patched(monkeypatch, model, stretch)
    if not room:
        monkeypatch.setattr(probe, "available_memory", lambda device: 0)
    with opened(model, "bf16") as (ready, vocab):
        assert needed(ready, vocab, "shared")[0] == ("plain" if room else "shared")


def test_where_nothing_is_ever_padded_the_probe_pads_nothing_either() -> None:
    """RoBERTa's decoder takes positions from the padding: alone in its batch it has none."""
    model, masks = tiny_model("llama"), []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: masks.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    with opened(model) as (ready, vocab):
        masks.clear()
        needed(ready, vocab, "shared", batched=False)
        assert masks and all(m is None or bool((m == 1).all()) for m in masks)
        needed(ready, vocab, "shared", batched=True)
        assert any(m is not None and not bool((m == 1).all()) for m in masks)
