"""Callbacks of the trainer: complete logs, a checkpoint before a requested end, and experiment trackers."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from harness_ext.finetune.args import TrainArgs
from harness_ext.terminal import shell_word

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
        self.number = highest(self.number, device)
        return self.number


def highest(number: int, device: Any) -> int:
    """Return the highest of the numbers with which all processes call this, each once.

    number: this process's number.
    device: the device on which the processes communicate.
    """
    import torch
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return number
    shared = torch.tensor(number, device=device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return int(shared.item())


def keeper(stop: Stop, save_steps: int = 0, eval_steps: int = 0) -> TrainerCallback:
    """Return the callback that saves and evaluates within an epoch and at a signal, and keeps the log complete.

    stop: the signal that asks the training to end.
    save_steps, eval_steps: steps between two checkpoints, or evaluations, within an epoch. Default 0: none.
    """
    from transformers import TrainerCallback

    class Keeper(TrainerCallback):  # type: ignore[misc]
        ending = False

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not epoch_ends(state):
                control.should_save = control.should_save or _is_due(state.global_step, save_steps)
                control.should_evaluate = control.should_evaluate or _is_due(state.global_step, eval_steps)
            if stop.agreed(args.device):
                self.ending = True
                control.should_save = True
                control.should_training_stop = True
                # An evaluation might take longer than the time that is left. A resumed run makes up for it.
                control.should_evaluate = False
            if control.should_save:
                # A checkpoint does not contain the losses since the last log entry; without an entry now, a resumed
                # run could never log them.
                control.should_log = True

        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_log = True
            # A signal that came after the last step counts after the next: the processes have not agreed on it.
            if self.ending:
                control.should_save = control.should_evaluate = False  # the step is already saved

    return Keeper()


def epoch_ends(state: Any) -> bool:
    """Return whether a step is the last of its epoch or of the training, which is saved and evaluated anyway.

    state: transformers' `TrainerState` after the step.
    """
    return float(state.epoch).is_integer() or state.global_step >= state.max_steps


def evaluation_missing(checkpoint: Path, eval_steps: int) -> bool:
    """Return whether a checkpoint was saved where an evaluation was due, but without it.

    checkpoint: the checkpoint, saved because of a signal or otherwise.
    eval_steps: steps between two evaluations within an epoch; 0 for none.
    """
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    due = epoch_ends(state) or _is_due(state.global_step, eval_steps)
    return due and not any("eval_loss" in one and one["step"] == state.global_step for one in state.log_history)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def trackers(args: TrainArgs, step: int) -> tuple[str, list[TrainerCallback]]:
    """Return `report_to` and the callbacks of the chosen tracker. `step` is the step the run resumes from.

    W&B's run begins here and ends with the training, so that each stage has a run of its own. TensorBoard's writer
    discards what was logged after `step` before the run was killed.
    """
    if args.tracker == "none" or (args.tracker != "trackio" and int(os.environ.get("RANK", "0"))):
        return "none", []
    if args.tracker == "wandb":
        return "wandb", [_wandb_run(args)]
    if args.tracker == "trackio":
        return "trackio", []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    folder = Path(args.output_dir).resolve() / "tensorboard"
    writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
    return "none", [TensorBoardCallback(writer)]


def wandb_options(args: TrainArgs, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of `wandb.init`.

    The id of the run is derived from the output folder, so that a resumed training continues the same W&B run. W&B's
    environment variables take precedence over it, and a project and a name in the settings over these variables.
    """
    out = Path(args.output_dir).resolve()
    return {
        "project": args.project or environment.get("WANDB_PROJECT", "harness-ext"),
        "name": args.run_name or environment.get("WANDB_NAME"),
        "dir": environment.get("WANDB_DIR", str(out)),
        "id": environment.get("WANDB_RUN_ID", hashlib.sha256(str(out).encode()).hexdigest()[:12]),
        "resume": environment.get("WANDB_RESUME", "allow"),
    }


def _wandb_run(args: TrainArgs) -> TrainerCallback:
    """Begin a W&B run, which transformers' callback then uses, and return the callback that ends it."""
    import wandb
    from transformers import TrainerCallback

    wandb.init(**wandb_options(args, os.environ))

    class Finish(TrainerCallback):  # type: ignore[misc]
        def on_train_end(self, *_: Any, **__: Any) -> None:
            wandb.finish()

    return Finish()


def sync_hint(args: TrainArgs) -> str:
    """Return how to upload what W&B recorded offline, or an empty string if there is nothing to upload."""
    runs = sorted((Path(args.output_dir) / "wandb").glob("offline-run-*"))
    if args.tracker != "wandb" or not runs:
        return ""
    return "W&B was offline. To upload: wandb sync " + " ".join(map(shell_word, runs))
