"""Runs a training in a process of its own, and finds its checkpoints once it has finished."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness_ext.errors import HarnessExtError, StoreError
from harness_ext.files import atomic_write
from harness_ext.records.run_directory import write_json
from harness_ext.records.run_lock import lock_training
from harness_ext.serving import watcher
from harness_ext.suite.cells import Evaluation, Trained, TrainingCell
from harness_ext.suite.folders import CellFolder, Folders, Size, last_lines
from harness_ext.suite.training import stages_of

CHECKPOINTS = "checkpoints.json"
SAVED_WITHIN = 50.0  # seconds that a training has to save its state after a signal
LOOK_EVERY = 0.5  # seconds
LINES_SHOWN = 4
_STEPS = re.compile(r"\[harness-ext\] (?:.*: )?(\d+)/(\d+) steps")


def train(cell: TrainingCell, folder: CellFolder) -> None:
    """Run a training, or continue it, and give the list of its checkpoints its name, which makes it finished.

    cell: the training.
    folder: its folder.

    The training ends with this process, however that ends, and saves its state if it can. Raises HarnessExtError if it
    fails.
    """
    stages = [folder.training / name for name in stages_of(cell)]
    for stage in stages:
        _wait_for(stage)
    status = _run(_command(cell, folder.path / "training.yaml", folder.training), folder)
    if status:
        lines = "".join(f"\n{line}" for line in last_lines(folder.log, LINES_SHOWN))
        raise HarnessExtError(f"the training ended with status {status}{lines}")
    command = [sys.executable, "-m", "harness_ext", "checkpoints", str(stages[-1]), "--list"]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # its errors are in the log
    if found.returncode:
        raise HarnessExtError(f"the checkpoints in {stages[-1]} cannot be listed: see {folder.log}")
    folder.unfinished_results.mkdir(exist_ok=True)
    write_json(folder.unfinished_results / CHECKPOINTS, json.loads(found.stdout))
    folder.finish()


def training_problems(cell: TrainingCell) -> list[str]:
    """Return what is wrong with a training: what the check of `harness-ext finetune` says about settings and rows."""
    with tempfile.TemporaryDirectory() as folder:
        command = _command(cell, Path(folder) / "training.yaml", Path(folder) / "run")
        done = subprocess.run([*command, "--check"], capture_output=True, text=True, env=_environment(), check=False)
    if not done.returncode:
        return []
    said = [line.removeprefix("  - ") for line in done.stderr.splitlines() if line.startswith("  - ")]
    said = said or [line for line in done.stderr.splitlines() if line.strip()][-LINES_SHOWN:]
    return [f"{cell.title}: {line}" for line in said or [f"its check ended with status {done.returncode}"]]


def checkpoint_arguments(trained: Trained, folders: Folders) -> dict[str, Any]:
    """Return the arguments of lm-eval's `hf` model for a checkpoint, with the precision in which it was trained.

    trained: the checkpoint.
    folders: the folders of the suite; the training is finished.

    Raises HarnessExtError if the training has not left this checkpoint.
    """
    path = folders.of(trained.by).results / CHECKPOINTS
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HarnessExtError(f"{trained.by.title} has no list of its checkpoints: {error}") from error
    found = [one for one in known if trained.checkpoint in one["names"]]
    if not found:
        names = ", ".join(name for one in known for name in one["names"])
        raise HarnessExtError(f"{trained.by.title} has left no checkpoint `{trained.checkpoint}`: it has {names}")
    arguments: dict[str, Any] = found[0]["arguments"]
    return arguments


def with_checkpoint(cell: Evaluation, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model arguments of a cell that evaluates a checkpoint.

    cell: the cell.
    arguments: the arguments of lm-eval's `hf` model for the checkpoint.
    """
    assert cell.trained is not None
    seat = cell.trained.seat
    if seat is None:
        return {**arguments, **cell.model_args}
    more = {f"{seat}.{name}": value for name, value in arguments.items() if name != "pretrained"}
    model = {seat: f"hf:{arguments['pretrained']}"} if "pretrained" in arguments else {}
    return {**model, **more, **cell.model_args}


def _command(cell: TrainingCell, config: Path, run: Path) -> list[str]:
    """Write the configuration of a training, and return the command that runs it: one process per GPU."""
    import yaml

    content, options = (cell.file, cell.options) if cell.file else (cell.options, {})
    # What belongs to a stage or has several values is no option of the command.
    content = {**content, **{name: value for name, value in options.items() if isinstance(value, list)}}
    with atomic_write(config) as file:
        file.write(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))
    given = {**{name: value for name, value in options.items() if not isinstance(value, list)}, "output_dir": run}
    words = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given.items()]
    return ["bash", str(_script()), "--config", str(config), *words, "--resume=true"]


def _script() -> Path:
    """Return the script that starts a training with one process per GPU."""
    found = importlib.util.find_spec("harness_ext.finetune")
    if found is None or found.origin is None:
        raise HarnessExtError("harness_ext.finetune is not installed: install harness-ext again")
    return Path(found.origin).with_name("finetune.sh")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    return {**kept, "PYTHON": sys.executable}


def _run(command: list[str], folder: CellFolder) -> int:
    """Run a training with its output in the cell's log, and return its exit status."""
    watch = [sys.executable, "-I", "-S", watcher.__file__, str(os.getpid()), str(SAVED_WITHIN), str(folder.log)]
    # A session of its own, so that Ctrl-C reaches this process alone, which then lets the training save its state.
    process = subprocess.Popen(
        [*watch, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), start_new_session=True
    )
    try:
        while process.poll() is None:
            _note_steps(folder)
            time.sleep(LOOK_EVERY)
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.wait()
    _note_steps(folder)
    return process.returncode


def _wait_for(run: Path) -> None:
    """Wait until nothing trains into a folder: a training whose suite was killed still saves its state."""
    run.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + SAVED_WITHIN + 2 * watcher.REAPED_WITHIN
    while True:
        try:
            return lock_training(run).release()
        except StoreError:
            if time.monotonic() > deadline:
                raise
        time.sleep(LOOK_EVERY)


def _note_steps(folder: CellFolder) -> None:
    """Note how many steps a training has done, as it says itself."""
    for line in reversed(last_lines(folder.log, 50)):
        if (found := _STEPS.match(line)) is not None:
            size = Size(int(found[2]), int(found[2]), int(found[1]))
            if folder.size != size:
                folder.note_size(size)
            return
