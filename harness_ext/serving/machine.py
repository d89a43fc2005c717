"""What this machine offers to servers: its GPUs and the cores that this process may use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

MEMORY = Path("/proc/meminfo")
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container; see the documentation of Linux's control groups


def count_gpus() -> int:
    """Return how many GPUs this process may use. torch, which takes seconds to import, is asked only if need be."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if "torch" in sys.modules or Path("/dev/kfd").exists():  # the latter is AMD's driver
        import torch

        return int(torch.cuda.device_count())
    if shutil.which("nvidia-smi") is None:
        return 0
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def count_cores() -> int:
    """Return how many cores this process may keep busy: those it may run on, and no more than its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = QUOTA.read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


@cache
def free_memory_share() -> float | None:
    """Return which share of the machine's memory is available to programs; None where the system does not say.

    It is looked up once, so that models of this process that are equal get equal servers, and share one.
    """
    with suppress(OSError, ValueError, KeyError, IndexError):
        lines = MEMORY.read_text(encoding="ascii").splitlines()
        sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return sizes["MemAvailable"] / sizes["MemTotal"]
    return None
