"""Where the servers that a run starts get their GPUs, their share of a GPU's memory and their threads from."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from harness_ext.backends.registry import STARTED, BackendSpec
from harness_ext.serving.engines import gpus_wanted
from harness_ext.serving.machine import count_cores, count_gpus, free_memory_share
from harness_ext.serving.options import CPU, PREFIX, ServeOptions, parse_devices

USED_OF_FREE_MEMORY = 0.7  # of the machine's, by servers on the CPU; engines would take nearly all of it by themselves
USED_OF_A_GPU = 0.9  # what engines take by themselves; the rest is for CUDA and for activations


def place_servers(
    specs: Mapping[str, BackendSpec], elsewhere: Collection[str], device: str | None
) -> dict[str, dict[str, Any]]:
    """Return arguments for the seats whose servers the run starts. What the user has given counts before these.

    specs: the specifications of all seats; equal ones share a server.
    elsewhere: the devices of the models that this process loads itself.
    device: the device that the user asks for, as lm-eval passes it, or None.

    Servers get the GPUs that nobody has, as many as their arguments ask for. Where there are too few, the last ones are
    shared, and so is their memory. Servers on the CPU, and the models of this process there, get equal parts of the
    cores and of the free memory: engines that together have more threads than there are cores wait for each other's
    threads most of the time.
    """
    servers = {_server(spec): spec for spec in specs.values() if spec.backend == STARTED}
    if not servers:
        return {}
    asked = str(device).partition(":")[2] if str(device).startswith("cuda:") and device != "cuda:0" else ""
    gpus = [] if device == CPU else [asked] if asked else [str(number) for number in range(count_gpus())]
    own = {name.removeprefix("cuda:") for name in elsewhere if name.startswith("cuda:")}
    placed: dict[Any, tuple[str, ...]] = {}
    for identity, spec in servers.items():
        with suppress(ValueError):  # reported with the other problems of the seat
            given = parse_devices(spec.args.get("serve.devices"))
            if given is not None:
                placed[identity] = given
    for identity, spec in servers.items():
        if identity not in placed:
            taken = own.union(*placed.values())
            free = [gpu for gpu in gpus if gpu not in taken]
            wanted = _wanted(spec)
            placed[identity] = tuple(free[:wanted] if len(free) >= wanted else gpus[-wanted:])
    on_cpu = sum(not gpus for gpus in placed.values()) + any(name == CPU for name in elsewhere)
    result: dict[str, dict[str, Any]] = {}
    for seat, spec in specs.items():
        if spec.backend != STARTED:
            continue
        mine = placed[_server(spec)]
        result[seat] = {"serve.devices": "+".join(mine) or CPU}
        sharing = sum(bool(set(mine) & set(others)) for others in placed.values()) + len(own & set(mine))
        if not mine:
            result[seat]["serve.threads"] = _threads(on_cpu)
            if (share := free_memory_share()) is not None:
                result[seat]["serve.memory"] = round(max(0.01, USED_OF_FREE_MEMORY * share / on_cpu), 2)
        elif sharing > 1:
            result[seat]["serve.memory"] = round(USED_OF_A_GPU / sharing, 2)
    return result


def _server(spec: BackendSpec) -> tuple[Any, ...]:
    """Return what decides which server a seat has: seats that differ in their client's options alone share one."""
    args = {k: repr(v) for k, v in spec.args.items() if k.startswith(PREFIX) or k in ("revision", "trust_remote_code")}
    return (spec.name, *sorted(args.items()))


def _wanted(spec: BackendSpec) -> int:
    with suppress(ValueError, TypeError):
        return gpus_wanted(ServeOptions(args=str(spec.args.get("serve.args") or "")).arguments)
    return 1


def _threads(models: int) -> int:
    """Return how many threads each of so many models on the CPU may have."""
    share = max(1, count_cores() // models)
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(limit)) if limit.isdecimal() and int(limit) else share
