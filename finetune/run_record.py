"""The record of a run in its folder: its settings and its rows, by which a later start is known to continue it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from harness_ext.finetune.args import ConfigError, TrainArgs, final_dir
from harness_ext.finetune.checkpoints import MARKER, marker_facts, numbered, write_json
from harness_ext.finetune.environment import precision

RUN_FILE = "run.json"
REPORT_FILE = "data_report.json"
# Settings that a resumed run may change, because they do not affect what is learned.
FREE = {
    "model_path",
    "output_dir",  # the same folder can be named in several ways, and moved
    "resume",
    "threads",
    "device",
    "logging_steps",
    "eval_batch_size",
    "save_steps",
    "eval_steps",
    "save_total_limit",
    "save_only_model",
    "push_to_hub",
    "tracker",
    "project",
    "contamination_tasks",
    "contamination",
    "contamination_ngram",
    "contamination_similarity",
    "contamination_include_path",
}


def check_settings(args: TrainArgs, out: Path) -> None:
    """Raise ConfigError if a folder contains a run with other settings, or one that is not to be resumed.

    A run that has saved nothing so far does not count: its settings may change.

    args: the settings of the run that is about to start.
    out: its folder.
    """
    record = out / RUN_FILE
    if not record.is_file() or not _has_saved(out):
        return
    # With a constant rate the steps so far do not depend on where the training ends; with any other schedule they do.
    free = FREE | ({"epochs", "max_steps"} if args.scheduler == "constant" else set())
    defaults = {one.name: one.default for one in dataclasses.fields(TrainArgs)}
    settings = _settings(args)
    before = json.loads(record.read_text(encoding="utf-8"))
    changed = [
        f"{key}: {before.get(key, defaults.get(key))!r} -> {settings.get(key)!r}"
        for key in sorted((set(before) | set(settings)) - free)
        if before.get(key, defaults.get(key)) != settings.get(key)
    ]
    if changed:
        raise ConfigError(
            f"{out} contains a run with different settings ({'; '.join(changed)}). Choose another `output_dir`."
        )
    if not args.resume and numbered(out):
        raise ConfigError(f"{out} contains checkpoints, but `resume` is off. Choose another `output_dir`.")


def write_record(args: TrainArgs, out: Path, facts: dict[str, Any]) -> None:
    """Record a run's settings and what happened to its rows. Call this once its rows are known to be fine.

    args: the settings.
    out: the folder of the run.
    facts: the data report as JSON values.
    """
    # The run may later be scored from another working directory.
    write_json(out / RUN_FILE, {**_settings(args), "model_path": absolute(args.model)})
    write_json(out / REPORT_FILE, facts)


def step_to_resume(checkpoint: Path | None, out: Path, facts: dict[str, Any]) -> int:
    """Return the step to resume from. Raises ConfigError if the rows or the number of processes have changed.

    Either change would give the remaining steps other batches, and the result would equal no uninterrupted run.

    checkpoint: the checkpoint to resume from; None to start from the beginning.
    out: the folder of the run.
    facts: the data report as JSON values.
    """
    if checkpoint is None:
        return 0
    marker = marker_facts(checkpoint)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    problems = []
    if marker.get("processes", processes) != processes:
        problems.append(
            f"it was trained with {marker['processes']} processes, and {processes} would get different batches. "
            f"Remedy: start {marker['processes']} processes"
        )
    record = out / REPORT_FILE
    if record.is_file():
        before = json.loads(record.read_text(encoding="utf-8"))["train"]["digest"]
        if before != facts["train"]["digest"]:
            problems.append("the training rows have changed. Remedy: restore the rows, or choose another `output_dir`")
    if problems:
        raise ConfigError(f"{checkpoint} cannot be resumed: " + "; ".join(problems) + ".")
    return int(marker["step"])


def absolute(model: str) -> str:
    """Return the absolute path of a model's folder, or the name of a model on the Hub as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _settings(args: TrainArgs) -> dict[str, Any]:
    settings = {**dataclasses.asdict(args), "dtype": precision(args)}
    return {key: value for key, value in settings.items() if key not in FREE}


def _has_saved(out: Path) -> bool:
    return bool(numbered(out)) or (final_dir(out) / MARKER).is_file()
