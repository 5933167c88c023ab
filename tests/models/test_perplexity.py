"""Perplexity of real texts: the sliding windows, the bytes, and what other tools get on the same model."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assets, tiny_model, tiny_tokenizer
from running import LEAN, run

import decodedrift as dd

LENGTH = 45
SIZES = ((16, 8), (16, 16), (12, 7), (2, 1), (100, 50))
IDS = [int(i) for i in np.random.default_rng(5).integers(1, 96, size=LENGTH)]
TEXT = " ".join(f"w{i}" for i in IDS)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


# the prompt is as short as can be: the text is what matters
measured = functools.partial(
    run, candidates=["bf16"], strategies=["greedy"], max_new_tokens=1, prompts=[TEXT[:20]],
    texts=[dd.Text("text", TEXT)],
)  # fmt: skip


def sliding(model: Any, ids: list[int], context: int, stride: int) -> list[float]:
    """HuggingFace's recipe: torch's own loss per window, -100 where an earlier window has scored the token."""
    loss, losses, scored = torch.nn.CrossEntropyLoss(reduction="none", ignore_index=-100), [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        labels = torch.tensor(ids[begin:end])
        labels[: max(0, scored - begin)] = -100
        labels[0] = -100
        with torch.no_grad():
            logits = model(torch.tensor([ids[begin:end]])).logits[0].double()
        row = loss(logits[:-1], labels[1:])
        losses += [float(x) for x, y in zip(row, labels[1:]) if y != -100]
        scored = end
        if end == len(ids):
            break
    return losses


@pytest.mark.parametrize(("context", "stride", "family"), [(*sizes, "llama") for sizes in SIZES] + [(16, 8, "gpt2")])
def test_text_perplexity_is_torchs_cross_entropy_over_sliding_windows(context: int, stride: int, family: str) -> None:
    study = measured(family, context=context, stride=stride, batch_size=4)
    losses = sliding(tiny_model(family), IDS, context, stride)
    row = study.perplexity.iloc[0]
    assert (row["variant"], row["tokens"]) == ("fp32", len(losses))
    assert row["nll_mean"] == pytest.approx(np.mean(losses), rel=2e-6)
    assert row["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)


def test_every_token_is_scored_once_but_each_disjoint_windows_first() -> None:
    for stride, tokens in ((16, LENGTH - 3), (15, LENGTH - 1)):
        study = measured("llama", context=16, stride=stride)
        assert study.perplexity["tokens"].tolist() == [tokens, tokens]
        rows = study.positions[(study.positions["strategy"] == "text")]
        assert rows["position"].is_unique
        assert [IDS[p] for p in rows["position"]] == rows["token_id"].tolist()


def test_windows_default_to_the_models_own_and_half_of_it() -> None:
    study = measured("llama")
    assert (study.plan["context"], study.plan["stride"]) == (128, 64)


def test_the_ratio_is_paired_over_the_same_windows() -> None:
    study = measured("llama", context=16, stride=8)
    reference, candidate = (row for _, row in study.perplexity.iterrows())
    assert candidate["tokens"] == reference["tokens"]
    assert candidate["ln_ppl_ratio"] == pytest.approx(
        math.log(candidate["perplexity"] / reference["perplexity"]), rel=1e-9
    )
    assert math.isnan(reference["ln_ppl_ratio"])


def test_a_begin_token_is_context_and_never_scored() -> None:
    model = tiny_model("llama")
    study = measured(model, tokenizer=tiny_tokenizer(bos=True), context=64, stride=32)
    losses = sliding(model, [0, *IDS], 64, 32)
    assert study.perplexity["tokens"].iloc[0] == LENGTH == len(losses)
    assert study.perplexity["nll_mean"].iloc[0] == pytest.approx(np.mean(losses), rel=2e-6)


def ending_with_eos() -> Any:
    """A tokenizer that ends every text with its EOS, as some do."""
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing("$A <|end|>", special_tokens=[("<|end|>", 0)])
    return tokenizer


def test_an_end_token_that_the_tokenizer_adds_is_not_part_of_the_text() -> None:
    study = measured("llama", tokenizer=ending_with_eos(), context=64, stride=32)
    assert study.traces["token_ids"].str.len().gt(0).all()
    assert study.perplexity["tokens"].iloc[0] == LENGTH - 1
    assert study.perplexity["nll_mean"].iloc[0] == pytest.approx(
        np.mean(sliding(tiny_model("llama"), IDS, 64, 32)), rel=2e-6
    )


# Bytes.


def byte_tokenizer() -> Any:
    """Byte-level with a few merges: a character of several bytes may be several tokens, or part of one."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(letters)} | {"he": 256, "Ġt": 257}
    tokenizer = Tokenizer(models.BPE(vocab, [("h", "e"), ("Ġ", "t")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>")


@pytest.mark.parametrize(
    ("text", "first", "size"),
    [
        ("the tent", "t", 8),
        ("aé😀 the ñ", "a", 14),
        ("héhé 日本 ", "h", 14),
        ("a<|end|>b<|end|><|end|>cé", "a", 5),
    ],
)
def test_bytes_are_those_of_the_scored_characters(text: str, first: str, size: int) -> None:
    """The first token is not scored; a character split over tokens counts once, a special token's literal not at all."""
    assert len(text.replace("<|end|>", "").encode()) == size
    tokenizer = byte_tokenizer()
    study = measured(
        tiny_model("llama", vocab=259), tokenizer=tokenizer, texts=[dd.Text("text", text)], prompts=["a"], context=64
    )
    row = study.perplexity.iloc[0]
    assert row["bytes"] == size - len(first)
    total = row["nll_mean"] * row["tokens"]
    assert row["bits_per_byte"] == pytest.approx(total / math.log(2) / row["bytes"], rel=1e-12)
    assert row["tokens"] == len(tokenizer(text)["input_ids"]) - 1


def test_a_character_whose_first_byte_is_not_scored_counts_once_with_its_rest() -> None:
    study = measured(
        tiny_model("llama", vocab=259),
        tokenizer=byte_tokenizer(),
        texts=[dd.Text("text", "😀a")],
        prompts=["a"],
        context=64,
    )
    row = study.perplexity.iloc[0]
    assert (row["tokens"], row["bytes"]) == (4, 5)


def dropping() -> Any:
    """BPE over a few letters without an unknown token: what it does not know is gone without a word."""
    from tokenizers import AddedToken, Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate("abcdefgh ")} | {"ab": 9}, [("a", "b")]))
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>")


@pytest.mark.parametrize(
    ("text", "dropped"), [("abc déf gh", 1), ("ab\nXYZ cab\n", 5), ("abc<|end|>d  e", 0), (" abc def ", 0)]
)
def test_characters_that_the_tokenizer_drops_are_counted_and_said(text: str, dropped: int) -> None:
    study = measured(
        tiny_model("llama", vocab=16), tokenizer=dropping(), texts=[dd.Text("text", text)], prompts=["abc"], context=64
    )
    known = [c for c in text.replace("<|end|>", "") if c in "abcdefgh "]
    assert len(text.replace("<|end|>", "")) - len(known) == dropped
    assert study.environment["dropped_characters"] == {"text": dropped}
    assert study.perplexity["dropped_characters"].tolist() == [dropped, dropped]
    assert study.perplexity["bytes"].iloc[0] == len(known) - len("ab" if text[0] == "a" else " ")
    assert measured("llama", texts=[dd.Text("text", "w1  w2\nw3 ")]).environment["dropped_characters"] == {"text": 0}
    said = f"The tokenizer makes no token of {dropped} characters of it: no token and no byte counts them."
    assert (said in " ".join(study.verdict)) == (dropped > 0)


# Other tools.


def test_lm_eval_gets_the_same_rolling_log_likelihood() -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = assets("models", "stories260K")
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. " * 5
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        batch_size=1,
        max_length=511,
        device="cpu",
        add_bos_token=False,
    )  # its prefix token is the BOS; the tokenizer's own would be a second
    # lm-eval reads a prefix token (BOS) and scores every token of a text that it tokenizes without one
    (expected,) = theirs.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    study = dd.compare(str(folder), candidates=["bf16"], strategies=["greedy"], prompts=["Once"], max_new_tokens=1,
                       texts=[dd.Text("text", text)], context=512, **LEAN)  # fmt: skip
    row = study.perplexity.iloc[0]
    assert tokenizer(text)["input_ids"][0] == tokenizer.bos_token_id
    assert row["tokens"] == len(theirs.tok_encode(text, add_special_tokens=False))
    assert -row["nll_mean"] * row["tokens"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
def test_quanto_rounds_weights_to_the_same_numbers(family: str) -> None:
    quanto = pytest.importorskip("optimum.quanto")
    from decodedrift.models.precisions.int8 import apply

    ours, theirs = tiny_model(family), tiny_model(family)
    head = theirs.get_output_embeddings()
    exclude = [name for name, module in theirs.named_modules() if module is head]
    apply(ours, {"round": "weights", "head": False})
    quanto.quantize(theirs, weights=quanto.qint8, exclude=exclude)
    quanto.freeze(theirs)
    mine = dict(ours.named_modules())
    compared = 0
    for name, module in theirs.named_modules():
        if isinstance(module, quanto.QLinear):
            expected = module.weight.dequantize()
            # quanto takes its scales in its own way of dividing: the grid may differ in the last bit of float32
            torch.testing.assert_close(mine[name].weight, expected, rtol=3e-7, atol=0)
            compared += 1
    assert compared >= 8
