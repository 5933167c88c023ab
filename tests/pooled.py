"""A stand-in for a Worker that other processes can have without torch: what a job's name says happens."""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError, Job


@dataclass
class Place:
    """Of a World what an executor looks at."""

    workers: int = 2
    route: Any = field(default_factory=lambda: SimpleNamespace(fixed=False, path="shared"))
    weights: Path | None = None

    def close(self) -> None:
        """Removes the file that stands for weights on the disk."""
        if self.weights is not None:
            self.weights.unlink(missing_ok=True)


@dataclass
class Work:
    """Answers (job key, path, size, process id). folder: where jobs leave word of the
    process in which they were begun."""

    folder: str
    world: Place = field(default_factory=Place)
    progress: Progress = field(default_factory=Progress)
    size: int = 8

    def __call__(self, job: Job) -> Any:
        """Runs a job."""
        begun = len(list(Path(self.folder).glob(f"{job.key}*")))
        (Path(self.folder) / f"{job.key}.{begun}").write_text(str(os.getpid()))
        self.world.weights = Path(self.folder) / f"weights.{os.getpid()}"
        self.world.weights.touch()
        self.progress.job(job.key)
        self.progress.start("fp32", "greedy", 10)
        if job.key == "first":
            self.size, self.world.route.path, self.world.route.fixed = 4, "stock", True
        elif (job.key == "killed" and not begun) or job.key == "always":
            os.kill(os.getpid(), signal.SIGKILL)
        elif job.key == "refused":
            raise InputError("the reference cannot run")
        elif job.key == "broken":
            raise KeyError("lost")
        elif job.key == "said":
            logging.getLogger("decodedrift").warning("job %s is odd", job.key)
            warnings.warn("an old argument", stacklevel=1)
            print("models may print")
        elif job.key == "long":
            for _ in range(600):
                time.sleep(0.05)
                self.progress.batch()
        self.progress.tick(10)
        self.progress.stop()
        return SimpleNamespace(key=job.key, path=self.world.route.path, size=self.size, process=os.getpid())


def jobs(*keys: str) -> list[Job]:
    """A job of each name."""
    return [Job(key, index) for index, key in enumerate(keys)]
