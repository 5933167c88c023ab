"""Jobs on a Ray cluster: one task a job, run again where its node is lost; results are written by the driver alone.

Every node has decodedrift and the model's files in the same place. A node whose rows could differ (another torch, CPU
or GPU) is refused: rows of two kinds of machine are not mixed.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from decodedrift.core.progress import Progress
from decodedrift.core.records import InputError, Job
from decodedrift.core.secrecy import excerpt
from decodedrift.runs.differences import differences, shortly
from decodedrift.runs.executors.remote import packed, settled, unpacked

if TYPE_CHECKING:
    from decodedrift.measure.tables import JobResult
    from decodedrift.models.world import World
    from decodedrift.runs.retry import Worker

INSTALL = 'pip install "decodedrift[ray]"'
LOST = 3  # how often a job is run again after its node or process was lost
PATIENCE = 5.0  # seconds in which a cluster must answer
START = "start one with `ray start --head`, or name another"
LOOK = 0.2  # seconds between two looks whether the run is to stop
HERE = "127.0.0.1"
QUIET = {  # of a cluster that this process starts: full speed, and nothing is told to anybody
    "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1",
}  # fmt: skip
_workers: dict[str, Worker] = {}  # of a process of the cluster: its Worker, with the weights that it has loaded


def check(world: World) -> None:
    """Refuses what jobs on other machines cannot do, before weights load.

    Raises:
        InputError: ray is missing, or the run needs what only this process or this machine has.
    """
    plan = world.plan
    if plan.workers != 1:
        raise InputError("--workers is of one machine, and --executor ray fills the cluster: leave one of them out")
    if not plan.only_rows:
        raise InputError("--executor ray: this run leaves files beside its rows, on whatever machine; use --shard")
    for name, checkpoint in {plan.model: world.checkpoint, **world.others}.items():
        if checkpoint.module is not None:
            raise InputError(f"--executor ray: {name} is a model in memory; save it and name the folder")
    if plan.device.startswith("cuda:"):
        raise InputError(f"--device {plan.device}: --executor ray gives each job a GPU of its own; ask for cuda")
    ray = _ray()
    if plan.ray_address is not None and not ray.is_initialized():
        _reach(plan.ray_address)


def run(work: Worker, jobs: Sequence[Job]) -> Iterator[JobResult]:
    """Yields each job's result as it comes. The first job runs here: it settles batch size and path of all others.

    Raises:
        InputError: the cluster cannot be reached or has no room for a job, a node is of another kind, or was lost too
            often.
    """
    if len(jobs) < 2:
        yield from map(work, jobs)
        return
    from decodedrift.models.machine import numerical

    left, plan = deque(jobs), work.world.plan
    facts = numerical(plan.device, plan.threads)
    with _cluster(work.world) as ray:
        needs = {"num_cpus": facts["threads"], "num_gpus": int(plan.device == "cuda")}
        many = min(_room(ray, **needs), len(jobs))
        if not work.world.route.fixed:
            yield work(left.popleft())
        work.world.close()
        task = ray.remote(_job).options(max_retries=LOST, scheduling_strategy="SPREAD", **needs)
        yield from _spread(ray, task, work, left, facts, many)


def _spread(
    ray: Any, task: Any, work: Worker, jobs: Sequence[Job], facts: Mapping[str, Any], many: int
) -> Iterator[JobResult]:
    """All jobs as tasks, and their results as they come."""
    anywhere = replace(work, spill=None, world=replace(work.world, folder=None))  # logits wait on their own node
    data = packed(anywhere, "--executor ray", "leave it out")
    name, box = hashlib.sha256(data).hexdigest(), [ray.put(data)]  # in a list: a task fetches it only where it is new
    under_way = {task.remote(name, box, settled(work), facts, job): job for job in jobs}
    try:
        while under_way:
            work.progress.batch()
            for reference in ray.wait(list(under_way), timeout=LOOK)[0]:
                job = under_way.pop(reference)
                result = _result(ray, reference, job)
                work.progress.elsewhere(job.key, many)
                yield result
    finally:
        for reference in under_way:
            with suppress(Exception):  # the cluster may be what was lost
                ray.cancel(reference, force=True)


def _job(name: str, box: Sequence[Any], settlement: Mapping[str, Any], facts: Mapping[str, Any], job: Job) -> JobResult:
    """One job, in a process of the cluster; the weights that it loaded wait there for the next."""
    import ray

    from decodedrift.models.arithmetic import threaded
    from decodedrift.models.machine import numerical

    if name not in _workers:
        here = numerical(facts["device"], facts["threads"])
        if found := list(differences("", dict(facts), here)):
            address = ray.util.get_node_ip_address()
            raise InputError(f"node {address} is of another kind than where the command runs: {shortly(found)}")
        for other in _workers.values():
            other.world.close()
        _workers.clear()
        _workers[name] = unpacked(ray.get(box[0]), Progress())
    work = _workers[name]
    work.world.route, work.size = settlement["route"], settlement["size"]
    with threaded(facts["threads"]):  # ray says how many a library may take by itself
        return work(job)


def _result(ray: Any, reference: Any, job: Job) -> JobResult:
    """What a task came to; an error of the job's own as it was raised.

    Raises:
        InputError: its node was lost too often.
    """
    try:
        return ray.get(reference)  # type: ignore[no-any-return]
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.RayError as error:
        raise InputError(
            f"job {job.key}: its process or node was lost {LOST + 1} times ({excerpt(error, 120)}); finished jobs are "
            "kept. Where memory ran out, lower --batch-size"
        ) from error


@contextmanager
def _cluster(world: World) -> Iterator[Any]:
    """Ray, connected: to the cluster that was named, to the one of the caller, else to one on this machine alone."""
    ray, address = _ray(), world.plan.ray_address
    if ray.is_initialized():
        yield ray
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if address is None:
            _local(ray)
        else:
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"--executor ray: no cluster at {address or 'this machine'} ({excerpt(error, 120)})"
        ) from error
    with suppress(ValueError):  # not in the main thread: there is none to put back
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _local(ray: Any) -> None:
    """Starts a cluster on this machine that listens on loopback alone.

    `ray.init` replaces 127.0.0.1 by an address that others reach and listens everywhere, unless clusters of several
    machines are switched off, as they are on macOS and Windows.

    Raises:
        RuntimeError: it took another address.
    """
    from decodedrift.runs.workers import cores

    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    constants = ray._private.ray_constants
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        ray.init(
            address="local", num_cpus=cores(), _node_ip_address=HERE, include_dashboard=False, log_to_driver=False,
            logging_level="error",
        )  # fmt: skip
    finally:
        constants.ENABLE_RAY_CLUSTER = before
    if any(node["NodeManagerAddress"] != HERE for node in ray.nodes()):
        ray.shutdown()
        raise RuntimeError(f"this ray gives none on {HERE} alone; start one, and name it with --ray-address")


def _reach(address: str) -> None:
    """Finds out in seconds whether anybody listens: `ray.init` tries for minutes, in words of its own.

    Raises:
        InputError: nobody does, or it is no address.
    """
    named = told = address
    if address == "auto":
        try:
            from ray._private.services import canonicalize_bootstrap_address_or_die

            named = canonicalize_bootstrap_address_or_die(address)
        except ImportError:
            return  # a ray that has moved it: what it says itself is what there is
        except (ConnectionError, ValueError, OSError) as error:
            raise InputError(f"--ray-address auto: no cluster on this machine; {START}") from error
        told = f"auto, which is {named}"
    try:
        parts = urlsplit(named if "://" in named else f"//{named}")
        place = parts.hostname or "", parts.port or 0
    except ValueError:
        place = "", 0
    if not all(place):
        raise InputError(f"--ray-address {told}: must be HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection(place, PATIENCE).close()
    except OSError as error:
        raise InputError(f"--ray-address {told}: no cluster ({error.strerror or error}); {START}") from error


def _room(ray: Any, num_cpus: int, num_gpus: int) -> int:
    """How many jobs run at once.

    Raises:
        InputError: not one does on any node.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = 0
    for has in nodes:
        each = int(has.get("CPU", 0)) // num_cpus
        room += min(each, int(has.get("GPU", 0))) if num_gpus else each
    if not room:
        need = f"{num_cpus} CPUs (one a thread)" + (" and a GPU" if num_gpus else "")
        raise InputError(f"--executor ray: no node of the cluster has the {need} that a job needs; lower --threads")
    return room


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(f"--executor ray needs ray, which is not installed: {INSTALL}") from None
    return ray
