"""Trackers: each step is logged once, also after a resume; for offline W&B runs the upload command is printed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness_ext.embedded import model_path
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.callbacks import sync_hint, trackers, wandb_options
from harness_ext.finetune.checkpoints import MARKER
from harness_ext.finetune.command import main, read
from harness_ext.finetune.plan import build_plan
from harness_ext.finetune.train import run_plan, run_stage


@pytest.fixture
def args(tmp_path: Path) -> TrainArgs:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Where is Mary?\\n", "completion": "Answer: garden"}\n' * 4, encoding="utf-8")
    return TrainArgs(
        str(model_path("student")), str(rows), str(tmp_path / "run"), adapter="lora", epochs=2, batch_size=2,
        logging_steps=1, device="cpu",
    )  # fmt: skip


@pytest.fixture
def wandb_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let W&B write to the run's folder only."""
    for name in ("WANDB_PROJECT", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("WANDB_NAME", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


def wandb_records(path: Path) -> list[Any]:
    """Return the records of an offline run: a header of 7 bytes, then LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, block, found, parts = path.read_bytes(), 32768, [], b""
    at = 7
    while at + 7 <= len(data):
        if block - at % block < 7:  # too little is left of a block for a record
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(parts))
            parts = b""
    return found


def losses_per_step(records: list[Any]) -> list[int]:
    """Return the steps whose loss was recorded."""
    entries = [
        {item.key or "/".join(item.nested_key): item.value_json for item in one.history.item}
        for one in records
        if one.HasField("history")
    ]
    return [int(one["train/global_step"]) for one in entries if "train/loss" in one]


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


def test_wandb_records_the_positional_names_and_continues_the_same_run(
    args: TrainArgs, wandb_offline: None, tmp_path: Path
) -> None:
    """TeacherLM's `wandb_run_name` and `wandb_project_name` are the names in W&B."""
    pytest.importorskip("wandb")
    ten = [args.model, args.train_file, "2", "1", "1e-3", "2", "completion", "NAME", str(tmp_path), "PROJECT"]
    command = [*ten, "--device", "cpu", "--tracker", "wandb", "--logging_steps", "1"]
    assert main(command) == 0
    out = tmp_path / "NAME"
    for folder in ("final", "checkpoint-4"):
        (out / folder / MARKER).unlink()
    assert main(command) == 0
    folders = sorted((out / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    first, second = (wandb_records(next(folder.glob("*.wandb"))) for folder in folders)
    for records in (first, second):
        (run,) = {(one.run.project, one.run.display_name) for one in records if one.HasField("run")}
        assert run == ("PROJECT", "NAME")
    assert {one.run.run_id for one in first + second if one.HasField("run")} == {folders[0].name.rpartition("-")[2]}
    # The run was resumed after two of its four steps.
    assert (losses_per_step(first), losses_per_step(second)) == ([1, 2, 3, 4], [3, 4])


def test_each_stage_is_a_wandb_run_of_its_own(args: TrainArgs, wandb_offline: None) -> None:
    pytest.importorskip("wandb")
    shared = {**dataclasses.asdict(args), "tracker": "wandb", "epochs": 1, "adapter": "full"}
    run_plan(build_plan({**shared, "stages": [{"name": "a"}, {"name": "b", "run_name": "second"}]}))
    found = []
    for stage in ("a", "b"):
        (folder,) = (Path(args.output_dir) / stage / "wandb").glob("offline-run-*")
        records = wandb_records(next(folder.glob("*.wandb")))
        found.append({one.run.run_id for one in records if one.HasField("run")})
        assert losses_per_step(records) == [1, 2]
        assert {one.run.project for one in records if one.HasField("run")} == {"harness-ext"}
    assert len(found[0]) == len(found[1]) == 1
    assert found[0] != found[1]


def test_trackio_records_the_names_and_continues_the_same_run(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Trackio reads its folder when it is imported, and the run must not end up in the user's.
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("could not import 'trackio'")
    for run in (1, 2):
        given = [f"--{name}={value}" for name, value in dataclasses.asdict(args).items() if value]
        code = f"import sys; from harness_ext.finetune.command import main; sys.exit(main({given!r}))"
        env = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code.replace("'--tracker=none'", "'--tracker=trackio', '--project=PROJECT'")],
            env=env, capture_output=True, text=True, check=False, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if run == 1:
            for folder in ("final", "checkpoint-4"):
                (Path(args.output_dir) / folder / MARKER).unlink()
    ask = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as Storage; "
        "print(json.dumps({run: Storage.get_logs('PROJECT', run) for run in Storage.get_runs('PROJECT')}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", ask], env=env, capture_output=True, text=True, check=True, timeout=280
    )
    logs = json.loads(answer.stdout.splitlines()[-1])
    assert list(logs) == ["run"]
    # Trackio keeps what was logged after the checkpoint and before the end that the second run undid.
    assert [one["train/global_step"] for one in logs["run"] if "train/loss" in one] == [1, 2, 3, 4, 3, 4]


def test_wandbs_variables_take_precedence_except_over_named_settings(args: TrainArgs) -> None:
    plain = wandb_options(args, {})
    assert (plain["project"], plain["name"], plain["resume"]) == ("harness-ext", None, "allow")
    assert plain["dir"] == str(Path(args.output_dir).resolve())
    assert wandb_options(dataclasses.replace(args, seed=3), {})["id"] == plain["id"]
    assert wandb_options(dataclasses.replace(args, output_dir="other"), {})["id"] != plain["id"]
    variables = {"PROJECT": "project", "NAME": "name", "DIR": "dir", "RUN_ID": "id", "RESUME": "resume"}
    given = {f"WANDB_{name}": "theirs" for name in variables}
    assert set(wandb_options(args, given).values()) == {"theirs"}
    named = wandb_options(dataclasses.replace(args, project="ours", run_name="ours"), given)
    assert {name for name, value in named.items() if value == "ours"} == {"project", "name"}


def test_the_command_to_upload_offline_runs_is_printed(args: TrainArgs) -> None:
    tracked = dataclasses.replace(args, tracker="wandb", output_dir=f"{args.output_dir}/my run")
    assert sync_hint(tracked) == ""
    folder = Path(tracked.output_dir) / "wandb" / "offline-run-1-x"
    folder.mkdir(parents=True)
    assert sync_hint(tracked).endswith(f"wandb sync '{folder}'")
    assert sync_hint(args) == ""


@pytest.mark.parametrize(
    ("tracker", "said"),
    [
        ("none", "not used: project 'PROJECT' and run_name 'NAME', because no tracker is set; --tracker wandb"),
        ("tensorboard", "because TensorBoard knows neither projects nor run names"),
        ("wandb", ""),
        ("trackio", ""),
    ],
)
def test_names_that_no_tracker_uses_are_pointed_out(args: TrainArgs, tracker: str, said: str, tmp_path: Path) -> None:
    ten = [args.model, args.train_file, "2", "1", "1e-3", "2", "completion", "NAME", str(tmp_path), "PROJECT"]
    plan, _ = read([*ten, "--device", "cpu", "--tracker", tracker])
    assert (plan.stages[0].run_name, plan.stages[0].project) == ("NAME", "PROJECT")
    assert said in " ".join(plan.notes)
    assert bool(plan.notes) == bool(said)


def test_a_run_says_what_is_not_used(args: TrainArgs, capsys: pytest.CaptureFixture[str]) -> None:
    given = {**dataclasses.asdict(args), "project": "PROJECT"}
    assert main([*(f"--{name}={value}" for name, value in given.items() if value), "--check"]) == 0
    assert "not used: project 'PROJECT'" in capsys.readouterr().err


def test_nothing_is_tracked_by_default(args: TrainArgs) -> None:
    assert trackers(args, 0) == ("none", [])
    assert json.loads(json.dumps(dataclasses.asdict(args)))["tracker"] == "none"
