"""Checkpoints and evaluations within an epoch: resuming from any of them gives the log of an uninterrupted run."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from harness_ext.embedded import model_path
from harness_ext.finetune import callbacks
from harness_ext.finetune.args import ConfigError, TrainArgs
from harness_ext.finetune.callbacks import Interrupted
from harness_ext.finetune.checkpoints import (
    MARKER,
    is_state,
    last_complete,
    numbered,
    why_incomplete,
    why_not_resumable,
)
from harness_ext.finetune.train import run_stage

TOLERANCE = 1e-4  # of a step's loss, float32 on a CPU
# Entries of the log that depend on the clock.
TIMES = ("runtime", "samples_per_second", "steps_per_second")


@pytest.fixture
def args(tmp_path: Path) -> TrainArgs:
    """Return a run of four steps per epoch with dropout, so that a different random state shows in the losses."""
    rows = tmp_path / "rows.jsonl"
    places = ("garden", "office", "kitchen", "hallway")
    lines = (
        {"prompt": "1 Mary went home.\n" * (at % 3) + f"{at} Mary went to the {place}.\n", "completion": place}
        for at, place in enumerate(places * 4)
    )
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return TrainArgs(
        str(model_path("student")), str(rows), str(tmp_path / "run"), eval_file=str(rows), adapter="lora",
        lora_dropout=0.3, learning_rate=2e-3, epochs=2, batch_size=4, scheduler="linear", logging_steps=1, save_steps=3,
        eval_steps=3, device="cpu",
    )  # fmt: skip


def log(out: Path) -> list[dict[str, Any]]:
    """Return the log of a run without times and without the summary at its end."""
    entries = json.loads((out / "log.json").read_text(encoding="utf-8"))
    return [
        {key: value for key, value in entry.items() if not key.endswith(TIMES)}
        for entry in entries
        if "train_loss" not in entry
    ]


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Check that two logs are equal: the same entries in the same order, with the same values."""
    assert [sorted(entry) for entry in found] == [sorted(entry) for entry in expected]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=TOLERANCE)


def go_back_to(out: Path, checkpoint: Path) -> None:
    """Bring a finished run into the state that a kill soon after a checkpoint leaves."""
    shutil.rmtree(out / "final", ignore_errors=True)
    for later in numbered(out)[numbered(out).index(checkpoint) + 1 :]:
        shutil.rmtree(later)


@pytest.mark.parametrize(
    "more",
    [{}, {"group_by_length": True}, {"batch_size": 1, "gradient_accumulation": 3}],
    ids=["shuffled", "grouped", "accumulated"],
)
def test_every_checkpoint_resumes_to_the_same_log(more: dict[str, Any], args: TrainArgs, tmp_path: Path) -> None:
    args = dataclasses.replace(args, **more)
    out = tmp_path / "run"
    run_stage(args)
    whole = log(out)
    last = max(entry["step"] for entry in whole)
    due = {*range(3, last, 3), last // 2, last}
    assert {int(path.name.removeprefix("checkpoint-")) for path in numbered(out)} == due
    evaluated = [entry["step"] for entry in whole if "eval_loss" in entry]
    assert evaluated == sorted(due), "each evaluation once"
    errors = json.loads((out / "errors.json").read_text(encoding="utf-8"))
    for checkpoint in reversed(numbered(out)[:-1]):
        go_back_to(out, checkpoint)
        run_stage(args)
        same(log(out), whole)
        assert {int(path.name.removeprefix("checkpoint-")) for path in numbered(out)} == due
        resumed = json.loads((out / "errors.json").read_text(encoding="utf-8"))
        for name in ("train", "validation"):
            assert dict(resumed[name]) == pytest.approx(dict(errors[name]), abs=TOLERANCE)
    tokens = [entry["num_tokens"] for entry in log(out) if "loss" in entry]
    assert tokens == sorted(set(tokens)), "tokens are counted on"


def test_evaluating_and_saving_do_not_change_what_is_learned(args: TrainArgs, tmp_path: Path) -> None:
    run_stage(args)
    often = dataclasses.replace(args, output_dir=str(tmp_path / "often"), save_steps=1, eval_steps=1)
    run_stage(often)
    never = dataclasses.replace(args, output_dir=str(tmp_path / "never"), save_steps=0, eval_steps=0, eval_file="")
    run_stage(never)

    def losses(out: Path) -> list[float]:
        return [entry["loss"] for entry in log(out) if "loss" in entry]

    expected = pytest.approx(losses(tmp_path / "run"), abs=TOLERANCE)
    assert losses(tmp_path / "often") == expected
    assert losses(tmp_path / "never") == expected


def test_the_validation_error_of_an_epoch_is_that_after_it(args: TrainArgs, tmp_path: Path) -> None:
    run_stage(dataclasses.replace(args, max_steps=6, eval_steps=1))
    entries = {entry["step"]: entry["eval_loss"] for entry in log(tmp_path / "run") if "eval_loss" in entry}
    errors = json.loads((tmp_path / "run" / "errors.json").read_text(encoding="utf-8"))
    assert errors["validation"] == [[1, entries[4]], [2, entries[6]]]


@pytest.mark.parametrize("step", [3, 4, 8])
def test_an_evaluation_that_a_signal_prevented_is_made_up_for(
    step: int, args: TrainArgs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stage(dataclasses.replace(args, output_dir=str(tmp_path / "whole")))
    agreed = callbacks.Stop.agreed
    calls = iter(range(1, 1000))

    def ending(self: callbacks.Stop, device: object) -> int:
        if next(calls) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return agreed(self, device)

    with monkeypatch.context() as patched:
        patched.setattr(callbacks.Stop, "agreed", ending)
        with pytest.raises(Interrupted):
            run_stage(args)
    assert last_complete(tmp_path / "run").checkpoint == tmp_path / "run" / f"checkpoint-{step}"
    state = json.loads((tmp_path / "run" / f"checkpoint-{step}" / "trainer_state.json").read_text(encoding="utf-8"))
    assert not any("eval_loss" in entry and entry["step"] == step for entry in state["log_history"])
    run_stage(args)
    same(log(tmp_path / "run"), log(tmp_path / "whole"))


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if is_state(path.name))


def test_only_the_last_checkpoint_keeps_what_resuming_needs(
    args: TrainArgs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run_stage(dataclasses.replace(args, output_dir=str(tmp_path / "whole")))
    kept = states(tmp_path / "whole" / "checkpoint-3")
    assert kept == ["optimizer.pt", "rng_state.pth", "scheduler.pt"]
    assert all(states(path) == kept for path in numbered(tmp_path / "whole"))
    args = dataclasses.replace(args, save_only_model=True)
    agreed = callbacks.Stop.agreed
    calls = iter(range(1, 1000))

    def ending(self: callbacks.Stop, device: object) -> int:
        if next(calls) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return agreed(self, device)

    with monkeypatch.context() as patched:
        patched.setattr(callbacks.Stop, "agreed", ending)
        with pytest.raises(Interrupted):
            run_stage(args)
    out = tmp_path / "run"
    assert {path.name: states(path) for path in numbered(out)} == {
        "checkpoint-3": [],
        "checkpoint-4": [],
        "checkpoint-6": [],
        "checkpoint-7": kept,
    }
    assert all(why_incomplete(path) == "" for path in numbered(out))
    assert "contains the model only" in why_not_resumable(out / "checkpoint-6")
    # Where the last checkpoint is torn, the others do not help: the run starts again, and says why.
    torn = tmp_path / "torn"
    shutil.copytree(out, torn)
    (torn / "checkpoint-7" / MARKER).unlink()
    assert last_complete(torn).checkpoint == torn / "checkpoint-6"
    assert last_complete(torn, resumable=True).checkpoint is None
    capfd.readouterr()
    run_stage(dataclasses.replace(args, output_dir=str(torn)))
    assert "skipped: checkpoint-6 contains the model only" in capfd.readouterr().err
    run_stage(args)
    for folder in (out, torn):
        same(log(folder), log(tmp_path / "whole"))
        assert not any(states(path) for path in numbered(folder) if not why_incomplete(path))
        assert last_complete(folder).checkpoint == folder / "checkpoint-8"
    run_stage(args)
    assert "nothing to do" in capfd.readouterr().err


def test_a_finished_run_without_states_cannot_be_made_longer(args: TrainArgs) -> None:
    args = dataclasses.replace(args, epochs=1, scheduler="constant")
    run_stage(args)
    assert states(numbered(args.output_dir)[-1]) != []
    run_stage(dataclasses.replace(args, save_only_model=True))
    assert states(numbered(args.output_dir)[-1]) == [], "the option frees the space of a finished run, too"
    with pytest.raises(ConfigError, match=r"cannot be resumed from.*model: .*final"):
        run_stage(dataclasses.replace(args, epochs=2))
    assert why_incomplete(Path(args.output_dir) / "final") == ""


def test_the_newest_checkpoints_are_kept_whether_within_an_epoch_or_not(args: TrainArgs, tmp_path: Path) -> None:
    run_stage(dataclasses.replace(args, save_total_limit=3))
    assert [path.name for path in numbered(tmp_path / "run")] == ["checkpoint-4", "checkpoint-6", "checkpoint-8"]


def test_evaluating_within_an_epoch_needs_validation_rows(args: TrainArgs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`eval_steps` has no effect without validation rows"):
        run_stage(dataclasses.replace(args, eval_file=""))
    run_stage(dataclasses.replace(args, eval_file="", eval_fraction=0.25, epochs=1))
    assert why_incomplete(tmp_path / "run" / "final") == ""
