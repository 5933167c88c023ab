"""A model's own settings as transformers' processors: what is written is what `generate` writes, for each setting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer

from decodedrift.models.own import PROCESSORS, Own
from decodedrift.models.text.deployment import CHANGING
from decodedrift.models.text.vocabulary import Vocabulary

NEW, PROMPT = 12, [3, 4, 3]
VALUES: dict[str, Any] = {
    "sequence_bias": [[[5], 9.0]], "encoder_repetition_penalty": 0.1, "repetition_penalty": 1.7,
    "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 1, "bad_words_ids": [[9], [3, 4]], "min_length": 8,
    "min_new_tokens": 8, "forced_bos_token_id": 7, "forced_eos_token_id": 0, "remove_invalid_values": True,
    "exponential_decay_length_penalty": [2, 3.0], "suppress_tokens": [11, 12], "begin_suppress_tokens": [13],
    "renormalize_logits": True,
}  # fmt: skip
CHANGE_NOTHING = ("remove_invalid_values", "renormalize_logits")  # of greedy text from finite logits


def written(model: Any, prompt: list[int], settings: dict[str, Any]) -> list[int]:
    vocab = Vocabulary(tiny_tokenizer(), (0,), 0, 0, None, 96)
    processes = Own(vocab, {"a": prompt}, settings).processes(torch.device("cpu"), NEW) or {}
    ids = list(prompt)
    while len(ids) < len(prompt) + NEW and (ids == prompt or ids[-1] != 0):
        history = torch.tensor([ids])
        scores = model(history).logits[:, -1].float()
        ids.append(int((processes["a"](history, scores) if processes else scores).argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("key", list(PROCESSORS))
def test_each_setting_writes_what_generate_writes(key: str) -> None:
    value = VALUES[key]
    prompt = {
        "forced_bos_token_id": [3],
        "encoder_repetition_penalty": [2, 4, 2],
        "encoder_no_repeat_ngram_size": [2, 4, 2],
    }.get(key, PROMPT)
    model, ids = tiny_model("llama"), torch.tensor([prompt])
    model.config.eos_token_id = model.generation_config.eos_token_id = 0
    common = {"attention_mask": torch.ones_like(ids), "max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        if key in ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids"):  # what would have been written
            first = written(model, prompt, {})
            value = [[first[2]], first[:2]] if key == "bad_words_ids" else first[:1]
        theirs = model.generate(ids, **common, **{key: value})[0, len(prompt) :].tolist()
        assert written(model, prompt, {key: value}) == theirs
        if key not in (*CHANGE_NOTHING, "min_length", "min_new_tokens"):
            assert theirs != written(model, prompt, {}), "the setting must act, or this shows nothing"


def test_every_setting_is_run_or_refused() -> None:
    assert list(VALUES) == list(PROCESSORS)
    assert set(CHANGING) - set(PROCESSORS) == {"guidance_scale", "watermarking_config", "num_beams", "stop_strings"}
