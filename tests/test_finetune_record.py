"""A folder belongs to a run once the run has saved something; folders that cannot be written are named at once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness_ext.embedded import model_path
from harness_ext.finetune import checkpoints_command, trainers
from harness_ext.finetune.args import ConfigError, TrainArgs
from harness_ext.finetune.checkpoint_scores import CheckpointScore, Scorer
from harness_ext.finetune.checkpoints import why_incomplete
from harness_ext.finetune.command import main
from harness_ext.finetune.encoding import DataError
from harness_ext.finetune.export_model import export
from harness_ext.finetune.train import run_stage


@pytest.fixture
def args(tmp_path: Path) -> TrainArgs:
    rows = tmp_path / "rows.jsonl"
    lines = [{"prompt": "Where is Mary?\n", "completion": "garden"}, {"prompt": "Where is Mary?\n", "completion": ""}]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return TrainArgs(str(model_path("student")), str(rows), str(tmp_path / "run"), bad_rows="drop", device="cpu")


def test_rows_that_were_refused_do_not_block_the_folder(args: TrainArgs, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be trained on"):
        run_stage(dataclasses.replace(args, bad_rows="stop"))
    assert not (tmp_path / "run" / "run.json").exists()
    assert why_incomplete(run_stage(args)) == ""


def test_a_try_that_failed_before_it_saved_anything_does_not_block_the_folder(
    args: TrainArgs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        run_stage(dataclasses.replace(args, adapter="lora", lora_targets="nowhere"))
    with monkeypatch.context() as patched:
        patched.setattr(trainers, "hardened", lambda *_: pytest.fail("no memory"))
        with pytest.raises(pytest.fail.Exception, match="no memory"):
            run_stage(dataclasses.replace(args, batch_size=64))
    run_stage(args)
    settings = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert (settings["batch_size"], settings["adapter"]) == (8, "full")
    with pytest.raises(ConfigError, match=r"different settings \(batch_size: 8 -> 64\)"):
        run_stage(dataclasses.replace(args, batch_size=64))


def test_a_run_may_be_moved_and_named_in_another_way(
    args: TrainArgs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stage(args)
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    run_stage(dataclasses.replace(args, output_dir="moved"))
    assert "nothing to do" in capsys.readouterr().err


def test_folders_that_cannot_be_created_are_named_with_all_other_problems(
    args: TrainArgs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {tmp_path}/nowhere\ntrain_file: {tmp_path}/no.jsonl\noutput_dir: {args.train_file}\nepochs: 0\n"
        "stages: [{name: a}, {name: b}]\n"
    )
    assert main(["--config", str(config)]) == 2
    said = capsys.readouterr().err
    for stage in "ab":
        assert f"stage {stage}: `output_dir`: {args.train_file}/{stage} cannot be written" in said
        assert f"stage {stage}: `epochs` is 0" in said
    assert said.count("no.jsonl") == 2


def test_an_export_into_a_folder_that_cannot_be_created_is_refused_before_a_model_is_loaded(args: TrainArgs) -> None:
    with pytest.raises(ConfigError, match=r"cannot be written: .*Choose another folder"):
        export(Path(args.model), Path(args.train_file) / "exported")


def test_scores_that_could_not_be_written_are_not_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evaluations").touch()
    monkeypatch.setattr(Scorer, "score", lambda *_: pytest.fail("a model is scored"))
    assert checkpoints_command.main([str(tmp_path), "--tasks", "a"]) == 2
    assert (
        f"{tmp_path}/evaluations cannot be written: {tmp_path}/evaluations is not a folder" in capsys.readouterr().err
    )


def test_scoring_may_be_started_before_the_training_has_read_its_rows(
    args: TrainArgs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = iter(range(10))

    def sleep(_: float) -> None:
        if next(polls) == 2:
            run_stage(args)

    monkeypatch.setattr(checkpoints_command, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(
        Scorer,
        "score",
        lambda _, subject, tasks: [CheckpointScore(subject.name, task, "acc", {"q:0": 1.0}) for task in tasks],
    )
    assert checkpoints_command.main([str(tmp_path / "run"), "--tasks", "a", "--wait"]) == 0
    said = capsys.readouterr()
    assert "waiting for the training that will write" in said.err
    assert "| checkpoint-1 " in said.out
