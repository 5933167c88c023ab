"""An endpoint's texts as a recorded run: asked for in the plan's order, written as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from decodedrift.core.files import file_name
from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError, plain
from decodedrift.core.secrecy import SHORTEST
from decodedrift.models.recorded.api import probe
from decodedrift.models.recorded.api.asking import Asking, run
from decodedrift.models.recorded.api.bodies import askable, questions
from decodedrift.models.recorded.api.client import Endpoint, checked_url, client_library, key_of
from decodedrift.models.recorded.completion import Completion
from decodedrift.models.recorded.writer import Writer, prompts_hash, recording

ASKED = (  # of a plan, what decides an endpoint's texts
    "strategies", "max_new_tokens", "seeds", "runs", "chat_template", "ignore_eos", "concurrency", "top_logprobs",
    "body", "delay",
)  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """Where what endpoints answer is kept while a run is prepared.

    folder: None keeps it no longer than that. frozen: rows were made of what is there, so nothing is asked again.
    """

    folder: Path | None = None
    progress: Progress = field(default_factory=Progress)
    frozen: bool = False


@contextmanager
def answered(plan: Any, answers: Answers | None) -> Iterator[dict[str, Path]]:
    """The files of the endpoints of a plan, by name, asked for all that they lack; None asks nobody.

    Raises:
        InputError: an endpoint cannot be asked, or can be asked for none of the strategies; what asks is not installed,
            though nobody be asked yet.
    """
    endpoints = [variant for variant in plan.variants if variant.endpoint]
    if endpoints and not (answers and answers.frozen):
        client_library()
    if not endpoints or answers is None:
        yield {}
        return
    with ExitStack() as stack:
        folder = answers.folder or Path(stack.enter_context(TemporaryDirectory(prefix="decodedrift-")))
        files: dict[str, Path] = {}
        for variant in endpoints:
            url, _, model = str(variant.model).partition("#")
            for name, asked in plan.asked_of(variant).items():
                files[name] = folder / f"{file_name(name)}.jsonl"
                if not (answers.frozen and files[name].is_file()):
                    with recording(files[name]) as writer:
                        plan = askable(asked).having(model=model)
                        record(checked_url(url), plan, writer, answers.progress, variant.compute)
        yield files


def record(url: str, plan: Any, writer: Writer, progress: Progress, precision: str | None) -> int:
    """Asks an endpoint for every completion of a plan that is not in the file. Returns how many failed.

    Args:
        precision: what the endpoint is said to compute in.

    Raises:
        InputError: the endpoint cannot be asked, the body holds the key, or the file is another recording.
    """
    key = key_of(plan.api_key_env)
    if len(key) >= SHORTEST and json.dumps(key)[1:-1] in json.dumps(plan.body):
        raise InputError("--body: holds the key of --api-key-env, and is kept in the file; leave the key out of it")
    recorder = _Recorder(url, plan, writer, progress, precision)
    run(lambda: recorder.asked(key))
    return recorder.failed


@dataclass
class _Recorder:
    """What an endpoint says, on its way into a file."""

    url: str
    plan: Any
    writer: Writer
    progress: Progress
    precision: str | None
    failed: int = 0

    async def asked(self, key: str) -> None:
        """Asks for what the file lacks; every answer is written as it comes."""
        plan, writer = self.plan, self.writer
        every = questions(plan)
        async with Endpoint(self.url, key, deadline=plan.deadline, retries=plan.retries) as endpoint:
            engine = await probe.engine(endpoint)
            writer.identify(identity(self.url, plan, engine, self.precision))
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


def identity(url: str, plan: Any, engine: Mapping[str, Any], precision: str | None) -> dict[str, Any]:
    """What must be equal where a recording goes on. stop: strings that end a text, which a stop token then need not."""
    stop = plan.body.get("stop")
    said: dict[str, Any] = {} if stop is None else {"stop": [stop] if isinstance(stop, str) else stop}
    said |= {} if precision is None else {"precision": precision}
    return said | {
        "engine": engine,
        "endpoint": url,
        "model": plan.model,
        "plan": {name: plain(getattr(plan, name)) for name in ASKED if hasattr(plan, name)},
        "prompts": prompts_hash(plan.prompts),
    }
