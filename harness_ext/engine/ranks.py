"""The processes of a distributed run, as accelerate sees them, or a single process."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of a run, with the collective operations that lm-eval needs.

    rank: the number of this process, from 0. Default 0.
    world: the number of processes. With one, the operations do nothing. Default 1.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Return the layout set by the launcher (torchrun, accelerate launch), joining its process group."""
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
            return cls()
        from accelerate import PartialState

        state = PartialState()
        # If the process group is left open, its threads can abort a process that has finished its work ("terminate
        # called …").
        atexit.register(state.destroy_process_group)
        return cls(state.process_index, state.num_processes)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks, on every process."""
        if self.world == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def all_gather(self, tensor: Any) -> Any:
        """Return the processes' tensors, concatenated."""
        if self.world == 1:
            return tensor
        from accelerate.utils import gather

        return gather(tensor)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()
