"""Jobs run one by one; where memory runs out the batch is halved, for all variants of the job alike.

Where a variant needs a plainer path than the run is on, its first job is run again on that path, for all of them too.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from decodedrift.core.files import disk_failed
from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError, Job, VariantError
from decodedrift.core.secrecy import excerpt
from decodedrift.measure.tables import JobResult
from decodedrift.models.arithmetic import threaded
from decodedrift.models.load import out_of_memory
from decodedrift.models.probe import AnotherPath
from decodedrift.models.world import World

LOG = logging.getLogger("decodedrift")


@dataclass
class Worker:
    """Runs jobs of one world.

    execute: (job, world, progress, folder for waiting logits) -> rows. size: the batch size to begin with; once lowered
    it stays so, as the next job would only run out again. Rows are made of a whole job in one size, and the result says
    which.
    """

    execute: Callable[[Job, World, Progress, str | None], JobResult]
    world: World
    progress: Progress
    spill: str | None
    size: int

    def __getstate__(self) -> dict[str, Any]:
        """What another process works with; it has a progress of its own."""
        return self.__dict__ | {"progress": Progress()}

    def __call__(self, job: Job) -> JobResult:
        """One job's rows.

        Raises:
            InputError: the reference cannot run, or the disk failed.
        """
        planned = self.world.plan.batch_size
        begin = time.perf_counter()
        LOG.info("job %s begins", job.key)
        with threaded(self.world.plan.threads):  # also for what is computed beside the models
            while (result := self._tried(job)) is None:
                self.progress.stop()
                self.world.close()
                self.size //= 2
        result.batch_size = self.size if self.size != planned else None
        result.path, self.world.route.fixed = self.world.route.facts(), True
        LOG.info(
            "job %s ended after %.1f s, %d failures", job.key, time.perf_counter() - begin, len(result.rows["failures"])
        )
        return result

    def _tried(self, job: Job) -> JobResult | None:
        """A job in the present batch size; None where half of it may help."""
        self.progress.job(job.key)
        world = replace(self.world, plan=self.world.plan.having(batch_size=self.size))
        try:
            result = self.execute(job, world, self.progress, self.spill)
        except AnotherPath:
            self.progress.stop()
            return self._tried(job)
        except (VariantError, RuntimeError, MemoryError) as error:
            self._still_there(error)
            if not (isinstance(error, VariantError) or out_of_memory(error)):
                raise
            if out_of_memory(error) and self._can_halve() and world.plan.reader.batch_size is None:
                return None
            cause = " ".join(str(error).split())
            name = world.plan.reader.name
            cause = cause if isinstance(error, VariantError) else f"{name}: out of memory ({excerpt(cause, 120)})"
            raise InputError(f"the reference cannot run: {cause}") from error
        except OSError as error:
            self._still_there(error)
            if disk_failed(error):
                where = self.spill or "the folder for temporary files"
                raise InputError(f"{where}: cannot be written ({error.strerror}); finished jobs are kept") from error
            raise
        return None if self._can_halve() and self._too_large(result) else result

    def _can_halve(self) -> bool:
        return self.size > 1 and self.world.plan.lowers_batch

    def _still_there(self, error: Exception) -> None:
        """The folder in which logits wait may have gone, and they with it."""
        if self.spill is not None and not os.path.isdir(self.spill):
            raise InputError(f"{self.spill}: the run folder has been moved or deleted; start again") from error

    def _too_large(self, result: JobResult) -> bool:
        """Whether a variant ran out of memory in the plan's batch size; weights that do not fit are no matter of it."""
        fixed = {v.name for v in self.world.plan.candidates if v.batch_size}
        causes = {(f["status"], f["stage"] == "load") for f in result.rows["failures"] if f["variant"] not in fixed}
        return ("out_of_memory", False) in causes
