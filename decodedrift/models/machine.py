"""What a run ran on: an allow-list of versions and machine facts; never the process environment or its arguments."""

from __future__ import annotations

import os
import platform
from typing import Any

from decodedrift.core.records import InputError, nearest
from decodedrift.core.versions import versions


def numerical(device: str, threads: int | None = None) -> dict[str, Any]:
    """What can change a logit's bits: torch, CPU capability (AVX2 and AVX512 differ), device, threads."""
    import torch

    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "transformers": versions()["transformers"],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "device": device,
        "threads": threads or torch.get_num_threads(),
    }
    if device.startswith("cuda"):
        index = torch.device(device).index or 0
        facts["gpu"] = torch.cuda.get_device_name(index)
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return facts


def environment(device: str, threads: int | None = None) -> dict[str, Any]:
    """environment.json: the numerical part and what one asks for when two runs differ."""
    return {
        "numerical": numerical(device, threads),
        "versions": versions(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
    }


def check_device(name: str) -> str:
    """A usable torch device name, `auto` resolved.

    Raises:
        InputError: unknown, or not on this machine.
    """
    import torch

    choices = ["auto", "cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    choices += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return choices[-1] if len(choices) > 2 else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise InputError(f"unknown device {name!r}; {nearest(name, choices)}") from None
    if kind not in choices:
        raise InputError(f"device {name!r} is not available here; {nearest(name, choices)}")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if (torch.device(name).index or 0) >= count:
        raise InputError(f"device {name!r}: this machine has {count} device(s) of type {kind}")
    return name


def available_memory(device: str) -> int:
    """Bytes free for models on a device, by the system's own account."""
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as handle:
            fields = dict(line.split(":", 1) for line in handle)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
            for line in handle:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def flops_per_second(device: str) -> float:
    """Floating point operations in a second, from a measured float32 matrix product of 1024 x 1024."""
    import time

    import torch

    size, times = 1024, 4
    a = torch.ones(size, size, device=device)
    a @ a
    begin = time.perf_counter()
    for _ in range(times):
        b = a @ a
    float(b[0, 0])
    return times * 2 * size**3 / (time.perf_counter() - begin)
