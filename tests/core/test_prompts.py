"""Prompts from files, sets and lists: their ids, their lines, and a fair few of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decodedrift.core.prompts import (
    BALANCED,
    balanced,
    bundled_sets,
    default_set,
    given_prompts,
    load_prompts,
    load_texts,
)
from decodedrift.core.records import InputError, Prompt
from decodedrift.models.sources.checkpoints import DEMO


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write


def named(text: str) -> str:
    return "p" + hashlib.sha256(text.encode()).hexdigest()[:8]


def test_ids_come_from_the_text() -> None:
    found = given_prompts(["a", "b", "a", "a", "é"])
    a, b = named("a"), named("b")
    assert [p.id for p in found] == [a, b, f"{a}-2", f"{a}-3", named("é")]
    assert a == "pca978112"


def test_given_ids_stay() -> None:
    found = given_prompts([Prompt("x", "a", ("t",)), "a", {"prompt": "b", "id": 7, "tags": "u v"}, {"text": "c"}])
    assert [(p.id, p.text, p.tags) for p in found] == [
        ("x", "a", ("t",)), (named("a"), "a", ()), ("7", "b", ("u", "v")), (named("c"), "c", ()),
    ]  # fmt: skip
    with pytest.raises(InputError, match="'x' is given twice"):
        given_prompts([Prompt("x", "a"), Prompt("x", "b")])


@given(st.lists(st.text(max_size=3), max_size=8))
def test_ids_are_distinct_and_stable(texts: list[str]) -> None:
    """The same text keeps its id, and with it its noise, whatever stands after it."""
    ids = [p.id for p in given_prompts(texts)]
    assert len(set(ids)) == len(ids)
    assert [p.id for p in given_prompts([*texts, "more"])][: len(ids)] == ids


def test_txt(file: Callable[..., Path]) -> None:
    r"""Only \n and \r\n end a line: U+2028, form feeds and the like are text. A byte-order mark is none."""
    path = file("p.txt", "\ufeffone\r\ntwo\u2028still two\x0c\x85\x1e!\n\n   \n  three \nlast")
    assert [p.text for p in load_prompts(path)] == ["one", "two\u2028still two\x0c\x85\x1e!", "  three ", "last"]


def test_jsonl(file: Callable[..., Path]) -> None:
    rows = [
        {"prompt": "a\nb\u2028c", "id": "x", "tags": ["t", "u"]}, {"prompt": "b", "id": 3, "more": None}, "typed",
        {"prompt": "c", "id": None, "tags": None},
    ]  # fmt: skip
    path = file("p.jsonl", "\ufeff" + "\r\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows))
    assert [(p.id, p.text, p.tags) for p in load_prompts(path)] == [
        ("x", "a\nb\u2028c", ("t", "u")), ("3", "b", ()), (named("typed"), "typed", ()), (named("c"), "c", ()),
    ]  # fmt: skip


def test_csv(file: Callable[..., Path]) -> None:
    path = file("p.csv", b'\xef\xbb\xbfid,prompt,tags,other\r\nx,"a, ""b""\r\nc",t u,1\r\n,NA,,\r\n')
    assert [(p.id, p.text, p.tags) for p in load_prompts(path)] == [
        ("x", 'a, "b"\r\nc', ("t", "u")),
        (named("NA"), "NA", ()),
    ]


def test_csv_as_spreadsheets_write_it(file: Callable[..., Path]) -> None:
    """CR line ends, empty columns that nobody named, spaces and quotes that are text, case in the header."""
    path = file("p.csv", b'Prompt,ID,,\r a,x ,,\r" ""b""",y,,\r\r')
    assert [(p.id, p.text) for p in load_prompts(path)] == [("x", " a"), ("y", ' "b"')]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt" "b"}\n', "p.jsonl:3: not valid JSON"),
        ("p.jsonl", '"a"\n3\n', "p.jsonl:2"),
        ("p.jsonl", '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}', "p.jsonl:2: the prompt id 'x'"),
        ("p.csv", 'prompt\na\n"b\nc"\nd,e\n', "p.csv:5"),
        ("p.csv", "prompt,id\na,x\nb,x\n", "p.csv:3: the prompt id 'x'"),
        ("p.txt", b"\xff\xfea\x00", "byte 0"),
        ("p.txt", "one\ntwo".encode("utf-16-le"), "p.txt:1: it holds a NUL character, as UTF-16 does"),
        ("p.txt", "one\rtwo\r", "p.txt:1: its lines end with CR alone"),
        ("p.jsonl", '{"prompt": "a"}\r{"prompt": "b"}\r', "p.jsonl:1: its lines end with CR alone"),
        ("p.jsonl", '"a"\n{"prompt": "b", "prompt": "c"}', "p.jsonl:2: the key 'prompt' is given twice"),
        ("p.jsonl", '{"prompt": "b", "more": {"x": [{"y": 1, "y": 2}]}}', "p.jsonl:1: the key 'y' is given twice"),
        ("p.jsonl", '{"prompt": "a", "ID": "x"}', "p.jsonl:1: the key 'ID' would not be read; write `id`"),
        ("p.jsonl", '{"prompt": "a", "tags ": ["x"]}', "p.jsonl:1: the key 'tags ' would not be read; write `tags`"),
        ("p.csv", "prompt,id,prompt\na,x,b\n", "p.csv:1: the column `prompt` is given twice"),
        ("p.csv", "prompt,id,ID\na,x,y\n", "p.csv:1: the column `id` is given twice"),
        ("p.csv", "prompt, id\na,x\n", "p.csv:1: the column ' id' has spaces around its name; write `id`"),
        ("p.csv", 'prompt,id\n"a","x"\n"b", "y"\n', "p.csv:3: a quote after a space does not begin a cell"),
        ("p.csv", 'prompt,id\n"a","x"\n"b", "y, z"\n', "p.csv:3: a quote after a space does not begin a cell"),
    ],
)
def test_refusals_name_the_place(file: Callable[..., Path], name: str, content: str | bytes, place: str) -> None:
    with pytest.raises(InputError) as refused:
        load_prompts(file(name, content))
    assert place in str(refused.value)


def test_texts(file: Callable[..., Path]) -> None:
    path = file("t.txt", "\ufeffone\r\ntwo\u2028")
    (text,) = load_texts([path])
    assert (text.name, text.text) == ("t.txt", "one\r\ntwo\u2028")


# ---- a balanced few


def test_balanced() -> None:
    prompts = [Prompt(f"{tag}{n}", "x", (tag,)) for tag, size in (("a", 5), ("b", 1), ("c", 3)) for n in range(size)]
    assert [p.id for p in balanced(prompts, 5)] == ["a0", "a1", "b0", "c0", "c1"]
    assert balanced(prompts, 99) == tuple(prompts)
    assert [p.id for p in balanced([Prompt("x", "a"), Prompt("y", "b", ("t",))], 1)] == ["x"]


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.integers(1, 40))
def test_balanced_is_fair(tags: list[str], wanted: int) -> None:
    prompts = [Prompt(str(n), "x", (tag,)) for n, tag in enumerate(tags)]
    chosen = balanced(prompts, wanted)
    assert len(chosen) == min(wanted, len(prompts))
    assert [p for p in prompts if p in chosen] == list(chosen)  # in file order
    taken, there = Counter(p.tags[0] for p in chosen), Counter(tags)
    for one in taken:
        for other in there:
            assert taken[one] <= taken[other] + 1 or taken[other] == there[other]


# ---- the bundled sets


@pytest.mark.parametrize("name", ["default", "stories"])
def test_bundled_sets(name: str) -> None:
    prompts = load_prompts(name)
    assert len(prompts) >= 100
    assert len({p.text for p in prompts}) == len(prompts)
    assert all(p.tags and p.text.strip() for p in prompts)
    chosen = balanced(prompts, BALANCED)
    assert len({p.tags[0] for p in chosen}) == min(BALANCED, len({p.tags[0] for p in prompts}))


def test_the_default_set_has_every_kind() -> None:
    tags = {p.tags[0] for p in load_prompts("default")}
    assert {"facts", "reasoning", "arithmetic", "code", "dialogue", "lists", "story", "chinese", "languages"} <= tags


def test_sets_by_model() -> None:
    assert (default_set("demo"), default_set("gpt2")) == ("stories", "default")


def test_a_copy_of_the_bundled_model_is_asked_the_same_wherever_it_lies(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "copy")
    assert default_set(str(tmp_path / "copy")) == "stories"
    vocabulary = tmp_path / "copy" / "tokenizer.json"
    content = json.loads(vocabulary.read_bytes())
    vocabulary.write_text(json.dumps(content, indent=1))
    assert default_set(str(tmp_path / "copy")) == "stories", "as another version of the library writes it"
    content["model"]["vocab"].popitem()
    vocabulary.write_text(json.dumps(content))
    assert default_set(str(tmp_path / "copy")) == "default", "another model's"
    for junk in ("[]", "{", "null", '{"model": 1}'):
        vocabulary.write_text(junk)
        assert default_set(str(tmp_path / "copy")) == "default"
    assert set(bundled_sets()) >= {"default", "stories"}


def test_the_stories_fit_the_demo_model() -> None:
    """The set that a newcomer runs first loses nothing to the window."""
    from decodedrift.models.sources.checkpoints import find
    from decodedrift.models.text.vocabulary import encode_prompts, vocabulary

    found = encode_prompts(vocabulary(find("demo")), load_prompts("stories"), False, 64)
    assert not [reason for reason in found.values() if isinstance(reason, str)]


def test_answers_are_read_and_refused(file: Callable[..., Path]) -> None:
    rows = [
        '{"prompt": "a", "answer": "x y "}',
        '{"prompt": "b", "answer": 7}',
        '{"prompt": "c", "answer": null}',
        '"d"',
    ]
    assert [p.answer for p in load_prompts(file("p.jsonl", "\n".join(rows)))] == ["x y ", "7", None, None]
    cells = file("p.csv", 'Prompt,Answer\na," 0042 "\nb,\nc,"1,5"\n')
    assert [p.answer for p in load_prompts(cells)] == ["0042", None, "1,5"]
    assert [p.answer for p in given_prompts([Prompt("x", "a", answer="r"), {"prompt": "b", "answer": 0.5}])] == [
        "r",
        "0.5",
    ]
    for value in ("true", '[""]', '" "', '""', "{}"):
        with pytest.raises(InputError, match=r"p\.jsonl:1: an answer is a text or a number, not "):
            load_prompts(file("p.jsonl", f'{{"prompt": "a", "answer": {value}}}'))
    with pytest.raises(InputError, match="write `answer`"):
        load_prompts(file("p.jsonl", '{"prompt": "a", "Answer": "x"}'))
    for wrong in ("", 7):
        with pytest.raises(InputError, match="prompt x: an answer is a text that is not empty"):
            Prompt("x", "a", answer=wrong)  # type: ignore[arg-type]
