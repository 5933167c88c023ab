"""Two models in memory: the other is copied, read by the reference's tokens, and left as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config, tiny_model, tiny_tokenizer

import decodedrift as dd
from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError
from decodedrift.experiments.running import resume

ASKED: dict[str, Any] = {
    "prompts": ["w1 w2 w3", "w5 w8"],
    "strategies": ["greedy"],
    "max_new_tokens": 6,
    "default_text": False,
    "noise_floor": False,
}


def other(by: float = 0.01) -> Any:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight.add_(by * torch.linspace(-1, 1, 32))
        model.lm_head.weight[7] *= 1 + by
    return model


def compared(**asked: Any) -> dd.Study:
    return dd.compare(tiny_model("llama"), tokenizer=tiny_tokenizer(), **ASKED | asked)


def test_a_live_candidate_is_what_the_same_weights_in_a_folder_are(tmp_path: Path) -> None:
    model, reference = other(), tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    asked = {"live": model, "folder": str(tmp_path / "other"), "half": "bf16", "b": f"{tmp_path}/other:precision=bf16"}
    study = dd.compare(reference, tokenizer=tiny_tokenizer(), candidates=asked | {"same": reference}, **ASKED)
    assert study.failures.empty, study.failures.to_string()
    kl = study.summary.set_index("candidate")["kl_mean"]
    assert kl["live"] == kl["folder"] > 0 == kl["same"]
    assert kl["half"] == compared(candidates=["bf16"]).summary.set_index("candidate")["kl_mean"]["bf16"]
    assert kl["b"] not in (kl["live"], kl["half"])
    plan = {c["name"]: c for c in study.plan["candidates"]}
    assert list(plan) == [*asked, "same"]
    assert plan["live"]["model"] == "in memory" and plan["live"]["precision"] == plan["live"]["compute"] == "fp32"
    facts = study.environment["variants"]
    assert facts["live"]["copy_control"]["moved"] > 0 and facts["live"]["weight_dtypes"].keys() == {"fp32"}
    assert study.environment["checkpoints"]["live"]["kind"] == "memory"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.lm_head.weight.dtype == torch.float32 and model.training == reference.training


def test_beside_a_reference_that_has_a_name(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    study = dd.compare(tmp_path / "base", candidates={"other": other(), "same": tiny_model("llama")}, **ASKED)
    kl = study.summary.set_index("candidate")["kl_mean"]
    assert kl["other"] > 0 == kl["same"]


def test_only_where_the_models_are_does_a_run_go_on(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    asked = ASKED | {"out": tmp_path / "run"}
    study = dd.compare(tmp_path / "base", candidates={"other": other()}, **asked)
    again = dd.compare(tmp_path / "base", candidates={"other": other()}, **asked, resume=True)
    assert again.summary.equals(study.summary)
    with pytest.raises(InputError, match=r"holds another run: checkpoints other files in memory differs"):
        dd.compare(tmp_path / "base", candidates={"other": other(0.02)}, **asked, resume=True)
    with pytest.raises(
        InputError, match=r"candidates='?other'?: was a model in memory, which no folder keeps; give it"
    ):
        dd.compare(tmp_path / "base", candidates=study.plan["candidates"], **ASKED)


class Dying(Progress):
    def start(self, variant: str, what: str, tokens: int) -> None:
        if variant == "other":
            raise KeyboardInterrupt


def test_a_folder_alone_does_not_bring_it_back(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    asked = ASKED | {"candidates": {"other": other()}, "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        dd.compare(tmp_path / "base", **asked, progress=Dying())
    with pytest.raises(InputError, match=r"this run's candidate other was a model in memory; go on where it is: comp"):
        resume(tmp_path / "run")


def test_what_is_wrong_speaks_of_candidates() -> None:
    def refused(said: str, **candidates: Any) -> None:
        with pytest.raises(InputError, match=said) as error:
            compared(candidates=candidates)
        assert "\n" not in str(error.value)

    from transformers import AutoModelForCausalLM

    refused(r"^candidates=.*x.*: a transformers model or a text, not '3'", x=3)
    refused(r"^candidates=.*x.*: one variant, not 2 .'fp32:batch_size=1/2'.", x="fp32:batch_size=1/2")
    refused(r"'bf61' is neither an existing folder or .gguf file", x="bf61")
    refused(r"^'fp32' is the reference and cannot be a candidate", fp32=other())
    narrow = AutoModelForCausalLM.from_config(tiny_config("llama", 90))
    refused(r"^candidates=.*x.*: has 90 token ids, and the reference's tokenizer 96$", x=narrow)
    offloaded = other().to("meta")
    refused(r"^candidates=.*x.*: the given model: \d+ of its weights are not in memory", x=offloaded)
    hooked = other()
    hooked.register_forward_hook(lambda module, inputs, output, kept=hooked: output)
    refused(r"^candidates=.*x.*: the given model: a hook on it .* holds the model itself", x=hooked)
    with pytest.raises(InputError, match=r"candidates=: give at least one"):
        compared(candidates={})
    with pytest.raises(InputError, match=r"candidates=: a name must be a non-empty text, not 3"):
        compared(candidates={3: copy.deepcopy(other())})


def test_a_variant_in_plain_form_is_still_one() -> None:
    study = compared(candidates={"name": "half", "precision": "bf16"})
    assert study.answer["candidate"].tolist() == ["half"]
