"""Callbacks of the trainer: complete logs, a checkpoint before a requested end, and experiment trackers."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from harness_ext.finetune.args import TrainArgs

if TYPE_CHECKING:
    from transformers import TrainerCallback

# SIGTERM: a kill request or a preemption. SIGUSR1: a scheduler's warning that the time limit is near.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):
    """A signal ended the training, after the current step was saved."""

    def __init__(self, number: int, step: int) -> None:
        self.status = 128 + number
        super().__init__(
            f"ended by {signal.Signals(number).name} after step {step}, which is saved; run the same command to resume"
        )


class Stop:
    """Records the first signal that asks the training to end. Use it as a context manager around the training."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        """Install the signal handlers. Python allows this only in the main thread; elsewhere nothing changes."""
        import threading

        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._remember) for one in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous signal handlers."""
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.number = self.number or number

    def agreed(self, device: Any) -> int:
        """Return the signal that any process received, or 0.

        The processes agree after every step, because a process that ended alone would leave the others waiting for it.
        """
        import torch
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            number = torch.tensor(self.number, device=device)
            dist.all_reduce(number, op=dist.ReduceOp.MAX)
            self.number = int(number.item())
        return self.number


def keeper(stop: Stop) -> TrainerCallback:
    """Return the callback that saves before the training ends and keeps the log complete."""
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if stop.agreed(args.device):
                control.should_save = True
                control.should_training_stop = True
            if control.should_save:
                # A checkpoint does not contain the losses since the last log entry; without an entry now, a resumed
                # run could never log them.
                control.should_log = True

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_log = True
            if stop.number:
                # The step is already saved, and an evaluation might take longer than the time that is left.
                control.should_save = control.should_evaluate = False

    return Keeper()


def trackers(args: TrainArgs, step: int) -> tuple[str, list[TrainerCallback]]:
    """Return `report_to` and the callbacks of the chosen tracker. `step` is the step the run resumes from.

    The W&B run id is derived from the output folder, so that a resumed run continues the same W&B run. TensorBoard's
    writer discards what was logged after `step` before the run was killed.
    """
    out = Path(args.output_dir).resolve()
    if args.tracker == "wandb":
        os.environ.setdefault("WANDB_PROJECT", args.project or "harness-ext")
        os.environ.setdefault("WANDB_DIR", str(out))
        os.environ.setdefault("WANDB_RUN_ID", hashlib.sha256(str(out).encode()).hexdigest()[:12])
        os.environ.setdefault("WANDB_RESUME", "allow")
    if args.tracker != "tensorboard":
        return args.tracker, []
    if int(os.environ.get("RANK", "0")):
        return "none", []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)
    return "none", [TensorBoardCallback(writer)]


def sync_hint(args: TrainArgs) -> str:
    """Return how to upload what W&B recorded offline, or an empty string if there is nothing to upload."""
    runs = sorted((Path(args.output_dir) / "wandb").glob("offline-run-*"))
    if args.tracker != "wandb" or not runs:
        return ""
    return "W&B was offline. To upload: wandb sync " + " ".join(map(str, runs))
