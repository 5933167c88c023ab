"""What a request says: a strategy in the fields of an OpenAI-compatible server, and everything else kept from acting.

Servers have defaults of their own (llama.cpp draws from the top 40, vLLM takes what the model's generation config
says), so what a strategy does not ask for is switched off by name wherever the server takes the field (NEUTRAL).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decodedrift.core.records import Cell, InputError, Prompt, Strategy, nearest

NEUTRAL = {"top_k": -1, "min_p": 0.0, "typical_p": 1.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0}
OTHERWISE = {"top_k": 0}  # says the same where no number below 0 is taken (llama-cpp-python)
IDS = {"return_token_ids": True, "return_tokens_as_token_ids": True, "return_tokens": True}  # vLLM's, llama.cpp's
OURS = (  # what --body may not say
    "model", "prompt", "messages", "n", "stream", "max_tokens", "temperature", "seed", "echo",
)  # fmt: skip
PENALTY = "repetition_penalty"


@dataclass(frozen=True)
class Question:
    """One completion that is asked for. order: its place in the plan, from 0."""

    order: int
    cell: Cell
    prompt: Prompt
    run: int
    chat: bool


def questions(plan: Any) -> list[Question]:
    """Every completion of a plan, in the order in which it is asked for: run by run, strategy by strategy.

    Raises:
        InputError: a strategy or a prompt that no endpoint takes.
    """
    for strategy in plan.strategies:
        _check(strategy)
    for name in plan.body:
        if name in OURS:
            raise InputError(f"--body: {name!r} follows from the other options; leave it out of the JSON")
    runs = range(getattr(plan, "runs", 1))
    every = [(run, cell, prompt) for run in runs for cell in plan.cells for prompt in plan.prompts]
    return [Question(n, cell, p, run, chats(plan, p)) for n, (run, cell, p) in enumerate(every)]


def askable(plan: Any) -> Any:
    """A plan with those of its strategies that an endpoint can be asked for.

    Raises:
        InputError: there is none.
    """
    able = []
    for strategy in plan.strategies:
        try:
            _check(strategy)
            able.append(strategy)
        except InputError as error:
            reason = error
    if not able:
        raise reason
    return plan.having(strategies=tuple(able))


def chats(plan: Any, prompt: Prompt) -> bool:
    """Whether a prompt is asked as a chat: turns are, and with --chat-template a text as the user's.

    Raises:
        InputError: token ids cannot be turned into a turn.
    """
    if plan.chat_template and prompt.prompt_token_ids is not None:
        raise InputError(f"prompt {prompt.id}: is token ids, which no chat takes; leave --chat-template out")
    return bool(plan.chat_template or prompt.messages is not None)


def _check(strategy: Strategy) -> None:
    kinds = strategy.kinds
    able = tuple(name for name, kind in kinds.items() if kind.request is not None)
    if strategy.kind.request is None:
        raise InputError(
            f"strategy {strategy.label}: an endpoint cannot be asked for it; {nearest(strategy.name, able)}"
        )
    if strategy.params.get("no_repeat_ngram"):
        raise InputError(f"strategy {strategy.label}: an endpoint knows no no_repeat_ngram; leave it out")


def strategy_fields(strategy: Strategy) -> dict[str, Any]:
    """The fields that ask for a strategy."""
    fields: dict[str, Any] = {"top_p": 1.0, **strategy.kind.request(strategy.params)}
    return fields | ({PENALTY: strategy.params[PENALTY]} if PENALTY in strategy.params else {})


def sets_neutral(strategy: Strategy) -> bool:
    """Whether a strategy asks for something that is switched off for others."""
    return not NEUTRAL.keys().isdisjoint(strategy_fields(strategy))


def needed(plan: Any) -> dict[str, Any]:
    """Fields beyond OpenAI's that a plan cannot do without, as its strategies ask for them, and the user's own."""
    beyond = {k: v for s in plan.strategies for k, v in strategy_fields(s).items() if k in NEUTRAL}
    return {**beyond, **({"ignore_eos": True} if plan.ignore_eos else {}), **plan.body}


def shown(chat: bool, count: int) -> dict[str, Any]:
    """The fields that ask for log-probabilities, with so many top tokens."""
    if chat:
        return {"logprobs": True} | ({"top_logprobs": count} if count else {})
    return {"logprobs": count}


def body(question: Question, plan: Any, further: Mapping[str, Any], limit: str) -> dict[str, Any]:
    """The whole body of a question.

    Args:
        further: fields that the server was found to take.
        limit: what it calls the number of tokens.
    """
    (strategy, seed), prompt = question.cell, question.prompt
    asked: dict[str, Any] = {"model": plan.model, "n": 1, "stream": False, limit: plan.max_new_tokens}
    asked |= {"messages": turns(prompt)} if question.chat else {"prompt": text(prompt)}
    asked |= dict(further) | strategy_fields(strategy) | ({"ignore_eos": True} if plan.ignore_eos else {})
    return {**asked, **({"seed": seed} if strategy.samples else {}), **plan.body}


def turns(prompt: Prompt) -> Sequence[Mapping[str, Any]]:
    """A prompt as a conversation."""
    return list(prompt.messages) if prompt.messages is not None else [{"role": "user", "content": prompt.text}]


def text(prompt: Prompt) -> str | list[int]:
    """A prompt as a text, or as its ids."""
    return list(prompt.prompt_token_ids) if prompt.prompt_token_ids is not None else prompt.text
