"""What happens beside the training steps: whole epochs in the log, a checkpoint before a polite kill, trackers."""

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

# SIGTERM: a polite kill or a preemption. SIGUSR1: a scheduler's warning that time runs out.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):
    """Training was asked to end by a signal, after the step at hand was saved."""

    def __init__(self, number: int, step: int) -> None:
        self.status = 128 + number
        super().__init__(
            f"ended by {signal.Signals(number).name} after step {step}, which is saved; the same command resumes there"
        )


class Stop:
    """Remembers the first signal that asks for an end. Use as a context manager around the training."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        """Take over the signals (in the main thread; elsewhere they stay as they are)."""
        import threading

        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._remember) for one in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.number = self.number or number

    def agreed(self, device: Any) -> int:
        """Return the signal that any process got, 0 for none: all must end after the same step."""
        import torch
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            number = torch.tensor(self.number, device=device)
            dist.all_reduce(number, op=dist.ReduceOp.MAX)
            self.number = int(number.item())
        return self.number


def keeper(stop: Stop) -> TrainerCallback:
    """Return the callback that saves before an end and keeps the log whole."""
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if stop.agreed(args.device):
                control.should_save = True
                control.should_training_stop = True
            if control.should_save:
                # The losses since the last entry are not in a checkpoint: what is not logged now is never logged.
                control.should_log = True

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_log = True
            if stop.number:
                # The step is saved; an evaluation would outlast the time that is left.
                control.should_save = control.should_evaluate = False

    return Keeper()


def trackers(args: TrainArgs, step: int) -> tuple[str, list[TrainerCallback]]:
    """Return `report_to` and callbacks for the tracker that was asked for; `step` is where the run resumes.

    W&B gets a run id made of the output folder, so that a resumed run goes on in the same run. TensorBoard's writer
    forgets what was logged beyond `step` before a kill.
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
    """Return how to bring what W&B noted offline to its server, an empty string when there is nothing to bring."""
    runs = sorted((Path(args.output_dir) / "wandb").glob("offline-run-*"))
    if args.tracker != "wandb" or not runs:
        return ""
    return "W&B was offline. To upload: wandb sync " + " ".join(map(str, runs))
