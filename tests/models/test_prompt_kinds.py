"""Prompts that are turns of a conversation or token ids, from files to rows, plan and resume."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import running
from conftest import tiny_tokenizer

import decodedrift as dd
from decodedrift.core.prompts import given_prompts, load_prompts
from decodedrift.core.records import InputError, plain

TURNS = [{"role": "system", "content": "w5"}, {"role": "user", "content": "w1 w2"}]
TEMPLATE = "{% for m in messages %}{{ 'w7 ' if m['role'] == 'system' else 'w8 ' }}{{ m['content'] }} {% endfor %}w9"
ROWS: list[dict[str, Any]] = [
    {"id": "talk", "messages": TURNS}, {"id": "ids", "prompt_token_ids": [3, 4, 3]}, {"id": "text", "prompt": "w6"},
]  # fmt: skip
run = functools.partial(running.run, candidates=["bf16"], strategies=["greedy"], max_new_tokens=4)


def templated() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def written(folder: Path, suffix: str) -> Path:
    path = folder / f"p{suffix}"
    if suffix == ".parquet":
        pq.write_table(
            pa.Table.from_pylist(
                [dict.fromkeys(("other", "prompt", "messages", "prompt_token_ids")) | row for row in ROWS]
            ),
            path,
        )
    else:
        lines = map(json.dumps, ROWS)
        path.write_text("\n".join(lines) if suffix == ".jsonl" else f"[{','.join(lines)}]", "utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_kind_of_file_holds_the_same_prompts(tmp_path: Path, suffix: str) -> None:
    prompts = load_prompts(written(tmp_path, suffix))
    assert prompts == given_prompts(ROWS)
    assert [list(map(dict, p.messages or ())) for p in prompts] == [TURNS, [], []]
    assert [p.prompt_token_ids for p in prompts] == [None, (3, 4, 3), None]
    assert given_prompts(json.loads(json.dumps(plain(prompts)))) == prompts == given_prompts(prompts)


def test_ids_come_from_the_content_and_stay() -> None:
    anonymous = [{k: v for k, v in row.items() if k != "id"} for row in ROWS]
    ids = [p.id for p in given_prompts(anonymous)]
    assert [p.id for p in given_prompts(reversed(anonymous))] == ids[::-1] and len(set(ids)) == 3


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.json", '{"prompt": "a"}', "p.json:1: must hold a list"),
        ("p.json", '["a",\n{"prompt" 3}]', "p.json:2: not valid JSON"),
        ("p.json", '["a", {"prompt_token_ids": [1, -2]}]', "p.json entry 2: prompt_token_ids[1] is no token id: -2"),
        ("p.jsonl", '"a"\n{"messages": [{"role": "user"}]}', "p.jsonl:2: messages[0] needs texts under `role`"),
        ("p.jsonl", '{"messages": []}', "p.jsonl:1: `messages` is a list"),
        ("p.jsonl", '{"prompt": "a", "prompt_token_ids": [1]}', "p.jsonl:1: a prompt under `prompt` and one under"),
        ("p.jsonl", '{"Messages": []}', "p.jsonl:1: the key 'Messages' would not be read; write `messages`"),
        ("p.parquet", "no table", "p.parquet: not a Parquet file"),
    ],
)
def test_refusals_name_the_place(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(InputError) as refused:
        load_prompts(tmp_path / name)
    assert said in str(refused.value)


def test_a_row_of_parquet_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a", None]}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r'p.parquet row 2: needs a text under "prompt"'):
        load_prompts(tmp_path / "p.parquet")


def test_what_is_read_is_what_was_given(tmp_path: Path) -> None:
    """Turns through the template, system turn included, without --chat-template; ids as they are."""
    study = run("llama", tokenizer=templated(), prompts=ROWS, out=tmp_path / "run")
    read = study.traces[study.traces["role"] == "reference"].set_index("prompt_id")["prompt"]
    assert read.to_dict() == {"talk": "w7 w5 w8 w1 w2 w9", "ids": "w3 w4 w3", "text": "w6"}
    same = run("llama", prompts={"talk": "w7 w5 w8 w1 w2 w9", "ids": "w3 w4 w3", "text": "w6"})
    running.same_rows(study.positions, same.positions)
    plan = json.loads((tmp_path / "run" / "data" / "plan.json").read_text("utf-8"))
    assert given_prompts(plan["prompts"]) == study_prompts(study)
    again = run("llama", tokenizer=templated(), prompts=ROWS, out=tmp_path / "run", resume=True)
    running.same_rows(study.positions, again.positions)


def study_prompts(study: dd.Study) -> tuple[dd.Prompt, ...]:
    return given_prompts(study.plan["prompts"])


def test_no_text_keeps_neither_turns_nor_ids(tmp_path: Path) -> None:
    run("llama", tokenizer=templated(), prompts=ROWS, out=tmp_path / "run", no_text=True)
    plan = json.loads((tmp_path / "run" / "data" / "plan.json").read_text("utf-8"))
    assert [(p["text"], p["messages"], p["prompt_token_ids"]) for p in plan["prompts"]] == [(None, None, None)] * 3
    files = [p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert not any(b"w1 w2" in content for content in files)


def test_what_the_model_cannot_read_is_refused() -> None:
    with pytest.raises(InputError, match="prompt talk is given as messages, and this model's tokenizer has no chat"):
        run("llama", prompts=ROWS)
    study = run("llama", prompts=[{"id": "far", "prompt_token_ids": [1, 96]}, "w1"])
    (reason,) = study.failures["error"]
    assert re.match("token id 96 is beyond the model's vocabulary of 96; correct the ids", reason)


def test_each_side_of_a_chat_template_is_compared(saved: Callable[..., Path], tmp_path: Path) -> None:
    """Another template makes other ids of turns, and none of a plain text."""
    from conftest import tiny_model

    folders = []
    for name, template in (("ours", TEMPLATE), ("theirs", TEMPLATE.replace("w9", "w10"))):
        folders.append(running.saved_as(tiny_model("llama"), tmp_path / name))
        tokenizer = templated()
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folders[-1])
    study = run(folders[0], prompts=ROWS, candidates=[f"c={folders[1]}"])
    facts = study.environment["deployment"]["c"]
    assert facts["template"] and facts["prompts"] == {"differ": 1, "of": 3, "first": "talk", "how": "6 other ids"}
    assert "c encodes 1 of 3 prompts to other ids (talk: 6 other ids) and has another chat template" in study.verdict[0]
    own = run(folders[0], prompts=ROWS, candidates=[f"c={folders[1]}"], as_deployed=True)
    bare = running.saved_as(tiny_model("llama"), tmp_path / "bare")
    with pytest.raises(InputError, match="candidate b: prompt talk is given as messages"):
        run(folders[0], prompts=ROWS, candidates=[f"b={bare}"], as_deployed=True)
    alone = run(folders[1], prompts=ROWS)
    texts = [
        of.traces[of.traces["variant"] == name]
        .query("role in ('reference', 'candidate')")
        .set_index("prompt_id")["text"]
        for of, name in ((own, "c"), (alone, "fp32"))
    ]
    assert texts[0].to_dict() == texts[1].to_dict()
    assert set(own.positions.query("role == 'candidate'")["prompt_id"]) == {"ids", "text"}
    assert "of c 1 of 1 where they do and 0 of 2 where they do not" in own.verdict[1]
