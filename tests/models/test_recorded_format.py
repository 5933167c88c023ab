"""The format of a recorded file: its lines, its schema, its three kinds of file, and what each refusal says."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from responses import OWN, SAMPLES

import decodedrift
from decodedrift.core.records import InputError
from decodedrift.models.recorded.adapters import ADAPTERS, adapted
from decodedrift.models.recorded.completion import Completion
from decodedrift.models.recorded.lines import Line, as_line, completion_of, schema
from decodedrift.models.recorded.read import read

IDS = st.integers(0, 10**6)
P = st.floats(-1e4, 0, allow_nan=False)
TOKENS = IDS | st.text(st.characters(exclude_categories=["Cs"])) | st.binary(min_size=1)


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    n = draw(st.integers(0, 4))
    some = lambda values: draw(st.none() | values)  # noqa: E731
    each = lambda values: st.lists(values, min_size=n, max_size=n).map(tuple)  # noqa: E731
    return Completion(
        "f:1",
        prompt_id=some(st.text("abc", min_size=1)),
        prompt_token_ids=some(st.lists(IDS).map(tuple)),
        token_ids=draw(each(IDS)),
        text=some(st.text(st.characters(exclude_categories=["Cs"]))),
        tokens=some(each(TOKENS.filter(lambda t: not isinstance(t, int)))),
        logprobs=some(each(st.none() | P)),
        top_logprobs=some(each(st.dictionaries(TOKENS, P, max_size=3))),
        stop_reason=some(IDS | st.just("END")),
        seed=some(IDS),
        run=draw(IDS),
        meta=draw(st.dictionaries(st.text("xy"), IDS)),
    )


@settings(max_examples=50)
@given(completions())
def test_a_line_is_read_as_it_was_written(completion: Completion) -> None:
    line = json.loads(json.dumps(as_line(completion)))
    back = completion_of(line, "f:1")
    assert back == completion and back.top_logprobs == completion.top_logprobs


def test_the_shipped_schema_is_the_models() -> None:
    path = Path(decodedrift.__file__).parent / "data" / "recorded.schema.json"
    assert json.loads(path.read_text("utf-8")) == schema()


def test_the_schema_takes_what_is_written_and_not_what_is_refused() -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(schema())
    for sample in (s for every in SAMPLES.values() for s in every):
        assert [validator.is_valid(as_line(c)) for c in adapted(sample, "f:1")].count(False) == 0
    for wrong in ({"prompt": "a"}, {"token_ids": [-1]}, {"text": "a", "token_id": [1]}, {"text": 3}):
        assert not validator.is_valid(wrong)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"token_ids": [1, 2, 3, 4, -1]}, "token_ids[4] is -1: should be greater than or equal to 0"),
        ({"token_ids": [1, "2"]}, "token_ids[1] is '2': should be a valid integer"),
        ({"token_ids": [1, True]}, "token_ids[1] is True: should be a valid integer"),
        ({"token_ids": [1], "logprobs": [0.5]}, "logprobs[0] is 0.5: a log-probability is at most 0"),
        ({"token_ids": [1], "logprobs": [float("nan")]}, "logprobs[0] is nan: a log-probability is at most 0"),
        ({"token_ids": [1], "logprobs": [float("-inf")]}, "logprobs[0] is -inf: should be a finite number"),
        ({"token_ids": [1, 2], "logprobs": [-1.0]}, "as many of each are needed, and token_ids has 2, logprobs has 1"),
        ({"token_ids": [1], "tokens": ["a", "b"]}, "as many of each are needed, and token_ids has 1, tokens has 2"),
        ({"token_ids": [1], "top_logprobs": [[[-4, -0.1]]]}, "top_logprobs[0][0][0] is -4"),
        ({"token_ids": [1], "top_logprobs": [[[[300], -0.1]]]}, "top_logprobs[0][0][0]"),
        ({"token_ids": [1], "top_logprobs": [[["a"]]]}, "top_logprobs[0][0]"),
        ({"text": "a", "logprobs": [-1.0]}, "logprobs belong to tokens, and there is no `token_ids` or `tokens`"),
        ({"text": 3}, "text is 3: should be a valid string"),
        ({"text": "a", "token_id": [1]}, "the key 'token_id' is none of a recorded line (choices: "),
        ({"text": "a", "messages": [{"content": "b"}]}, "messages: every turn needs a text under `role`"),
        ({"token_ids": [1], "top_logprobs": [[[0, -1.0], [0, -2.0]]]}, "top_logprobs[0] has the token 0 twice"),
        ({"text": "a", "seed": -1}, "seed is -1: should be greater than or equal to 0"),
        ({"prompt": "a"}, "there is no `token_ids`, `tokens`, `text` or `error` in it"),
        ({"words": "a"}, "this is the response of no engine that is known here (it has 'words'); vllm: "),
        ({"token_ids": [3.5]}, "token_ids[0] is 3.5: should be a valid integer"),
        ({"token_ids": [float("nan")]}, "token_ids[0] is nan: should be a"),
        ({"text": " a \ud83d"}, "text has half a character at 3 (U+D83D, a lone surrogate)"),
        ({"strategy": "\udc00", "text": "a"}, "strategy has half a character at 0"),
        ({"outputs": [3]}, "looks like a RequestOutput of vLLM's LLM.generate, and cannot be read ("),
        ({"choices": [{"index": 0}]}, "and cannot be read (KeyError: 'text')"),
    ],
)
def test_what_cannot_be_is_refused_with_file_line_and_place(tmp_path: Path, line: Any, said: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join([json.dumps({"text": "fine"}), "", json.dumps(line)]))
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:3: ") and said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.jsonl", "[" * 200_000, "not usable JSON (maximum recursion depth exceeded while decoding a JSON"),
        ("r.jsonl", "", "r.jsonl: the file holds no completion"),
        ("r.jsonl", '{"decodedrift": {"engine": "x"}}\n', "the file holds no completion"),
        ("r.jsonl", '{"text": "a"}\n{"text": "b', "r.jsonl:2: not valid JSON"),
        ("r.jsonl", '{"text": "a", "text": "b"}', "r.jsonl:1: the key 'text' is given twice"),
        ("r.jsonl", '{"text": "a"}\n{"decodedrift": {}}', "r.jsonl:2: a second header"),
        ("r.jsonl", '"text"', "r.jsonl:1: a completion is an object, not 'text'"),
        ("r.json", '[{"text": "a"}, 3]', "r.json entry 2: a completion is an object, not 3"),
        ("r.csv", "text\na\n", "unknown kind of recorded file '.csv'; use .jsonl, .json, .parquet"),
        ("r.parquet", "PAR", "r.parquet: not a Parquet file that can be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        read(tmp_path / name)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_half_a_character_beside_ids_is_no_matter() -> None:
    assert adapted({"token_ids": [1], "text": "\ud83d"}, "f:1")[0].token_ids == (1,)


def test_a_missing_file_is_named_with_its_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--reference .*none\.jsonl: no such file"):
        read(tmp_path / "none.jsonl", "--reference")


def test_three_kinds_of_file_hold_the_same(tmp_path: Path) -> None:
    other = {"prompt": "w1", "text": "w2", "error": None}
    jsonl, listed, parquet = (tmp_path / f"r.{kind}" for kind in ("jsonl", "json", "parquet"))
    header = {"engine": "x", "precision": "bf16"}
    jsonl.write_text("\n".join(map(json.dumps, [{"decodedrift": header}, OWN, other])))
    listed.write_text(json.dumps([{"decodedrift": header}, OWN, other], indent=1))
    rows = [OWN | {"top_logprobs": json.dumps(OWN["top_logprobs"]), "meta": json.dumps(OWN["meta"])}, other]
    table = pa.Table.from_pylist([dict.fromkeys([*OWN, *other]) | row for row in rows])
    pq.write_table(table.replace_schema_metadata({"decodedrift": json.dumps(header)}), parquet)
    first, second, third = read(jsonl), read(listed), read(parquet)
    assert first.header == second.header == third.header == header
    bare = [[as_line(c) for c in r.completions] for r in (first, second, third)]
    assert bare[0] == bare[1] == bare[2] and len(bare[0]) == 2
    assert first.completions[0].place == f"{jsonl}:2" and third.completions[1].place == f"{parquet} row 2"
    assert first.sha256 == hashlib.sha256(jsonl.read_bytes()).hexdigest()


def test_parquets_own_maps_and_structs_are_pairs(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    maps = pa.array([[[(5, -0.25), (9, -2.0)]]], pa.list_(pa.map_(pa.int64(), pa.float64())))
    pq.write_table(pa.table({"token_ids": [[5]], "top_logprobs": maps}), path)
    assert read(path).completions[0].top_logprobs == ({5: -0.25, 9: -2.0},)
    pq.write_table(pa.table({"token_ids": [[5]], "top_logprobs": [[[{"token": "w5", "logprob": -0.25}]]]}), path)
    assert read(path).completions[0].top_logprobs == ({"w5": -0.25},)


def test_a_prompts_id_may_be_a_number() -> None:
    assert completion_of({"prompt_id": 3, "text": "a"}, "f:1").prompt_id == "3"


def test_a_text_that_stands_for_two_alternatives_names_neither() -> None:
    pairs = [["\ufffd", -1.0], ["a", -2.0], ["\ufffd", -3.0]]
    assert completion_of({"token_ids": [1], "top_logprobs": [pairs]}, "f:1").top_logprobs == ({"a": -2.0},)


def test_the_page_on_the_format_names_every_key_and_its_example_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "recorded.md").read_text("utf-8")
    (example,) = re.findall(r"^```json\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "r.jsonl").write_text(example)
    assert [c.token_ids for c in read(tmp_path / "r.jsonl").completions] == [(5, 7, 0), None]
    table = page.partition("| key |")[2].partition("\n\n")[0]
    assert {key for key in Line.model_fields if f"`{key}`" not in table} == set()


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_reads_its_own_responses_and_no_other_does(name: str) -> None:
    assert SAMPLES[name], "a real response is needed"
    for sample in SAMPLES[name]:
        first = next(a.name for a in ADAPTERS.values() if a.knows(sample))
        assert first == name
        assert [n for n, a in ADAPTERS.items() if a.knows(sample) and n != "decodedrift"] in ([name], [])
        for completion in adapted(json.loads(json.dumps(sample)), "f:1"):
            assert completion.error is None and completion.finish_reason
            assert completion_of(as_line(completion), "f:1") == completion


def test_a_file_that_is_looked_at_twice_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module := sys.modules[read.__module__], "KEPT", {})
    file = tmp_path / "r.jsonl"
    file.write_text('{"prompt_id": "a", "token_ids": [5]}\n')
    first = read(file)
    assert read(file, "--reference") is first and len(module.KEPT) == 1
    file.write_text('{"prompt_id": "a", "token_ids": [5, 7]}\n')
    assert read(file).completions[0].token_ids == (5, 7)
