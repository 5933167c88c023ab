"""A newcomer in each registry, by the steps of CONTRIBUTING.md, and a run in which all of them take part.

    python tests/newcomers.py FOLDER    # leaves the run there

Registered before the run's modules are imported, as a line in the registry's own file would be.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from decodedrift.core.notation import Param, boolean, number
from decodedrift.decoding.strategies import STRATEGIES
from decodedrift.decoding.strategies.base import TEMPERATURE, StrategyKind
from decodedrift.decoding.warping import Allowed, renormalised
from decodedrift.measure.metrics import TOKEN_METRICS, TRACE_METRICS, LogitPair, TracePair
from decodedrift.measure.metrics.base import INTEGERS, Metric, TraceMetric
from decodedrift.models.knobs import KNOBS
from decodedrift.models.knobs.base import Knob


def kl_twice(pair: LogitPair) -> torch.Tensor:
    """Twice the KL, nats."""
    return 2 * pair.kl_both[0]


def argmax_candidate(pair: LogitPair) -> torch.Tensor:
    """The id of the candidate's largest logit."""
    return pair.top2_candidate[1][:, 0].double()


def shared_ids(pair: TracePair) -> int:
    """Distinct ids that both texts hold."""
    return len({*pair.reference_ids} & {*pair.candidate_ids})


def second(logits: torch.Tensor, params: Mapping[str, Any]) -> Allowed:
    ids = logits.topk(2, dim=-1).indices[:, 1:]
    return Allowed(ids, torch.zeros(ids.shape, dtype=torch.float64))


def epsilon(logits: torch.Tensor, params: Mapping[str, Any]) -> Allowed:
    values, ids = (logits.double() / params["temperature"]).sort(dim=-1, descending=True)
    inside = values.softmax(-1) >= params["epsilon"]
    inside[:, 0] = True
    return renormalised(values, ids, inside)


def newcomer(study: Any, options: Any) -> dict[str, Any]:
    from decodedrift.report.tables import Cell, Column, Table

    table = Table((Column("Largest"),), [[Cell("text", f"{study.positions['kl_twice'].max():.6e}")]])
    return {"heading": "A newcomer", "template": "failures.html.j2", "table": table}


def register() -> None:
    """A line in every registry."""
    TOKEN_METRICS["kl_twice"] = Metric(kl_twice)
    TOKEN_METRICS["argmax_candidate"] = Metric(argmax_candidate, INTEGERS)
    TRACE_METRICS["shared_ids"] = TraceMetric(shared_ids, INTEGERS)
    STRATEGIES["second"] = StrategyKind("the second most probable token", {}, second)
    STRATEGIES["epsilon"] = StrategyKind(
        "a draw from the tokens of at least a probability",
        {"epsilon": Param(number(0, 1), 0.02), "temperature": TEMPERATURE},
        epsilon,
        samples=True,
        processors={"temperature": "TemperatureLogitsWarper", "epsilon": "EpsilonLogitsWarper"},
    )
    KNOBS["halved"] = Knob(
        Param(boolean, None, "bfloat16 where autocast puts it"),
        fact="halved",
        read_back=lambda model: torch.is_autocast_enabled(model.device.type),
        running=lambda model, value: torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=value),
        rounds=lambda value: "bf16" if value else None,
    )


def experiment() -> None:
    """An experiment with an option and a table of its own: `compare`, which also counts its prompts."""
    from decodedrift import experiments
    from decodedrift.core.options import MEASURING, option
    from decodedrift.core.settings import Whole
    from decodedrift.experiments.compare import EXPERIMENT
    from decodedrift.experiments.compare.settings import CompareSettings
    from decodedrift.measure.tables import TABLES

    class CountingSettings(CompareSettings):
        experiment: ClassVar[str] = "counting"
        times: Whole = option(1, "How often each is counted.", MEASURING, "N", label="Counted")

    def execute(job: Any, world: Any, *more: Any) -> Any:
        result = EXPERIMENT.execute(job, world, *more)
        result.rows["counts"] += [{"prompt_id": p.id, "count": world.plan.times} for p in job.prompts]
        return result

    TABLES["counts"] = {"prompt_id": "str", "count": INTEGERS}
    tables = (*EXPERIMENT.tables, "counts")
    made = replace(EXPERIMENT, name="counting", settings=CountingSettings, tables=tables, execute=execute)
    sys.modules["decodedrift.experiments.counting"] = SimpleNamespace(EXPERIMENT=made)  # type: ignore[assignment]
    experiments.EXPERIMENTS += ("counting",)  # type: ignore[assignment]


def executor(function: Any, jobs: Any) -> Any:
    """The last job first."""
    return map(function, reversed(list(jobs)))


def main(folder: str) -> None:
    """Registers them all, and runs."""
    register()
    experiment()
    import decodedrift as dd
    from decodedrift.experiments.compare.folds import FOLDS
    from decodedrift.experiments.compare.sections import SECTIONS
    from decodedrift.runs.executors import EXECUTORS

    FOLDS["lengths"] = lambda study: study.traces.groupby("variant", sort=False)["n_tokens"].sum().reset_index()
    EXECUTORS["backwards"] = executor
    SECTIONS["newcomer"] = newcomer
    dd.compare(
        "demo", candidates=["fp32:halved=true", "fp32:halved=false", "fp32:attention=sdpa", "int8"],
        strategies=["greedy", "second", "epsilon:epsilon=0.05"], limit=2, max_new_tokens=12, batch_size=1,
        out=f"{folder}/run", noise_floor=False, default_text=False,
    )  # fmt: skip
    sys.argv = [
        "decodedrift", "counting", "--times", "3", "--executor", "backwards", "--prompts-per-job", "1", "--limit", "2",
        "--strategies", "greedy", "--candidates", "bf16", "--max-new-tokens", "3", "--out", f"{folder}/counting", "--quiet",
    ]  # fmt: skip
    from decodedrift import cli

    cli.main()


if __name__ == "__main__":
    main(sys.argv[1])
