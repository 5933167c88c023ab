"""From a plan to jobs under content keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from decodedrift.core.records import Job, plain
from decodedrift.core.settings import Settings, no_rows

METRICS_VERSION = 5
IDENTITY = ("model", "checkpoints", "tokenizer", "generation", "numerical", "metrics_version")  # of an environment


def jobs(plan: Settings, identity: Mapping[str, Any], windows: Mapping[str, int], windows_per_job: int) -> list[Job]:
    """The plan cut into shards of prompts, in file order, then shards of text windows; each under its content key.

    Args:
        identity: what the numbers depend on beside the plan: weights, tokenizer, generation settings, environment.
        windows: text name -> how many windows it has.
    """
    shards = plan.shards()
    for name, total in windows.items():
        for start in range(0, total, windows_per_job):
            shards.append(Job("", 0, (), name, (start, min(total, start + windows_per_job))))
    settings = plan.as_dict()  # once: of every job it would cost prompts times jobs
    for key in ("prompts", "texts", *no_rows(type(plan))):
        settings.pop(key)
    common = {"plan": settings, "identity": plain(identity)}
    return [_keyed(plan, common, replace(job, index=i, first=i == 0)) for i, job in enumerate(shards)]


def _keyed(plan: Settings, common: Mapping[str, Any], job: Job) -> Job:
    texts = [plain(t) for t in plan.texts if t.name == job.text or not plan.scores_texts]
    content = {**common, "job": plain(job), "texts": texts}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return replace(job, key=f"{job.index:05d}-{digest[:16]}")
