"""Training end to end on the CPU: stages, resuming after an incomplete checkpoint, DeepSpeed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness_ext.embedded import model_path
from harness_ext.finetune.args import ConfigError, TrainArgs
from harness_ext.finetune.checkpoints import MARKER, numbered, why_incomplete
from harness_ext.finetune.plan import build_plan
from harness_ext.finetune.recipes.embedded_pair.training_rows import rows
from harness_ext.finetune.train import run_plan, run_stage

MOST_LINES = 60  # of a log
STUDENT_SHARES = {"draft": 2.0, "continue": 1.0, "refine": 1.0}


@pytest.fixture(scope="module")
def train_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    drawn = itertools.islice(rows("student", 1, ("one_fact", "negation"), (2, 3), STUDENT_SHARES), 32)
    path.write_text("".join(json.dumps(row) + "\n" for row in drawn), encoding="utf-8")
    return path


def settings(train_file: Path, out: Path) -> TrainArgs:
    return TrainArgs(
        model=str(model_path("student")),
        train_file=str(train_file),
        output_dir=str(out),
        epochs=3,
        batch_size=8,
        learning_rate=1e-3,
        scheduler="constant",
        logging_steps=1,
        group_by_length=True,
        device="cpu",
        save_total_limit=9,
    )


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_resumed_run_equals_an_uninterrupted_one(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run_stage(settings(train_file, tmp_path / "whole"))
    assert why_incomplete(whole) == ""
    log = json.loads((tmp_path / "whole" / "log.json").read_text(encoding="utf-8"))
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(1, 13))
    assert sorted(path.name for path in (tmp_path / "whole").glob("checkpoint-*")) == [
        "checkpoint-12",
        "checkpoint-4",
        "checkpoint-8",
    ]
    # Two incomplete checkpoints: one without a marker, one with a truncated file.
    (tmp_path / "whole" / "checkpoint-8" / MARKER).unlink()
    (tmp_path / "whole" / "checkpoint-12" / "model.safetensors").write_bytes(b"")
    before = weights(whole)
    (whole / MARKER).unlink()
    again = run_stage(settings(train_file, tmp_path / "whole"))
    said = capsys.readouterr().err
    assert "skipped: checkpoint-12/model.safetensors has 0 bytes" in said
    assert "skipped: checkpoint-8 has no complete.json" in said
    assert "resuming from" in said
    assert "checkpoint-4" in said
    assert weights(again) == before
    run_stage(settings(train_file, tmp_path / "whole"))
    assert "nothing to do" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="learning_rate"):
        run_stage(dataclasses.replace(settings(train_file, tmp_path / "whole"), learning_rate=1e-4))


def test_stages_follow_one_another(train_file: Path, tmp_path: Path) -> None:
    shared = dataclasses.asdict(dataclasses.replace(settings(train_file, tmp_path), epochs=1, max_steps=2))
    plan = build_plan({**shared, "stages": [{"name": "a"}, {"name": "b", "seed": 2}]})
    final = run_plan(plan)
    assert final == tmp_path / "b" / "final"
    assert weights(final) != weights(tmp_path / "a" / "final") != weights(model_path("student"))
    for name in ("tokenizer.json", "generation_config.json"):
        assert (final / name).is_file()


ROOT = Path(__file__).parent.parent


def finetune_sh(*arguments: object) -> str:
    """Run finetune.sh in two processes on the CPU; return its standard error. The whole log must be short."""
    done = subprocess.run(
        ["bash", str(ROOT / "finetune" / "finetune.sh"), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "NPROC": "2", "PYTHON": sys.executable},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Standard output has the folder of the model only, and two processes say no more than one.
    assert len(done.stdout.splitlines()) == 1
    assert len(done.stderr.splitlines()) < MOST_LINES
    assert "Warning" not in done.stderr
    return done.stderr


def steps(out: Path) -> list[int]:
    log = json.loads((out / "log.json").read_text(encoding="utf-8"))
    return [entry["step"] for entry in log if "loss" in entry]


@pytest.mark.timeout(600)
def test_ten_positional_arguments_train_on_two_processes_under_zero3_and_resume(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    texts = [f"Q: {number} A: The answer is (A). Let's think step by step." for number in range(15)]
    saved = DatasetDict(train=Dataset.from_dict({"cot_tail": [*texts, ""]}))
    saved.save_to_disk(str(tmp_path / "data"))

    def run(epochs: int) -> str:
        ten = (model_path("student"), tmp_path / "data", 2, 2, "1e-3", epochs, "cot_tail", "NAME", tmp_path, "project")
        return finetune_sh(*ten, "--device", "cpu", "--logging_steps", 1)

    out = tmp_path / "NAME"
    said = run(1)
    assert "16 rows, 15 used, 1 dropped" in said
    assert (out / "checkpoint-2" / "model.safetensors").is_file()
    assert why_incomplete(out / "final") == ""
    settings = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert (settings["deepspeed"], settings["gradient_checkpointing"]) == ("zero3", True)
    assert (settings["scheduler"], settings["run_name"]) == ("constant", "NAME")
    assert steps(out) == [1, 2]
    said = run(2)
    assert "resuming from" in said
    assert "checkpoint-2" in said
    assert steps(out) == [1, 2, 3, 4]
    errors = json.loads((out / "errors.json").read_text(encoding="utf-8"))["train"]
    assert [epoch for epoch, _ in errors] == [1, 2]
    assert errors[1][1] < errors[0][1]


def test_two_processes_under_zero2_resume_within_an_epoch_with_the_same_batches(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    places = ("garden", "office", "kitchen", "hallway")
    rows = [
        {"prompt": "1 Mary went home.\n" * (at % 4) + "Where is Mary?\n", "chosen": f"in the {place}", "rejected": "no"}
        for at, place in enumerate(places * 2)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {model_path('student')}\ntrain_file: {pairs}\noutput_dir: {tmp_path / 'out'}\nmethod: dpo\n"
        "adapter: lora\ndeepspeed: zero2\nepochs: 2\nbatch_size: 1\ndevice: cpu\nlogging_steps: 1\n"
        "group_by_length: true\nsave_steps: 2\nlearning_rate: 1e-3\nscheduler: constant\n",
        encoding="utf-8",
    )
    finetune_sh("--config", config)
    out = tmp_path / "out"
    whole = json.loads((out / "log.json").read_text(encoding="utf-8"))
    assert steps(out) == list(range(1, 9))
    assert [path.name for path in numbered(out)] == [f"checkpoint-{step}" for step in (2, 4, 6, 8)]
    assert why_incomplete(out / "final") == ""
    assert (out / "final" / "adapter_model.safetensors").is_file()
    for folder in ("final", "checkpoint-8"):
        (out / folder / MARKER).unlink()
    assert "resuming from" in finetune_sh("--config", config)
    again = json.loads((out / "log.json").read_text(encoding="utf-8"))
    assert steps(out) == list(range(1, 9))
    for name in ("loss", "num_tokens"):  # the tokens depend on the batches alone
        expected = [entry[name] for entry in whole if "loss" in entry]
        assert [entry[name] for entry in again if "loss" in entry] == pytest.approx(expected, abs=1e-4)
