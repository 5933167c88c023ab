"""Where in a run a completion belongs: which prompt, which strategy and seed; or why nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from decodedrift.core.records import Cell, Key, Prompt
from decodedrift.models.recorded.completion import Completion

if TYPE_CHECKING:
    from decodedrift.core.settings import Settings
    from decodedrift.models.text.vocabulary import Vocabulary

NO_PROMPT = "it names no prompt: give prompt_id, prompt, messages or prompt_token_ids"
OTHER_PROMPT = "its prompt is none of this run's"
OTHER_TEXT = "its prompt_id is of this run, and its prompt is another text there"
SEVERAL = "its prompt is that of several prompts of this run: give prompt_id"


class Addresses:
    """The prompts and cells of a run, by everything that a completion may name them by."""

    def __init__(self, plan: Settings, vocab: Vocabulary, prompts: Mapping[str, Sequence[int]]) -> None:
        self.cells = plan.cells
        self.prompts = {p.id: p for p in plan.prompts if p.id in prompts}
        self.ids = {name: tuple(prompts[name]) for name in self.prompts}
        self.texts = {name: _texts(p, vocab, self.ids[name]) for name, p in self.prompts.items()}
        self.by_ids = _inverse((name, [ids]) for name, ids in self.ids.items())
        self.by_text = _inverse(self.texts.items())
        self.by_turns = _inverse((name, [_turns(p)]) for name, p in self.prompts.items())

    def key(self, completion: Completion) -> Key | str:
        """What a completion is matched by, or the reason why it belongs to nothing here."""
        cell = self._cell(completion)
        prompt = self._prompt(completion) if not isinstance(cell, str) else cell
        if isinstance(cell, str) or prompt not in self.prompts:
            return prompt
        return Key(cell[0].label, cell[1], prompt)

    def _prompt(self, completion: Completion) -> str:
        """Its prompt's id, or a reason. What it read counts for more than the id that it has."""
        given = (completion.prompt, completion.messages, completion.prompt_token_ids)
        name = completion.prompt_id
        if name is not None and name in self.prompts:
            other = completion.prompt is not None and completion.prompt not in self.texts[name]
            return OTHER_TEXT if other else name
        if all(value is None for value in given):
            return NO_PROMPT if name is None else OTHER_PROMPT
        names = self.by_ids.get(completion.prompt_token_ids) or self.by_text.get(completion.prompt)
        if not names and completion.messages is not None:
            names = self.by_turns.get(_spoken(completion.messages))
        if not names:
            return OTHER_PROMPT
        return names[0] if len(names) == 1 else SEVERAL

    def _cell(self, completion: Completion) -> Cell | str:
        """Strategy and seed; without a strategy the run's only one, or greedy; without a seed the run's first."""
        labels = {ordered(s.label): s for s, _ in self.cells}
        label = completion.strategy
        if label is None:
            only = next(iter(labels)) if len(labels) == 1 else "greedy"
            if only not in labels:
                return f"it names no strategy, and this run has {', '.join(labels)}"
            label = only
        strategy = labels.get(ordered(label))
        if strategy is None:
            return f"its strategy {label} is none of this run's"
        seeds = [seed for s, seed in self.cells if s is strategy]
        seed = completion.seed if strategy.samples else None
        if seed is None:
            return strategy, seeds[0]
        return (strategy, seed) if seed in seeds else f"its seed {seed} is none of this run's"


def ordered(label: str) -> str:
    """A strategy's label with its parameters sorted, as the run's are."""
    name, _, params = label.strip().partition(":")
    parts = sorted(part.strip() for part in params.replace(":", ",").split(",") if part.strip())
    return ":".join([name, ",".join(parts)]) if parts else name


def _texts(prompt: Prompt, vocab: Vocabulary, ids: Sequence[int]) -> list[str]:
    """What an engine may say that it read: the prompt's text, and what its ids decode to, with BOS and without."""
    bare = ids[1:] if ids and ids[0] == vocab.bos else ids
    texts = [prompt.text, vocab.decode(ids), vocab.decode(bare), vocab.decode(bare).removeprefix(" ")]
    return list(dict.fromkeys(text for text in texts if text))


def _turns(prompt: Prompt) -> tuple[tuple[str, Any], ...]:
    """A prompt as a conversation: a text is what a user says."""
    return _spoken(prompt.messages) if prompt.messages is not None else (("user", prompt.text),)


def _spoken(messages: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, Any], ...]:
    return tuple((str(turn["role"]), _said(turn.get("content"))) for turn in messages)


def _said(content: Any) -> str:
    """A turn's text; an API's list of parts as one."""
    parts = content if isinstance(content, (list, tuple)) else [content]
    return "".join(str(part.get("text") or "") if isinstance(part, Mapping) else str(part or "") for part in parts)


def _inverse(items: Iterable[tuple[str, Iterable[Any]]]) -> dict[Any, list[str]]:
    table: dict[Any, list[str]] = {}
    for name, values in items:
        for value in values:
            table.setdefault(value, []).append(name)
    return table
