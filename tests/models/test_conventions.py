"""Perplexity as other tools count it: each tool's own loop, written plainly over transformers, gives the same number.

The loops take the model's logits and go on in float64; what the tools themselves add up in float32 is said beside them.
A float32 logit's last bits change with the shape of a matrix product, and the loops read one token more than is needed:
there the numbers agree to 1e-7, and to 1e-11 in float64.
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from running import LEAN, avx512, run

import decodedrift as dd
from decodedrift.core.records import InputError
from decodedrift.experiments.compare.settings import CONVENTIONS, SLIDING
from decodedrift.models.text.conventions import CUTS, DEFAULTS
from decodedrift.report.terminal import summary_table

IDS = [int(i) for i in np.random.default_rng(5).integers(1, 96, size=75)]
TEXT = "  ".join(f"w{i}" for i in IDS) + "\n"
MODELS = (("llama", "fp32", 1e-7), ("gpt2", "fp64", 1e-11))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


measured = functools.partial(
    run, candidates=["bf16"], strategies=["greedy"], max_new_tokens=1, prompts=[TEXT[:20]], batch_size=1,
    texts=[dd.Text("text", TEXT)],
)  # fmt: skip


def tokenizer(kind: str) -> Any:
    """The tiny tokenizer, plain, with a BOS in front, or with an EOS behind."""
    from tokenizers import processors

    made = tiny_tokenizer(bos=kind == "bos")
    if kind == "eos":
        made._tokenizer.post_processor = processors.TemplateProcessing("$A <|end|>", special_tokens=[("<|end|>", 0)])
    return made


def in_precision(family: str, precision: str) -> Any:
    model = tiny_model(family)
    return model.double() if precision == "fp64" else model


def losses(model: Any, read: list[int]) -> np.ndarray:
    """-ln p of every token but the first, given all before it: float32 logits, float64 from there on."""
    with torch.no_grad():
        logits = model(torch.tensor([read])).logits[0, :-1]
    table = torch.log_softmax(logits.double(), -1)
    return -table[torch.arange(len(read) - 1), torch.tensor(read[1:])].numpy()


def llama_cpp(model: Any, ids: list[int], bos: int | None, n_ctx: int) -> tuple[float, float, int]:
    """(PPL, +-, tokens) of `llama-perplexity -c n_ctx`, whose sums nll and nll2 are doubles."""
    nll = nll2 = 0.0
    count, first = 0, n_ctx // 2
    for i in range(len(ids) // n_ctx):
        chunk = list(ids[i * n_ctx : (i + 1) * n_ctx])
        if bos is not None:
            chunk[0] = bos
        for value in losses(model, chunk)[first:]:  # at position p the logits are of token p + 1
            nll += value
            nll2 += value * value
        count += n_ctx - first - 1
    nll, nll2 = nll / count, nll2 / count
    ppl = math.exp(nll)
    return ppl, math.sqrt((nll2 - nll * nll) / (count - 1)) * ppl, count


def gptq(model: Any, ids: list[int], seqlen: int) -> float:
    """`opt_eval` and its copies; there each window's cross entropy and their sum are float32."""
    nsamples, nlls = len(ids) // seqlen, []
    for i in range(nsamples):
        batch = torch.tensor([ids[i * seqlen : (i + 1) * seqlen]])
        with torch.no_grad():
            logits = model(batch).logits.double()
        loss = torch.nn.CrossEntropyLoss()(logits[:, :-1, :].reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1))
        nlls.append(loss * seqlen)
    return float(torch.exp(torch.stack(nlls).sum() / (nsamples * seqlen)))


def rolling(tokens: list[int], prefix: int, longest: int) -> list[tuple[list[int], list[int]]]:
    """make_disjoint_window(get_rolling_token_windows(tokens, prefix, longest, context_len=1))."""
    size = min(longest, len(tokens))
    pairs = [([prefix, *tokens[: size - 1]], tokens[:size])]
    done = size
    while done < len(tokens):
        step = min(len(tokens) - done, longest)
        end = done + step
        pairs.append((tokens[end - longest - 1 : end - 1], tokens[end - step : end]))
        done += step
    return [(a[: len(a) - (len(b) - 1)], b) for a, b in pairs]


def lm_eval(model: Any, tokens: list[int], prefix: int, longest: int, text: str) -> dict[str, float]:
    """The metrics of a `loglikelihood_rolling` task of one document; a window's log-likelihoods are summed in float32
    there, the windows' sums in double."""
    total = 0.0
    for before, scored in rolling(tokens, prefix, longest):
        read = (before + scored)[-(longest + 1) :][:-1]
        with torch.no_grad():
            logits = model(torch.tensor([read])).logits[0]
        table = torch.log_softmax(logits.double(), -1)[-len(scored) :]
        total += float(table[torch.arange(len(scored)), torch.tensor(scored)].sum())
    size = len(text.encode("utf-8"))
    return {
        "word_perplexity": math.exp(-total / len(re.split(r"\s+", text))),
        "byte_perplexity": math.exp(-total / size),
        "bits_per_byte": -total / size / math.log(2),
        "nll_mean": -total / len(tokens),
    }


SIZES = (16, 11, 25)  # even, odd, and one that divides the text


def cases(*kinds: str, sizes: tuple[int, ...] = SIZES) -> Any:
    """Every size with every tokenizer in float64; in float32, whose limit alone is another, each of the two once."""
    (narrow, wide), most = MODELS, max(len(sizes), len(kinds))
    made = [(*wide, size, kind) for size in sizes for kind in kinds]
    made += [(*narrow, sizes[i % len(sizes)], kinds[i % len(kinds)]) for i in range(most)]
    return pytest.mark.parametrize(("family", "precision", "exact", "size", "kind"), made)


@cases("plain", "bos")
def test_llama_cpps_number_and_its_error(family: str, precision: str, exact: float, size: int, kind: str) -> None:
    model, words = in_precision(family, precision), tokenizer(kind)
    study = measured(model, reference=precision, tokenizer=words, context=size, convention="llama.cpp")
    ids = words(TEXT.removesuffix("\n"))["input_ids"]
    bos = ids[0] if kind == "bos" else None
    ppl, error, count = llama_cpp(model, ids, bos, size)
    row = study.perplexity.iloc[0]
    assert (row["convention"], row["tokens"]) == ("llama.cpp", count)
    assert row["dropped_tokens"] == len(ids) - len(ids) // size * size
    assert row["perplexity"] == pytest.approx(ppl, rel=exact)
    assert row["perplexity_se"] == pytest.approx(error, rel=exact)
    if kind == "bos":  # a chunk that keeps its own first token is another number
        assert row["perplexity"] != pytest.approx(llama_cpp(model, ids, None, size)[0], rel=1e-6)


@cases("plain", "bos", "eos")
def test_gptqs_number(family: str, precision: str, exact: float, size: int, kind: str) -> None:
    model, words = in_precision(family, precision), tokenizer(kind)
    study = measured(model, reference=precision, tokenizer=words, context=size, convention="gptq")
    ids = words(TEXT)["input_ids"]
    row = study.perplexity.iloc[0]
    assert (row["tokens"], row["dropped_tokens"]) == (len(ids) // size * (size - 1), len(ids) % size)
    assert row["perplexity"] == pytest.approx(gptq(model, ids, size), rel=exact)


@cases("plain", "bos", sizes=(*SIZES, 128))
def test_lm_evals_three_numbers(family: str, precision: str, exact: float, size: int, kind: str) -> None:
    model, words = in_precision(family, precision), tokenizer(kind)
    study = measured(model, reference=precision, tokenizer=words, context=size, convention="lm-eval")
    prefix = words.eos_token_id if words.bos_token_id is None else words.bos_token_id
    row = study.perplexity.iloc[0]
    for name, value in lm_eval(model, IDS, prefix, size, TEXT).items():
        assert row[name] == pytest.approx(value, rel=exact), name
    assert (row["tokens"], row["words"], row["bytes"]) == (len(IDS), len(IDS) + 1, len(TEXT))


def test_the_bundled_model_in_its_own_window() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import decodedrift

    folder = Path(decodedrift.__file__).parent / "data" / "demo"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(folder)
    first = words.eos_token_id if words.bos_token_id is None else words.bos_token_id
    text = "Once upon a time there was a girl. She had a red ball and a dog named Max.\n" * 28
    ids, bare = words(text)["input_ids"], words(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > 2 * 256
    bos = ids[0] if ids[0] != bare[0] else None
    rows = {}
    for name in CONVENTIONS:
        study = dd.compare("demo", candidates=["bf16"], strategies=["greedy"], limit=1, max_new_tokens=1, batch_size=1,
                           texts=[dd.Text("text", text)], convention=name, **LEAN)  # fmt: skip
        assert study.plan["context"] == 256
        rows[name] = study.perplexity.iloc[0]
    exact = 1e-7 if avx512() else 1e-6
    cut = words(text.removesuffix("\n"))["input_ids"]
    ppl, error, _ = llama_cpp(model, cut, bos, 256)
    assert rows["llama.cpp"]["perplexity"] == pytest.approx(ppl, rel=exact)
    assert rows["llama.cpp"]["perplexity_se"] == pytest.approx(error, rel=exact)
    assert rows["gptq"]["perplexity"] == pytest.approx(gptq(model, ids, 256), rel=exact)
    for name, value in lm_eval(model, bare, first, 256, text).items():
        assert rows["lm-eval"][name] == pytest.approx(value, rel=exact), name
    numbers = [row["perplexity"] for row in rows.values()]
    assert len({round(n, 3) for n in numbers}) == 4, "each convention has a number of its own"


def test_the_answer_is_of_the_same_tokens_by_window_and_names_the_convention() -> None:
    study = measured("llama", context=16, convention="gptq")
    rows = study.positions[(study.positions["strategy"] == "text") & (study.positions["role"] == "candidate")]
    answer, row = study.answer.iloc[0], study.perplexity.iloc[1]
    assert (
        (answer["scored_tokens"], answer["windows"]) == (row["tokens"], 4) == (len(rows), rows["prompt_id"].nunique())
    )
    assert answer["ppl_change"] == pytest.approx(math.expm1(row["ln_ppl_ratio"]), rel=1e-9)
    windows = rows["nll_candidate"].sub(rows["nll_reference"]).groupby(rows["prompt_id"]).mean()
    wide = 3.182446305284263 * windows.std(ddof=1) / 2  # Student's t of 3; four windows of one length
    assert row["ln_ppl_ratio_high"] - row["ln_ppl_ratio"] == pytest.approx(wide, rel=1e-6)
    assert "perplexity as gptq counts it" in study.verdict[0]
    said = " ".join(study.verdict)
    assert "Perplexity on text as gptq counts it in windows of 16 (reference " in said
    assert "Left out is the end that fills no window: 11 tokens." in said
    assert "ppl (gptq)" in summary_table(study, 120) and "perplexity" not in summary_table(study, 120)
    assert "Perplexity (gptq)" in study.to_markdown() and "Perplexity (gptq)" in study.to_latex()
    plain = measured("llama", context=16)
    assert "perplexity" in summary_table(plain, 120) and "Perplexity (" not in plain.to_markdown()
    page = study.to_html()
    assert page.count("as gptq counts it") >= 4
    assert "counts it" not in measured("llama", context=16).to_html()


def test_llama_cpps_error_and_lm_evals_words_are_said() -> None:
    told = " ".join(measured("llama", context=16, convention="llama.cpp").verdict)
    assert re.search(r"counts it in windows of 16 \(reference [\d.]+ \+- [\d.]+\)", told)
    told = " ".join(measured("llama", context=16, convention="lm-eval").verdict)
    assert re.search(r"windows of 16 \(reference [\d.]+, [\d.,]+ per word, [\d.]+ per byte\)", told)
    assert "Left out" not in told


def test_a_convention_has_its_tools_own_windows() -> None:
    assert set(CUTS) == set(DEFAULTS) == set(CONVENTIONS) - {SLIDING}
    long = dd.Text("text", TEXT * 4)
    for name, size in (("llama.cpp", 128), ("gptq", 128), ("lm-eval", 128)):  # the model reads 128
        study = measured("llama", convention=name, texts=[long])
        assert (study.plan["convention"], study.plan["context"], study.plan["stride"]) == (name, size, None)
    assert list(DEFAULTS.values()) == [512, 2048, None]


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ({"convention": "gptq", "stride": 8}, ("stride", "gptq")),
        ({"convention": "perplexity"}, ("convention", "llama.cpp, lm-eval, gptq", "perplexity")),
        ({"convention": "gptq", "texts": ()}, ("convention", "text")),
        ({"convention": "gptq", "context": 129}, ("context", "129", "128")),
        ({"convention": "gptq", "context": 80}, ("75 tokens", "window of 80", "context")),
        ({"convention": "llama.cpp", "context": 40}, ("75 tokens", "two chunks of 40", "context")),
        ({"convention": "llama.cpp", "context": 2}, ("context", "3 or more")),
        ({"convention": "llama.cpp", "context": 16, "tokenizer": "eos"}, ("convention=llama.cpp", "ends texts")),
    ],
)
def test_what_a_tool_makes_no_number_of_is_refused_in_one_line(asked: dict[str, Any], parts: tuple[str, ...]) -> None:
    model: Any = "llama"
    if "tokenizer" in asked:
        model, asked = tiny_model("llama"), asked | {"tokenizer": tokenizer(asked["tokenizer"])}
    with pytest.raises(InputError) as refusal:
        measured(model, **asked)
    assert "\n" not in str(refusal.value)
    assert all(part in str(refusal.value) for part in parts), refusal.value


def test_a_run_goes_on_under_its_own_convention_only(tmp_path: Path) -> None:
    model = tiny_model("llama")
    asked = {"tokenizer": tiny_tokenizer(), "context": 16, "out": tmp_path / "run"}
    first = measured(model, convention="gptq", **asked)
    with pytest.raises(InputError, match="convention 'gptq' there, 'sliding' here"):
        measured(model, resume=True, **asked)
    again = measured(model, convention="gptq", resume=True, **asked)
    assert again.perplexity.equals(first.perplexity)
    assert dd.open_study(tmp_path / "run").perplexity["convention"].tolist() == ["gptq", "gptq"]
