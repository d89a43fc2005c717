"""Training end to end on the CPU: stages, loss on the completion, resume after a torn checkpoint, DeepSpeed."""

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
from harness_ext.finetune.checkpoints import MARKER, why_incomplete
from harness_ext.finetune.plan import build_plan
from harness_ext.finetune.recipes.embedded_pair.rows import rows
from harness_ext.finetune.train import run_plan, run_stage

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


def test_a_resumed_run_equals_one_in_one_go(
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
    # Killed while the second epoch's checkpoint was being written: no marker, a file cut short.
    torn = tmp_path / "whole" / "checkpoint-8"
    (torn / MARKER).unlink()
    (tmp_path / "whole" / "checkpoint-12" / "model.safetensors").write_bytes(b"")
    before = weights(whole)
    (whole / MARKER).unlink()
    again = run_stage(settings(train_file, tmp_path / "whole"))
    said = capsys.readouterr().err
    assert "passed over: checkpoint-12/model.safetensors has 0 bytes" in said
    assert "passed over: checkpoint-8 has no complete.json" in said
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


def test_deepspeed_zero2_trains_on_two_processes(train_file: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {model_path('student')}\ntrain_file: {train_file}\noutput_dir: {tmp_path / 'out'}\nmax_steps: 2\n"
        "batch_size: 4\nlearning_rate: 1.0e-3\ndevice: cpu\ndeepspeed: zero2\nlogging_steps: 1\n",
        encoding="utf-8",
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "harness_ext.finetune", "--config", str(config)],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    final = tmp_path / "out" / "final"
    assert why_incomplete(final) == ""
    assert weights(final) != weights(model_path("student"))
    log = json.loads((tmp_path / "out" / "log.json").read_text(encoding="utf-8"))
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]
