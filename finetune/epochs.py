"""Training and validation error an epoch, from the log of a trainer."""

from __future__ import annotations

import math
from typing import Any


def epoch_errors(log: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Return `{"train": [[epoch, error], …], "validation": […]}`.

    `log` is the trainer's log history. A training error is the mean of the epoch's step losses: each entry of the log
    stands for the steps since the one before, and the trainer logs at each epoch's end, so no entry spans two epochs.
    An epoch cut short by `max_steps` has the mean so far.
    """
    sums: dict[int, tuple[float, int]] = {}
    validation: dict[int, float] = {}
    last_step = 0
    for entry in log:
        if "epoch" not in entry:
            continue
        # The epoch is a share of batches, rounded by floating point.
        epoch = max(1, math.ceil(entry["epoch"] - 1e-6))
        if "loss" in entry:
            steps = entry["step"] - last_step
            last_step = entry["step"]
            total, count = sums.get(epoch, (0.0, 0))
            sums[epoch] = (total + entry["loss"] * steps, count + steps)
        if "eval_loss" in entry:
            validation[epoch] = entry["eval_loss"]
    return {
        "train": [[epoch, total / count] for epoch, (total, count) in sorted(sums.items()) if count],
        "validation": [[epoch, error] for epoch, error in sorted(validation.items())],
    }
