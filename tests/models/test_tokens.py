"""What is told of prompts before a model is loaded: stop ids, windows, special tokens, and how few tokens they can be."""

from __future__ import annotations

import json
import shutil
import time
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_model, tiny_tokenizer
from forking import command
from hypothesis import given
from hypothesis import strategies as st
from running import LEAN, LEAN_FLAGS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import decodedrift as dd
from decodedrift.core.settings import make_settings
from decodedrift.experiments.compare.settings import CompareSettings
from decodedrift.models.sources.checkpoints import Checkpoint, find, in_memory
from decodedrift.models.text.fewest import NFC, byte_level, bytes_per_token
from decodedrift.models.text.vocabulary import Vocabulary, encode_prompts, fewest_tokens, vocabulary
from decodedrift.runs.prepare import prepare

SMALL: dict[str, Any] = {"candidates": ["fp16"], "strategies": ["greedy"], "max_new_tokens": 5}

# ---- stop ids and windows


def without_a_stop() -> Any:
    """A tiny model of a family whose configuration has no eos_token_id at all."""
    import torch
    import transformers as t

    common: dict[str, Any] = {
        "vocab_size": 96, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2,
    }  # fmt: skip
    more = {"intermediate_size": 48, "is_decoder": True, "pronunciation_vocab_size": 9, "shape_vocab_size": 9}
    config = t.RoCBertConfig(**common, **more)
    assert not hasattr(config, "eos_token_id")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return t.AutoModelForCausalLM.from_config(config).eval()


def test_without_a_stop_token_texts_run_to_their_length() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    study = dd.compare(without_a_stop(), tokenizer=tokenizer, prompts=["w1 w2", "w3"], **SMALL, **LEAN)
    assert study.failures.empty, study.failures.to_string()
    assert study.environment["generation"]["stop_ids"] == []
    assert {len(ids.split()) for ids in study.traces["token_ids"]} == {5}
    assert set(study.traces["finish"]) == {"length"}


@pytest.mark.parametrize(
    ("settings", "stop", "pad"),
    [
        ({"eos_token_id": [3, 4], "pad_token_id": 5}, (3, 4), 5),
        ({"eos_token_id": 3, "stop_strings": ["x"], "token_healing": True, "num_return_sequences": 2}, (3,), 3),
        ({"eos_token_id": 3, "cache_implementation": "no such", "early_stopping": 3, "max_new_tokens": -5}, (3,), 3),
        ({"eos_token_id": 3, "watermarking_config": {"x": 1}, "compile_config": 3, "num_beams": "many"}, (3,), 3),
        ({"eos_token_id": None}, (0,), 0),
        ({"eos_token_id": [], "pad_token_id": [1]}, (0,), 0),
        ({"eos_token_id": -1, "pad_token_id": -1}, (0,), 0),
        ({"eos_token_id": 3, "pad_token_id": 10**6}, (3,), 3),
        ({}, (0,), 0),
        (None, (0,), 0),
    ],
    ids=str,
)
def test_stop_ids_are_read_whatever_else_the_settings_hold(
    saved: Callable[..., Path], tmp_path: Path, settings: dict[str, Any] | None, stop: tuple[int, ...], pad: int
) -> None:
    folder = shutil.copytree(saved(), tmp_path / "model")
    (folder / "generation_config.json").unlink()
    if settings is not None:
        (folder / "generation_config.json").write_text(json.dumps(settings))
    vocab = vocabulary(find(str(folder)))
    assert (vocab.eos, vocab.pad) == (stop, pad)


def test_a_window_that_is_no_number_of_tokens_is_none() -> None:
    import torch
    import transformers as t

    xlnet = t.XLNetConfig(vocab_size=96, d_model=32, n_layer=1, n_head=2, d_inner=16)
    assert xlnet.max_position_embeddings == -1
    checkpoint = Checkpoint("m", "m", "memory", xlnet, module=torch.nn.Linear(1, 1), tokenizer=tiny_tokenizer())
    vocab = vocabulary(checkpoint)
    assert vocab.window is None
    assert encode_prompts(vocab, [dd.Prompt("a", "w1 w2")], False, 10**6) == {"a": [1, 2]}


@pytest.mark.parametrize(
    "kind", ["Roberta", "XLMRoberta", "Camembert", "RobertaPreLayerNorm", "Data2VecText", "Xmod", "XLMRobertaXL"]
)
def test_positions_that_are_counted_from_the_pad_id_are_fewer(kind: str) -> None:
    """Of 32 positions two are never reached; one token more than the rest ends in an error of torch's."""
    import torch
    import transformers as t

    more = {"default_language": "en_XX"} if kind == "Xmod" else {}
    config = getattr(t, f"{kind}Config")(
        vocab_size=96, hidden_size=32, num_attention_heads=4, intermediate_size=48, num_hidden_layers=1, is_decoder=True,
        max_position_embeddings=32, **more,
    )  # fmt: skip
    model = t.AutoModelForCausalLM.from_config(config).eval()
    window = vocabulary(in_memory(model, tiny_tokenizer())).window
    assert window == 30
    model(torch.full((1, window), 5))
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        model(torch.full((1, window + 1), 5))


# ---- special tokens where one does not expect them


def special_tokenizer(adds: bool, template: str | None = None) -> Any:
    """Words, `<s>` and `</s>`, with a BOS in front where the tokenizer adds one."""
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 94, "</s>": 95} | {f"w{i}": i for i in range(94)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 94)])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


def warned(tokenizer: Any, prompts: dict[str, str], **more: Any) -> list[str]:
    model = tiny_model("gpt2")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    given = [dd.Prompt(name, text) for name, text in prompts.items()]
    ready = prepare(
        make_settings(CompareSettings, {"model": model, "prompts": given, "default_text": False, **SMALL, **more}),
        tokenizer,
    )
    said: list[str] = ready.environment["warnings"]
    assert ready.doubts() == [f"warning: {line}" for line in said]
    assert ready.plan.refused == {}
    return said


ODD = {
    "plain": "w1 w2", "a": "<s>w1", "b": "w1 </s> w2", "c": "<s> w1</s>", "d": "<s>", "e": "w3 <s> w4", "f": "<s>w5",
}  # fmt: skip


def test_a_second_bos_and_a_stop_token_are_warned_of() -> None:
    assert warned(special_tokenizer(adds=True), ODD) == [
        "prompts a, c, d and 1 more: two BOS tokens (<s>) at the beginning; the text spells one: take it out",
        "prompts b, c: the text holds a stop token (</s>), where a text ends; take it out unless that is meant",
        "prompt e: the text spells the BOS token (<s>), which is read as that token",
    ]
    assert warned(special_tokenizer(adds=False), ODD) == [
        "prompts a, c, d and 2 more: the text spells the BOS token (<s>), which is read as that token",
        "prompts b, c: the text holds a stop token (</s>), where a text ends; take it out unless that is meant",
    ]
    assert warned(special_tokenizer(adds=True), {"plain": "w1 w2"}) == []


def test_a_bos_that_is_the_stop_token_is_named_once() -> None:
    """As GPT-2's is: what the tokenizer itself puts in front is none of the text's."""
    for bos, said in (
        (True, "two BOS tokens (<|end|>) at the beginning; the text spells one: take it out"),
        (False, "the text holds a stop token (<|end|>), where a text ends; take it out unless that is meant"),
    ):
        assert warned(tiny_tokenizer(bos=bos), {"a": "<|end|>w1", "b": "w1 w2"}) == [f"prompt a: {said}"]
    assert warned(tiny_tokenizer(), {"a": "<|end|>w1"}, ignore_eos=True) == [
        "prompt a: the text spells the BOS token (<|end|>), which is read as that token"
    ]


def test_a_chat_template_is_warned_of_only_where_it_doubles_bos() -> None:
    """Its own stop tokens end turns, and its own BOS is the one that is wanted; the text's count as ever."""
    turn = "{% for m in messages %} w5 {{ m['content'] }} </s>{% endfor %} w7"
    once, twice = (special_tokenizer(adds=True, template="<s>" * n + turn) for n in (1, 2))
    assert warned(once, {"a": "w1", "b": "w2 </s>"}, chat_template=True) == [
        "prompt b: the text holds a stop token (</s>), where a text ends; take it out unless that is meant"
    ]
    assert warned(twice, {"a": "w1", "b": "w2"}, chat_template=True) == [
        "prompts a, b: two BOS tokens (<s>) at the beginning; the chat template writes both"
    ]


def test_warnings_are_said_and_kept_and_are_no_failure(saved: Callable[..., Path], tmp_path: Path) -> None:
    words = ["compare", "--model", str(saved()), "--prompt", "w1 <|end|> w2", "--prompt", "w3", "--candidates", "fp16"]
    more = ["--strategies", "greedy", "--max-new-tokens", "3", "--quiet", "--no-text", "--out", "run", *LEAN_FLAGS]
    done = command(*words, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: prompt p")
    assert done.stderr.count("\n") == 1
    environment = json.loads((tmp_path / "run" / "data/environment.json").read_text())
    assert done.stderr == f"warning: {environment['warnings'][0]}\n"
    assert "<|end|>" not in done.stderr, "without texts not even the token's"


# ---- how few tokens a text can be


def test_ten_megabytes_are_refused_before_they_are_tokenized() -> None:
    asked = {"prompts": [{"id": "big", "prompt": "once upon a time " * 600_000}, "once"], **SMALL}
    vocabulary(find("demo"))  # imports are not what is timed
    begin = time.process_time()
    ready = prepare(make_settings(CompareSettings, asked))
    assert time.process_time() - begin < 5
    assert list(ready.plan.refused) == ["big"]
    assert ready.plan.refused["big"].startswith("at least ")
    assert "prompt tokens + 5 new ones exceed the model's window of 256" in ready.plan.refused["big"]


def fast(tokenizer: Tokenizer, **more: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **more)


def byte_level_bpe(merges: int = 6, missing: int = 0) -> Tokenizer:
    """Bytes, and a's doubled so often; `missing` bytes are no tokens."""
    vocab = {char: n for n, char in enumerate(list(byte_level())[missing:])}
    steps = ["a" * 2**n for n in range(merges + 1)]
    vocab |= {word: len(vocab) + n for n, word in enumerate(steps[1:])}
    tokenizer = Tokenizer(models.BPE(vocab, [(s, s) for s in steps[:-1]]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_fallback_bpe(missing: int = 0) -> Tokenizer:
    """As SentencePiece's: ▁ for a space, a byte where there is no piece."""
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256 - missing)), "▁", "▁▁", "a", "aa", "é", "字"]
    vocab = {piece: n for n, piece in enumerate(pieces)}
    model = models.BPE(vocab, [("▁", "▁"), ("a", "a")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def with_nfc() -> Tokenizer:
    tokenizer = byte_level_bpe()
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(r"\s+|\S+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, tokenizer.pre_tokenizer])
    return tokenizer


@cache
def bounded(name: str) -> Vocabulary:
    if name == "demo":
        return vocabulary(find("demo"))
    tokenizer = fast({"bytes": byte_level_bpe, "fallback": byte_fallback_bpe, "nfc": with_nfc}[name]())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a very long special token of many bytes, or so>"]})
    return Vocabulary(tokenizer, (), 0, None, 1, len(tokenizer))


PIECES = ["\u212a", "e\u0301", "\u1112\u1161\u11ab", "\u0344", "字", "<a very long special token of many bytes, or so>"]
TEXTS = st.text() | st.text(alphabet="a ") | st.lists(st.sampled_from(PIECES)).map("".join)


@pytest.mark.parametrize("name", ["demo", "bytes", "fallback", "nfc"])
@given(st.lists(TEXTS, max_size=5).map("".join), st.integers(1, 300))
def test_no_text_has_fewer_tokens_than_that(name: str, text: str, times: int) -> None:
    vocab = bounded(name)
    assert vocab.bytes_per_token is not None
    text *= times
    assert fewest_tokens(vocab, text) <= len(vocab.ids(text))


def test_the_bound_is_the_longest_token() -> None:
    assert bytes_per_token(fast(byte_level_bpe(6))) == 64
    assert bytes_per_token(fast(byte_fallback_bpe())) == 6
    assert bytes_per_token(fast(with_nfc())) == 64 * NFC


def test_composing_shortens_a_text_to_a_ninth_at_most() -> None:
    sizes = [
        (len(c.encode()), len(unicodedata.normalize("NFD", c).encode()), len(unicodedata.normalize("NFC", c).encode()))
        for n in range(0x110000)
        if not 0xD800 <= n < 0xE000 and (c := chr(n))
    ]
    assert max(own / apart for own, apart, _ in sizes) * max(apart / together for _, apart, together in sizes) <= NFC


def test_without_a_bound_nothing_is_refused_by_its_bytes() -> None:
    lower, collapsing, dropping = byte_level_bpe(), byte_level_bpe(), byte_level_bpe()
    lower.normalizer = normalizers.Lowercase()
    collapsing.normalizer = normalizers.Replace(Regex(" +"), " ")
    dropping.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), dropping.pre_tokenizer])
    removing = byte_level_bpe()
    removing.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), removing.pre_tokenizer])
    shortening = byte_level_bpe()
    shortening.normalizer = normalizers.Replace("aaaa", "")
    stripping = fast(byte_level_bpe())
    stripping.add_tokens([AddedToken("<mask>", lstrip=True)])
    incomplete = [byte_level_bpe(missing=1), byte_fallback_bpe(missing=1)]
    for tokenizer in (lower, collapsing, dropping, removing, shortening, *incomplete):
        assert bytes_per_token(fast(tokenizer)) is None
    assert bytes_per_token(stripping) is None
    assert bytes_per_token(tiny_tokenizer()) is None

    class Own(type(tiny_tokenizer())):  # type: ignore[misc]
        """A tokenizer of a model's own code."""

    assert bytes_per_token(Own(tokenizer_object=byte_level_bpe())) is None
    vocab = vocabulary(in_memory(tiny_model("gpt2"), special_tokenizer(adds=False)))
    assert encode_prompts(vocab, [dd.Prompt("a", "w1" * 10**6)], False, 5) == {"a": [0]}, "an unknown word of 2 MB"
