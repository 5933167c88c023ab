"""GGUF files run as the format's own definition reads them, whatever type their tensors have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import tiny_tokenizer
from packing import gguf_file, kept, small

import decodedrift as dd
from decodedrift.core.records import InputError
from decodedrift.models.load import loaded
from decodedrift.models.sources import checkpoints, quantized
from decodedrift.models.sources.stored import resolved
from decodedrift.models.variants import parse_variants

pytest.importorskip("gguf")
pytest.importorskip("accelerate")
ASKED = {"prompts": ["w1 w2 w3", "w5 w8"], "strategies": ["greedy"], "max_new_tokens": 6, "default_text": False}


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_0"])
def test_weights_are_those_of_the_formats_own_definition(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    expected = gguf_file(path, kind)
    (variant,) = parse_variants(f"g={path}")
    found = checkpoints.find(str(path))
    with loaded(found, resolved(variant, found, parse_variants("fp32")[0])) as model:
        state = model.model.state_dict()
        assert state.keys() == expected.keys()
        for name, weight in expected.items():
            assert torch.equal(state[name], weight), name
        facts = model.facts
    matrices = sum(w.dim() == 2 for w in expected.values())
    norms = len(expected) - matrices
    assert facts["tensor_types"] == ({kind: matrices, "F32": norms} if kind != "F32" else {"F32": len(expected)})
    assert facts["weight_dtypes"] == {"fp32": found.parameters}, "dequantized"
    share = sum(w.numel() for w in expected.values() if w.dim() == 2) / found.parameters
    assert facts["file_quantized_share"] == (pytest.approx(share) if kind != "F32" else 0.0)
    assert facts["format"] == "gguf" and facts["unpacked"]
    assert found.stored.keys() == ({kind, "F32"})


def test_as_a_candidate_and_as_the_model(tmp_path: Path) -> None:
    folder, path = kept(small(), tmp_path / "plain"), tmp_path / "model.gguf"
    gguf_file(tmp_path / "same.gguf", "F32", words=[])
    gguf_file(path, "Q4_0")
    study = dd.compare(folder, candidates=[f"same={tmp_path}/same.gguf", f"g={path}:precision=bf16"], **ASKED)
    kl = study.summary.set_index("candidate")["kl_mean"]
    assert kl["same"] == 0 < 1e-4 < kl["g"]
    assert study.environment["variants"]["g"]["weight_dtypes"].keys() == {"bf16"}
    assert any("g is a GGUF file" in s and "Q4_0" in s and "dequantized" in s for s in study.verdict)


def test_as_the_model_it_brings_its_tokenizer_and_can_be_cast(tmp_path: Path) -> None:
    """It is dequantized, so that every precision can be made of it."""
    letters = [chr(c) for c in range(33, 33 + 92)]
    gguf_file(path := tmp_path / "model.gguf", "Q8_0", ["<unk>", "<s>", "</s>", "\u2581", *letters])
    study = dd.compare(path, candidates=["bf16", "int8"], **ASKED | {"prompts": ["hello world", "a b"]})
    assert not len(study.failures)
    facts = study.environment["variants"]
    assert (facts["fp32"]["tensor_types"]["Q8_0"], facts["fp32"]["quantized_share"]) == (16, 0.0)
    assert facts["int8"]["quantized_share"] > 0.5
    assert 0 < facts["bf16"]["rounded_share"] < 1
    assert (study.summary.set_index("candidate")["kl_mean"][["bf16", "int8"]] > 0).all()
    assert study.environment["model"]["kind"] == "gguf"


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    folder, path = kept(small(), tmp_path / "plain"), tmp_path / "model.gguf"
    gguf_file(path, "F32")
    file = Path(folder) / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    vocab = content["model"]["vocab"]
    vocab["w1"], vocab["w2"] = vocab["w2"], vocab["w1"]
    file.write_text(json.dumps(content), "utf-8")
    with pytest.raises(InputError, match=r"another vocabulary than the reference .2 tokens differ"):
        dd.compare(folder, candidates=[f"g={path}"], **ASKED)


def test_what_is_wrong_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 40)
    with pytest.raises(InputError, match=r"broken.gguf.* (cannot be used|not a readable GGUF file)"):
        checkpoints.find(str(broken))
    monkeypatch.setattr(quantized, "_installed", lambda package: package != "gguf")
    with pytest.raises(InputError, match=r"a gguf checkpoint, which needs gguf: pip install 'decodedrift\[gguf\]'$"):
        checkpoints.find(str(broken))
    with pytest.raises(InputError, match=r"neither an existing folder or .gguf file nor a hub id"):
        parse_variants("g=gone.gguf")


def test_what_it_says_of_prompts_is_held_against_the_references_tokenizer(tmp_path: Path) -> None:
    folder = kept(small(), tmp_path / "plain")
    tiny_tokenizer(bos=True).save_pretrained(folder)
    for name, said in {
        "same": {"bos": True},
        "bare": {"bos": False, "eos": True},
        "chat": {"template": "{{ x }}"},
    }.items():
        gguf_file(tmp_path / f"{name}.gguf", "F32", **said)
    names = ["same", "bare", "chat"]
    study = dd.compare(folder, candidates=[f"{n}={tmp_path}/{n}.gguf" for n in names], **ASKED | {"noise_floor": False})
    facts = study.environment["deployment"]
    assert "gguf" not in facts["same"], "the negative control"
    assert facts["bare"]["gguf"] == {"add_bos": [True, False], "add_eos": [False, True]}
    assert facts["chat"]["gguf"] == {"template": [False, True], "unsaid": ["add_bos"]}
    first = study.verdict[0]
    assert "bare by its GGUF file, whose tokenizer is not run here, puts no BOS in front of every prompt" in first
    assert "(the reference does) and puts an EOS behind every prompt (the reference does not)" in first
    assert (
        "chat by its GGUF file, whose tokenizer is not run here, has a chat template and does not say whether it"
        in first
    )
    assert "same by" not in first


def test_what_is_no_readable_file_is_said_so(tmp_path: Path) -> None:
    gguf_file(path := tmp_path / "cut.gguf", "F32")
    path.write_bytes(path.read_bytes()[:60_000])
    (tmp_path / "junk.gguf").write_bytes(b"no model at all" * 100)
    for name, said in {
        "cut": "is not a readable GGUF file",
        "junk": "is not a readable GGUF file",
        "none": "no such file$",
    }.items():
        with pytest.raises(InputError, match=said) as error:
            checkpoints.find(str(tmp_path / f"{name}.gguf"))
        assert "config.json" not in str(error.value)
