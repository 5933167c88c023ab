"""LoRA adapters: their logits are peft's own, merged ones those of weights that were added by hand."""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_tokenizer
from packing import bitsandbytes, compressed, kept, small
from safetensors.torch import load_file, save_file
from torch import Tensor
from tuning import ALPHA, MODULES, RANK, base, edit, tuned

import decodedrift as dd
from decodedrift.core.records import InputError, VariantError
from decodedrift.core.settings import make_settings
from decodedrift.experiments.compare.settings import CompareSettings
from decodedrift.experiments.compare.verdict import checkpoints as checkpoint_words
from decodedrift.models import budget
from decodedrift.models.knobs import check as check_knobs
from decodedrift.models.load import loaded
from decodedrift.models.sources import adapter, checkpoints
from decodedrift.models.sources.identity import weight_hashes
from decodedrift.models.sources.stored import resolved
from decodedrift.models.variants import parse_variants
from decodedrift.runs.prepare import prepare

ASKED: dict[str, Any] = {
    "prompts": ["w1 w2 w3", "w5 w8"],
    "strategies": ["greedy"],
    "max_new_tokens": 6,
    "default_text": False,
    "noise_floor": False,
}
LAYERS = 2
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(base, its adapter)."""
    place = tmp_path_factory.mktemp("lora")
    return base(place / "base"), tuned(place / "tuned", place / "base")


def run(source: str, reference: str = "fp32") -> tuple[Tensor, Any]:
    """(logits of four tokens, facts) of a candidate."""
    (variant,) = parse_variants(f"c={source}", parse_variants(reference)[0])
    checkpoint = checkpoints.find(str(variant.model))
    variant = resolved(variant, checkpoint, parse_variants(reference)[0])
    check_knobs(variant, checkpoint)
    with loaded(checkpoint, variant) as model:
        state = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
        return model.probe(), model.facts | {"state": state}


def by_hand(folders: tuple[Path, Path], name: str, kind: torch.dtype) -> Tensor:
    """W + s B A in float32, of weights read as a type."""
    plain, matrices = load_file(folders[0] / "model.safetensors"), load_file(folders[1] / WEIGHTS)
    a, b = (matrices[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    return plain[f"{name}.weight"].to(kind).float() + ALPHA / RANK * (b @ a)


def names(merged: dict[str, Tensor]) -> list[str]:
    return [n.removesuffix(".weight") for n in merged if any(n.endswith(f"{m}.weight") for m in MODULES)]


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp64"])
def test_beside_its_base_an_adapter_gives_pefts_own_logits(folders: tuple[Path, Path], kind: str) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[kind]
    own = AutoModelForCausalLM.from_pretrained(folders[0], dtype=dtype)
    own = peft.PeftModel.from_pretrained(own, folders[1]).eval()
    with torch.inference_mode():
        expected = own(input_ids=torch.arange(1, 5)[None], use_cache=False).logits
        without = own.get_base_model()
        with own.disable_adapter():
            without = own(input_ids=torch.arange(1, 5)[None], use_cache=False).logits
    logits, facts = run(f"{folders[0]}+{folders[1]}:precision={kind}")
    assert torch.allclose(logits, expected, rtol=0, atol=1e-6) if kind == "fp64" else torch.equal(logits, expected)
    assert (logits - without).abs().max() > 0.01
    modules = LAYERS * len(MODULES)
    assert facts["adapter"] == {
        "rank": RANK, "alpha": ALPHA, "scaling": ALPHA / RANK, "modules": modules, "zero_modules": 0,
        "parameters": LAYERS * RANK * (64 + 64 + 64 + 32 + 128 + 64), "merge": "none", "merged": False,
        "dtypes": ["fp64" if kind == "fp64" else "fp32"],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_merged_in_float32_it_is_rounded_once(folders: tuple[Path, Path], kind: str) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
    _, facts = run(f"{folders[1]}:merge=fp32,precision={kind}")
    merged = facts["state"]
    assert len(names(merged)) == LAYERS * len(MODULES)
    for name in names(merged):
        assert torch.equal(merged[f"{name}.weight"], by_hand(folders, name, torch.float32).to(dtype)), name
    assert facts["adapter"]["merge"] == "fp32" and facts["adapter"]["merged"]
    assert facts["weight_dtypes"].keys() == {kind}
    wide = run(f"{folders[1]}:merge=fp32,precision=fp32")[1]["state"].values()
    lost = sum(int((t.to(dtype).float() != t).sum()) for t in wide) / sum(t.numel() for t in wide)
    assert facts["rounded_share"] == pytest.approx(lost, abs=1e-12), "of what was merged, and not of its base"
    assert kind == "fp32" or lost > 0.9
    assert run(f"{folders[1]}:merge=fp32,precision=fp32,layercast=bf16")[1]["rounded_share"] is None, "nobody counted"


def test_merged_as_stored_it_is_rounded_to_the_bases_own_type(tmp_path: Path) -> None:
    pair = base(tmp_path / "base", torch.bfloat16), tuned(tmp_path / "tuned", tmp_path / "base")
    _, told = run(f"{pair[1]}:merge=stored")
    assert told["rounded_share"] is None, "its weights were rounded as they were added"
    merged = told["state"]
    single = run(f"{pair[1]}:merge=fp32")[1]["state"]
    for name in names(merged):
        expected = by_hand(pair, name, torch.bfloat16)
        assert torch.equal(merged[f"{name}.weight"], expected.to(torch.bfloat16).float()), name
        assert torch.equal(single[f"{name}.weight"], expected), name
        assert not torch.equal(single[f"{name}.weight"], merged[f"{name}.weight"]), "bf16 rounds"


def test_merged_or_not_is_a_matter_of_rounding(folders: tuple[Path, Path]) -> None:
    def apart(kind: str) -> float:
        ways = [run(f"{folders[1]}:merge={merge},precision={kind}")[0].double() for merge in ("none", "fp32")]
        return float((ways[0] - ways[1]).abs().max())

    assert 0 < apart("fp64") < 1e-12 < 1e-3 < apart("bf16")


def test_int8_of_an_adapted_model_rounds_the_base_alone(folders: tuple[Path, Path]) -> None:
    import peft

    plain = run(f"{folders[0]}:precision=int8")[1]
    facts = run(f"{folders[1]}:precision=int8")[1]
    assert facts["quantized_modules"] == plain["quantized_modules"] == LAYERS * 7
    assert facts["quantized_parameters"] == plain["quantized_parameters"]
    state = facts["state"]
    for name in names(load_file(folders[0] / "model.safetensors")):
        rounded = plain["state"][f"{name}.weight"]
        assert torch.equal(state[f"{name}.base_layer.weight"], rounded)
    for name, matrix in load_file(folders[1] / WEIGHTS).items():
        path = name.removeprefix("base_model.model.").removesuffix(".weight")
        assert torch.equal(state[f"{path}.default.weight"], matrix), "as it is"
    merged = run(f"{folders[1]}:precision=int8,merge=fp32")[1]
    assert merged["quantized_modules"] == LAYERS * 7
    model = peft.PeftModel.from_pretrained(small(), folders[1])
    study = dd.compare(model, tokenizer=tiny_tokenizer(), candidates=["int8"], **ASKED)
    assert study.environment["variants"]["int8"]["quantized_modules"] == LAYERS * 7
    assert study.environment["variants"]["int8"]["adapter"]["rank"] == RANK


def test_a_trained_copy_is_rounded_in_place_of_what_it_replaces_and_the_head_never(tmp_path: Path) -> None:
    plain = base(tmp_path / "base")
    more = {"modules_to_save": ["up_proj"], "target_modules": [*MODULES, "lm_head"]}
    facts = run(f"{tuned(tmp_path / 'tuned', plain, **more)}:precision=int8")[1]
    assert facts["quantized_modules"] == LAYERS * 7
    own = load_file(plain / "model.safetensors")
    assert torch.equal(facts["state"]["lm_head.base_layer.weight"], own["lm_head.weight"])


def test_all_ways_stand_side_by_side_and_resume(folders: tuple[Path, Path], tmp_path: Path) -> None:
    again = shutil.copytree(folders[1], tmp_path / "again")
    zero = tuned(tmp_path / "zero", folders[0], zero=True)
    sources = [f"a={folders[1]}", f"b={folders[1]}:merge=fp32,c={folders[0]}+{folders[1]}:merge=stored", f"z={zero}"]
    asked = {"candidates": [*sources, f"again={again}"], "out": tmp_path / "run", **ASKED}
    study = dd.compare(folders[0], **asked)
    assert study.failures.empty, study.failures.to_string()
    kl = study.summary.set_index("candidate")["kl_mean"]
    assert kl["a"] > 1e-3 and kl["b"] == pytest.approx(kl["a"], rel=1e-3) == kl["c"]
    assert kl["z"] == 0 and kl["again"] == kl["a"]
    facts = study.environment["checkpoints"]
    assert facts["a"]["files"] == facts["again"]["files"] != facts["z"]["files"]
    assert facts["a"]["files"].keys() == {"model.safetensors", "adapter_config.json", WEIGHTS}
    assert study.environment["model"]["files"]["model.safetensors"] == facts["a"]["files"]["model.safetensors"]
    said = " ".join(study.verdict)
    assert "a is a base with a LoRA adapter (rank 4, scaling 2, on 6 modules), run beside its weights" in said
    assert (
        "b is a base with a LoRA adapter (rank 4, scaling 2, on 6 modules), merged into its weights in float32" in said
    )
    assert "run beside its weights; the products of all of them are zero." in said
    assert dd.compare(folders[0], **asked, resume=True).summary.equals(study.summary)
    tuned(again, folders[0], lora_alpha=2)
    with pytest.raises(InputError, match=r"holds another run: .*checkpoints again files"):
        dd.compare(folders[0], **asked, resume=True)


def test_merged_in_float32_it_loads_in_as_much_memory(folders: tuple[Path, Path]) -> None:
    names = {merge: f"m-{merge}={folders[0]}+{folders[1]}:precision=bf16,merge={merge}" for merge in ("fp32", "none")}
    settings = make_settings(CompareSettings, ASKED | {"model": str(folders[0]), "candidates": list(names.values())})
    world = prepare(settings).world
    count = world.checkpoint.parameters
    sizes = {
        c.knobs["merge"]: (budget.weight_bytes(world, c), budget.loading_bytes(world, c)) for c in world.plan.candidates
    }
    assert sizes == {"fp32": (2 * count, 4 * count), "none": (2 * count, 2 * count)}


def test_as_the_model_itself(folders: tuple[Path, Path]) -> None:
    study = dd.compare(str(folders[1]), candidates=["fp32:merge=fp32", "bf16", "bf16:merge=stored"], **ASKED)
    assert study.failures.empty, study.failures.to_string()
    facts = study.environment["variants"]
    assert [facts[name]["adapter"]["merged"] for name in facts if name in study.summary["candidate"].tolist()]
    assert facts["bf16"]["adapter"]["dtypes"] == ["fp32"], "as peft keeps them"
    kl = study.summary.set_index("candidate")["kl_mean"]
    assert 0 <= kl["fp32:merge=fp32"] < 1e-8 < kl["bf16"]


def test_its_files_are_its_identity(folders: tuple[Path, Path]) -> None:
    found = checkpoints.find(f"{folders[0]}+{folders[1]}")
    assert weight_hashes(found).keys() - weight_hashes(checkpoints.find(str(folders[0]))).keys() == {
        "adapter_config.json",
        WEIGHTS,
    }
    assert found.adapter is not None and found.adapter.base == str(folders[0])


def test_what_is_wrong_is_one_line(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Path | str, said: str) -> None:
        with pytest.raises(InputError, match=said) as error:
            run(str(source))
        assert "\n" not in str(error.value)

    def changed(**values: Any) -> Path:
        copy = tmp_path / f"changed-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folders[1], copy)
        edit(copy, **values)
        return copy

    other = kept(small(hidden_size=96, head_dim=24), tmp_path / "wide")
    refused(
        f"{other}+{folders[1]}", r"does not fit .*wide: .*lora_B.weight is \[64, 4\], and would have to be \[96, 4\]$"
    )
    longer = tuned(tmp_path / "longer", folders[0], model=small(num_hidden_layers=3))
    refused(longer, r"which has no place for .*layers\.2\.")
    shorter = tuned(tmp_path / "shorter", folders[0], model=small(num_hidden_layers=1))
    refused(shorter, r"its weights lack 6 matrices, for example .*layers\.1\.")
    refused(changed(target_modules=["c_attn"]), r"does not fit its base .*c_attn")
    refused(changed(peft_type="IA3"), r"an adapter of type IA3; only LoRA adapters can be read")
    refused(changed(task_type="SEQ_CLS"), r"an adapter for SEQ_CLS, not for causal language models")
    refused(changed(base_model_name_or_path=None), r"names no base .base_model_name_or_path.; write BASE\+ADAPTER")
    refused(
        changed(base_model_name_or_path="./gone"),
        r"its base, which its configuration names; or write BASE\+ADAPTER: ./gone",
    )
    refused(f"{folders[1]}+{folders[1]}", r"its base .* is an adapter itself")
    refused(f"{folders[0]}+{folders[0]}", r"no adapter .no adapter_config.json in it.; write BASE\+ADAPTER")
    refused(f"{folders[0]}:merge=fp32", r"merge=fp32: belongs to a LoRA adapter, NAME=BASE\+ADAPTER:merge=")
    with pytest.raises(InputError, match=r"merge must be one of none, fp32, stored"):
        parse_variants(f"c={folders[1]}:merge=twice")
    bare = changed()
    (bare / WEIGHTS).rename(bare / "kept")
    refused(bare, r"no adapter_model.safetensors beside its adapter_config.json$")
    torch.save(load_file(bare / "kept"), bare / "adapter_model.bin")
    refused(bare, r"only pickled weights .adapter_model.bin.*--allow-pickle$")
    assert checkpoints.find(str(bare), allow_pickle=True).adapter is not None
    cut = changed()
    (cut / WEIGHTS).write_bytes((cut / WEIGHTS).read_bytes()[:-100])
    refused(cut, r"not a readable safetensors file")
    monkeypatch.setattr(adapter.importlib.util, "find_spec", lambda name: None)
    refused(folders[1], r"a LoRA adapter, which needs peft: pip install 'decodedrift\[lora\]'$")


def test_what_pefts_own_imports_say_is_held_back(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Loud:
        """Stands where peft is looked for."""

        def find_spec(self, name: str, *args: Any) -> None:
            if name == "peft":
                logging.getLogger("torchao").warning("Failed to load a library")
                raise ModuleNotFoundError(name)

    found = checkpoints.find(str(folders[1]))
    assert found.adapter is not None
    monkeypatch.delitem(sys.modules, "peft")
    monkeypatch.setattr(sys, "meta_path", [Loud(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError):
        adapter.check(found.adapter, replace(found, adapter=None))
    with pytest.raises(VariantError, match="cannot be put on its base"):
        adapter.attached(small(), found.adapter, None, torch.float32, "c")
    assert not caplog.records
    with pytest.raises(ModuleNotFoundError):
        import peft  # noqa: F401
    assert [record.getMessage() for record in caplog.records] == ["Failed to load a library"]


def test_trained_embeddings_are_loaded_and_others_widths_refused(tmp_path: Path) -> None:
    plain = base(tmp_path / "base")
    own = tuned(tmp_path / "own", plain, modules_to_save=["embed_tokens", "lm_head"])
    matrices = load_file(own / WEIGHTS)
    name = next(n for n in matrices if n.endswith("lm_head.weight"))
    matrices[name] = matrices[name] * 2
    save_file(matrices, own / WEIGHTS, {"format": "pt"})
    logits = run(str(own))[0]
    assert torch.allclose(logits, run(str(tuned(tmp_path / "same", plain)))[0] * 2, rtol=1e-5)
    model = small()
    model.resize_token_embeddings(model.config.vocab_size + 2)
    more = tuned(tmp_path / "more", plain, model=model, modules_to_save=["embed_tokens", "lm_head"])
    with pytest.raises(InputError, match=r"does not fit .* is \[98, 64\], and would have to be \[96, 64\]$"):
        checkpoints.find(str(more))


def test_a_quantized_base_is_merged_as_peft_does_it(tmp_path: Path) -> None:
    folder = bitsandbytes(tmp_path / "four", 4)
    on_top = tuned(tmp_path / "tuned", folder)
    logits, facts = run(f"{on_top}")
    assert facts["quantized_modules"] == LAYERS * 7 and not facts["adapter"]["merged"]
    merged, facts = run(f"{on_top}:merge=stored")
    assert facts["quantized_modules"] == LAYERS * 7 and facts["adapter"]["merged"]
    assert (logits - merged).abs().max() > 1e-3
    with pytest.raises(InputError, match=r"merge=fp32: its base is quantized .bitsandbytes.; choices: none, stored$"):
        run(f"{on_top}:merge=fp32")


def test_merged_into_a_tied_matrix_it_moves_the_end_that_it_is_of_alone(tmp_path: Path) -> None:
    """peft merges an adapter of the embedding into the head too, where they are one matrix."""
    import peft
    from transformers import AutoModelForCausalLM

    folder = kept(small(tie_word_embeddings=True), tmp_path / "base")
    asked = {"target_modules": ["embed_tokens", "q_proj"], "model": small(tie_word_embeddings=True)}
    own = tuned(tmp_path / "tuned", folder, **asked)
    beside, facts = run(f"{own}:precision=fp64")
    assert "untied" not in facts["adapter"]
    merged, facts = run(f"{own}:precision=fp64,merge=fp32")
    assert facts["adapter"]["untied"] and facts["adapter"]["merged"]
    assert float((beside - merged).abs().max()) < 1e-12
    tied = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    tied = peft.PeftModel.from_pretrained(tied, own).merge_and_unload().eval()
    with torch.inference_mode():
        assert float((tied(input_ids=torch.arange(1, 5)[None]).logits - beside).abs().max()) > 1e-3
    elsewhere = tuned(tmp_path / "elsewhere", folder, model=small(tie_word_embeddings=True))
    assert "untied" not in run(f"{elsewhere}:merge=fp32")[1]["adapter"]
    said = checkpoint_words._adapted("c", facts["adapter"])
    assert "in float32, or wider where it runs so, its head untied from its embedding first" in said


def test_dora_and_modules_trained_whole_are_said(tmp_path: Path) -> None:
    plain = base(tmp_path / "base")
    facts = run(str(tuned(tmp_path / "dora", plain, use_dora=True)))[1]["adapter"]
    assert facts["dora_modules"] == LAYERS * len(MODULES)
    assert facts["parameters"] == LAYERS * (RANK * (64 + 64 + 64 + 32 + 128 + 64) + 64 + 32 + 64), "lengths too"
    assert checkpoint_words._adapted("d", facts).startswith("d is a base with a DoRA adapter (rank 4, scaling 2, on 6 ")
    facts = run(str(tuned(tmp_path / "whole", plain, modules_to_save=["lm_head"])))[1]["adapter"]
    assert facts["replaced"] == ["lm_head"]
    assert checkpoint_words._adapted("w", facts).endswith("run beside its weights; lm_head is replaced whole.")


def test_a_base_that_is_unpacked_as_it_loads_takes_an_adapter_beside_it(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = compressed(tmp_path / "packed", 8)
    own = tuned(tmp_path / "tuned", folder)
    logits, facts = run(str(own))
    assert facts["quantized_modules"] == LAYERS * 7 and not facts["adapter"]["merged"]
    expanded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    matrices = load_file(own / WEIGHTS)
    with torch.inference_mode():
        without = expanded(input_ids=torch.arange(1, 5)[None]).logits
        for name, module in expanded.named_modules():
            if name.endswith(MODULES):
                a, b = (matrices[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
                module.weight.copy_(module.weight + ALPHA / RANK * (b @ a))
        by_hand = expanded(input_ids=torch.arange(1, 5)[None]).logits
    torch.testing.assert_close(logits, by_hand, rtol=1e-4, atol=1e-4)
    assert float((logits - without).abs().max()) > 0.01
    with pytest.raises(InputError, match=r"merge=fp32: its base is quantized .compressed-tensors.; choices: none$"):
        run(f"{own}:merge=fp32")


def test_what_pefts_import_says_is_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    talk = "import logging, warnings\nlogging.getLogger('torchao').warning('no library')\nwarnings.warn('old')\n"
    (tmp_path / "peft.py").write_text(f"{talk}logging.getLogger('torch.utils._pytree').warning('enum')\nHERE = 1\n")
    monkeypatch.delitem(sys.modules, "peft")
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert adapter._peft().HERE == 1
    assert not caplog.records and not said
