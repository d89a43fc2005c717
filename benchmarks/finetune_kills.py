"""Kills a training (SIGKILL) at random moments until it has ended, and compares its losses with an undisturbed one's.

    HARNESS_EXT_DATA=<folder> python benchmarks/finetune_kills.py --output benchmarks/results/finetune_kills.json

Four layers of SmolLM2 (see `benchmarks/models.py`) learn CREAK's training rows for two epochs, evaluate other training
rows, and save every third step. The undisturbed training comes first. Then a start is killed at a random moment, in
loading, training, evaluating or saving, and the same command runs again, until the training has ended; then the next
training begins, until there were `--kills` kills. A moment is drawn from half the time that the undisturbed training
took, so that most starts are killed. Each step has to be in the log once, with the loss of the undisturbed training,
and the final weights have to be the same to the last bit.

Each start is a process of its own, forked from one that has only imported the libraries, which takes longer than the
training.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_show import data, read, write
from measured import publish_measured
from result_records import file_sha256

from harness_ext.finetune.checkpoints import last_complete, numbered, why_incomplete
from models import MODELS, Unavailable, WrongModel, converted, models_folder

LAYERS = (0, 1, 28, 29)
ROWS, HELD_OUT = 16, 4
SETTINGS = {
    "epochs": 2, "batch_size": 2, "learning_rate": 1e-4, "save_steps": 3, "eval_steps": 3, "save_total_limit": 2,
    "logging_steps": 1, "scheduler": "linear", "dtype": "float32", "device": "cpu", "threads": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """A start that was killed.

    training: the number of the training.
    after: seconds from the start to the kill.
    began: the step from which it continued; 0 from the beginning.
    saved: the last complete checkpoint at the kill; 0 if there was none.
    saving: whether it was killed while it saved a checkpoint or the final model.
    """

    training: int
    after: float
    began: int
    saved: int
    saving: bool


def main() -> None:
    """Kill, resume, compare and publish."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--output", type=Path, help="the file to write (default: print)")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        model = converted(MODELS["smollm2"], models_folder(), layers=LAYERS)
    except (Unavailable, WrongModel) as error:
        sys.exit(str(error))
    import_first()
    with tempfile.TemporaryDirectory() as folder:
        found = study(Path(folder), model, options.kills, random.Random(options.seed))
    record = {"layers": len(LAYERS), "rows": ROWS, "settings": SETTINGS, "seed": options.seed, **found}
    publish_measured(record, options.output, {"SmolLM2, four layers": model})
    sys.exit(0 if found["equal"] else 1)


def study(folder: Path, model: Path, wanted: int, moments: random.Random) -> dict[str, Any]:
    """Train once undisturbed, then with kills until there were `wanted`; return what happened.

    folder: an empty working folder.
    model: the model to train.
    wanted: number of kills.
    moments: draws the moments.
    """
    write_rows(folder)
    whole = folder / "whole"
    start = time.perf_counter()
    finish(begin(folder, model, whole))
    took = time.perf_counter() - start
    print(f"undisturbed: {took:.0f} s", flush=True)
    kills: list[Kill] = []
    trainings = []
    while len(kills) < wanted or not trainings:
        out = folder / f"killed-{len(trainings)}"
        # The last training is not killed any more once there were enough kills.
        while len(kills) < wanted:
            kill = killed(folder, model, out, len(trainings), moments.uniform(0, took / 2))
            if kill is None:
                break
            kills.append(kill)
            print(f"kill {len(kills)}: {kill}", flush=True)
        else:
            finish(begin(folder, model, out))
        trainings.append(compared(whole, out))
        print(f"training {len(trainings)}: {trainings[-1]}", flush=True)
    return {
        "undisturbed_seconds": round(took, 1),
        "kills": [asdict(kill) for kill in kills],
        "trainings": trainings,
        "equal": all(one["difference"] == 0 and one["same_weights"] for one in trainings),
    }


def killed(folder: Path, model: Path, out: Path, number: int, after: float) -> Kill | None:
    """Start or continue a training and kill it; return None if it ended before.

    folder: the working folder.
    model: the model to train.
    out: the folder of the training.
    number: the number of the training.
    after: seconds from the start to the kill.
    """
    began, started = step_of(out), time.time()
    child = begin(folder, model, out)
    end = time.perf_counter() + after
    while time.perf_counter() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            check(status)
            return None
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        check(status)
        return None
    # An incomplete checkpoint may also be what an earlier kill left, until the training comes to its step again.
    saving = any(why_incomplete(path) and touched(path, started) for path in [*numbered(out), out / "final"])
    return Kill(number, round(after, 2), began, step_of(out), saving)


def touched(folder: Path, since: float) -> bool:
    """Return whether a folder, or a file in it, was written after a time, in seconds since the epoch."""
    return any(path.stat().st_mtime >= since for path in (folder, *folder.rglob("*")) if path.exists())


def begin(folder: Path, model: Path, out: Path) -> int:
    """Run `harness-ext finetune` in a process of its own, and return its number.

    folder: the working folder, with the rows and the log.
    model: the model to train.
    out: the folder of the training.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        from harness_ext.finetune.command import main as finetune

        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        files = {"train_file": folder / "rows.jsonl", "eval_file": folder / "held_out.jsonl"}
        settings = {"model": model, **files, "output_dir": out, **SETTINGS}
        status = finetune([word for name, value in settings.items() for word in (f"--{name}", str(value))])
    finally:
        os._exit(status)


def finish(child: int) -> None:
    """Wait for a process. Raises RuntimeError if it failed."""
    check(os.waitpid(child, 0)[1])


def check(status: int) -> None:
    """Raise RuntimeError unless a process has ended well."""
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"a training ended with status {os.waitstatus_to_exitcode(status)}")


def import_first() -> None:
    """Import what a training needs, without starting a thread or computing anything."""
    import torch  # noqa: F401
    import trl.trainer.sft_trainer  # noqa: F401
    from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401

    from harness_ext.finetune import train  # noqa: F401


def write_rows(folder: Path) -> None:
    """Write CREAK's first training rows: some to learn, the next ones to evaluate."""
    rows = [
        {"prompt": f"True or false? {row['sentence']}\n", "completion": f"{row['label']}: {row['explanation']}"}
        for _, row in zip(range(ROWS + HELD_OUT), read(data("creak", "train")), strict=False)
    ]
    write(folder / "rows.jsonl", rows[:ROWS])
    write(folder / "held_out.jsonl", rows[ROWS:])


def step_of(out: Path) -> int:
    """Return the step of the last complete checkpoint of a training, or 0."""
    found = last_complete(out, resumable=True).checkpoint
    return int(found.name.rpartition("-")[2]) if found else 0


def losses(out: Path) -> dict[str, float]:
    """Return each training and validation loss of a finished training, by its kind and step.

    Raises ValueError if the log has a step twice.
    """
    log = json.loads((out / "log.json").read_text(encoding="utf-8"))
    entries = [
        (f"{kind} {entry['step']}", float(entry[kind]))
        for entry in log
        for kind in ("loss", "eval_loss")
        if kind in entry
    ]
    repeated = _repeated([name for name, _ in entries])
    if repeated:
        raise ValueError(f"{out.name} has logged {', '.join(repeated)} more than once")
    return dict(entries)


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def compared(whole: Path, out: Path) -> dict[str, Any]:
    """Return how a training that was killed differs from the undisturbed one. Raises ValueError if it lacks a step."""
    expected, found = losses(whole), losses(out)
    if expected.keys() != found.keys():
        raise ValueError(f"{out.name} has logged {sorted(found)}, not {sorted(expected)}")
    weights = [file_sha256(one / "final" / "model.safetensors") for one in (whole, out)]
    return {
        "losses": len(found),
        "difference": max(abs(found[name] - expected[name]) for name in expected),
        "same_weights": weights[0] == weights[1],
    }


if __name__ == "__main__":
    main()
