"""What deployment would see of a checkpoint and a comparison of weights does not: its tokenizer, stops and settings.

Found before weights load. Every variant is compared under the reference's tokenizer and stop ids and without the
settings of its `generation_config.json`; whoever serves the folder has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from decodedrift.core.records import InputError, plain
from decodedrift.core.settings import Settings
from decodedrift.models.sources import gguf
from decodedrift.models.sources.checkpoints import Checkpoint
from decodedrift.models.sources.quiet import quiet
from decodedrift.models.text.stops import generation_settings, stop_and_pad
from decodedrift.models.text.vocabulary import Vocabulary, encode_prompts, vocabulary

CHANGING: dict[str, tuple[Any, ...]] = {  # settings that change what plain generate writes, with what changes nothing
    "repetition_penalty": (1,), "encoder_repetition_penalty": (1,), "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,), "bad_words_ids": ([],), "sequence_bias": ([],), "min_length": (0,),
    "min_new_tokens": (0,), "forced_bos_token_id": (), "forced_eos_token_id": (), "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],), "exponential_decay_length_penalty": (), "guidance_scale": (1,),
    "renormalize_logits": (False,), "remove_invalid_values": (False,), "watermarking_config": (), "num_beams": (1,),
    "stop_strings": ([],),
}  # fmt: skip
SAMPLING: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,), "temperature": (1,), "top_k": (0,), "top_p": (1,), "min_p": (0,), "typical_p": (1,),
    "top_h": (), "epsilon_cutoff": (0,), "eta_cutoff": (0,),
}  # fmt: skip


def differences(
    plan: Settings,
    checkpoint: Checkpoint,
    vocab: Vocabulary,
    encoded: Mapping[str, Sequence[int]],
    others: Mapping[str, Checkpoint],
) -> dict[str, dict[str, Any]]:
    """For the reference, and for each candidate with a folder of its own, what deployment would see; JSON-ready.

    settings: those that change what is written; of a candidate [the reference's, its own] where they differ, null for
    one that is not set. Those of sampling only where something is sampled. stop_ids: both lists, where they differ.
    vocabulary: how many tokens one side has and the other has not. template: whether the chat templates differ.
    prompts: how many of how many encode to other ids, the first of them, and how it differs; texts: the same of texts.
    gguf: what a GGUF file says of prompts ([the reference's, its own] where they differ): its own tokenizer is not run.

    Args:
        encoded: prompt id -> ids, by the reference's tokenizer.
        others: candidate -> its checkpoint, with its tokenizer.
    """
    ours = settings(checkpoint, plan)
    facts: dict[str, dict[str, Any]] = {plan.reference.name: {"settings": ours} if ours else {}}
    stops = set(stop_and_pad(checkpoint, vocab.tokenizer)[0])
    for name, other in others.items():
        theirs, own = settings(other, plan), vocabulary(other)
        changed = {
            key: [ours.get(key), theirs.get(key)] for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)
        }
        each: dict[str, Any] = {
            "prompts": _prompts(plan, vocab, own, encoded),
            "texts": [t.name for t in plan.texts if vocab.spans(t.text)[0] != own.spans(t.text)[0]],
            "template": other.kind != "gguf" and _template(vocab) != _template(own),
            "gguf": _in_file(vocab, other) if other.kind == "gguf" else {},
            "stop_ids": {"reference": sorted(stops), "candidate": sorted(own.eos)} if stops != {*own.eos} else {},
            "settings": changed,
            "vocabulary": _more(vocab, own),
        }
        facts[name] = {key: value for key, value in each.items() if value}
    return facts


def settings(checkpoint: Checkpoint, plan: Settings) -> dict[str, Any]:
    """The settings of a model that change what it writes, JSON-ready; those of sampling where something samples."""
    keys = CHANGING | (SAMPLING if any(s.samples for s in plan.strategies) else {})
    asked = generation_settings(checkpoint, tuple(keys))
    standard = _standard() if checkpoint.module is not None else {}
    values = {key: asked.get(key) for key in keys}
    said = {k: v for k, v in values.items() if v is not None and v not in keys[k] and v != standard.get(k)}
    return {k: plain(v.to_dict() if hasattr(v, "to_dict") else v) for k, v in said.items()}


def _standard() -> dict[str, Any]:
    """What a model in memory has where nobody set anything."""
    from transformers import GenerationConfig

    values: dict[str, Any] = vars(GenerationConfig())
    return values


def _prompts(
    plan: Settings, vocab: Vocabulary, own: Vocabulary, encoded: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """How many of the run's prompts the candidate's tokenizer (and template) makes other ids of."""
    try:
        theirs = encode_prompts(own, plan.prompts, plan.chat_template)
    except InputError:  # it has no chat template, or one that fails
        theirs = dict.fromkeys(encoded, "")
    differing = [name for name, ids in encoded.items() if theirs[name] != list(ids)]
    if not differing:
        return {}
    first = differing[0]
    how = _how(list(encoded[first]), theirs[first], vocab.bos, own.bos)
    every = {"ids": differing} if getattr(plan, "as_deployed", False) else {}
    return {"differ": len(differing), "of": len(encoded), "first": first, "how": how} | every


def _how(ours: list[int], theirs: list[int] | str, bos: int | None, its_bos: int | None) -> str:
    if isinstance(theirs, str):
        return "it cannot encode it"
    if ours[1:] == theirs and ours[0] == bos:
        return "no BOS"
    if theirs[1:] == ours and theirs[0] == its_bos:
        return "a BOS in front"
    return f"{len(theirs)} ids instead of {len(ours)}" if len(ours) != len(theirs) else f"{len(ours)} other ids"


def _in_file(vocab: Vocabulary, other: Checkpoint) -> dict[str, Any]:
    """A GGUF file's settings of its tokenizer beside what the reference's does; `unsaid`: what it leaves open."""
    said = gguf.tokenizer_settings(*other.files)
    with quiet():
        empty = list(vocab.tokenizer("")["input_ids"])
    ours = {"add_bos": vocab.bos is not None and empty[:1] == [vocab.bos]}
    ours["add_eos"] = empty[int(ours["add_bos"]) :][-1:] == [vocab.tokenizer.eos_token_id]
    pairs: dict[str, Any] = {k: [ours[k], bool(said[k])] for k in ours if k in said and bool(said[k]) != ours[k]}
    template = said.get("template")
    if template != _template(vocab):
        pairs["template"] = [_template(vocab) is not None, template is not None]
    unsaid = [k for k in ("add_bos",) if k not in said]  # of an EOS silence means none
    return pairs | ({"unsaid": unsaid} if unsaid else {})


def _template(vocab: Vocabulary) -> Any:
    return getattr(vocab.tokenizer, "chat_template", None)


def _more(vocab: Vocabulary, own: Vocabulary) -> dict[str, int]:
    """How many tokens either side has alone; one of the two is none."""
    ours, theirs = len(vocab.tokenizer.get_vocab()), len(own.tokenizer.get_vocab())
    return {} if ours == theirs else {"reference": ours, "candidate": theirs}
