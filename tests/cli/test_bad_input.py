"""Every wrong input ends in one line that names the culprit and the mend, and in exit code 2; a variant fails alone."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import tiny_model, tiny_tokenizer
from running import LEAN_FLAGS

from decodedrift import cli
from decodedrift.core.records import InputError
from decodedrift.core.settings import make_settings
from decodedrift.experiments.compare.settings import CompareSettings
from decodedrift.runs import prepare
from decodedrift.runs.config import read_config

PROMPT = ("--prompt", "w1 w2", *LEAN_FLAGS)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"
SHORT = (*PROMPT, "--max-new-tokens", "3", "--strategies", "greedy")


PATHS = ("--prompts", "--text", "--config", "--out", "--resume")


@dataclass
class Result:
    code: int
    out: str
    err: str

    def refused(self, *words: str) -> None:
        """Exit code 2; one line with the words; nothing but a hint at --help after it."""
        lines = self.err.splitlines()
        assert self.code == 2, self
        assert lines[0].startswith("decodedrift: "), self.err
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("Try 'decodedrift")), self.err
        assert len(lines[0]) <= 300
        assert not self.out
        assert "Traceback" not in self.err
        for word in words:
            assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Result]:
    """`decodedrift compare ...` in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path, command: str = "compare") -> Result:
        monkeypatch.setattr(sys, "argv", ["decodedrift", command, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        code = stopped.value.code
        return Result(code if isinstance(code, int) else -1, said.out, said.err)

    return call


@pytest.fixture
def broken(saved: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny model to be spoiled: `broken(file, content)`; content None deletes the file."""

    def spoil(*changes: tuple[str, str | bytes | None]) -> Path:
        folder = tmp_path / "spoiled"
        shutil.copytree(saved(), folder)
        for name, content in changes:
            if content is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return spoil


# what is refused before torch is imported: (arguments, words of the message)
EARLY: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("--candidates", "bf17"), ("precision 'bf17'", "did you mean 'bf16'")),
    (("--reference", "fp33"), ("precision 'fp33'", "did you mean 'fp32'")),
    (("--candidates", "bf16:batchsize=2"), ("'batchsize'", "did you mean 'batch_size'")),
    (("--candidates", "bf16,batch=3"), ("'batch=3'", "did you mean 'batch_size'")),
    (("--candidates", "bf16:batch_size=0"), ("batch_size", ">= 1", "'0'")),
    (("--candidates", "fp32:batch_size=1//2"), ("fp32:batch_size=1//2", "between slashes")),
    (("--candidates", "fp32:batch_size=1/2/"), ("fp32:batch_size=1/2/", "between slashes")),
    (("--candidates", "bf16:threads=1000000"), ("threads", "1024", "1000000")),
    (("--candidates", "int8:head=maybe"), ("head", "true or false", "'maybe'")),
    (("--candidates", "int8:compute=int4"), ("compute", "bf16", "'int4'")),
    (("--candidates", "bf16:head"), ("'head'", "KEY=VALUE")),
    (("--candidates", "bf16:revision=x"), ("revision", "NAME=OWNER/MODEL")),
    (("--candidates", "fp32:precision=bf16"), ("precision already",)),
    (("--candidates", "fp32"), ("'fp32' is the reference", "leave it out of --candidates")),
    (("--candidates", "bf16,bf16"), ("'bf16' is given twice",)),
    (("--candidates", "bf16", "--candidates", "bf16"), ("'bf16' is given twice",)),
    (("--candidates", ","), ("--candidates", "at least one")),
    (("--candidates", "mine=nofolder"), ("'nofolder'", "existing folder", "OWNER/MODEL")),
    (("--candidates", "mine=/no/such/folder"), ("/no/such/folder", "existing folder")),
    (("--candidates", "mine=./gone:precision=bf16"), ("./gone", "existing folder")),
    (("--candidates", "=FOLDER"), ("a name before the =",)),
    (("--reference", "fp16,bf16"), ("--reference", "one variant")),
    (("--reference", "mine=."), ("--reference", "one variant of --model")),
    (("--strategies", "greddy"), ("'greddy'", "did you mean 'greedy'")),
    (("--strategies", "beam:beams=4"), ("'beams'", "did you mean 'num_beams'")),
    (("--strategies", "greedy:k=3"), ("'k'", "choices: repetition_penalty")),
    (("--strategies", "greedy,p=0.5"), ("'p=0.5'", "its parameters: repetition_penalty")),
    (("--strategies", "num_beams=4"), ("num_beams=4", "NAME:KEY=VALUE")),
    (("--strategies", "top-k:k"), ("'k' is no parameter", "KEY=VALUE")),
    (("--strategies", "top-k:k=1:k=2"), ("'k' is given twice",)),
    (("--strategies", "greedy,greedy"), ("'greedy' is given twice",)),
    (("--strategies", "sample,sample:k=0"), ("'sample:k=0' is 'sample' by another name", "leave one out")),
    (("--strategies", "greedy,greedy:repetition_penalty=1"), ("'greedy:repetition_penalty=1' is 'greedy'",)),
    (("--strategies", ""), ("strategies", "at least one")),
    (("--strategies", "beam:num_beams=0"), ("num_beams", ">= 1", "'0'")),
    (("--strategies", "beam:num_beams=2.5"), ("num_beams", "whole number", "'2.5'")),
    (("--strategies", "beam:early_stopping=perhaps"), ("early_stopping", "never", "'perhaps'")),
    (("--strategies", "beam:length_penalty=inf"), ("length_penalty", "'inf'")),
    (("--strategies", "top-p:p=1.5"), ("p must be", "<= 1", "'1.5'")),
    (("--strategies", "top-p:p=nan"), ("p must be", "'nan'")),
    (("--strategies", "top-p:p=0"), ("p must be", "> 0", "'0'")),
    (("--strategies", "top-k:k=0"), ("k must be", ">= 1", "'0'")),
    (("--strategies", "top-k:temperature=0"), ("temperature", "greedy", "'0'")),
    (("--strategies", "top-p:temperature=inf"), ("temperature", "'inf'")),
    (("--strategies", "top-p:temperature=1e-320"), ("temperature", "'1e-320'")),
    (("--coupling", "copula"), ("--coupling", "gumbel, none", "'copula'")),
    (("--layout", "diagonal"), ("--layout", "mixed, per-strategy", "'diagonal'")),
    (("--max-new-tokens", "0"), ("--max-new-tokens", ">= 1", "'0'")),
    (("--max-new-tokens", "2.5"), ("--max-new-tokens", "whole number", "'2.5'")),
    (("--max-new-tokens", "-1"), ("--max-new-tokens", ">= 1", "'-1'")),
    (("--max-new-tokens", "many"), ("--max-new-tokens", "'many'")),
    (("--max-new-tokens", "9" * 30), ("--max-new-tokens", "2147483647")),
    (("--seeds", "x"), ("--seeds", "'x'")),
    (("--seeds", "-1"), ("--seeds", ">= 0", "'-1'")),
    (("--seeds", "0,1.5"), ("--seeds", "'1.5'")),
    (("--seeds", ""), ("--seeds", "at least one")),
    (("--seeds", "²"), ("--seeds", "'²'")),
    (("--seeds", "3,3"), ("seeds", "'3' is given twice")),
    (("--seeds", "9" * 20), ("--seeds", "9223372036854775807")),
    (("--context", "8", "--stride", "9", "--default-text"), ("stride 9", "context 8")),
    (("--context", "1"), ("--context", ">= 2")),
    (("--stride", "0"), ("--stride", ">= 1")),
    (("--memory", "0"), ("--memory", "> 0", "'0'")),
    (("--memory", "nan"), ("--memory", "'nan'")),
    (("--memory", "lots"), ("--memory", "'lots'")),
    (("--near-tie-below", "nan"), ("--near-tie-below", "'nan'")),
    (("--near-tie-below", "-0.1"), ("--near-tie-below", ">= 0", "'-0.1'")),
    (("--check", "exact"), ("--check exact", "no prompt has an answer")),
    (("--check", "exat"), ("--check exat", "did you mean 'exact'")),
    (("--check", "python:f.py:f"), ("--trust-check-code",)),
    (("--check", "--dry-run"), ("--check: lacks its value before --dry-run", "--check=--dry-run")),
    (("--out", "--no-text=1"), ("--out: lacks its value before --no-text=1",)),
    (("--prompt", "--check", "--quiet"), ("--prompt: lacks its value before --check",)),
    (("--prompt=--check", "--strategies", "nothing"), ("strategy 'nothing'",)),
    (("--prompt", "-- she said", "--strategies", "nothing"), ("strategy 'nothing'",)),
    (("--equivalence", "0.1"), ("--equivalence", "add --check")),
    (("--trust-check-code",), ("--trust-check-code", "add --check")),
    (("--equivalence", "0"), ("--equivalence", "> 0")),
    (("--limit", "0"), ("--limit", ">= 1")),
    (("--batch-size", "0"), ("--batch-size", ">= 1")),
    (("--threads", "0"), ("--threads", ">= 1")),
    (("--threads", "100000000000"), ("--threads", "1024")),
    (("--prompts-per-job", "0"), ("--prompts-per-job", ">= 1")),
    (("--model", ""), ("--model", "demo")),
    (("--prompt-id", "nope"), ("--prompt-id nope", "ids look like")),
    (("--prompt-id", ""), ("--prompt-id ''",)),
    (("--prompts", "storys"), ("storys", "did you mean 'stories'")),
    (("--text", "gone.txt"), ("--text gone.txt", "no such file")),
    (("--config", "gone.yaml"), ("--config gone.yaml", "no such file")),
    (("--bogus",), ("--bogus",)),
    *(((option, "x" * 300), (f"{option} xxxx", "cannot be a file")) for option in PATHS),
    *(((option, "~nobody-here/x.txt"), (f"{option} ~nobody-here/x.txt", "no such file")) for option in PATHS[:3]),
    (("--model",), ("--model", "requires an argument")),
    (("--quiet=3",), ("--quiet", "does not take a value")),
    (("gpt2",), ("gpt2", "unexpected")),
    (("--mode", "screen", "--strategies", "greedy,beam"), ("strategy beam", "--mode exact")),
    (("--mode", "screen", "--strategies", "top-k", "--coupling", "none"), ("without shared noise", "--mode exact")),
    (("--mode", "screen", "--noise-floor"), ("--noise-floor", "--mode exact")),
    (("--mode", "screen", "--inject"), ("--inject", "--mode exact")),
    (("--mode", "screen", "--decompose"), ("--decompose", "--mode exact")),
    (("--continue",), ("--continue", "--mode screen")),
    (("--mode", "fast"), ("--mode", "exact, screen", "'fast'")),
]

# the commands that take a finished or a begun run: (command, arguments, words of the message)
FOLDERS: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    ("compare", ("--resume", "a", "--out", "b"), ("--out", "--resume", "one of them")),
    ("compare", ("--resume", "full"), ("--resume full", "not a run folder", "x")),
    ("compare", ("--resume", "full/x"), ("--resume full/x", "a file")),
    ("compare", ("--out", "begun"), ("--out begun", "not empty", "--resume")),
    ("compare", ("--resume", "damaged"), ("damaged/plan.json", "cannot be read")),
    ("compare", ("--fail-on", "kl_mean"), ("--fail-on 'kl_mean'", "COLUMN>NUMBER")),
    ("compare", ("--fail-on", "kl_mena>1"), ("'kl_mena'", "did you mean 'kl_mean'")),
    ("compare", ("--fail-on", "kl_mean>1:fp61"), ("'fp61'", "choices", "fp16")),
    ("compare", ("--fail-on", "kl_max>1", "--fail-on-interval"), ("kl_max", "no interval", "divergence_rate")),
    *(
        (command, ("x" * 300, *more), ("xxxx", "cannot be a file"))
        for command, more in (
            ("resume", ()),
            ("check", ("--fail-on", "kl_mean>1")),
            ("report", ()),
        )
    ),
    ("resume", (), ("DIR",)),
    ("resume", ("nowhere",), ("nowhere", "no run was begun", "plan.json")),
    ("resume", ("full",), ("full", "no run was begun")),
    ("resume", ("full/x",), ("full/x", "no run was begun")),
    ("resume", ("damaged",), ("damaged/plan.json", "cannot be read")),
    ("resume", ("twice",), ("twice/plan.json", "cannot be read", "line:2", "'model'", "twice")),
    ("resume", ("listed",), ("listed/plan.json", "cannot be read", "list")),
    ("check", ("twice", "--fail-on", "kl_mean>1"), ("twice/plan.json", "line:2")),
    ("resume", ("begun",), ("unknown setting 'from_another_tool'",)),
    ("resume", ("begun", "again"), ("again", "unexpected")),
    ("check", (), ("DIR",)),
    ("check", ("nowhere", "--fail-on", "kl_mean>1"), ("nowhere", "not a run folder")),
    ("check", ("begun", "--fail-on", "kl_mean>1"), ("begun", "did not finish", "decodedrift resume begun")),
    ("check", ("begun",), ("begun", "did not finish")),
    ("report", ("begun", "--title", "--no-text"), ("--title: lacks its value before --no-text",)),
    ("index", (".", "--out", "--title=x"), ("--out: lacks its value before --title=x",)),
]

# name of a file, its content, the option that reads it, words of the message
FILES: list[tuple[str, bytes, str, tuple[str, ...]]] = [
    ("empty.txt", b"", "--prompts", ("empty.txt", "no prompts")),
    ("blank.txt", b" \n\t\n", "--prompts", ("blank.txt", "no prompts")),
    ("latin1.txt", b"abc\xe9d", "--prompts", ("latin1.txt", "byte 3", "UTF-8")),
    ("utf16.txt", "abc".encode("utf-16"), "--prompts", ("utf16.txt", "UTF-8")),
    ("p.docx", b"abc", "--prompts", (".docx", ".jsonl")),
    ("broken.jsonl", b'{"prompt": "a"}\n\n{"prompt":\n', "--prompts", ("broken.jsonl:3", "JSON")),
    ("number.jsonl", b'{"prompt": 3}\n', "--prompts", ("number.jsonl:1", '"prompt"')),
    ("list.jsonl", b'["a"]\n', "--prompts", ("list.jsonl:1", '"prompt"')),
    ("tags.jsonl", b'{"prompt": "a", "tags": [1]}\n', "--prompts", ("tags.jsonl:1", "tags")),
    ("id.jsonl", b'{"prompt": "a", "id": []}\n', "--prompts", ("id.jsonl:1", "id")),
    ("half.jsonl", b'{"prompt": "a", "id": "\\ud800"}\n', "--prompts", ("prompt id", "surrogate", "rename")),
    ("same.jsonl", b'{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}\n', "--prompts", ("same.jsonl:2", "'x'")),
    ("deep.jsonl", b"[" * 100000, "--prompts", ("deep.jsonl:1", "JSON")),
    ("digits.jsonl", b'{"prompt": "a", "id": ' + b"9" * 5000 + b"}", "--prompts", ("digits.jsonl:1", "JSON")),
    ("column.csv", b"text\na\n", "--prompts", ("column.csv:1", "`prompt`")),
    ("long.csv", b"prompt,id\na,b\nc,d,e\n", "--prompts", ("long.csv:3", "cells")),
    ("short.csv", b"prompt,id\na\n", "--prompts", ("short.csv:2", "cells")),
    ("quote.csv", b'prompt\n"abc\n', "--prompts", ("quote.csv", "CSV")),
    ("header.csv", b"prompt\n", "--prompts", ("header.csv", "no prompts")),
    ("none.csv", b"", "--prompts", ("none.csv:1", "`prompt`")),
    ("blank.txt", b"\n \n", "--text", ("blank.txt", "empty")),
    ("latin1.txt", b"\xff", "--text", ("latin1.txt", "byte 0", "UTF-8")),
    ("broken.json", b'{"a":\n }', "--config", ("broken.json:2", "JSON")),
    ("broken.yaml", b"a: [1,\n b: 2", "--config", ("broken.yaml:2",)),
    ("latin1.yaml", b"a: \xe9", "--config", ("latin1.yaml", "UTF-8")),
    ("list.json", b"[1]", "--config", ("list.json", "table of settings", "list")),
    ("empty.yaml", b"", "--config", ("empty.yaml", "table of settings")),
    ("unknown.yaml", b"max-new-token: 3\n", "--config", ("'max_new_token'", "did you mean 'max_new_tokens'")),
    ("foreign.yaml", b"zzz: 3\n", "--config", ("'zzz'", "choices: model")),
    ("type.yaml", b"max_new_tokens: many\n", "--config", ("--max-new-tokens", "'many'")),
    ("float.yaml", b"max_new_tokens: 2.0\n", "--config", ("--max-new-tokens", "2.0")),
    ("bool.yaml", b"limit: true\n", "--config", ("--limit", "True")),
    ("seeds.yaml", b"seeds: [0, x]\n", "--config", ("--seeds", "'x'")),
    ("none.yaml", b"seeds: []\n", "--config", ("--seeds", "at least one")),
    ("flag.yaml", b"ignore_eos: perhaps\n", "--config", ("--ignore-eos", "'perhaps'")),
    ("variant.yaml", b"candidates: 3\n", "--config", ("--candidates", "3")),
    ("fields.yaml", b"candidates: [{name: a, precision: bf16, speed: 3}]\n", "--config", ("'speed'", "name")),
    ("value.yaml", b"candidates: [{name: a, precision: bf16, batch_size: no}]\n", "--config", ("batch_size",)),
    ("naming.yaml", b"candidates: [{precision: bf16}]\n", "--config", ("name",)),
    ("option.yaml", b"candidates: [{name: a, precision: int8, options: {haed: 1}}]\n", "--config", ("'head'",)),
    ("bit.yaml", b"candidates: [{name: a, precision: bf17}]\n", "--config", ("'bf17'",)),
    ("strategy.yaml", b"strategies: [{k: 3}]\n", "--config", ("--strategies", "NAME:KEY=VALUE")),
    ("number.yaml", b"strategies: 3\n", "--config", ("--strategies", "3")),
    ("texts.yaml", b"texts: [{file: x}]\n", "--config", ("--text", "file")),
    ("model.yaml", b"model: 3\n", "--config", ("--model", "3")),
    ("twice.yaml", b"limit: 3\nseeds: [1]\nlimit: 4\n", "--config", ("twice.yaml:3", "'limit'", "twice")),
    ("inner.yaml", b"candidates:\n- {name: a, precision: bf16, name: b}\n", "--config", ("inner.yaml:2", "'name'")),
    ("dashes.yaml", b"max-new-tokens: 3\nmax_new_tokens: 4\n", "--config", ("'max_new_tokens'", "with -")),
    ("dashes.json", b'{"max-new-tokens": 3, "max_new_tokens": 4}', "--config", ("'max_new_tokens'", "with -")),
    ("twice.json", b'{"limit": 3,\n "seeds": [1],\n "limit": 4}', "--config", ("twice.json:3", "'limit'", "twice")),
    ("inner.json", b'{"a": {"b": 1},\n"c": {"\\"}": 1,\n"b": 2, "b": 3}}', "--config", ("inner.json:3", "'b'")),
    ("minutes.yaml", b"max_new_tokens: 12:30:45\n", "--config", ("--max-new-tokens", "'12:30:45'")),
    ("nested.json", b"[" * 100000, "--config", ("nested.json", "JSON")),
    ("digits.json", b'{"limit": ' + b"9" * 5000 + b"}", "--config", ("digits.json", "JSON")),
    ("huge.json", b'{"near_tie_below": ' + b"9" * 400 + b"}", "--config", ("--near-tie-below",)),
    ("digits.yaml", b"limit: " + b"9" * 5000, "--config", ("digits.yaml", "cannot be read")),
    ("nested.yaml", b"[" * 100000, "--config", ("nested.yaml", "cannot be read")),
    ("loop.yaml", b"candidates: &a [*a]\n", "--config", ("--candidates",)),
    ("tag.yaml", b"limit: !!python/object/apply:os.system [ls]\n", "--config", ("tag.yaml:1", "cannot be read")),
    ("weights.yaml", b"candidates: [{name: a, precision: bf16, model: 3}]\n", "--config", ("variant a: model", "3")),
    ("compute.yaml", b"candidates: [{name: a, precision: int8, compute: fp61}]\n", "--config", ("'fp61'", "fp16")),
    ("device.yaml", b"device: 3\n", "--config", ("--device", "3")),
]


@pytest.mark.parametrize(("arguments", "words"), EARLY, ids=[" ".join(a) for a, _ in EARLY])
def test_refused_options(run: Callable[..., Result], arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    run(*PROMPT, *arguments).refused(*words)


@pytest.mark.parametrize(("name", "content", "option", "words"), FILES, ids=[f"{o} {n}" for n, _, o, _ in FILES])
def test_refused_files(
    run: Callable[..., Result], tmp_path: Path, name: str, content: bytes, option: str, words: tuple[str, ...]
) -> None:
    (tmp_path / name).write_bytes(content)
    run(*(PROMPT if option != "--prompts" else ()), option, name).refused(*words)


@pytest.mark.parametrize(("command", "arguments", "words"), FOLDERS, ids=[f"{c} {' '.join(a)}" for c, a, _ in FOLDERS])
def test_refused_folders(
    run: Callable[..., Result], tmp_path: Path, command: str, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    for name, file, content in (("full", "x", "mine"), ("damaged", "plan.json", "{"), ("begun", "plan.json", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(content)
    for name, content in (("twice", '{"model": "a",\n"model": "b"}'), ("listed", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").write_text(content)
    (tmp_path / "begun" / "plan.json").write_text('{"from_another_tool": 1, "candidates": [], "strategies": []}')
    run(*(PROMPT if command == "compare" else ()), *arguments, command=command).refused(*words)
    assert (tmp_path / "full" / "x").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "listed",
    [
        "[3]",
        "[{id: true, prompt: a}]",
        "[{id: a}]",
        "[{prompt: a, id: x}, {prompt: b, id: x}]",
        "[{id: a, text: null}]",
        "3",
    ],
)
def test_refused_prompts_of_a_config(run: Callable[..., Result], tmp_path: Path, listed: str) -> None:
    (tmp_path / "c.yaml").write_text(f"prompts: {listed}\n")
    run("--config", "c.yaml").refused("prompt")


def test_a_scalar_of_yaml_is_what_was_written(tmp_path: Path) -> None:
    """YAML 1.1 makes numbers of times and of leading zeros, truth of a `no`, and a date of a date."""
    path = tmp_path / "c.yaml"
    written = [
        "12:30:45",
        "007",
        "0x1F",
        "0o17",
        "1_000",
        "yes",
        "no",
        "On",
        "2024-01-01",
        "1e5",
        "+5",
        "=",
        ".inf",
        "y",
    ]
    path.write_text("revision: 0123456\nprompt-ids: [" + ", ".join(written) + "]\n")
    assert read_config(path) == {"revision": "0123456", "prompt_ids": written}
    path.write_text("ignore_eos: no\nlimit: 3\nnear_tie_below: 1e-3\nseeds: [0, 1]\nchat_template: yes\nrevision:\n")
    asked = make_settings(CompareSettings, read_config(path))
    assert (asked.ignore_eos, asked.chat_template, asked.limit, asked.revision) == (False, True, 3, None)
    assert (asked.near_tie_below, asked.seeds) == (0.001, [0, 1])
    path.write_text("prompts: [{id: 010, prompt: no}, 1:30]\nno_text: true\ncontext: -0.5\nstride: null\n")
    found = read_config(path)
    assert found == {
        "prompts": [{"id": "010", "prompt": "no"}, "1:30"],
        "no_text": True,
        "context": -0.5,
        "stride": None,
    }


def test_tables_of_yaml_may_be_merged(tmp_path: Path) -> None:
    """A key that a table takes from another and has itself is not given twice."""
    path = tmp_path / "c.yaml"
    path.write_text("candidates:\n- &a {name: a, precision: bf16}\n- &b {<<: *a, name: b}\n- {<<: *b, name: c}\n- *b\n")
    assert [c["name"] for c in read_config(path)["candidates"]] == ["a", "b", "c", "b"]


@pytest.mark.parametrize("option", ["--prompts", "--text", "--config"])
def test_a_folder_is_no_file(run: Callable[..., Result], tmp_path: Path, option: str) -> None:
    (tmp_path / "folder").mkdir()
    run(*(PROMPT if option != "--prompts" else ()), option, "folder").refused(option, "folder")


def test_early_refusals_need_no_torch(tmp_path: Path) -> None:
    """All of the tables above in one fresh process: afterwards torch has not been imported."""
    for name, content, _, _ in FILES:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    cases = [list(a) for a, _ in EARLY] + [[o, n] for n, _, o, _ in FILES] + [["--out", "full"], ["--out", "none.csv"]]
    code = (
        "import sys, json\nfrom decodedrift.cli import main\n"
        "for case in json.load(open('cases.json')):\n"
        "    sys.argv = ['decodedrift', 'compare', *case]\n"
        "    try: main()\n"
        "    except SystemExit as stopped: assert stopped.code == 2, (case, stopped.code)\n"
        "    assert 'torch' not in sys.modules and 'transformers' not in sys.modules, case\n"
    )
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert not done.stdout


# ---- the folder to write to


def test_out_is_not_ours(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    run(*PROMPT, "--out", "full").refused("--out full", "not empty", "new one")
    run(*PROMPT, "--out", "file").refused("--out file", "a file")
    run(*PROMPT, "--out", "file/below").refused("--out file/below", "file")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"
    assert not list(tmp_path.glob("full/.*"))


def test_out_is_not_writable(run: Callable[..., Result], tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    run(*PROMPT, "--out", "locked/run").refused("--out locked/run", "cannot be written")


# ---- models


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([("config.json", None)], ("no config.json",)),
        ([("config.json", "{\n")], ("config.json", "JSON")),
        ([("config.json", b"\xff\xfe\x00")], ("config.json",)),
        ([("config.json", "[]")], ("config.json", "model_type")),
        ([("config.json", '{"model_type": "frobnicate"}')], ("config.json", "frobnicate")),
        ([("tokenizer.json", None), ("tokenizer_config.json", None)], ("no tokenizer files",)),
        ([("tokenizer.json", "{")], ("tokenizer cannot be loaded",)),
        ([("tokenizer.json", b"\xff")], ("tokenizer cannot be loaded",)),
        ([("tokenizer_config.json", "{")], ("tokenizer cannot be loaded",)),
        ([("generation_config.json", "{")], ("generation_config.json", "JSON")),
        ([("generation_config.json", '{"eos_token_id": "x"}')], ("eos_token_id", "'x'")),
        ([("model.safetensors", None)], ("no model.safetensors",)),
        ([("model.safetensors", None), ("pytorch_model.bin", "x")], (".bin", "safetensors")),
        ([("model.safetensors", None), ("pytorch_model.bin", "x")], ("--allow-pickle",)),
        ([("tokenizer.json", "{}")], ("tokenizer cannot be loaded", "tokenizer.json holds no tokenizer", "again")),
        ([("tokenizer.json", "null")], ("tokenizer cannot be loaded", "tokenizer.json holds no tokenizer")),
        ([("config.json", '{"model_type": "gpt2", "n_layer": -1}')], ("spoiled",)),
        ([("config.json", '{"model_type": "gpt2", "vocab_size": "many"}')], ("config.json",)),
        ([("model.safetensors", b"")], ("model.safetensors", "again")),
        ([("model.safetensors", POINTER)], ("model.safetensors", "git-LFS pointer", "git lfs pull")),
        ([("model.safetensors.index.json", POINTER)], ("index.json", "git-LFS pointer", "git lfs pull")),
        ([("config.json", POINTER)], ("config.json", "git-LFS pointer", "git lfs pull")),
        ([("tokenizer.json", POINTER)], ("tokenizer.json", "git-LFS pointer", "git lfs pull")),
        ([("tokenizer_config.json", POINTER)], ("tokenizer_config.json", "git-LFS pointer", "git lfs pull")),
        ([("generation_config.json", POINTER)], ("generation_config.json", "git-LFS pointer", "git lfs pull")),
        ([("generation_config.json", "[3]")], ("generation_config.json", "must hold a table", "list")),
        ([("generation_config.json", '{"eos_token_id": true}')], ("eos_token_id", "True")),
        ([("generation_config.json", '{"eos_token_id": [1, 2.0]}')], ("eos_token_id", "[1, 2.0]")),
        ([("model.safetensors.index.json", "{")], ("index.json",)),
        ([("model.safetensors.index.json", "[]")], ("index.json",)),
        ([("model.safetensors.index.json", '{"weight_map": {"a": "../x"}, "metadata": {}}')], ("index.json",)),
        (
            [("model.safetensors.index.json", '{"weight_map": {"a": "one.safetensors"}, "metadata": {}}')],
            ("one.safetensors is missing",),
        ),
    ],
    ids=lambda value: " ".join(str(v[0]) for v in value) if isinstance(value, list) else None,
)
def test_broken_model_folders(
    run: Callable[..., Result],
    broken: Callable[..., Path],
    changes: list[tuple[str, str | bytes | None]],
    words: tuple[str, ...],
) -> None:
    run(*SHORT, "--model", broken(*changes)).refused("spoiled", *words)


def test_an_empty_folder(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    run(*SHORT, "--model", "nothing").refused("nothing", "no config.json")


def test_truncated_weights(run: Callable[..., Result], broken: Callable[..., Path], saved: Callable[..., Path]) -> None:
    whole = (saved() / "model.safetensors").read_bytes()
    run(*SHORT, "--model", broken(("model.safetensors", whole[: len(whole) // 2]))).refused("model.safetensors")


@pytest.mark.parametrize("fault", ["missing", "unexpected", "mismatched"])
def test_weights_that_do_not_fit(
    run: Callable[..., Result], broken: Callable[..., Path], tmp_path: Path, fault: str
) -> None:
    """A missing tensor would load as random weights. Nothing is left of a run that was refused."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = broken()
    weights = load_file(folder / "model.safetensors")
    if fault == "missing":
        del weights["transformer.h.0.mlp.c_fc.weight"]
    elif fault == "unexpected":
        weights["transformer.h.9.mlp.c_fc.weight"] = torch.zeros(3)
    else:
        weights["transformer.ln_f.weight"] = torch.ones(5)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    run(*SHORT, "--model", folder, "--candidates", "bf16", "--out", "run").refused("spoiled", "config.json")
    assert not (tmp_path / "run").exists()


def test_not_a_causal_model(run: Callable[..., Result], tmp_path: Path) -> None:
    import transformers as t

    t5 = t.T5Config(vocab_size=96, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    bert = t.BertConfig(vocab_size=96, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    headless = t.GPT2Config(vocab_size=96, n_embd=16, n_layer=1, n_head=2, architectures=["GPT2Model"])
    for name, config, word in (
        ("t5", t5, "encoder-decoder"),
        ("bert", bert, "bidirectional"),
        ("lm-head", t.BertConfig(**(bert.to_dict() | {"architectures": ["BertLMHeadModel"]})), "bidirectional"),
        ("masked", t.BertConfig(**(bert.to_dict() | {"architectures": ["BertForMaskedLM"]})), "not a causal"),
        ("headless", headless, "not a causal"),
        ("vision", t.ViTConfig(), "causal LM"),
    ):
        config.save_pretrained(tmp_path / name)
        run(*SHORT, "--model", name).refused(name, word)


def test_causal_models_whose_config_says_otherwise() -> None:
    """GPT-NeoX keeps `is_decoder` at False; a BERT made a decoder is causal."""
    import transformers as t

    from decodedrift.models.sources.checkpoints import check_causal

    check_causal("neox", t.GPTNeoXConfig(), False)
    check_causal("bert", t.BertConfig(is_decoder=True), False)


def test_foreign_code_is_not_run(run: Callable[..., Result], broken: Callable[..., Path]) -> None:
    config = {"model_type": "frob", "auto_map": {"AutoConfig": "x.Y", "AutoModelForCausalLM": "x.Z"}}
    folder = broken(("config.json", json.dumps(config)), ("x.py", "raise SystemExit('it ran')\n"))
    run(*SHORT, "--model", folder).refused("--trust-remote-code")


def test_a_tokenizers_foreign_code_is_not_run(
    run: Callable[..., Result], saved: Callable[..., Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(saved("llama"), tmp_path / "spoiled")
    asked = {"auto_map": {"AutoTokenizer": ["x.Y", None]}, "tokenizer_class": "Y"}
    (folder / "tokenizer_config.json").write_text(json.dumps(asked))
    (folder / "x.py").write_text("raise SystemExit('it ran')\n")
    run(*SHORT, "--model", folder).refused("spoiled", "its tokenizer needs code", "--trust-remote-code")


def test_a_tokenizer_of_another_model(run: Callable[..., Result], broken: Callable[..., Path]) -> None:
    folder = broken()
    tiny_tokenizer(200).save_pretrained(folder)
    run("--model", folder, "--prompt", "w150").refused("150", "vocabulary of 96", "another model")


def test_revision_of_a_folder(run: Callable[..., Result], saved: Callable[..., Path]) -> None:
    run(*SHORT, "--model", saved(), "--revision", "main").refused("--revision main", "no revisions")
    run(*SHORT, "--model", "demo", "--revision", "main").refused("--revision main", "no revisions")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./missing", ("./missing", "no such folder")),
        ("/no/such/folder", ("/no/such/folder", "no such folder")),
        ("a/b/c", ("a/b/c", "no such folder")),
        ("gpt2", ("gpt2", "cannot be reached", "HF_HUB_OFFLINE")),
        ("owner/model", ("owner/model", "cannot be reached")),
    ],
)
def test_models_that_are_nowhere(run: Callable[..., Result], name: str, words: tuple[str, ...]) -> None:
    run(*SHORT, "--model", name).refused(*words, "--model demo", "local folder")


def test_a_file_is_no_model(run: Callable[..., Result], saved: Callable[..., Path]) -> None:
    run(*SHORT, "--model", saved() / "config.json").refused("folder")


def test_hub_that_does_not_answer(tmp_path: Path) -> None:
    """A true process, nothing patched: quick, and one line."""
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "decodedrift", "compare", "--model", "gpt2", *PROMPT],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    Result(done.returncode, done.stdout, done.stderr).refused("gpt2", "cannot be reached", "--model demo", "folder")
    assert time.perf_counter() - begin < 40


def test_offline_the_cache_answers(saved: Callable[..., Path], tmp_path: Path) -> None:
    """What was downloaded once runs without the hub, pinned to its commit; another revision is not there."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub" / "models--owner--tiny"
    shutil.copytree(saved(), cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    arguments = ["--model", "owner/tiny", *PROMPT, "--dry-run"]
    code = (  # one process, which reads where the cache is when it begins
        "import sys\nfrom decodedrift.cli import main\n"
        f"for more in [[], ['--revision', {commit!r}], ['--revision', 'v2']]:\n"
        f"    sys.argv = ['decodedrift', 'compare', *{arguments!r}, *more]\n"
        "    try: main()\n"
        "    except SystemExit as stopped: print('CODE', stopped.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second, third, rest = re.split(r"CODE \d\n", done.stdout)
    assert re.findall(r"CODE (\d)\n", done.stdout) == ["0", "0", "2"], done.stderr
    assert "owner/tiny: fp32 against" in first and "owner/tiny: fp32 against" in second
    Result(2, third + rest, done.stderr).refused("owner/tiny", "HF_HUB_OFFLINE", "--model demo")


@pytest.mark.parametrize(
    ("error", "word"),
    [
        ("RepositoryNotFoundError", "no such model"),
        ("RevisionNotFoundError", "no revision"),
        ("GatedRepoError", "log in"),
    ],
)
def test_what_the_hub_answers(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, error: str, word: str
) -> None:
    import huggingface_hub

    def answer(*arguments: Any, **more: Any) -> None:
        kind = getattr(huggingface_hub.errors, error)
        raise kind.__new__(kind)  # without the response that its __init__ asks for

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", answer)
    run(*SHORT, "--model", "owner/model", "--revision", "r").refused("owner/model", word)


# ---- devices, memory, windows: refused before a weight is loaded


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--device", "tpu"), ("'tpu'", "did you mean 'cpu'")),
        (("--device", "meta"), ("'meta'", "not available")),
        (("--device", ""), ("device ''", "choices")),
        (("--candidates", "bf16:device=tpu:1"), ("'tpu:1'", "choices")),
        (("--candidates", "bf16:attention=bogus"), ("attention=bogus", "no such kernel", "choices: eager", "sdpa")),
        (("--strategies", "beam:num_beams=97"), ("num_beams=97", "vocabulary", "96")),
        (("--memory", "0.0000001"), ("--memory", "raise it")),
        (("--chat-template",), ("--chat-template", "leave the option out")),
        (("--text", "text.txt", "--context", "129"), ("--context 129", "window of 128")),
        (("--text", "text.txt", "--stride", "129"), ("--stride 129", "skipped")),
        (("--text", "one.txt"), ("one.txt", "fewer than two tokens")),
        (("--reference", "int8-bnb", "--candidates", "fp32"), ("int8-bnb", "pip install")),
        (
            ("--candidates", "int4:group=33", "--dry-run"),
            ("int4:group=33", "group= takes what divides one: 2, 4, 8, 16"),
        ),
        (
            ("--candidates", "fp32:kv=int4:7", "--dry-run"),
            ("kv=int4:7", "of a head", "one of 1, 2, 4, 8, or kv=int4:0"),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) and value[0].startswith("--") else None,
)
def test_refused_once_the_model_is_found(
    run: Callable[..., Result],
    saved: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    without_bitsandbytes(monkeypatch)
    (tmp_path / "text.txt").write_text("w1 w2 w3 " * 100)
    (tmp_path / "one.txt").write_text("w1")
    run("--model", saved(), *PROMPT, *arguments).refused(*words)
    assert not (tmp_path / "reports").exists() or not any((tmp_path / "reports").iterdir())


def test_fp64_on_a_device_without_it(
    run: Callable[..., Result], saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from decodedrift.models.precisions import floating

    real = floating.unavailable
    monkeypatch.setattr(
        floating,
        "unavailable",
        lambda name, device: "fp64 is not supported on mps" if name == "fp64" else real(name, device),
    )
    run(*SHORT, "--model", saved(), "--reference", "fp64").refused("fp64 is not supported on mps", "--device cpu")


def test_another_vocabulary(run: Callable[..., Result], saved: Callable[..., Path], tmp_path: Path) -> None:
    other = shutil.copytree(saved(), tmp_path / "other")
    file = other / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    vocab = content["model"]["vocab"]
    vocab["w1"], vocab["w2"] = vocab["w2"], vocab["w1"]
    file.write_text(json.dumps(content), "utf-8")
    candidate = f"mine={other}"
    run(*SHORT, "--model", saved(), "--candidates", candidate).refused("mine", "another vocabulary", "2 tokens")


# ---- the window of a candidate checkpoint


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_candidates_own_window_counts(
    run: Callable[..., Result], saved: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    """With rotary positions it would be passed without a word, with learned ones it ends in an IndexError."""
    narrow = narrowed(saved(family), tmp_path / "narrow", 32)
    prompts = tmp_path / "p.jsonl"
    rows = [("fits", "w3 " * 29), ("long", "w3 " * 30)]
    prompts.write_text("".join(json.dumps({"id": i, "prompt": t}) + "\n" for i, t in rows))
    (tmp_path / "text.txt").write_text(" ".join(f"w{n}" for n in range(1, 91)))
    asked = ["--model", saved(family), "--candidates", f"fp16,mine={narrow}", "--text", "text.txt"]
    done = run(
        *asked, "--prompts", prompts, "--max-new-tokens", "3", "--strategies", "greedy", "--out", "run", "--quiet"
    )
    assert done.code == 3
    assert done.err == (
        "refused prompt long: 30 prompt tokens + 3 new ones exceed candidate mine's window of 32; "
        "shorten the prompt or lower --max-new-tokens\n"
    )
    failures = pd.read_csv(tmp_path / "run" / "tables/failures.csv")
    assert failures[["prompt_id", "stage"]].values.tolist() == [["long", "prompt"]], failures.to_string()
    assert set(pd.read_csv(tmp_path / "run" / "tables/traces.csv")["prompt_id"]) == {"fits"}
    plan = json.loads((tmp_path / "run" / "data/plan.json").read_text())
    assert (plan["context"], plan["stride"]) == (32, 16)
    assert set(pd.read_csv(tmp_path / "run" / "tables/perplexity.csv")["variant"]) >= {"fp32", "mine"}
    run(*asked, *SHORT, "--context", "33").refused("--context 33", "candidate mine's window of 32")


def test_bundled_prompts_beyond_a_candidates_window_are_left_out(tmp_path: Path) -> None:
    from decodedrift.models.sources.checkpoints import DEMO

    narrow = narrowed(DEMO, tmp_path / "narrow", 80)
    asked: dict[str, Any] = {"candidates": [f"mine={narrow}"], "limit": 100, "max_new_tokens": 64}
    ready = prepare.prepare(make_settings(CompareSettings, asked))
    assert 0 < ready.plan.left_out < 200
    assert not ready.plan.refused
    assert max(len(ids) for ids in ready.world.prompts.values()) == 16
    assert f"{ready.plan.left_out} bundled prompts do not fit the window" in ready.announcement()


def narrowed(folder: Path, to: Path, window: int) -> Path:
    """The same checkpoint with another window; learned positions are cut."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    name = "n_positions" if "n_positions" in config else "max_position_embeddings"
    (to / "config.json").write_text(json.dumps(config | {name: window}))
    weights = load_file(to / "model.safetensors")
    cut = {k: w[:window].contiguous() if k.endswith("wpe.weight") else w for k, w in weights.items()}
    save_file(cut, to / "model.safetensors", metadata={"format": "pt"})
    return to


# ---- prompts: some refused, all refused


def test_some_prompts_are_refused(run: Callable[..., Result], saved: Callable[..., Path], tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    rows = [("good", "w1 w2"), ("empty", ""), ("long", "w3 " * 126), ("half", "w1 \ud800"), ("fits", "w3 " * 125)]
    prompts.write_text("".join(json.dumps({"id": i, "prompt": t}) + "\n" for i, t in rows))
    done = run("--model", saved(), "--prompts", prompts, "--max-new-tokens", "3", "--strategies", "greedy",
               "--candidates", "bf16", "--out", "run", "--quiet", *LEAN_FLAGS)  # fmt: skip
    assert done.code == 3
    said = done.err.splitlines()
    assert [line.split(":")[0] for line in said] == [
        "refused prompt empty",
        "refused prompt long",
        "refused prompt half",
    ]
    assert "give it some text" in said[0]
    assert "126 prompt tokens + 3 new ones exceed the model's window of 128" in said[1]
    assert "surrogate" in said[2]
    failures = pd.read_csv(tmp_path / "run" / "tables/failures.csv")
    assert failures[["prompt_id", "stage", "status"]].values.tolist() == [
        [i, "prompt", "refused"] for i in ("empty", "long", "half")
    ]
    traces = pd.read_csv(tmp_path / "run" / "tables/traces.csv")
    assert set(traces["prompt_id"]) == {"good", "fits"}


def test_all_prompts_are_refused(run: Callable[..., Result], saved: Callable[..., Path]) -> None:
    run("--model", saved(), "--prompt", "").refused("no prompt can run", "empty after tokenization")
    run("--model", saved(), "--prompt", "w1 " * 100).refused("no prompt can run", "window of 128", "--max-new-tokens")


# ---- variants that fail alone


def without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in ("bitsandbytes", "accelerate") else real(name, *a)
    )


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        ("int8-bnb", ("int8-bnb",)),
        ("int8:head=true", ("head=true", "tied", "leave head=true out")),
    ],
)
def test_a_variant_fails_alone(
    run: Callable[..., Result],
    saved: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    candidate: str,
    words: tuple[str, ...],
) -> None:
    if candidate == "int8-bnb" and importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    done = run(*SHORT, "--model", saved(), "--candidates", f"{candidate},fp16", "--out", "run", "--quiet")
    assert done.code == 3
    assert not done.err
    failures = pd.read_csv(tmp_path / "run" / "tables/failures.csv")
    assert failures["variant"].tolist() == [candidate]
    assert failures["stage"].tolist() == ["load"]
    for word in words:
        assert word in failures["error"][0]
    divergences = pd.read_csv(tmp_path / "run" / "tables/divergences.csv")
    assert set(divergences["candidate"]) == {"fp32", "fp16"}
    assert "fp16" in done.out


def test_a_broken_checkpoint_as_candidate_fails_alone(
    run: Callable[..., Result], saved: Callable[..., Path], tmp_path: Path
) -> None:
    """NaN weights: the run goes on, the failure is a row."""
    import torch

    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "nan")
    tiny_tokenizer().save_pretrained(tmp_path / "nan")
    done = run(*SHORT, "--model", saved(), "--candidates", "mine=nan,fp16", "--out", "run", "--quiet")
    assert done.code == 3
    failures = pd.read_csv(tmp_path / "run" / "tables/failures.csv")
    assert set(failures["variant"]) == {"mine"}
    assert set(failures["status"]) == {"nonfinite"}


# ---- the same checks from a notebook


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"max_new_tokens": 2.5}, "2.5"),
        ({"max_new_tokens": True}, "True"),
        ({"limit": 0}, "limit"),
        ({"seeds": [-1]}, "-1"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"model": None}, "--model"),
        ({"strategies": [5]}, "--strategies"),
        ({"candidates": [3]}, "--candidates"),
        ({"prompts": [3]}, "prompts[0]"),
        ({"prompts": []}, "at least one"),
        ({"texts": [3]}, "--text"),
    ],
    ids=str,
)
def test_refused_in_a_notebook(values: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError) as refused:
        prepare.draft(make_settings(CompareSettings, values))
    assert word in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_what_is_no_model_in_a_notebook() -> None:
    from decodedrift.experiments.compare.face import compare

    with pytest.raises(InputError, match="not '<object"):
        compare(object(), tokenizer=tiny_tokenizer())
    with pytest.raises(InputError, match="tokenizer"):
        compare(tiny_model("gpt2"))


def test_numbers_of_numpy_and_paths_are_taken(saved: Callable[..., Path]) -> None:
    import numpy as np

    asked = make_settings(CompareSettings, {"model": saved(), "max_new_tokens": np.int64(3), "seeds": range(2)})
    assert (asked.model, asked.max_new_tokens, asked.seeds) == (str(saved()), 3, [0, 1])


def test_a_bug_of_ours_is_one_line_too(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    from decodedrift.cli import listing

    def fails(what: str | None) -> str:
        raise RuntimeError("\x1b[31mred\n" + "x" * 500)

    monkeypatch.setattr(listing, "listing", fails)
    done = run(command="list")
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert len(done.err) <= 301
    assert "\x1b" not in done.err
    log = Path(done.err.rsplit(" ", 1)[1].strip())
    assert "RuntimeError" in log.read_text()
    log.unlink()
