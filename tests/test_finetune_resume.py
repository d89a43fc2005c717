"""Killed runs continue where they stopped: with the same batches and losses, and each step in the log once."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness_ext.embedded import model_path
from harness_ext.finetune import callbacks, hardened
from harness_ext.finetune.adapters import ENCODER_FILE
from harness_ext.finetune.args import ConfigError, TrainArgs, default_rate
from harness_ext.finetune.callbacks import Interrupted, Stop
from harness_ext.finetune.checkpoints import MARKER, SENTINEL, last_complete, numbered, why_incomplete
from harness_ext.finetune.train import run_stage

TOLERANCE = 1e-4  # of a step's loss, float32 on a CPU
PEOPLE = ("Mary", "John", "Sandra", "Daniel")
PLACES = ("garden", "office", "kitchen", "hallway")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    rows, pairs = [], []
    for at in range(16):
        who, where, other = PEOPLE[at % 4], PLACES[at // 4], PLACES[(at // 4 + 1) % 4]
        prompt = f"1 {who} went to the {where}.\nWhere is {who}?\n"
        reply = f"Reasoning: 1 {who} {where}.\nAnswer: {where}"
        rows.append({"prompt": prompt, "completion": reply, "solution": reply, "explanation": f"Answer: {where}"})
        pairs.append({"prompt": prompt, "chosen": reply, "rejected": f"Answer: {other}"})
    paths = {"rows": folder / "rows.jsonl", "pairs": folder / "pairs.jsonl"}
    for name, found in (("rows", rows), ("pairs", pairs)):
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return paths


def settings(
    data: dict[str, Path], out: Path, method: str = "sft", adapter: str = "full", **values: object
) -> TrainArgs:
    path = str(data["pairs" if method in ("dpo", "orpo") else "rows"])
    base = TrainArgs(
        model=str(model_path("student")),
        train_file=path,
        eval_file=path,
        output_dir=str(out),
        method=method,
        adapter=adapter,
        learning_rate=default_rate(method, adapter),
        epochs=2,
        batch_size=4,
        scheduler="linear",
        logging_steps=1,
        device="cpu",
    )
    return dataclasses.replace(base, **values)  # type: ignore[arg-type]


def losses(out: Path) -> dict[int, float]:
    log = json.loads((out / "log.json").read_text(encoding="utf-8"))
    entries = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    assert [step for step, _ in entries] == sorted({step for step, _ in entries})
    return dict(entries)


def forget_end(out: Path) -> None:
    """Bring a finished run into the state that a kill in its second epoch leaves."""
    (out / "final" / MARKER).unlink()
    (numbered(out)[-1] / MARKER).unlink()


CASES = [
    ("sft", "pkv", {}),
    ("sft", "full", {"packing": True}),
    ("dpo", "lora", {"gradient_checkpointing": True}),
    ("orpo", "prefix", {"gradient_accumulation": 2, "batch_size": 2}),
    ("kd", "full", {"teacher_model": str(model_path("teacher")), "kd_temperature": 2.0}),
    ("kd", "qlora", {"targets": "teacher"}),
]


@pytest.mark.parametrize(("method", "adapter", "more"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_each_method_resumes_with_the_same_losses(
    method: str, adapter: str, more: dict[str, object], data: dict[str, Path], tmp_path: Path
) -> None:
    args = settings(data, tmp_path / "run", method, adapter, **more)
    run_stage(args)
    out = tmp_path / "run"
    whole = losses(out)
    errors = json.loads((out / "errors.json").read_text(encoding="utf-8"))
    assert [[epoch for epoch, _ in errors[name]] for name in ("train", "validation")] == [[1, 2], [1, 2]]
    forget_end(out)
    run_stage(args)
    again = losses(out)
    assert again.keys() == whole.keys()
    assert max(abs(again[step] - whole[step]) for step in whole) < TOLERANCE
    resumed = json.loads((out / "errors.json").read_text(encoding="utf-8"))
    for name in errors:
        assert dict(resumed[name]) == pytest.approx(dict(errors[name]), abs=TOLERANCE)
    assert (out / "final" / ENCODER_FILE).is_file() == (adapter == "pkv")


def die(args: TrainArgs, patch: Callable[[], None]) -> int:
    """Run a training in a child process that `patch` makes kill itself; return the exit status."""

    def body() -> None:
        patch()
        run_stage(args)

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join(240)
    assert process.exitcode is not None
    return process.exitcode


def kill_after(steps: int, number: int = signal.SIGKILL) -> Callable[[], None]:
    def patch() -> None:
        calls = iter(range(1, 1000))
        agreed = Stop.agreed

        def killing(self: Stop, device: object) -> int:
            if next(calls) == steps:
                os.kill(os.getpid(), number)
            return agreed(self, device)

        callbacks.Stop.agreed = killing  # type: ignore[method-assign]

    return patch


def kill_in_saving(step: int) -> Callable[[], None]:
    def patch() -> None:
        mark = hardened.mark_complete

        def killing(folder: Path, **facts: object) -> None:
            if facts["step"] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            mark(folder, **facts)

        hardened.mark_complete = killing  # type: ignore[assignment]

    return patch


def test_kills_during_training_and_saving_and_a_sigterm_change_nothing(
    data: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = settings(data, tmp_path / "whole", adapter="lora", epochs=4)
    run_stage(whole)
    args = dataclasses.replace(whole, output_dir=str(tmp_path / "killed"))
    out = tmp_path / "killed"
    # SIGTERM in the middle of an epoch saves first.
    with monkeypatch.context() as patched:
        patched.setattr(callbacks.Stop, "agreed", callbacks.Stop.agreed)
        kill_after(3, signal.SIGTERM)()
        with pytest.raises(Interrupted) as ended:
            run_stage(args)
    assert ended.value.status == 143
    assert not (out / "final").exists()
    assert last_complete(out).checkpoint == out / "checkpoint-3"
    # SIGKILL while saving, and between two steps.
    assert die(args, kill_in_saving(8)) == -signal.SIGKILL
    assert "saving was not finished" in why_incomplete(out / "checkpoint-8")
    assert last_complete(out).checkpoint == out / "checkpoint-4"
    assert die(args, kill_after(5)) == -signal.SIGKILL
    # transformers' own mark of a checkpoint that is only half written.
    (out / "checkpoint-8" / SENTINEL).touch()
    assert last_complete(out).checkpoint == out / "checkpoint-4"
    (out / "checkpoint-8" / SENTINEL).unlink()
    final = run_stage(args)
    assert why_incomplete(final) == ""
    expected, found = losses(tmp_path / "whole"), losses(out)
    assert found.keys() == expected.keys() == set(range(1, 17))
    assert max(abs(found[step] - expected[step]) for step in expected) < TOLERANCE
    errors = [json.loads((tmp_path / name / "errors.json").read_text(encoding="utf-8")) for name in ("whole", "killed")]
    for name in ("train", "validation"):
        assert dict(errors[0][name]) == pytest.approx(dict(errors[1][name]), abs=TOLERANCE)


def test_a_longer_run_at_a_constant_rate_continues_and_old_checkpoints_are_pruned(
    data: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    args = settings(data, tmp_path / "run", adapter="lora", scheduler="constant", epochs=1)
    run_stage(args)
    longer = dataclasses.replace(args, epochs=3, save_total_limit=2)
    run_stage(longer)
    assert "resuming from" in capfd.readouterr().err
    assert [path.name for path in numbered(tmp_path / "run")] == ["checkpoint-8", "checkpoint-12"]
    assert list(losses(tmp_path / "run")) == list(range(1, 13))
    run_stage(longer)
    assert "nothing to do" in capfd.readouterr().err


def test_no_telemetry_is_sent(data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _telemetry

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    online = SimpleNamespace(is_offline_mode=lambda: constants.HF_HUB_DISABLE_TELEMETRY)
    online.HF_HUB_DISABLE_TELEMETRY = False
    monkeypatch.setattr(_telemetry, "constants", online)
    monkeypatch.setattr(_telemetry, "Thread", lambda *_, **__: pytest.fail("telemetry is sent"))
    run_stage(settings(data, tmp_path / "run", adapter="lora", max_steps=1))
    assert constants.HF_HUB_DISABLE_TELEMETRY


def test_a_different_run_is_not_resumed(data: dict[str, Path], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(data["rows"].read_text(encoding="utf-8"), encoding="utf-8")
    args = settings(data, tmp_path / "run", adapter="lora", train_file=str(rows), epochs=1)
    run_stage(args)
    with pytest.raises(ConfigError, match="lora"):
        run_stage(dataclasses.replace(args, adapter="prefix"))
    (tmp_path / "run" / "final" / MARKER).unlink()
    rows.write_text("\n".join(reversed(rows.read_text(encoding="utf-8").splitlines())), encoding="utf-8")
    with pytest.raises(ConfigError, match="training rows have changed"):
        run_stage(args)
    marker = tmp_path / "run" / "checkpoint-4" / MARKER
    facts = json.loads(marker.read_text(encoding="utf-8"))
    marker.write_text(json.dumps({**facts, "processes": 8}), encoding="utf-8")
    with pytest.raises(ConfigError, match="trained with 8 processes"):
        run_stage(args)
