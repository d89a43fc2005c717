"""Errors per epoch from a trainer's log, and the signals that end a training."""

from __future__ import annotations

import os
import signal

from harness_ext.finetune.callbacks import Interrupted, Stop
from harness_ext.finetune.epochs import epoch_errors


def test_log_entries_are_weighted_by_the_steps_they_represent() -> None:
    log = [
        {"step": 2, "epoch": 0.5, "loss": 4.0},
        {"step": 3, "epoch": 0.75, "loss": 1.0},
        {"step": 4, "epoch": 1.0, "loss": 3.0},
        {"step": 4, "epoch": 1.0, "eval_loss": 2.5},
        {"step": 8, "epoch": 2.0000000001, "loss": 1.5},
        {"step": 8, "epoch": 2.0, "eval_loss": 2.0},
        {"step": 8, "epoch": 2.0, "train_loss": 9.0, "train_runtime": 1.0},
    ]
    assert epoch_errors(log) == {"train": [[1, 3.0], [2, 1.5]], "validation": [[1, 2.5], [2, 2.0]]}


def test_a_run_without_validation_or_log_has_empty_series() -> None:
    assert epoch_errors([]) == {"train": [], "validation": []}
    assert epoch_errors([{"step": 1, "epoch": 0.1, "loss": 2.0}]) == {"train": [[1, 2.0]], "validation": []}


def test_the_first_signal_counts_and_the_handlers_are_restored() -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR1)]
    with Stop() as stop:
        assert stop.agreed("cpu") == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agreed("cpu") == signal.SIGUSR1
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR1)] == before
    ended = Interrupted(signal.SIGUSR1, 7)
    assert ended.status == 138
    assert "SIGUSR1 after step 7" in str(ended)
