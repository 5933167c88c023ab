"""An option is one line: help, Python signature, errors, plan.json and --config all say what the settings say."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import pytest
import typer
from forking import command
from running import run

import decodedrift as dd
from decodedrift.cli import app
from decodedrift.cli.options import FRAME, WORDS, frame_of
from decodedrift.core.options import GROUPS, Option
from decodedrift.core.records import InputError
from decodedrift.core.settings import make_settings
from decodedrift.experiments import EXPERIMENTS, experiment
from decodedrift.experiments.base import Experiment
from decodedrift.experiments.compare.settings import CompareSettings
from decodedrift.runs.config import read_config
from decodedrift.runs.prepare import prepare

KINDS = [experiment(name) for name in EXPERIMENTS]
BESIDE = {"tokenizer", "out", "resume", "progress"}  # what Python is told that is no option of a run
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def keywords(kind: Experiment) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(getattr(dd, kind.name)).parameters


def default(value: Any) -> Any:
    """A default as both sides write it: nothing named is nothing named, a list is a tuple."""
    return tuple(value) or None if isinstance(value, (list, tuple)) else value


@each_kind
def test_the_keywords_of_python_are_the_settings(kind: Experiment) -> None:
    parameters, fields = keywords(kind), kind.settings.model_fields
    assert set(parameters) - BESIDE == set(kind.settings.options())
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != "model")
    for name in kind.settings.options():
        assert default(parameters[name].default) == default(fields[name].default), name


@each_kind
def test_the_keywords_of_python_are_typed_as_the_settings(kind: Experiment) -> None:
    said, read = get_type_hints(getattr(dd, kind.name)), get_type_hints(kind.settings)
    live = {name for name in keywords(kind) if said[name] is Any}  # what may be a model in memory, and its tokenizer
    assert live == {"model", "tokenizer"} | ({"judge"} & set(keywords(kind)))
    assert said["return"] is dd.Study
    scalars = [n for n in kind.settings.options() if read[n] is not Any and get_origin(read[n]) is not list]
    assert len(scalars) >= 10
    assert {name: said[name] for name in scalars} == {name: read[name] for name in scalars}


def every_option() -> list[Any]:
    """(owner, name, option, the field's type) of every setting, and of what every command has beside them."""
    fields = [(k.name, n, o, get_type_hints(k.settings)[n]) for k in KINDS for n, o in k.settings.options().items()]
    return fields + [("frame", n, o, None) for n, o in FRAME.items()]


@pytest.mark.parametrize(
    ("owner", "name", "option", "type_"), every_option(), ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_option_says_what_it_is(owner: str, name: str, option: Option, type_: Any) -> None:
    assert option.group in GROUPS
    assert option.help.strip(), "what does it do?"
    assert option.help == option.help.strip()
    if owner != "frame":
        assert (type_ is bool) == (option.metavar == ""), "a switch takes no value, and all else names it"


@each_kind
def test_no_two_options_share_a_flag_or_a_label(kind: Experiment) -> None:
    options = kind.settings.options()
    flags = [kind.settings.flag(name) for name in options] + [
        f"--{o.flag or n.replace('_', '-')}" for n, o in frame_of(kind.tables).items()
    ]
    labels = [option.label or name.replace("_", " ").capitalize() for name, option in options.items()]
    assert len(set(flags)) == len(flags)
    assert len(set(labels)) == len(labels)
    assert not [label for label in labels if "_" in label or not label[:1].isupper()]


def help_of(kind: Experiment, tmp_path: Path) -> str:
    command = [sys.executable, "-m", "decodedrift", kind.name, "--help"]
    environment = {"COLUMNS": "80", "PYTHONPATH": str(Path(dd.__file__).parent.parent), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@each_kind
def test_help_shows_every_option_in_its_group_rare_ones_last(kind: Experiment, tmp_path: Path) -> None:
    text = help_of(kind, tmp_path)
    assert max(map(len, text.splitlines())) <= 80
    sections = dict(re.findall(r"^([A-Z][\w ]+):\n((?:  .*\n)+)", text, re.M))
    asked = {kind.settings.flag(n): o for n, o in kind.settings.options().items()}
    asked |= {f"--{o.flag or n.replace('_', '-')}": o for n, o in frame_of(kind.tables).items()}
    assert list(sections) == [g for g in GROUPS if g in {o.group for o in asked.values()}] + ["General"]
    shown = {flag: title for title, body in sections.items() for flag in re.findall(r"^  (--[\w-]+)", body, re.M)}
    assert ("--positions-csv" in shown) == ("positions" in kind.tables)
    assert shown == {flag: option.group for flag, option in asked.items()} | {"--help": "General"}
    for body in sections.values():
        rare = [asked[flag].rare for flag in re.findall(r"^  (--[\w-]+)", body, re.M) if flag in asked]
        assert rare == sorted(rare)


@each_kind
def test_help_ends_with_two_examples_that_parse(kind: Experiment, tmp_path: Path) -> None:
    lines = help_of(kind, tmp_path).partition("Examples:\n")[2].splitlines()
    assert [line.strip() for line in lines] == list(kind.examples)
    assert len(lines) == 2
    command = typer.main.get_command(app).commands[kind.name]  # type: ignore[attr-defined]
    for example in kind.examples:
        program, name, *words = shlex.split(example)
        assert (program, name) == ("decodedrift", kind.name)
        given = command.make_context(name, list(words)).params
        options = [name for name, value in given.items() if value and name != WORDS]
        assert len(options) == len([w for w in words if w[:2] == "--"])
        assert (given.get(WORDS) or []) == ([] if options else words)


def test_the_bare_command_shows_every_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "decodedrift"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert set(re.findall(r"^  (\w+)  ", done.stdout.partition("Commands:\n")[2], re.M)) == set(
        typer.main.get_command(app).commands  # type: ignore[attr-defined]
    )


BAD: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("compare", {"candidates": []}, ("candidates=", "give at least one")),
    ("compare", {"candidates": ["fp32"]}, ("'fp32' is the reference", "leave it out of candidates=")),
    ("compare", {"mode": "scren"}, ("mode=", "exact, screen", "'scren'")),
    ("compare", {"continued": True}, ("continued=True", "add mode='screen'")),
    ("compare", {"inject": True, "strategies": ["beam"]}, ("inject=True", "coupling='gumbel'")),
    ("compare", {"texts": "missing.txt"}, ("texts=missing.txt", "no such file")),
    ("compare", {"near_tie_below": -1}, ("near_tie_below=", ">= 0, not -1")),
    ("compare", {"memory_bytes": 1}, ("memory_bytes=", "or lower max_new_tokens=")),
    ("compare", {"prompts": ["a"], "max_new_tokens": 10**6}, ("no prompt can run", "lower max_new_tokens=")),
    ("inject", {"at": 64}, ("at=64", "raise max_new_tokens=")),
    ("inject", {"rank": 0}, ("rank=", ">= 1, not 0")),
    ("inject", {"strategies": "beam"}, ("add greedy", "with coupling='gumbel'")),
    ("inject", {"prompts": "missing.txt"}, ("prompts=missing.txt", "bundled set")),
    ("inject", {"prompt_ids": "zz"}, ("prompt_ids=zz", "no such prompt")),
    ("inject", {"executor": "clusters"}, ("executor=clusters", "choices: local")),
    ("inject", {"revision": "x"}, ("revision=x", "leave it out")),
    ("inject", {"out": "."}, ("out=.", "name a new one")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "asked", "words"), BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_what_python_asks_is_refused_in_its_keywords(name: str, asked: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(dd.InputError) as refused:
        getattr(dd, name)(**asked)
    message = str(refused.value)
    assert [word for word in words if word not in message] == []
    assert "--" not in message
    assert "\n" not in message


ASKED = {
    "compare": {"candidates": ["bf16", "int8:compute=bf16"], "strategies": ["greedy", "top-k:k=3"], "seeds": [1, 2]},
    "inject": {"at": [1, 2], "rank": 3, "strategies": ["top-p:p=0.5"]},
    "train": {"arms": ["fp32", "bf16:master=true"], "steps": 1, "controls": False, "compare": False},
    "formats": {"formats": ["fp16", "int4:group=8,zero=true"], "reference": "fp64"},
    "repeat": {"runs": 2, "vary": ["order", "padding"], "candidates": ["bf16"], "strategies": ["greedy"]},
}


@each_kind
def test_a_plan_can_be_asked_again(kind: Experiment, tmp_path: Path) -> None:
    """plan.json as --config, or as the keywords' values, is the same plan to the last field."""
    small = {"limit": 2, "max_new_tokens": 3, "batch_size": 2, "prompts_per_job": 1, "threads": 1}
    asked = ASKED[kind.name] | {name: value for name, value in small.items() if name in kind.settings.options()}
    study = run("demo", **asked) if kind.name == "compare" else getattr(dd, kind.name)(**asked)
    path = study.save(tmp_path / "run") / "data/plan.json"
    assert study.plan["experiment"] == kind.name
    again = prepare(make_settings(kind.settings, read_config(path)), check=kind.check)
    assert again.plan.as_dict() == study.plan
    done = command(kind.name, "--config", path, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 prompts" in done.stdout


@pytest.mark.parametrize(("name", "field"), [("text", "texts"), ("prompt-id", "prompt_ids"), ("continue", "continued"),
                                             ("memory", "memory_bytes")])  # fmt: skip
def test_a_flag_s_name_leads_to_the_setting(name: str, field: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{field}'"):
        make_settings(CompareSettings, {name.replace("-", "_"): 1})


def test_an_unknown_setting_lists_the_choices() -> None:
    with pytest.raises(InputError, match=r"unknown setting 'qqqq'; choices: model, .*max_new_tokens"):
        make_settings(CompareSettings, {"qqqq": 1})


@pytest.mark.parametrize(("key", "value"), [("refused", {"p": "r"}), ("left_out", 3), ("prompt_source", "stories")])
@pytest.mark.parametrize("prompts", [None, ["a"], "stories"])
def test_what_a_run_records_is_not_asked_for(key: str, value: object, prompts: object) -> None:
    with pytest.raises(InputError, match=f"{key}: a run records it"):
        make_settings(CompareSettings, {"prompts": prompts, key: value})
    plan = {"prompts": [{"id": "p", "text": "a", "tags": []}], key: value}
    assert getattr(make_settings(CompareSettings, plan), key) == value


@pytest.mark.parametrize("name", ["context", "stride"])
def test_windows_of_no_text_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"--{name} cuts texts into windows and there is none"):
        make_settings(CompareSettings, {name: 16, "default_text": False})
    assert getattr(make_settings(CompareSettings, {name: 16}), name) == 16, "of the bundled text"
