"""A loss or a gradient that is not finite ends a training: with the cause, without a model, ready to resume."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.embedded import model_path
from harness_ext.finetune import adapters, divergence
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.checkpoints import last_complete, numbered, why_incomplete
from harness_ext.finetune.command import main
from harness_ext.finetune.divergence import MOST_OVERFLOWS, Diverged, FiniteCheck
from harness_ext.finetune.train import run_stage


@pytest.fixture
def args(tmp_path: Path) -> TrainArgs:
    rows = tmp_path / "rows.jsonl"
    lines = ({"prompt": f"{at} Mary went to the garden.\n", "completion": "garden"} for at in range(8))
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return TrainArgs(
        str(model_path("student")), str(rows), str(tmp_path / "run"), epochs=2, batch_size=2, scheduler="constant",
        logging_steps=3, learning_rate=1e-4, device="cpu",
    )  # fmt: skip


def command(args: TrainArgs) -> list[str]:
    names = ("model", "train_file", "output_dir", "epochs", "batch_size", "scheduler", "learning_rate", "device")
    return [f"--{name}={getattr(args, name)}" for name in names]


def test_a_diverged_run_saves_no_model_and_says_what_to_do(
    args: TrainArgs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(dataclasses.replace(args, learning_rate=1e30))) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"harness-ext finetune: step 2: the (loss|gradient norm) is nan. The training has diverged", said)
    assert "learning rate 1e+30 is too high" in said
    assert "Remedy: set a lower `learning_rate`" in said
    assert said.endswith("Nothing was saved.")
    assert not (tmp_path / "run" / "final").exists()
    assert numbered(tmp_path / "run") == []
    assert main(command(args)) == 0, "another rate may be tried in the same folder: nothing was saved in it"


def test_the_same_command_continues_from_the_last_checkpoint(
    args: TrainArgs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dataclasses.replace(args, output_dir=str(tmp_path / "whole"))
    run_stage(whole)
    add = FiniteCheck.add
    calls = iter(range(1, 1000))

    def broken(self: FiniteCheck, loss: Any) -> None:
        add(self, loss * math.inf if next(calls) == 7 else loss)

    with monkeypatch.context() as patched:
        patched.setattr(FiniteCheck, "add", broken)
        with pytest.raises(Diverged, match=r"step 7: the loss is inf.*continues from .*checkpoint-4"):
            run_stage(args)
    assert last_complete(tmp_path / "run").checkpoint == tmp_path / "run" / "checkpoint-4"
    final = run_stage(args)
    assert why_incomplete(final) == ""
    weights = "model.safetensors"
    assert (final / weights).read_bytes() == (tmp_path / "whole" / "final" / weights).read_bytes()


def test_a_model_that_is_broken_from_the_start_is_named_as_the_cause(args: TrainArgs, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(model_path("student"), broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], math.nan)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Diverged, match=r"step 1: the loss is nan. Nothing was trained before, so the learning rate"):
        run_stage(dataclasses.replace(args, model=str(broken)))


def test_gradients_that_are_not_finite_end_the_run_before_they_reach_a_checkpoint(
    args: TrainArgs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: Any) -> None:
        model.get_input_embeddings().weight.register_hook(lambda gradient: gradient * math.inf)

    monkeypatch.setattr(adapters, "keep_gradients", spoil)
    with pytest.raises(Diverged, match="step 1: the gradient norm is inf"):
        run_stage(dataclasses.replace(args, save_steps=1))
    assert numbered(tmp_path / "run") == []


def test_a_validation_error_that_is_not_finite_ends_the_run(args: TrainArgs, monkeypatch: pytest.MonkeyPatch) -> None:
    check = FiniteCheck.end_evaluation
    monkeypatch.setattr(FiniteCheck, "end_evaluation", lambda self, step, loss: check(self, step, loss * math.nan))
    with pytest.raises(Diverged, match="step 4: the validation error is nan"):
        run_stage(dataclasses.replace(args, eval_file=args.train_file))


values = st.floats(width=32) | st.just(math.nan) | st.just(math.inf)


@given(st.lists(st.tuples(st.lists(values, min_size=1, max_size=3), values), max_size=8))
def test_a_run_ends_at_the_first_value_that_is_not_finite(steps: list[tuple[list[float], float]]) -> None:
    check = FiniteCheck(TrainArgs("m", "t", "o"), "float32")
    for number, (losses, norm) in enumerate(steps, start=1):
        for loss in losses:
            check.add(loss)
        if all(map(math.isfinite, [*losses, norm])):
            check.end_step(number, norm, "cpu")
        else:
            with pytest.raises(Diverged, match=f"step {number}: the (loss|gradient norm) is (nan|inf|-inf)"):
                check.end_step(number, norm, "cpu")
            break


def test_overflows_of_float16_are_expected_unless_they_never_end() -> None:
    check = FiniteCheck(TrainArgs("m", "t", "o"), "float16")
    for step in range(1, 3 * MOST_OVERFLOWS):
        check.add(1.0)
        check.end_step(step, math.inf if step % MOST_OVERFLOWS else 1.0, "cpu")
    for step in range(1, MOST_OVERFLOWS):
        check.end_step(step, 1.0, "cpu")
    for step in range(1, MOST_OVERFLOWS):
        check.end_step(step, math.inf, "cpu")
    with pytest.raises(Diverged, match=r"In float16, values above 65504 overflow. Remedy: set dtype: bfloat16"):
        check.end_step(MOST_OVERFLOWS, math.inf, "cpu")
    check.add(math.nan)
    with pytest.raises(Diverged, match="the loss is nan"):
        check.end_step(1, 1.0, "cpu")


def test_all_processes_end_if_one_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "highest", lambda number, device: 2)
    with pytest.raises(Diverged, match="the loss is not finite in another process"):
        FiniteCheck(TrainArgs("m", "t", "o"), "float32").end_step(3, 1.0, "cpu")
