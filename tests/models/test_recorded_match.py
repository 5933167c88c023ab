"""Which completion belongs to which prompt, strategy and seed, how it ends, and that everything else is counted."""

from __future__ import annotations

from math import isnan
from typing import Any

import pytest
from conftest import tiny_tokenizer

from decodedrift.core.records import InputError, Key, Prompt
from decodedrift.core.settings import Settings
from decodedrift.decoding.strategies import parse_strategies
from decodedrift.models.recorded.completion import Recorded
from decodedrift.models.recorded.continuation import Continuation, Matched
from decodedrift.models.recorded.lines import completion_of
from decodedrift.models.recorded.match import match
from decodedrift.models.recorded.reader import NOTES
from decodedrift.models.text.vocabulary import Vocabulary, encode_prompts

VOCAB = Vocabulary(tiny_tokenizer(), eos=(0,), pad=0, bos=0, window=None, size=96)
PROMPTS = {"a": "w1 w2", "b": "w3"}


def matched(
    *lines: dict[str, Any], header: dict[str, Any] | None = None, vocab: Vocabulary = VOCAB, **asked: Any
) -> Matched:
    """The lines of a file as matched with a run; each that says nothing else is of prompt a."""
    given = asked.pop("prompts", PROMPTS)
    prompts = tuple(Prompt(name, text) if isinstance(text, str) else text for name, text in given.items())
    strategies = parse_strategies(asked.pop("strategies", "greedy"))
    plan = Settings().having(**{"prompts": prompts, "strategies": strategies, "max_new_tokens": 8} | asked)
    named = {"prompt_id", "prompt", "messages", "prompt_token_ids"}
    lines = tuple(line if named & line.keys() else {"prompt_id": "a"} | line for line in lines)
    completions = tuple(completion_of(line, f"r.jsonl:{n}") for n, line in enumerate(lines, 1))
    encoded = {name: list(ids) for name, ids in encode_prompts(vocab, prompts, plan.chat_template).items()}
    return match(Recorded("r.jsonl", completions, header or {}), plan, vocab, encoded)


def one(line: dict[str, Any], **more: Any) -> Continuation:
    (runs,) = matched(line, **more).continuations.values()
    return runs[0]


@pytest.mark.parametrize(
    "names",
    [
        {"prompt_id": "b"},
        {"prompt": "w3"},
        {"prompt_token_ids": [3]},
        {"messages": [{"role": "user", "content": "w3"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "w3"}]}]},
        {"prompt_id": "cmpl-1", "prompt": "w3"},
        {"prompt_id": "b", "prompt": "w3", "prompt_token_ids": [3]},
    ],
)
def test_a_prompt_is_named_by_id_by_text_by_turns_or_by_ids(names: dict[str, Any]) -> None:
    result = matched(names | {"token_ids": [5]})
    assert list(result.continuations) == [Key("greedy", 0, "b")]
    assert result.missing == (Key("greedy", 0, "a"),) and not result.unmatched


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"prompt_id": "c"}, "its prompt is none of this run's"),
        ({"prompt": "w9"}, "its prompt is none of this run's"),
        ({"prompt_id": "a", "prompt": "w9"}, "its prompt_id is of this run, and its prompt is another text there"),
        ({"prompt": "w4"}, "its prompt is that of several prompts of this run: give prompt_id"),
        ({"prompt_id": "a", "strategy": "beam"}, "its strategy beam is none of this run's"),
        ({"prompt_id": "a", "strategy": "sample", "seed": 7}, "its seed 7 is none of this run's"),
    ],
)
def test_what_belongs_to_nothing_is_counted_with_its_reason(line: dict[str, Any], reason: str) -> None:
    prompts = PROMPTS | {"c1": "w4", "c2": "w4"}
    result = matched(line | {"token_ids": [5]}, {"token_ids": [6]}, prompts=prompts, strategies="greedy,sample")
    assert result.unmatched == {reason: ("r.jsonl:1",)} and result.facts["unmatched"] == {reason: 1}
    assert [c.token_ids for runs in result.continuations.values() for c in runs] == [(6,)]


def test_a_file_of_another_run_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"r.jsonl: none of its completions belongs to this run; r.jsonl:1: its prompt"
    ):
        matched({"prompt": "w9", "token_ids": [1]}, {"prompt": "w8", "token_ids": [1]})


def test_a_line_that_names_no_prompt_says_so() -> None:
    lines = (
        completion_of({"token_ids": [5]}, "r.jsonl:1"),
        completion_of({"token_ids": [5], "prompt_id": "a"}, "r.jsonl:2"),
    )
    plan = Settings().having(prompts=(Prompt("a", "w1"),), strategies=parse_strategies("greedy"))
    reasons = list(match(Recorded("r.jsonl", lines), plan, VOCAB, {"a": [1]}).unmatched)
    assert reasons == ["it names no prompt: give prompt_id, prompt, messages or prompt_token_ids"]


def test_strategies_seeds_and_repetitions_are_told_apart() -> None:
    result = matched(
        {"token_ids": [5], "strategy": "greedy", "seed": 3},
        {"token_ids": [6], "strategy": "top-p:temperature=0.5,p=0.9", "seed": 1},
        {"token_ids": [7], "strategy": "top-p:p=0.9,temperature=0.5", "seed": 2, "run": 1},
        {"token_ids": [8], "strategy": "top-p:p=0.9,temperature=0.5", "seed": 2, "run": 0},
        {"token_ids": [9]},  # no strategy: greedy, and so a second repetition
        strategies="greedy,top-p:p=0.9,temperature=0.5",
        seeds=[1, 2],
    )
    label = "top-p:p=0.9,temperature=0.5"
    assert {k: [c.token_ids[0] for c in runs] for k, runs in result.continuations.items()} == {
        Key("greedy", 0, "a"): [5, 9],
        Key(label, 1, "a"): [6],
        Key(label, 2, "a"): [8, 7],
    }
    assert [c.run for c in result.continuations[Key("greedy", 0, "a")]] == [0, 1]
    assert [k.prompt_id for k in result.missing] == ["b"] * 3


def test_what_failed_is_beaten_by_what_was_recorded_later() -> None:
    late = matched({"error": "HTTP 503"}, {"token_ids": [5]})
    assert not late.errors and late.traces[Key("greedy", 0, "a")].token_ids == (5,)
    failed = matched({"token_ids": [5]}, {"prompt_id": "b", "error": "HTTP 503"})
    assert failed.errors == {Key("greedy", 0, "b"): "r.jsonl:2: HTTP 503"} and not failed.missing
    both = matched({"error": "HTTP 503", "run": 1}, {"token_ids": [5]})
    assert not both.errors and both.notes[-1] == f"{NOTES['failed']}: 1"


@pytest.mark.parametrize(
    ("line", "ids", "finish", "appended"),
    [
        ({"token_ids": [5, 0], "finish_reason": "stop"}, (5, 0), "eos", False),
        ({"token_ids": [5], "finish_reason": "stop"}, (5, 0), "eos", True),
        ({"token_ids": [5], "finish_reason": "stop", "stop_reason": 0}, (5, 0), "eos", True),
        ({"token_ids": [5], "finish_reason": "eos_token"}, (5, 0), "eos", True),
        ({"token_ids": [], "finish_reason": "stop"}, (0,), "eos", True),
        ({"token_ids": [5], "finish_reason": "stop", "stop_reason": "w9"}, (5,), "stop", False),
        ({"token_ids": [5, 9], "finish_reason": "stop", "stop_reason": 9}, (5, 9), "stop", False),
        ({"token_ids": [5], "finish_reason": "length"}, (5,), "length", False),
        ({"token_ids": [5], "finish_reason": "abort"}, (5,), "abort", False),
        ({"token_ids": [5]}, (5,), "unknown", False),
        ({"token_ids": [5] * 8, "finish_reason": "stop"}, (5,) * 8, "length", False),  # no room for a stop token
        ({"token_ids": [5] * 9, "finish_reason": "stop"}, (5,) * 8, "length", False),
        ({"token_ids": [5, 0, 7, 7], "finish_reason": "length"}, (5, 0), "eos", False),  # the engine ignored EOS
        ({"token_ids": [5] * 8 + [0], "finish_reason": "stop"}, (5,) * 8, "length", False),
    ],
)
def test_a_text_ends_as_the_reference_would_have_it(line: Any, ids: Any, finish: str, appended: bool) -> None:
    known = [-0.5] * len(line["token_ids"])
    tops = [[[5, -0.5]]] * len(known)
    c = one(line | {"logprobs": known, "top_logprobs": tops})
    assert (c.token_ids, c.finish, c.appended) == (ids, finish, appended)
    assert c.logprobs is not None and len(c.logprobs) == len(ids) and (c.logprobs[-1] is None) == appended
    assert c.top_logprobs is not None and len(c.top_logprobs) == len(ids) and (c.top_logprobs[-1] == {}) == appended
    assert c.trace.finish == ("eos" if finish == "eos" else "length")
    assert isnan(c.trace.logprobs[-1]) == appended


def test_stop_strings_of_the_requests_leave_open_what_stopped() -> None:
    line = {"token_ids": [5], "finish_reason": "stop"}
    assert one(line, header={"stop": ["w9"]}).finish == "stop"
    assert one(line | {"finish_reason": "eos"}, header={"stop": ["w9"]}).finish == "eos"


def test_of_several_stop_tokens_the_one_that_was_named_is_taken_else_the_tokenizers() -> None:
    several = Vocabulary(tiny_tokenizer(), eos=(4, 0), pad=0, bos=0, window=None, size=96)
    line = {"token_ids": [5], "finish_reason": "stop"}
    named, assumed = (one(line | more, vocab=several) for more in ({"stop_reason": 4}, {}))
    assert (named.token_ids, named.assumed) == ((5, 4), False) and (assumed.token_ids, assumed.assumed) == (
        (5, 0),
        True,
    )
    none = Vocabulary(tiny_tokenizer(), eos=(), pad=0, bos=0, window=None, size=96)  # --ignore-eos
    assert one(line, vocab=none).token_ids == (5,) and one(line, vocab=none).finish == "stop"


def test_a_prompt_that_was_read_as_other_ids_is_found_where_it_differs() -> None:
    result = matched({"prompt_id": "a", "prompt_token_ids": [0, 1, 2], "token_ids": [5]})
    (other,) = result.other_ids
    assert (other.prompt_id, other.position, other.ours, other.theirs) == ("a", 0, (1, 2), (0, 1, 2))
    assert str(other) == "r.jsonl:1: from position 0 the engine read [0, 1, 2], and the reference reads [1, 2]"
    (longer,) = matched({"prompt_id": "a", "prompt_token_ids": [1, 2, 9], "token_ids": [5]}).other_ids
    assert str(longer).endswith("from position 2 the engine read [9], and the reference reads the end")
    same = matched({"prompt_id": "a", "prompt_token_ids": [1, 2], "token_ids": [5]})
    assert not same.other_ids and same.continuations[Key("greedy", 0, "a")][0].same_prompt is True
    assert one({"token_ids": [5]}).same_prompt is None


def test_ids_that_the_model_has_not_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"r.jsonl:1: token_ids\[1\] is 96, beyond the model's vocabulary of 96; was it"
    ):
        matched({"token_ids": [5, 96]})
    with pytest.raises(InputError, match=r"r.jsonl:1: top_logprobs\[0\] is 99, beyond"):
        matched({"token_ids": [5], "top_logprobs": [[[99, -1.0]]]})


def test_a_text_is_encoded_again_and_marked() -> None:
    text = one({"text": "w5 w7", "finish_reason": "stop"})
    assert (text.token_ids, text.reencoded, text.logprobs) == ((5, 7, 0), True, None)
    assert one({"token_ids": [5, 7]}).reencoded is False
    assert matched({"text": "w5"}).reencoded == {Key("greedy", 0, "a")}


def test_what_the_tokenizer_cannot_write_is_a_failure() -> None:
    result = matched({"text": "no words"})
    assert result.errors == {Key("greedy", 0, "a"): "r.jsonl:1: encoded again, the text says something else"}


def test_an_empty_text_is_a_failure_unless_a_stop_token_ended_it() -> None:
    assert "the text is empty" in matched({"text": ""}).errors[Key("greedy", 0, "a")]
    assert one({"text": "", "finish_reason": "stop"}).token_ids == (0,)


def test_every_departure_is_a_note() -> None:
    lines = (
        {"text": "w5", "finish_reason": "stop"},
        {"token_ids": [5, 0, 7], "finish_reason": "length"},
        {"token_ids": [5] * 9, "finish_reason": "length"},
        {"token_ids": [5], "finish_reason": "length"},
        {"token_ids": [5], "finish_reason": "stop", "stop_reason": "w9"},
        {"token_ids": [5], "text": "w6"},
        {"tokens": ["w5", "lost"], "text": "w5\ufffd", "logprobs": [-1.0, -2.0]},
        {"token_ids": [5], "top_logprobs": [[["w9", -1.0], ["??", -2.0]]]},
    )
    prompts = {f"p{n}": f"w{n}" for n in range(1, 9)}
    named = [{"prompt_id": name} | line for name, line in zip(prompts, lines, strict=True)]
    result = matched(*named, prompts=prompts)
    said = {note.rpartition(": ")[0]: int(note.rpartition(": ")[2]) for note in result.notes}
    assert said == {
        NOTES[name].format(most=8): count
        for name, count in {
            "retold": 1, "unnamed": 8, "unread": 8, "reencoded": 2, "ambiguous": 1, "lost": 1, "appended": 1, "past": 1, "long": 1,
            "short": 1, "stop": 1, "unknown": 2,
        }.items()
    }  # fmt: skip
    (lost,) = result.continuations[Key("greedy", 0, "p7")]
    assert (lost.token_ids, lost.logprobs, lost.finish) == ((5,), (-1.0,), "abort")
    told = {"prompt_token_ids": [1, 2], "token_ids": [5, 0], "text": "w5", "finish_reason": "stop"}
    clean = matched(told | {"strategy": "greedy"})
    assert clean.notes == ()


def test_of_repetitions_the_first_that_did_not_fail_is_read_and_counted() -> None:
    line = {"token_ids": [5, 7], "logprobs": [-1.0, -2.0], "finish_reason": "length"}
    result = matched(*({**line, "run": n} for n in range(3)), {"error": "HTTP 500", "run": 3}, {"text": "w5", "run": 4})
    first, *further = result.continuations[Key("greedy", 0, "a")]
    assert first.logprobs == (-1.0, -2.0) and [(c.token_ids, c.logprobs) for c in further] == [
        ((5, 7), None), ((5, 7), None), ((5,), None)]  # fmt: skip
    assert result.notes == tuple(
        f"{NOTES[name].format(most=8)}: 1" for name in ("unnamed", "unread", "short", "failed")
    )
