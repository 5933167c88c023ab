"""A variant as it is deployed: its own tokenizer's ids, its stop ids, and the logits processors of its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from decodedrift.core.records import InputError, VariantError
from decodedrift.core.secrecy import excerpt
from decodedrift.core.settings import Settings
from decodedrift.models.sources.checkpoints import Checkpoint
from decodedrift.models.sources.identity import tokenizer_hash
from decodedrift.models.text.deployment import SAMPLING, settings
from decodedrift.models.text.vocabulary import Vocabulary, encode_prompts, vocabulary

Process = Callable[[Tensor, Tensor], Tensor]
# setting -> processor of transformers, from (value, prompt ids, stop ids, length at the end), in the order of generate
PROCESSORS: dict[str, Callable[[Any, Tensor, Tensor, int], tuple[str, dict[str, Any]]]] = {
    "sequence_bias": lambda v, ids, eos, end: ("SequenceBiasLogitsProcessor", {"sequence_bias": v}),
    "encoder_repetition_penalty": lambda v, ids, eos, end: (
        "EncoderRepetitionPenaltyLogitsProcessor", {"penalty": v, "encoder_input_ids": ids}),
    "repetition_penalty": lambda v, ids, eos, end: ("RepetitionPenaltyLogitsProcessor", {"penalty": v}),
    "no_repeat_ngram_size": lambda v, ids, eos, end: ("NoRepeatNGramLogitsProcessor", {"ngram_size": v}),
    "encoder_no_repeat_ngram_size": lambda v, ids, eos, end: (
        "EncoderNoRepeatNGramLogitsProcessor", {"encoder_ngram_size": v, "encoder_input_ids": ids}),
    "bad_words_ids": lambda v, ids, eos, end: ("NoBadWordsLogitsProcessor", {"bad_words_ids": v, "eos_token_id": eos}),
    "min_length": lambda v, ids, eos, end: (
        "MinLengthLogitsProcessor", {"min_length": v, "eos_token_id": eos, "device": str(ids.device)}),
    "min_new_tokens": lambda v, ids, eos, end: ("MinNewTokensLengthLogitsProcessor", {
        "prompt_length_to_skip": ids.shape[-1], "min_new_tokens": v, "eos_token_id": eos, "device": str(ids.device)}),
    "forced_bos_token_id": lambda v, ids, eos, end: ("ForcedBOSTokenLogitsProcessor", {"bos_token_id": v}),
    "forced_eos_token_id": lambda v, ids, eos, end: (
        "ForcedEOSTokenLogitsProcessor", {"max_length": end, "eos_token_id": v, "device": str(ids.device)}),
    "remove_invalid_values": lambda v, ids, eos, end: ("InfNanRemoveLogitsProcessor", {}),
    "exponential_decay_length_penalty": lambda v, ids, eos, end: ("ExponentialDecayLengthPenalty", {
        "exponential_decay_length_penalty": tuple(v), "eos_token_id": eos, "input_ids_seq_length": ids.shape[-1]}),
    "suppress_tokens": lambda v, ids, eos, end: (
        "SuppressTokensLogitsProcessor", {"suppress_tokens": v, "device": str(ids.device)}),
    "begin_suppress_tokens": lambda v, ids, eos, end: ("SuppressTokensAtBeginLogitsProcessor", {
        "begin_suppress_tokens": v, "begin_index": ids.shape[-1], "device": str(ids.device)}),
    "renormalize_logits": lambda v, ids, eos, end: ("LogitNormalization", {}),
}  # fmt: skip
OF_STOPS = (  # left out where there are none
    "min_length",
    "min_new_tokens",
    "exponential_decay_length_penalty",
)


@dataclass(frozen=True)
class Own:
    """What a variant generates with. prompts: prompt id -> ids; settings: of PROCESSORS, those that are applied."""

    vocab: Vocabulary
    prompts: Mapping[str, Sequence[int]]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """For environment.json."""
        tokenizer = tokenizer_hash(self.vocab.tokenizer)
        return {"tokenizer": tokenizer, "stop_ids": list(self.vocab.eos), "settings": dict(self.settings)}

    def processes(self, device: torch.device, new: int) -> Mapping[str, Process] | None:
        """Prompt id -> (ids so far [1, T], scores [1, vocab]) -> scores; None where no setting changes any."""
        if not self.settings:
            return None
        return {name: self._process(ids, device, new) for name, ids in self.prompts.items()}

    def _process(self, prompt: Sequence[int], device: torch.device, new: int) -> Process:
        import transformers

        ids, eos = torch.tensor([list(prompt)], device=device), torch.tensor(self.vocab.eos, device=device)
        names = [key for key in PROCESSORS if key in self.settings and (len(eos) or key not in OF_STOPS)]
        made = [PROCESSORS[key](self.settings[key], ids, eos, len(prompt) + new) for key in names]
        try:
            every = [getattr(transformers, kind)(**arguments) for kind, arguments in made]
        except (TypeError, ValueError) as error:
            raise VariantError(f"its settings {', '.join(names)} are refused ({excerpt(error, 120)})") from error

        def process(history: Tensor, scores: Tensor) -> Tensor:
            for processor in every:
                scores = processor(history, scores)
            return scores

        return process


def owns(
    plan: Settings,
    checkpoint: Checkpoint,
    shared: Vocabulary,
    encoded: Mapping[str, Sequence[int]],
    others: Mapping[str, Checkpoint],
) -> dict[str, Own]:
    """What each side is deployed with: candidates with a folder of their own, and the reference, by name.

    Raises:
        InputError: a prompt that a side cannot read, a setting that is not run here, beams under settings.
    """
    sides = {plan.reference.name: Own(shared, encoded, _applied(plan, checkpoint, plan.reference.name))}
    for name, other in others.items():
        narrow = {key: getattr(shared, key) for key in ("window", "narrowest", "size", "smallest")}
        vocab = replace(vocabulary(other, plan.ignore_eos), **narrow)
        prompts = {}
        try:
            theirs = encode_prompts(vocab, plan.prompts, plan.chat_template, plan.max_new_tokens)
        except InputError as error:
            raise InputError(f"--as-deployed: candidate {name}: {error}, or leave --as-deployed out") from None
        for prompt_id, ids in theirs.items():
            if isinstance(ids, str):
                raise InputError(f"--as-deployed: prompt {prompt_id} cannot be read by {name}: {ids}")
            prompts[prompt_id] = ids
        sides[name] = Own(vocab, prompts, _applied(plan, other, name))
    return sides


def _applied(plan: Settings, checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """A model's settings that are run; those of sampling are the strategies' own."""
    asked = {key: value for key, value in settings(checkpoint, plan).items() if key not in SAMPLING}
    if missing := [key for key in asked if key not in PROCESSORS]:
        raise InputError(
            f"--as-deployed: {name} has {missing[0]} in its generation settings, which is not run here; "
            "take it out of them, or leave --as-deployed out"
        )
    if asked and any(s.searches for s in plan.strategies):
        raise InputError(
            f"--as-deployed: {name} has {next(iter(asked))} in its generation settings, which beam search does not "
            "apply here; leave beam out of --strategies"
        )
    return asked
