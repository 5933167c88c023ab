"""The contract of every family in `families.TABLE`: the tokens of its own `generate`, or a refusal by name before weights load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_tokenizer
from families import TABLE, Family, config
from running import LEAN

import decodedrift as dd
from decodedrift.models.load import loaded
from decodedrift.models.precisions.floating import DTYPES
from decodedrift.models.sources.checkpoints import in_memory
from decodedrift.models.variants import parse_variants

PROMPTS = [
    [9],
    [7, 8],
    [60, 61],
    [5, 17, 3],
    [44, 45, 46],
    [80, 2, 80, 2],
    [30, 31, 32, 33, 34, 35],
    [11, *range(2, 12)],
]
NEW = 12
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beam:num_beams=3": {"do_sample": False, "num_beams": 3},
    "top-k:k=20,temperature=0.8": {"do_sample": True, "top_k": 20, "temperature": 0.8, "top_p": 1.0},
    "top-p:p=0.9": {"do_sample": True, "top_k": 0, "top_p": 0.9},
}
RUN = [one for one in TABLE if not one.refused]
BY_FAMILY = [pytest.param(one, id=one.name, marks=() if one.fast else pytest.mark.slow) for one in RUN]


def tiny(one: Family, scale: float = 4.0) -> Any:
    """A random model of the family, weights scaled up so that its greedy text is not one token for ever."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if one.kind not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {one.kind}")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(one))
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(scale)
    return model.eval()


def each_alone(model: Any) -> None:
    """Lets the model's `generate` read every row whole, without its padding, company and cache."""
    from transformers.modeling_outputs import CausalLMOutput

    forward = type(model).forward

    def last(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> Any:
        masks = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows = [ids[mask.bool()][None] for ids, mask in zip(input_ids, masks, strict=True)]
        logits = [forward(model, input_ids=row, use_cache=False, return_dict=True).logits[:, -1:] for row in rows]
        return CausalLMOutput(logits=torch.cat(logits))

    model.forward = last
    model.prepare_inputs_for_generation = lambda input_ids, attention_mask=None, **_: {
        "input_ids": input_ids, "attention_mask": attention_mask,
    }  # fmt: skip


def by_transformers(one: Family, batch: Sequence[Sequence[int]], settings: dict[str, Any]) -> list[list[int]]:
    """The new tokens of each prompt up to its stop token, by the model's own generate over one left-padded batch."""
    from transformers import GenerationConfig

    model = tiny(one)
    if one.alone:
        each_alone(model)
    model.generation_config = GenerationConfig()
    width = max(map(len, batch))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in batch])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
    torch.manual_seed(0)
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=NEW, pad_token_id=0, eos_token_id=0, bos_token_id=0,
        use_cache=not one.alone, **settings,
    )  # fmt: skip
    return [row[: row.index(0) + 1] if 0 in row else row for row in out[:, width:].tolist()]


@pytest.mark.parametrize("one", BY_FAMILY)
@pytest.mark.parametrize("size", [8, 1])
def test_its_tokens_are_those_of_its_own_generate(one: Family, size: int) -> None:
    prompts = PROMPTS if size > 1 else [PROMPTS[0], PROMPTS[-2]]
    study = dd.compare(
        tiny(one), tokenizer=tiny_tokenizer(), candidates=["bf16"], strategies=list(SETTINGS), coupling="none",
        prompts=[" ".join(f"w{i}" for i in p) for p in prompts], max_new_tokens=NEW, batch_size=size, device="cpu",
        **LEAN,
    )  # fmt: skip
    assert study.failures.query("status != 'skipped'").empty, study.failures.to_string()
    assert study.failures.empty or "longrope" in one.name, "what is skipped: texts past the change of rotary factors"
    assert (study.positions.query("role == 'self'")["kl"] == 0).all()
    assert study.positions.query("role == 'candidate'")["kl"].max() > 0
    for label, settings in SETTINGS.items():
        batches = [prompts[i : i + size] for i in range(0, len(prompts), size)]
        expected = [row for batch in batches for row in by_transformers(one, batch, settings)]
        rows = study.traces.query("role == 'reference' and strategy == @label").set_index("prompt")["token_ids"]
        got = [[int(i) for i in rows[" ".join(f"w{i}" for i in p)].split()] for p in prompts]
        assert got == expected, label


def saved(folder: Path, one: Family, **more: Any) -> Path:
    """A folder with the family's config and a tokenizer, and no weights at all."""
    made = config(one)
    made.save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text()) | more
    (folder / "config.json").write_text(json.dumps(content))
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("one", [pytest.param(one, id=one.name) for one in TABLE if one.refused])
def test_what_is_no_function_of_the_tokens_so_far_is_refused_by_name_from_its_config(
    one: Family, tmp_path: Path
) -> None:
    with pytest.raises(dd.InputError, match=f"{one.kind} cannot be read token by token") as error:
        dd.compare(str(saved(tmp_path, one)), candidates=["bf16"], prompts=["w1"], **LEAN)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(one, id=one.name)
        for one in RUN
        if one.more.get("is_encoder_decoder") is None and one.more.get("is_decoder")
    ],
)
def test_what_reads_both_ways_unless_told_is_refused_where_it_is_not(one: Family, tmp_path: Path) -> None:
    with pytest.raises(dd.InputError, match=f"{one.kind} here is bidirectional"):
        dd.compare(str(saved(tmp_path, one, is_decoder=False)), candidates=["bf16"], prompts=["w1"], **LEAN)


@pytest.mark.parametrize("name", ["xglm", "openai-gpt"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_what_a_model_builds_in_its_own_type_has_the_type_that_loading_gives_it(
    name: str, precision: str, tmp_path: Path
) -> None:
    """Positions or a mask left in float32 widened all that came after them, and the first product of 16 bits failed."""
    from transformers import AutoModelForCausalLM

    (one,) = [one for one in TABLE if one.name == name]
    model = tiny(one)
    model.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=DTYPES[precision]).eval()
    ids = torch.tensor([[5, 17, 3, 80, 41]])
    with loaded(in_memory(model, tiny_tokenizer()), parse_variants(precision)[0]) as ours, torch.inference_mode():
        own = {n: b.dtype for n, b in ours.model.named_buffers()}
        assert own == {n: b.dtype for n, b in theirs.named_buffers()}
        expected = theirs(ids, use_cache=False).logits
        atol = 0.02 * float(expected.abs().max())  # Conv1D adds its bias inside another kernel
        torch.testing.assert_close(ours.model(ids, use_cache=False).logits, expected, rtol=0, atol=atol)
