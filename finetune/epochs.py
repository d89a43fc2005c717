"""Training and validation error per epoch, computed from a trainer's log."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from harness_ext.finetune.checkpoints import write_json

ERRORS_FILE = "errors.json"


def write_errors(log: list[dict[str, Any]], folder: Path) -> None:
    """Write the training and validation error per epoch to `errors.json` next to the checkpoints."""
    write_json(folder / ERRORS_FILE, epoch_errors(log))


def epoch_errors(log: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Return `{"train": [[epoch, error], …], "validation": […]}`.

    `log` is the trainer's log history. The training error of an epoch is the mean of its step losses. Each log entry
    represents the steps since the previous entry; the trainer logs at the end of each epoch, so no entry spans two
    epochs. An epoch cut short by `max_steps` has the mean of the steps taken. The validation error is that after the
    epoch; evaluations within an epoch do not count.
    """
    sums: dict[int, tuple[float, int]] = {}
    validation: dict[int, float] = {}
    last_step = 0
    ends = {entry["step"] for entry in log if "train_loss" in entry}
    for entry in log:
        if "epoch" not in entry:
            continue
        # The logged epoch is a fraction with rounding error: an entry at the end of epoch 2 may read 2.0000000001.
        epoch = max(1, math.ceil(entry["epoch"] - 1e-6))
        if "loss" in entry:
            steps = entry["step"] - last_step
            last_step = entry["step"]
            total, count = sums.get(epoch, (0.0, 0))
            sums[epoch] = (total + entry["loss"] * steps, count + steps)
        whole = abs(entry["epoch"] - epoch) <= 1e-6
        if "eval_loss" in entry and (whole or entry["step"] in ends):
            validation[epoch] = entry["eval_loss"]
    return {
        "train": [[epoch, total / count] for epoch, (total, count) in sorted(sums.items()) if count],
        "validation": [[epoch, error] for epoch, error in sorted(validation.items())],
    }
