"""A plan's questions, asked in their order, so many at a time; an answer is a completion, and so is a failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from decodedrift.core.records import InputError
from decodedrift.models.recorded.adapters import adapted
from decodedrift.models.recorded.api.bodies import Question, body, text, turns
from decodedrift.models.recorded.api.client import Endpoint, Refused
from decodedrift.models.recorded.api.probe import KINDS, Capable
from decodedrift.models.recorded.completion import Completion
from decodedrift.models.recorded.lines import as_line, completion_of

T = TypeVar("T")


@dataclass
class Asking:
    """Questions under way. told: given every completion as it comes; session: how often the recording was taken up.

    beside: of a question that is under way, the orders of those that were so at some time of its own.
    """

    endpoint: Endpoint
    plan: Any
    capable: Mapping[str, Capable]
    told: Callable[[Completion], None]
    session: int = 0
    beside: dict[int, set[int]] = field(default_factory=dict)
    next_start: float = 0.0

    async def all(self, questions: Iterable[Question]) -> None:
        """Asks them all: as one ends the next begins, none before its turn."""
        turn = iter(questions)

        async def work() -> None:
            for question in turn:  # workers share the iterator, so the order of starting is the plan's
                await self._pause()
                self.told(await self._one(question))

        async with asyncio.TaskGroup() as group:
            for _ in range(self.plan.concurrency):
                group.create_task(work())

    async def _pause(self) -> None:
        """Waits until this start is `delay` after the one before."""
        now = time.monotonic()
        begin = max(now, self.next_start)
        self.next_start = begin + self.plan.delay
        await asyncio.sleep(begin - now)

    async def _one(self, question: Question) -> Completion:
        (strategy, seed), prompt = question.cell, question.prompt
        asked: dict[str, Any] = {"messages": tuple(turns(prompt))} if question.chat else {}
        if not question.chat:
            content = text(prompt)
            asked = {"prompt": content} if isinstance(content, str) else {"prompt_token_ids": tuple(content)}
        key: dict[str, Any] = {"prompt_id": prompt.id, "strategy": strategy.label, "seed": seed, "run": question.run}
        for other in self.beside.values():
            other.add(question.order)
        self.beside[question.order] = set(self.beside)
        try:
            completion = await self._answer(question)
        except (Refused, InputError) as reason:
            completion = Completion("", error=str(reason))
        beside = self.beside.pop(question.order)
        meta = {"order": question.order, "session": self.session, "beside": sorted(beside)}
        given = {name: value for name, value in asked.items() if getattr(completion, name) is None}
        return replace(completion, **given, **key, meta={**completion.meta, **meta})

    async def _answer(self, question: Question) -> Completion:
        """The one completion of an answer, fit to be written.

        Raises:
            Refused: no answer. InputError: one that cannot be used.
        """
        capable = self.capable[KINDS[question.chat]]
        answer = await self.endpoint.post(question.chat, body(question, self.plan, capable.taken, capable.limit))
        completions = adapted(answer.content, "its answer")
        if len(completions) != 1:
            raise InputError(f"its answer: holds {len(completions)} completions, and one was asked for")
        (completion,) = completions
        meta = {**completion.meta, "retries": answer.retries, "headers": dict(answer.headers)}
        return completion_of(as_line(replace(completion, meta=meta)), "its answer")


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine to its end, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _bare(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_bare, work).result()


def _bare(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """asyncio.run, with the first error of a group as itself.

    What is raised within a callback of the loop's own, as by a signal's handler, is told to the loop and nobody else.
    """
    signals: list[BaseException] = []

    async def watched() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if error is None or isinstance(error, Exception) or task is None:
                return loop.default_exception_handler(context)
            signals.append(error)
            task.cancel()

        loop.set_exception_handler(told)
        return await work()

    try:
        result = asyncio.run(watched())
    except (asyncio.CancelledError, BaseExceptionGroup) as failure:
        error: BaseException = signals[0] if signals else failure
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    if signals:
        raise signals[0]
    return result
