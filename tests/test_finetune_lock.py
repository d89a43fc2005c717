"""One launch at a time trains into an output folder; its processes are one writer."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from servers import wait_until

from harness_ext.embedded import model_path
from harness_ext.errors import StoreError
from harness_ext.finetune import callbacks
from harness_ext.finetune.args import ConfigError
from harness_ext.finetune.checkpoints import why_incomplete
from harness_ext.finetune.command import main, read
from harness_ext.finetune.train import run_plan
from harness_ext.records.run_directory import RunDirectory

ROOT = Path(__file__).parent.parent


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Return the arguments of a short training into `tmp_path / "out"`."""
    row = {"prompt": "1 Mary went to the garden.\nWhere is Mary?\n", "completion": "Answer: garden"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    given = {"model": model_path("student"), "train_file": tmp_path / "rows.jsonl", "output_dir": tmp_path / "out"}
    return [f"--{name}={value}" for name, value in {**given, "batch_size": 1, "device": "cpu"}.items()]


@pytest.fixture
def training(command: list[str], tmp_path: Path) -> Iterator[BaseProcess]:
    """Start another process that trains, and return it once it has made a step."""

    def body() -> None:
        def pause(stop: callbacks.Stop, device: object) -> int:
            (tmp_path / "began").touch()
            signal.pause()
            return 0

        callbacks.Stop.agreed = pause  # type: ignore[method-assign]
        run_plan(read(command)[0])

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    wait_until(lambda: (tmp_path / "began").exists() or not process.is_alive())
    assert process.is_alive()
    yield process
    process.kill()
    process.join()


def test_a_second_training_into_the_same_folder_is_refused(
    command: list[str], training: BaseProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if path.name != ".writer.lock"}
    assert main(command) == 1
    said = capsys.readouterr().err
    refusal = f"harness-ext finetune: {tmp_path / 'out'} is in use by process {training.pid} on {os.uname().nodename} "
    assert refusal in said
    assert "choose another `output_dir`" in said
    with pytest.raises(StoreError, match=f"in use by process {training.pid} "):
        RunDirectory(tmp_path / "out", {"identity": {}})
    # A launch of two processes is refused as a whole: none of them waits for the other.
    launched = subprocess.run(
        ["bash", str(ROOT / "finetune" / "finetune.sh"), *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "NPROC": "2", "PYTHON": sys.executable},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert launched.returncode != 0
    assert launched.stderr.count(refusal) == 1
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if path.name != ".writer.lock"}
    assert after == before, "a refused process changes nothing"
    training.kill()
    training.join()
    assert main(command) == 0, "its death frees the folder"
    assert why_incomplete(tmp_path / "out" / "final") == ""


def test_the_end_of_a_training_frees_its_folder(command: list[str], tmp_path: Path) -> None:
    assert main(command) == 0
    RunDirectory(tmp_path / "out", {"identity": {}})


def test_a_folder_that_cannot_be_locked_names_the_setting(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".writer.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"cannot be written.*`output_dir`"):
        run_plan(read(command)[0])
    assert not (tmp_path / "elsewhere").exists()
