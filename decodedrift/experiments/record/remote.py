"""An endpoint's texts as a recorded run: asked for in the plan's order, written as they come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import plain
from decodedrift.models.recorded.api import probe
from decodedrift.models.recorded.api.asking import Asking, run
from decodedrift.models.recorded.api.bodies import questions
from decodedrift.models.recorded.api.client import Endpoint, key_of
from decodedrift.models.recorded.completion import Completion
from decodedrift.models.recorded.writer import Writer, prompts_hash

ASKED = (  # of a plan, what decides an endpoint's texts
    "strategies", "max_new_tokens", "seeds", "runs", "chat_template", "ignore_eos", "concurrency", "top_logprobs",
    "body", "delay",
)  # fmt: skip


@dataclass
class Recording:
    """What an endpoint says, on its way into a file."""

    url: str
    plan: Any
    writer: Writer
    progress: Progress
    failed: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> int:
        """Asks for every completion that is not in the file. Returns how many failed.

        Raises:
            InputError: the endpoint cannot be asked, or the file is another recording.
        """
        key = key_of(self.plan.api_key_env)
        run(lambda: self._asked(key))
        return self.failed

    async def _asked(self, key: str) -> None:
        plan, writer = self.plan, self.writer
        every = questions(plan)
        async with Endpoint(self.url, key, deadline=plan.deadline, retries=plan.retries) as endpoint:
            engine = await probe.engine(endpoint)
            writer.identify(identity(self.url, plan, engine))
            todo = [q for q in every if (q.cell[0].label, q.cell[1], q.prompt.id, q.run) not in writer.done]
            if not todo:
                return
            if writer.header:
                capable = {kind: probe.Capable(**told) for kind, told in writer.header["capabilities"].items()}
            else:
                capable = await probe.capabilities(endpoint, plan)
                writer.begin(capabilities=capable)
            asking = Asking(endpoint, plan, capable, self._told, writer.sessions)
            self.progress.start(plan.model, "answers", len(todo))
            await asking.all(todo)
            self.progress.stop()

    def _told(self, completion: Completion) -> None:
        self.writer.write(completion)
        self.failed += completion.error is not None
        self.progress.tick(1)
        self.progress.batch()


def identity(url: str, plan: Any, engine: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal where a recording goes on. stop: strings that end a text, which a stop token then need not."""
    stop = plan.body.get("stop")
    said = {} if stop is None else {"stop": [stop] if isinstance(stop, str) else stop}
    return said | {
        "engine": engine,
        "endpoint": url,
        "model": plan.model,
        "plan": {name: plain(getattr(plan, name)) for name in ASKED},
        "prompts": prompts_hash(plan.prompts),
    }
