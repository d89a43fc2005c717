"""The processes of a distributed run, as accelerate sees them; a single process otherwise."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ranks:
    """This process's number among `world`, and the exchanges lm-eval needs; with one process they do nothing."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Return the launcher's layout (torchrun, accelerate launch); joins its process group."""
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
            return cls()
        from accelerate import PartialState

        state = PartialState()
        return cls(state.process_index, state.num_processes)

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, on every process, by rank."""
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
