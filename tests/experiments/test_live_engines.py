"""Real engines on loopback, held against transformers: vLLM, and llama.cpp behind llama-cpp-python.

An engine with requirements of its own lies in another environment: DECODEDRIFT_VLLM and DECODEDRIFT_LLAMA_CPP name its
interpreter, this one's unless set. A test skips where that has no such engine.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assets
from packing import converted_to_gguf
from running import LEAN
from server import DEMO

import decodedrift as dd

pytestmark = pytest.mark.slow
pytest.importorskip("openai")
PROMPTS = [dd.Prompt(*pair) for pair in {
    "a": "Once upon a time", "b": "Lily liked to play", "c": "The dog was sad because", "d": "One day a boy named Tim",
    "e": "  two spaces", "f": "There was a big red ball in the garden, and",
}.items()]  # fmt: skip
TOKENS = 24
SAMPLED = ["greedy", "sample:temperature=0.8", "top-k:k=5"]
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}


def interpreter(variable: str, module: str) -> str:
    """The Python that has an engine; the test skips where it has not."""
    python = os.environ.get(variable, sys.executable)
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode:
        pytest.skip(f"{module} is not installed; {variable} may name an interpreter that has it")
    return python


@contextmanager
def serving(command: list[str], log: Path) -> Iterator[str]:
    """An engine's server on a free port, once it lists its models; the URL of its API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as out:
        process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=out, stderr=out,
                                   env=os.environ | QUIET)  # fmt: skip
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/models", None, 5):
                    break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def vllm(folder: Path, dtype: str, log: Path) -> Iterator[str]:
    """vLLM with a checkpoint in a type."""
    python = interpreter("DECODEDRIFT_VLLM", "vllm")
    serve = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "m"]
    with serving([*serve, "--dtype", dtype, "--max-model-len", "256", "--enforce-eager"], log) as url:
        yield url


@contextmanager
def llamacpp(folder: Path, kind: str, place: Path) -> Iterator[str]:
    """llama.cpp with a checkpoint that is converted to a type of GGUF."""
    python = interpreter("DECODEDRIFT_LLAMA_CPP", "llama_cpp.server")
    converted_to_gguf(folder, place / f"{kind}.gguf", kind)
    serve = [python, "-m", "llama_cpp.server", "--model", str(place / f"{kind}.gguf"), "--model_alias", "m"]
    with serving([*serve, "--logits_all", "true", "--n_ctx", "512"], place / f"{kind}.log") as url:
        yield url


def record(url: str, path: Path, **asked: Any) -> list[dict[str, Any]]:
    """The lines of a recording, without its header."""
    values: dict[str, Any] = {"prompts": PROMPTS, "max_new_tokens": TOKENS, "retries": 0, **asked}
    dd.record("m", out=path, endpoint=url, **values)
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def compared(model: Any, **asked: Any) -> dd.Study:
    return dd.compare(str(model), prompts=PROMPTS, strategies=["greedy"], max_new_tokens=TOKENS, **LEAN, **asked)


def by_hand(folder: Path, study: dd.Study, file: Path) -> float:
    """The largest difference of a log-probability from transformers' in fp32, which must write the same texts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lines = {r["prompt_id"]: r for r in map(json.loads, file.read_text().splitlines()[1:]) if r["strategy"] == "greedy"}
    traces = study.traces[study.traces["role"] == "candidate"].set_index("prompt_id")
    worst = 0.0
    for prompt in PROMPTS:
        ids = tokenizer(prompt.text, return_tensors="pt").input_ids
        with torch.no_grad():
            whole = model.generate(ids, do_sample=False, max_new_tokens=TOKENS)[0]
            log_p = model(whole[None]).logits[0, ids.shape[1] - 1 : -1].double().log_softmax(-1)
        new = whole[ids.shape[1] :].tolist()
        assert [int(i) for i in traces.at[prompt.id, "token_ids"].split()] == new
        shown = lines[prompt.id]["logprobs"]
        worst = max(worst, *(abs(float(log_p[t, i]) - p) for t, (i, p) in enumerate(zip(new, shown))))
    return worst


def test_vllm_in_fp32_writes_what_transformers_writes(tmp_path: Path) -> None:
    """Measured with vLLM 0.32.0 on a CPU: the largest difference of a log-probability was 5.4e-6."""
    with vllm(DEMO, "float32", tmp_path / "log") as url:
        rows = record(url, tmp_path / "one.jsonl", precision="fp32")
        several = record(url, tmp_path / "several.jsonl", strategies=SAMPLED, seeds=[0, 1], runs=2, concurrency=4)
    study = compared("demo", candidates=[f"vllm={tmp_path}/one.jsonl"])
    assert study.divergences["diverged"].sum() == 0 and len(study.failures) == 0
    assert by_hand(DEMO, study, tmp_path / "one.jsonl") < 1e-4
    header = json.loads((tmp_path / "one.jsonl").read_text().splitlines()[0])["decodedrift"]
    assert (
        header["engine"]["name"] == "vllm"
        and header["engine"]["version"]
        and not header["capabilities"]["completions"]["refused"]
    )
    texts: dict[Any, set[Any]] = {}
    for row in several:
        assert "error" not in row
        texts.setdefault((row["strategy"], row["seed"], row["prompt_id"]), set()).add(tuple(row["token_ids"]))
    assert all(len(of) == 1 for of in texts.values()), "a seed is a text"
    assert texts["sample:temperature=0.8", 0, "a"] != texts["sample:temperature=0.8", 1, "a"]
    assert {tuple(row["token_ids"]) for row in rows} == {next(iter(v)) for k, v in texts.items() if k[0] == "greedy"}


def test_vllm_in_bf16_beside_its_fp32_and_the_cast(tmp_path: Path) -> None:
    for dtype, name in (("float32", "a"), ("bfloat16", "b")):
        with vllm(DEMO, dtype, tmp_path / f"{name}.log") as url:
            record(url, tmp_path / f"{name}.jsonl", precision={"a": "fp32", "b": "bf16"}[name], concurrency=4)
    study = compared("demo", candidates=[f"b={tmp_path}/b.jsonl", f"a={tmp_path}/a.jsonl"])
    (b, a) = study.consistency.set_index("candidate").loc[["b", "a"]].to_dict("records")
    assert b["rounding"] in ("consistent", "cannot tell") and b["gap_max"] < 0.5
    assert a["logprob_delta_rms"] < 1e-4 < b["logprob_delta_rms"] < 0.1
    judged = dd.compare(judge="demo", reference=f"a={tmp_path}/a.jsonl", candidates=f"b={tmp_path}/b.jsonl",
                        prompts=PROMPTS, strategies=["greedy"], max_new_tokens=TOKENS)  # fmt: skip
    assert (
        judged.divergences["diverged"].tolist()
        == study.divergences[study.divergences["candidate"] == "b"]["diverged"].tolist()
    )


def test_llama_cpp_writes_what_transformers_writes(tmp_path: Path) -> None:
    """Measured with llama-cpp-python 0.3.36, whose cache of keys is fp16: the largest difference was 0.006 in fp32."""
    folder, sides, worst = assets("models", "stories260K"), [], {}
    for kind in ("F32", "Q8_0"):
        with llamacpp(folder, kind, tmp_path) as url:
            rows = record(url, tmp_path / f"{kind}.jsonl", strategies=SAMPLED, seeds=[0, 1], concurrency=2)
        assert not any("error" in row for row in rows)
        sides.append(f"{kind}={tmp_path}/{kind}.jsonl:precision=fp16")
    study = compared(folder, candidates=sides)
    side = study.divergences[study.divergences["candidate"] == "F32"]
    assert len(side) == len(PROMPTS) and side["diverged"].sum() == 0
    worst = by_hand(folder, compared(folder, candidates=sides[:1]), tmp_path / "F32.jsonl")
    assert 0 < worst < 0.03
    rms = study.consistency.set_index("candidate")["logprob_delta_rms"]
    assert rms["F32"] * 2 < rms["Q8_0"] < 0.3, "eight bits are told from rounding"
    told = study.environment["variants"]["F32"]["recorded"]["notes"]
    (again,) = [note for note in told if "encoded again" in note]
    assert again.endswith(": 1"), "tokens are named with their spaces; where the first has none, none is seen there"
