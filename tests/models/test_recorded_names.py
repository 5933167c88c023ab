"""Tokens by their text or bytes, and whole texts, back to ids: where one id alone can be meant, and nowhere else."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers

from decodedrift.core.records import Key
from decodedrift.models.recorded.completion import Completion
from decodedrift.models.recorded.continuation import Continuation
from decodedrift.models.recorded.names import Names
from decodedrift.models.recorded.reader import Reader
from decodedrift.models.recorded.spelling import spelled
from decodedrift.models.sources.checkpoints import find
from decodedrift.models.text.vocabulary import Vocabulary, vocabulary

BYTES = [f"<0x{b:02X}>" for b in range(256)]
PIECES = ["<unk>", "<s>", "</s>", *BYTES, "▁", "a", "b", "▁a", "▁b", "ab"]


@cache
def demo() -> Names:
    return Names(vocabulary(find("demo")))


@cache
def sentencepiece() -> Names:
    """As Llama 2's: a space in front of a text is ▁, and the decoder takes it away again."""
    from transformers import PreTrainedTokenizerFast

    merges = [("▁", "a"), ("▁", "b"), ("a", "b")]
    model = models.BPE(
        {p: n for n, p in enumerate(PIECES)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    core = Tokenizer(model)
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(parts)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return Names(Vocabulary(tokenizer, (2,), 0, 1, None, len(PIECES)))


def piece(name: str) -> int:
    return PIECES.index(name)


def test_every_token_of_the_demo_model_is_known_by_its_bytes() -> None:
    vocab, names = demo().vocab, demo()
    for token in range(vocab.size):
        assert token in names.of(vocab.token_bytes(token)), token
    assert sum(len(names.of(vocab.token_bytes(t))) == 1 for t in range(vocab.size)) >= vocab.size - 1


def test_a_name_with_and_without_its_space_is_of_two_tokens_and_so_of_none() -> None:
    names = sentencepiece()
    assert names.of("a") == {piece("a"), piece("▁a")}  # engines show ▁a as `a`, too; <0x61> is no third
    assert names.of(" a") == names.of("▁a") == {piece("▁a")}
    assert names.of("<0xC3>") == names.of(b"\xc3") == {piece("<0xC3>")}
    assert names.of("\ufffd") == names.of("\ufffd".encode()) == names.of("zzz") == frozenset()
    assert names.ids((" a", "ab")) == (piece("▁a"), piece("ab")) and names.ids(("ab", "a")) is None


def test_other_names_of_a_completion_tell_how_its_engine_shows_tokens() -> None:
    names, ids = sentencepiece(), tuple(map(piece, ("ab", "▁b", "a", "<0xC3>", "<0xA9>", "▁", "b")))
    pieces, raw = [PIECES[i] for i in ids], [names.vocab.token_bytes(i) for i in ids]
    assert names.ids(pieces) == names.ids(raw) == ids
    assert names.ids(["a", *pieces]) == (piece("a"), *ids)
    assert names.ids([b"a", *raw]) is None  # the first of all may have lost its space
    assert names.ids([*pieces, "zzz"]) is None and names.ids([t.strip() for t in raw]) is None
    assert names.top({"a": -1.0, "▁a": -2.0}, None, 0, names.shown(pieces)) == ({piece("a"): -1, piece("▁a"): -2}, 0)
    assert names.top({b"a": -1.0, b" a": -2.0}, None, 0, names.shown(raw)) == ({piece("a"): -1, piece("▁a"): -2}, 0)


@settings(max_examples=60)
@given(st.lists(st.sampled_from([i for i, p in enumerate(PIECES) if p not in BYTES[:128]]), min_size=1, max_size=9))
def test_tokens_shown_in_any_way_are_their_own_ids_or_none(ids: list[int]) -> None:
    names, vocab = sentencepiece(), sentencepiece().vocab
    behind = vocab.decode([piece("ab"), *ids])[len("ab") :]
    shown = ([PIECES[i] for i in ids], list(map(vocab.token_bytes, ids)), list(map(vocab.token, ids)))
    for tokens in (*shown, [vocab.decode([i]) for i in ids]):
        assert names.ids(tokens) in (tuple(ids), None)
        assert names.ids(tokens, behind) in (tuple(ids), None)


def test_the_text_tells_which_of_two_tokens_was_shown() -> None:
    names, ids = sentencepiece(), tuple(map(piece, ("ab", "▁b", "a", "▁a", "<0xC3>", "<0xA9>", "</s>")))
    alone = [names.vocab.decode([i]) for i in ids]
    assert alone == ["ab", "b", "a", "a", "\ufffd", "\ufffd", "</s>"] and names.ids(alone) is None
    assert names.ids(alone, "ab ba aé") == names.ids(alone, "ab ba aé</s>") == ids
    assert names.ids(alone, "ab ba a") is None and names.ids(alone, " ab ba aé!") is None
    assert names.ids(["a", "a"], "a a") is None  # the first may be either


def test_one_reading_of_a_text_is_an_answer_and_two_are_none() -> None:
    one, two = [(1, b"a"), (2, b"ab")], [(3, b"b"), (4, b"")]
    assert spelled([one, two], b"abb") == (2, 3) and spelled([one, two], b"a") == (1, 4)
    assert spelled([one, two], b"ab") is None and spelled([one], b"b") is None and spelled([], b"") == ()
    reading = spelled([one] * 5000, b"a" * 5000)
    assert reading == (1,) * 5000


def test_alternatives_that_may_be_two_tokens_are_left_out_but_for_the_chosen_one() -> None:
    names = sentencepiece()
    top = {"a": -0.5, " b": -1.0, "\ufffd": -2.0}
    assert names.top(top, None, piece("a")) == ({piece("▁b"): -1.0}, 2)
    assert names.top(top, "a", piece("▁a")) == ({piece("▁a"): -0.5, piece("▁b"): -1.0}, 1)


@settings(max_examples=40)
@given(st.text("ab é字\n", max_size=12), st.text("ab ", min_size=1, max_size=5))
@pytest.mark.parametrize("kind", ["demo", "sentencepiece"])
def test_an_encoded_text_decodes_to_itself_behind_its_prompt(kind: str, text: str, before: str) -> None:
    names = {"demo": demo, "sentencepiece": sentencepiece}[kind]()
    prompt = tuple(names.vocab.ids(before, special=False))
    ids = names.encoded(prompt, text)
    assert ids is not None
    assert names.vocab.decode((*prompt, *ids)) == names.vocab.decode(prompt) + text


def test_a_text_that_begins_with_a_letter_gets_no_space_in_front() -> None:
    names = sentencepiece()
    prompt = (piece("<s>"), piece("▁a"))
    assert names.encoded(prompt, " b") == (piece("▁b"),)
    assert names.encoded(prompt, "b") == (piece("b"),)  # `ab` would be one token: it must not reach into the prompt
    alone: Any = names.vocab.ids("b", special=False)
    assert alone == [piece("▁b")]  # what encoding the text alone would have made of it


def reading(names: Names, prompt: tuple[int, ...], ids: tuple[int, ...], **more: Any) -> Continuation:
    """How a completion is read whose tokens were shown by the text that each decodes to."""
    tokens = tuple(names.vocab.decode([i]) for i in ids)
    logprobs = tuple(-float(n + 1) for n in range(len(ids)))
    shown = Completion("f:1", tokens=tokens, logprobs=logprobs, finish_reason="length", **more)
    reader = Reader(names.vocab, {"a": prompt}, 99, False)
    reader.names = names  # its table is made once
    result = reader.continuation(Key("greedy", 0, "a"), 0, shown)
    assert isinstance(result, Continuation)
    return result


@settings(max_examples=40)
@given(st.text("ab \n.", min_size=1, max_size=12))
@pytest.mark.parametrize("kind", ["demo", "sentencepiece"])
def test_tokens_shown_by_their_text_are_the_ids_that_were_taken(kind: str, text: str) -> None:
    names = {"demo": demo, "sentencepiece": sentencepiece}[kind]()
    prompt = tuple(names.vocab.ids("a", special=False))
    ids = names.encoded(prompt, text)
    assert ids
    read = reading(names, prompt, ids, text=text)
    assert read.token_ids == ids and read.logprobs == tuple(-float(n + 1) for n in range(len(ids)))


def test_tokens_that_the_tokenizer_would_not_make_are_kept_where_their_names_are_clear() -> None:
    vocab = demo().vocab
    ids = tuple(vocab.tokenizer.convert_tokens_to_ids(["t", "h", "e"]))
    read = reading(demo(), (417,), ids, text="the")
    assert read.token_ids == ids and not read.reencoded and demo().encoded((417,), "the") != ids


def test_unclear_names_that_fit_no_encoding_lose_their_log_probabilities() -> None:
    names = sentencepiece()
    shown = (piece("a"), piece("b"))  # `a` may be ▁a, and the tokenizer makes `ab` of the text
    read = reading(names, (piece("<s>"), piece("▁")), shown, text="ab")
    assert (read.token_ids, read.reencoded, read.logprobs) == ((piece("ab"),), True, None)


def test_names_that_are_seen_to_have_their_spaces_are_of_one_token() -> None:
    """llama.cpp's: `a` behind ` b` is no ▁a, as the text says; a detokenizer that drops all spaces does not say it."""
    names, shown = sentencepiece(), ("a", " b", "a")
    tops: Any = ({"a": -0.5}, {"b": -1.0}, {"a": -1.0, " b": -2.0})
    told = Completion("f:1", tokens=shown, text="a ba", logprobs=(-1.0, -2.0, -3.0), top_logprobs=tops)
    reader = Reader(names.vocab, {"x": (piece("<s>"),)}, 99, False)
    reader.names = names

    def read(completion: Completion) -> Continuation:
        result = reader.continuation(Key("greedy", 0, "x"), 0, completion)
        assert isinstance(result, Continuation)
        return result

    first = {"a": -0.5, " b": -3.0}  # spaces are shown here, too
    whole = read(replace(told, top_logprobs=(first, *tops[1:])))
    assert not whole.reencoded and whole.token_ids == (piece("a"), piece("▁b"), piece("a"))
    assert whole.top_logprobs == (
        {piece("a"): -0.5, piece("▁b"): -3.0}, {piece("b"): -1.0}, {piece("a"): -1.0, piece("▁b"): -2.0},
    )  # fmt: skip
    assert read(told).reencoded, "the first may be ▁a"
    assert read(replace(told, tokens=("a", "b", "a"), text="a ba")).reencoded


@pytest.mark.parametrize("kind", ["demo", "sentencepiece"])
def test_of_a_long_text_only_a_part_is_encoded_and_its_ids_are_the_whole_ones(kind: str) -> None:
    names = {"demo": demo, "sentencepiece": sentencepiece}[kind]()
    prompt, lengths = tuple(names.vocab.ids("ab ", special=False)), list[int]()
    ids = names.vocab.ids

    class Watched(Vocabulary):
        def ids(self, text: str, *, special: bool = True) -> list[int]:
            lengths.append(len(text))
            return ids(text, special=special)

    watched = Names(Watched(**{f.name: getattr(names.vocab, f.name) for f in fields(Vocabulary)}))
    for piece in ("ab a b", "a", "b ab\n", "é ", "字a", "  ab"):
        text = piece * (40_000 // len(piece))
        expected, lengths[:] = names.encoded(prompt, text), []
        part = watched.encoded(prompt, text, 9)
        assert expected is not None and part is not None and part == expected[: len(part)], piece
        assert len(part) >= 9 and max(lengths) < 4000, piece
