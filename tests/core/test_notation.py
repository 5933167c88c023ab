"""The command line's small language: every spelling of a list, and what it refuses."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decodedrift.core.notation import boolean, count, number, one_of, split_items, text, whole
from decodedrift.core.records import InputError, Variant, plain
from decodedrift.decoding import strategies
from decodedrift.decoding.strategies import STRATEGIES, parse_strategies
from decodedrift.models import variants
from decodedrift.models.variants import parse_variants, variant_from_dict


def labels(given: str | list[str]) -> list[str]:
    return [item.label for item in split_items(given, strategies.params_of)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds a folder `model` and one with a colon in its name."""
    monkeypatch.chdir(tmp_path)
    for name in ("model", "a:b", "a:b=c", "m:batch_size=2"):
        (tmp_path / name).mkdir()
    return tmp_path


# ---- lists


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("greedy", ["greedy"]),
        ("greedy,beam", ["greedy", "beam"]),
        (" greedy , beam ", ["greedy", "beam"]),
        (["greedy", "beam,top-k"], ["greedy", "beam", "top-k"]),
        ("greedy,,beam,", ["greedy", "beam"]),
        ("", []),
        ("top-k:k=5,temperature=0.8", ["top-k:k=5,temperature=0.8"]),
        ("top-k:temperature=0.8,k=5", ["top-k:k=5,temperature=0.8"]),
        ("top-k:k=5:temperature=0.8", ["top-k:k=5,temperature=0.8"]),
        ("top-k,k=5,greedy", ["top-k:k=5", "greedy"]),
        (["top-k:k=5", "temperature=0.8"], ["top-k:k=5,temperature=0.8"]),
        ("top-k:k= 5", ["top-k:k=5"]),
        ("top-p:p=0.9,top-p:p=0.5", ["top-p:p=0.9", "top-p:p=0.5"]),
        ("beam,num_beams=2,top-p,p=0.5,temperature=2", ["beam:num_beams=2", "top-p:p=0.5,temperature=2"]),
    ],
)
def test_lists(given: str | list[str], expected: list[str]) -> None:
    """A piece `key=value` belongs to the item before it where it is one of its parameters."""
    assert labels(given) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("p=0.5", ["does not begin with a name"]),
        ("greedy,p=0.5", ["'p=0.5'", "its parameters: repetition_penalty, no_repeat_ngram"]),
        ("top-k,q=5", ["'q=5'", "its parameters: k, temperature"]),
        ("beam,num_beam=5", ["did you mean 'num_beams'"]),
        ("top-k:k=1,k=2", ["'k' is given twice"]),
    ],
)
def test_lists_that_are_none(given: str, words: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        labels(given)
    for word in words:
        assert word in str(refused.value)


numbers = st.integers(1, 10**6).map(str) | st.floats(1e-6, 1).map(str)
item = st.sampled_from(list(STRATEGIES)).flatmap(
    lambda name: st.fixed_dictionaries({}, optional=dict.fromkeys(STRATEGIES[name].params, numbers)).map(
        lambda params: name + (":" + ",".join(f"{k}={v}" for k, v in params.items()) if params else "")
    )
)


@given(st.lists(item, min_size=1, max_size=4))
def test_labels_are_a_spelling_of_themselves(items: list[str]) -> None:
    once = labels(",".join(items))
    assert len(once) == len(items)
    assert labels(once) == once
    assert labels(",".join(once)) == once


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_strategies, parse_variants):
        with suppress(InputError):
            assert all(found.name for found in parse(text))


# ---- strategies


def test_strategies_are_complete() -> None:
    found = {s.label: s for s in parse_strategies("greedy,beam,top-k:k=3,top-p:p=0.5,temperature=2")}
    assert dict(found["beam"].params) == {"num_beams": 4, "length_penalty": 1.0, "early_stopping": False}
    assert dict(found["top-k:k=3"].params) == {"k": 3, "temperature": 1.0}
    assert dict(found["top-p:p=0.5,temperature=2"].params) == {"p": 0.5, "temperature": 2.0}
    assert [s.samples for s in found.values()] == [False, False, True, True]
    assert strategies.strategy("top-k", k=50, temperature=0.8) == parse_strategies("top-k:k=50,temperature=0.8")[0]


# ---- variants


def names(given: str | list[str], reference: str = "fp32") -> list[tuple[str, str, str | None, str | None]]:
    (held,) = parse_variants(reference)
    return [(v.name, v.precision, v.compute, v.model) for v in parse_variants(given, held)]


def test_variants(folder: Path) -> None:
    assert names("bf16,fp32:batch_size=8,int8:head=true") == [
        ("bf16", "bf16", "bf16", None),
        ("fp32:batch_size=8", "fp32", "fp32", None),
        ("int8:head=true", "int8", "fp32", None),
    ]
    assert names("mine=model") == [("mine", "fp32", None, "model")], "its checkpoint says it, once that is found"
    assert names("mine=model", "bf16") == [("mine", "bf16", None, "model")]
    assert names("mine=model:precision=int8", "bf16") == [("mine", "int8", "bf16", "model")]
    assert names("mine=./model,precision=bf16,bf16") == [
        ("mine", "bf16", "bf16", "./model"),
        ("bf16", "bf16", "bf16", None),
    ]
    assert names("a=model,b=model:batch_size=2,c=owner/name") == [
        ("a", "fp32", None, "model"),
        ("b", "fp32", None, "model"),
        ("c", "fp32", None, "owner/name"),
    ]


def test_colons(folder: Path) -> None:
    """In paths they are kept, in values too; a folder that exists is taken whole."""
    assert [v.model for v in parse_variants(["x=a:b", "y=a:b=c", "z=a:b:batch_size=3", "w=m:batch_size=2"])] == [
        "a:b", "a:b=c", "a:b", "m:batch_size=2",
    ]  # fmt: skip
    (found,) = parse_variants("bf16:device=cuda:1,batch_size=2")
    assert (found.device, found.batch_size) == ("cuda:1", 2)
    (found,) = parse_variants("mine=model:device=cuda:1:precision=bf16")
    assert (found.device, found.precision, found.model) == ("cuda:1", "bf16", "model")
    (found,) = parse_variants(f"mine={folder}/a:b:precision=bf16")
    assert found.model == f"{folder}/a:b"


def test_hub_revisions_are_a_checkpoints(folder: Path) -> None:
    (found,) = parse_variants("mine=owner/name:revision=v1.0")
    assert (found.model, found.revision) == ("owner/name", "v1.0")
    with pytest.raises(InputError, match="NAME=OWNER/MODEL"):
        parse_variants("bf16:revision=v1.0")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("mine=gone", ["'gone'", "existing folder"]),
        ("bf16,mine=gone", ["NAME=FOLDER (no such folder)"]),
        ("mine=./gone:precision=bf16", ["'./gone'"]),
        ("mine=model:precison=bf16", ["unknown parameter 'precison'", "did you mean"]),
        ("mine=model:precision=bf17", ["'bf17'"]),
        ("=model", ["a name before the ="]),
        ("bf16:head=true", ["head must be one of fp32, bf16-output"]),
        ("bf16:group_of=32", ["unknown parameter 'group_of'"]),
        ("bf16:batch_size=2,batch_size=3", ["given twice"]),
        ("bf16:", ["KEY=VALUE"]),
    ],
)
def test_variants_that_are_none(folder: Path, given: str, words: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        parse_variants(given)
    for word in words:
        assert word in str(refused.value)


def test_a_variant_without_a_precision_takes_the_references_options(folder: Path) -> None:
    (reference,) = parse_variants("int8:head=true,compute=bf16")
    (mine,) = parse_variants("mine=model", reference)
    assert (mine.precision, dict(mine.options), mine.compute) == ("int8", dict(reference.options), None)


@pytest.mark.parametrize(
    "given", ["bf16", "int8:head=true", "fp32:batch_size=8,use_cache=no", "mine=owner/name:threads=2"]
)
def test_variants_survive_a_plan(given: str) -> None:
    (reference,) = parse_variants("fp32")
    (variant,) = parse_variants(given, reference)
    again = variant_from_dict(plain(variant))
    assert parse_variants(again, reference) == (variant,)


def test_plans_come_back() -> None:
    from decodedrift.core.settings import make_settings
    from decodedrift.experiments.compare.settings import CompareSettings
    from decodedrift.runs.prepare import draft

    made = draft(
        make_settings(CompareSettings, {"prompts": ["a", "b"], "candidates": "bf16,int8:head=true", "seeds": [1, 2]})
    )
    values = {name: value for name, value in made.as_dict().items() if name != "experiment"}
    assert draft(make_settings(CompareSettings, values)) == made


def test_default_candidates_leave_the_reference_out() -> None:
    for reference, expected in (("fp32", ["bf16", "fp16", "int8"]), ("bf16", ["fp16", "int8"])):
        assert [v.name for v in variants.default_candidates(parse_variants(reference)[0])] == expected
    assert isinstance(variants.default_candidates(parse_variants("fp64")[0])[0], Variant)


# ---- values


@pytest.mark.parametrize("value", ["2.5", 2.5, 2.0, "x", "", None, True, -1, "-1", "1e3", [], "²"])
def test_no_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="must be a whole number >= 0"):
        whole(0)(value)


def test_whole_numbers() -> None:
    assert [whole(0)(v) for v in (0, "3", " 4 ", 2**80)] == [0, 3, 4, 2**80]
    with pytest.raises(ValueError, match="from 1 to 2147483647, not 2147483648"):
        count(2**31)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "x", "", None, True, [], "0", 1.5])
def test_no_number(value: object) -> None:
    with pytest.raises(ValueError, match="must be a number > 0 and <= 1, not "):
        number(0, 1, open_low=True)(value)


def test_numbers_words_and_truths() -> None:
    assert [number(0)(v) for v in ("1e-3", 2, "0")] == [0.001, 2.0, 0.0]
    assert [boolean(v) for v in ("true", "Yes", "1", False, "off")] == [True, True, True, False, False]
    assert (one_of("a", "b")("b"), text("x")) == ("b", "x")
    for read, value in ((boolean, "maybe"), (one_of("a"), "c"), (text, ""), (text, 3)):
        with pytest.raises(ValueError, match=f"not {value!r}"):
            read(value)
