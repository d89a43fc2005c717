"""Trackers: each step is logged once, also after a resume; for offline W&B runs the upload command is printed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harness_ext.embedded import model_path
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.callbacks import sync_hint, trackers
from harness_ext.finetune.checkpoints import MARKER
from harness_ext.finetune.train import run_stage


@pytest.fixture
def args(tmp_path: Path) -> TrainArgs:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Where is Mary?\\n", "completion": "Answer: garden"}\n' * 4, encoding="utf-8")
    return TrainArgs(
        str(model_path("student")), str(rows), str(tmp_path / "run"), adapter="lora", epochs=2, batch_size=2,
        logging_steps=1, device="cpu",
    )  # fmt: skip


def test_tensorboard_logs_each_step_once_after_a_resume(args: TrainArgs) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracked = dataclasses.replace(args, tracker="tensorboard")
    run_stage(tracked)
    out = Path(args.output_dir)
    for folder in ("final", "checkpoint-4"):
        (out / folder / MARKER).unlink()
    run_stage(tracked)
    found = EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [1, 2, 3, 4]


def test_wandb_continues_the_same_run_and_prints_how_to_upload(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_PROJECT", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)
    tracked = dataclasses.replace(args, tracker="wandb", project="stories")
    import os

    report_to, callbacks = trackers(tracked, 0)
    assert (report_to, callbacks) == ("wandb", [])
    first = {name: os.environ[name] for name in ("WANDB_PROJECT", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME")}
    assert first["WANDB_PROJECT"] == "stories"
    assert first["WANDB_RESUME"] == "allow"
    monkeypatch.delenv("WANDB_RUN_ID")
    trackers(tracked, 2)
    assert os.environ["WANDB_RUN_ID"] == first["WANDB_RUN_ID"]
    folder = Path(args.output_dir) / "wandb" / "offline-run-1-x"
    folder.mkdir(parents=True)
    assert sync_hint(tracked).endswith(f"wandb sync {folder}")
    assert sync_hint(args) == ""


def test_nothing_is_tracked_by_default(args: TrainArgs) -> None:
    assert trackers(args, 0) == ("none", [])
    assert json.loads(json.dumps(dataclasses.asdict(args)))["tracker"] == "none"
