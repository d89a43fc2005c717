"""The processes of a distributed run, joined by accelerate, or a single process."""

from __future__ import annotations

import atexit
import functools
import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from harness_ext.engine.processes import ALONE, Place, place_of
from harness_ext.errors import ConfigurationError, RunFailed
from harness_ext.terminal import outside

JOIN_WITHIN = timedelta(minutes=30)  # how long a process waits for the others to start
# How long a process that has answered its questions waits for the others. lm-eval's own models use the same value.
MEET_WITHIN = timedelta(weeks=52)
LOOK_EVERY = 0.05  # seconds between two looks for the other processes


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of a run, with the collective operations that lm-eval needs.

    rank: the number of this process, from 0. Default 0.
    world: the number of processes. With one, the operations do nothing. Default 1.
    group: torch's process group for the operations. Default None: torch's default group.
    """

    rank: int = 0
    world: int = 1
    group: Any = field(default=None, compare=False)

    @classmethod
    def current(cls) -> Ranks:
        """Return the layout set by the launcher (torchrun, accelerate, srun, mpirun), joining its process group.

        Call it before a model is created: models of lm-eval set up accelerate for a single process if nobody has joined
        yet. Raises ConfigurationError if the launcher's variables are wrong or the other processes do not come.
        """
        place = place_of()
        return cls() if place.world == 1 else _join(place)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks, on every process.

        Raises RunFailed if another process has ended.
        """
        if self.world == 1:
            return [value]
        import torch

        self.barrier()
        gathered: list[Any] = [None] * self.world
        try:
            torch.distributed.all_gather_object(gathered, value, group=self.group)
        except RuntimeError as error:
            raise _left(error) from error
        return gathered

    def all_gather(self, tensor: Any) -> Any:
        """Return the processes' tensors, concatenated."""
        if self.world == 1:
            return tensor
        import torch

        parts = self.gather(tensor.detach().cpu())
        return torch.cat([part[None] if part.ndim == 0 else part for part in parts]).to(tensor.device)

    def barrier(self) -> None:
        """Wait for all processes. Raises RunFailed if one has ended."""
        if self.world == 1:
            return
        import torch

        try:
            meeting = torch.distributed.barrier(group=self.group, async_op=True)
            # A signal is handled between two looks. Inside torch, it would be handled only once all have arrived.
            while not meeting.is_completed():
                time.sleep(LOOK_EVERY)
            meeting.wait()
        except RuntimeError as error:
            raise _left(error) from error


def _left(error: Exception) -> RunFailed:
    return RunFailed(
        f"another process of this run has ended ({outside(error, 200)}). Everything finished is stored: run the same "
        "command again to continue"
    )


def way_to_join(place: Place, gpus: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return how a process joins the others: arguments of `PartialState`, and environment variables to set before.

    place: the process's place.
    gpus: the number of GPUs that it may use.
    """
    variables = place.variables()
    if gpus == 0 and not _other_accelerator():
        # Without `cpu`, accelerate takes each process for a single one where it finds no GPU. lm-eval's models ask
        # accelerate again, and find the variable.
        return {"cpu": True, "backend": "gloo"}, {**variables, "ACCELERATE_USE_CPU": "true"}
    if 0 < gpus < place.local_world:
        # Several processes share a GPU, which NCCL refuses, or each sees a GPU of its own only.
        return {"backend": "gloo"}, {**variables, "LOCAL_RANK": str(place.local_rank % gpus)}
    return {}, variables


@functools.cache
def _join(place: Place) -> Ranks:
    """Join the process group of a launcher, once per process."""
    import torch
    from accelerate import PartialState

    how, variables = way_to_join(place, 0 if _flag("ACCELERATE_USE_CPU") else torch.cuda.device_count())
    os.environ.update(variables)
    joined_before = torch.distributed.is_initialized()
    if not joined_before:
        try:
            store, _, _ = next(iter(torch.distributed.rendezvous("env://", timeout=JOIN_WITHIN)))
        except (RuntimeError, ValueError) as error:
            raise ConfigurationError(
                [
                    f"process {place.rank} of {place.world} cannot reach the others at {place.address}:{place.port} "
                    f"({outside(error, 200)}): set MASTER_ADDR and MASTER_PORT to a free port on the "
                    f"host of process 0, or {ALONE}"
                ]
            ) from error
        store.set_timeout(MEET_WITHIN)
        how |= {"store": store, "timeout": MEET_WITHIN}
        if not how.get("cpu"):  # accelerate passes these two by itself on the CPU
            how |= {"rank": place.rank, "world_size": place.world}
    state = PartialState(**how)
    if state.num_processes != place.world:
        raise ConfigurationError(
            [
                f"accelerate was set up for {state.num_processes} process(es) before this run, but {place.world} were "
                f"started: create the model before any other Accelerator, or {ALONE}"
            ]
        )
    if not joined_before:
        # If the process group is left open, its threads can abort a process that has finished its work ("terminate
        # called …").
        atexit.register(state.destroy_process_group)
    # Values are gathered on the CPU, also where the default group connects GPUs.
    on_cpu = torch.distributed.get_backend() == "gloo"
    group = None if on_cpu else torch.distributed.new_group(backend="gloo", timeout=MEET_WITHIN)
    return Ranks(state.process_index, state.num_processes, group)


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "y", "on")


def _other_accelerator() -> bool:
    """Return whether torch has an accelerator that is not a CUDA GPU."""
    import torch

    if _flag("ACCELERATE_USE_CPU") or not hasattr(torch, "accelerator"):
        return False
    return torch.accelerator.is_available() and torch.accelerator.current_accelerator().type not in ("cuda", "mps")
