"""`--executor ray`: the tables of one process, whatever node is lost; what it refuses needs no cluster."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import tiny_model, tiny_tokenizer
from running import LEAN, content

import decodedrift as dd
from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError, Job
from decodedrift.models.machine import numerical
from decodedrift.runs.executors import ray as executor
from decodedrift.runs.signals import Stopped, stoppable

ASKED: dict[str, Any] = LEAN | {
    "candidates": ["bf16"], "strategies": ["greedy", "top-p"], "max_new_tokens": 4, "prompts_per_job": 1, "threads": 1,
    "prompts": [f"w{n} w{n + 1}" for n in range(8)],
}  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"executor": "ray"}, r'executor=.ray. needs ray, which is not installed: pip install "decodedrift\[ray\]"'),
        ({"executor": "ray", "workers": 2}, "workers= is of one machine"),
        ({"executor": "ray", "keep_logits": True}, "leaves files beside its rows"),
        ({"ray_address": "10.0.0.1:6379"}, "ray_address= is of executor"),
    ],
)
def test_what_needs_no_cluster_to_be_refused(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], words: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=words):
        dd.compare(saved(), out=tmp_path / "run", **ASKED | asked)


def test_a_cluster_that_is_not_there(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    with pytest.raises(InputError, match=r"^ray_address=127.0.0.1:1: no cluster .Connection refused.; start one with"):
        dd.compare(saved(), out=tmp_path / "run", executor="ray", ray_address="127.0.0.1:1", **ASKED)
    assert not (tmp_path / "run").exists()
    for other in ("ray://127.0.0.1:1", "localhost:1", "[::1]:1"):
        with pytest.raises(InputError, match="no cluster"):
            executor._reach(other)
    for wrong in ("nowhere", "a:b", ":6379", "10.0.0.1:99999"):
        with pytest.raises(InputError, match="must be HOST:PORT, ray://HOST:PORT or auto"):
            executor._reach(wrong)
    with socket.create_server(("127.0.0.1", 0)) as server:
        executor._reach(f"127.0.0.1:{server.getsockname()[1]}")


def test_auto_is_the_cluster_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    services = SimpleNamespace(canonicalize_bootstrap_address_or_die=lambda address: "127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray._private.services", services)
    with pytest.raises(InputError, match=r"auto, which is 127.0.0.1:1: no cluster"):
        executor._reach("auto")
    monkeypatch.setitem(sys.modules, "ray._private.services", None)
    executor._reach("auto")  # a ray that has moved it


def test_a_model_in_memory_stays_here(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a model in memory; save it and name the folder"):
        dd.compare(tiny_model("gpt2"), tokenizer=tiny_tokenizer(), executor="ray", **ASKED)


def test_a_node_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there = numerical("cpu", 1) | {"cpu_capability": "AVX9"}
    monkeypatch.setitem(
        sys.modules, "ray", SimpleNamespace(util=SimpleNamespace(get_node_ip_address=lambda: "10.0.0.2"))
    )
    with pytest.raises(
        InputError, match=r"node 10.0.0.2 is of another kind .*: cpu_capability 'AVX9' there, '\w+' here$"
    ):
        executor._job("none", [], {}, there, Job("k", 0))


def test_how_many_jobs_fit_a_cluster() -> None:
    nodes = [{"CPU": 7.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 3.0}]
    ray = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "Resources": r} for r in nodes] + [{"Alive": False, "Resources": {"CPU": 99}}]
    )
    assert [executor._room(ray, 4, 0), executor._room(ray, 3, 0), executor._room(ray, 4, 1)] == [3, 5, 1]
    with pytest.raises(InputError, match=r"has the 9 CPUs .one a thread. and a GPU that a job needs; lower --threads"):
        executor._room(ray, 9, 1)


@pytest.fixture
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.slow
def test_a_lost_node_s_jobs_run_again(cluster: Any, saved: Callable[..., Path], tmp_path: Path) -> None:
    lost = cluster.add_node(num_cpus=1)
    ended: list[str] = []

    class Losing(Progress):
        def elsewhere(self, key: str, of: int) -> None:
            assert of == 2
            ended.append(key)
            if len(ended) == 1:
                cluster.remove_node(lost, allow_graceful=False)

    one = dd.compare(saved(), out=tmp_path / "one", **ASKED)
    study = dd.compare(
        saved(), out=tmp_path / "ray", executor="ray", ray_address=cluster.address, progress=Losing(), **ASKED
    )
    assert len(ended) == 7, "the first job runs in the driver"
    here, there = content(tmp_path / "one"), content(tmp_path / "ray")
    assert study.divergences.equals(one.divergences)
    for plan in (here, there):
        plan.pop("data/plan.json")
    assert here == there


@pytest.mark.slow
def test_a_local_cluster_ends_with_the_run(saved: Callable[..., Path], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    asked = ASKED | {"executor": "ray"}

    class Looking(Progress):
        def elsewhere(self, key: str, of: int) -> None:
            (node,) = ray.nodes()
            assert node["NodeManagerAddress"] == "127.0.0.1"

    class Pressed(Progress):
        def elsewhere(self, key: str, of: int) -> None:
            os.kill(os.getpid(), signal.SIGTERM)  # in a script SIGINT may be ignored

    with stoppable(Pressed()) as progress, pytest.raises(Stopped):
        dd.compare(saved(), out=tmp_path / "run", progress=progress, **asked)
    assert not ray.is_initialized()
    kept = len(list((tmp_path / "run/data/jobs").iterdir()))
    assert 2 <= kept < 8
    study = dd.compare(saved(), out=tmp_path / "run", resume=True, progress=Looking(), **asked)
    assert not ray.is_initialized()
    assert len(study.divergences) > 0
