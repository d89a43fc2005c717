"""What a training shows: its progress, its summary with commands that work, and a log without libraries' noise."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.embedded import model_path
from harness_ext.engine.progress import LINE_EVERY, SILENT_AT_MOST
from harness_ext.errors import INTERRUPTED
from harness_ext.finetune import callbacks, command
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.callbacks import Interrupted
from harness_ext.finetune.checkpoint_scores import subjects
from harness_ext.finetune.checkpoints import MARKER
from harness_ext.finetune.environment import common_arguments
from harness_ext.finetune.hardened import hardened
from harness_ext.finetune.library_messages import (
    BUILT,
    FOUR_BIT_KERNELS,
    KNOWN_WARNINGS,
    prints_to_stderr,
    silence_known,
    transformers_bars,
)
from harness_ext.finetune.plan import build_plan
from harness_ext.finetune.progress import TrainingProgress
from harness_ext.finetune.summary import (
    StageSummary,
    best_epoch,
    evaluation_commands,
    model_arguments,
    trained_tokens,
)
from harness_ext.finetune.train import run_plan, run_stage

ROOT = Path(__file__).parent.parent
MOST_LINES = 60  # of the whole log of ten steps


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(**options: Any) -> tuple[TrainingProgress, Clock, io.StringIO]:
    clock, stream = Clock(), io.StringIO()
    return TrainingProgress(clock=clock, stream=stream, **options), clock, stream


# -- lines -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.01, 200), st.booleans()), min_size=1, max_size=40))
def test_lines_are_neither_frequent_nor_rare(steps: list[tuple[float, bool]]) -> None:
    """Each step takes a time, and may be followed by a log entry."""
    progress, clock, stream = shown()
    progress.begin(0, len(steps))
    last = 0.0
    for number, (seconds, logged) in enumerate(steps, start=1):
        clock.now += seconds
        before = len(stream.getvalue().splitlines())
        progress.end_step(number, number / len(steps), logged=logged)
        if logged:
            progress.log(float(number))
        new = len(stream.getvalue().splitlines()) - before
        assert not (new and logged) or f"loss {number:.4g}," in stream.getvalue().splitlines()[-1]
        silent = clock.now - last
        assert new == (silent >= SILENT_AT_MOST or (logged and silent >= LINE_EVERY))
        last = clock.now if new else last


def test_lines_say_where_the_training_is_and_what_is_left() -> None:
    progress, clock, stream = shown(stage="stage 2 of 3", epochs=2)
    progress.begin(0, 20)
    clock.now = 40
    progress.end_step(8, 0.8)
    progress.log(1.35449)
    clock.now = 60
    progress.measured()
    assert progress.times() == "1:00, 0:55 left"  # a long evaluation does not count as progress
    clock.now = 80
    progress.evaluated(2.5)
    clock.now = 100
    progress.end_step(10, 1.0)
    progress.saved("checkpoint-10")
    assert stream.getvalue().splitlines() == [
        "[harness-ext] stage 2 of 3: 0/20 steps: training begins",
        "[harness-ext] stage 2 of 3: 8/20 steps in 0:40, 1:00 left: loss 1.354, epoch 0.80 of 2",
        "[harness-ext] stage 2 of 3: 8/20 steps in 1:20, 2:00 left: loss 1.354, validation loss 2.5, epoch 0.80 of 2",
        "[harness-ext] stage 2 of 3: 10/20 steps in 1:40, 1:40 left: saved checkpoint-10",
    ]


@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 50), st.floats(0.1, 500))
def test_what_is_left_follows_from_the_steps_since_the_training_was_resumed(
    first: int, done: int, rest: int, seconds: float
) -> None:
    progress, clock, stream = shown()
    clock.now = 1000.0
    progress.begin(first, first + done + rest)
    assert stream.getvalue().startswith(f"[harness-ext] {first}/{first + done + rest} steps: training ")
    assert ("continues" in stream.getvalue()) == bool(first)
    for step in range(first + 1, first + done + 1):
        clock.now += seconds
        progress.end_step(step, 0.5)
    assert ("left" in progress.times()) == bool(rest)
    elapsed, _, left = progress.times().partition(", ")
    assert in_seconds(elapsed) == pytest.approx(done * seconds, abs=1.1)
    if rest:
        assert in_seconds(left.removesuffix(" left")) == pytest.approx(rest * seconds, abs=1.1)
        clock.now += 3 * seconds  # a very slow step: the estimate only goes down, and not below the steps after it
        later = in_seconds(progress.times().partition(", ")[2].removesuffix(" left"))
        assert later == pytest.approx((rest - 1) * seconds, abs=1.1)


def in_seconds(text: str) -> int:
    total = 0
    for part in text.split(":"):
        total = 60 * total + int(part)
    return total


def test_only_the_main_process_shows_anything() -> None:
    for terminal in (False, True):
        progress, clock, stream = shown(shown=False, terminal=terminal)
        with progress:
            progress.begin(0, 2)
            clock.now = 1000
            progress.end_step(1, 0.5)
            progress.log(1.0)
            progress.evaluated(1.0)
            progress.saved("checkpoint-1")
        assert stream.getvalue() == ""


def test_a_stream_that_nobody_reads_does_not_end_the_training() -> None:
    progress, _, stream = shown()
    stream.close()
    with progress:
        progress.begin(0, 1)
        progress.end_step(1, 1.0)
        progress.evaluated(1.0)
    assert progress.step == 1


# -- the bar -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_terminal_gets_one_line_with_step_total_loss_and_the_rest(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    clock, stream = Clock(), Terminal()
    with TrainingProgress("stage 1 of 2", 2, clock=clock, stream=stream) as progress:
        progress.begin(8, 20)
        clock.now = 4
        progress.end_step(10, 1.0)
        progress.log(0.5)
        progress.evaluated(0.25)
        progress.saved("checkpoint-10")
        assert progress.seconds == 4
    clock.now = 99
    assert progress.seconds == 4
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", stream.getvalue())]
    lines = [line.rstrip() for line in lines if line.strip()]
    bars = [line for line in lines if line.startswith("stage 1 of 2")]
    assert re.search(r"8/20 0:00( |$)", bars[0])
    assert re.search(r"10/20 0:04, 0:20 left loss 0\.5", bars[-1])
    assert all(len(line) <= width for line in bars)
    kept = "".join(line for line in lines if line not in bars)
    assert "[harness-ext] stage 1 of 2: 10/20 steps in 0:04, 0:20 left: loss 0.5, validation loss 0.25" in kept
    assert kept.count("saved checkpoint-10") == 1
    assert ("epoch 1.00 of 2" in bars[-1]) == (width == 200)


# -- the summary -------------------------------------------------------------------------------------------------------


def read_by_lm_eval(line: str) -> argparse.Namespace:
    """Return the arguments of an `lm_eval` command as a shell and lm-eval's own parser read them."""
    from lm_eval._cli.harness import HarnessCLI

    words = shlex.split(line)
    assert words[0] == "lm_eval"
    given = sys.argv
    try:
        sys.argv = words
        return HarnessCLI().parse_args()
    finally:
        sys.argv = given


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
paths = st.one_of(
    texts, st.sampled_from(["true", "1", "None", "a,b=c", "/a b/c", "it's", "[x]", "{y}", "$HOME", "1e3", " x", '"q"'])
)


@given(paths, paths)
def test_model_arguments_come_back_from_lm_eval_as_they_were(pretrained: str, adapter: str) -> None:
    arguments = {"pretrained": pretrained, "peft": adapter, "dtype": "float32", "trust_remote_code": True}
    line = shlex.join(["lm_eval", "run", "--model", "hf", "--model_args", model_arguments(arguments)])
    assert read_by_lm_eval(line).model_args == arguments


def test_the_commands_use_the_tasks_and_the_form_of_the_model(tmp_path: Path) -> None:
    final = tmp_path / "my run" / "final"
    final.mkdir(parents=True)
    plain = TrainArgs("m", "t", str(final.parent), dtype="bfloat16")
    (what, one), (_, every) = evaluation_commands(plain, final.parent, final, decides=False)
    assert "any task" in what
    found = read_by_lm_eval(one)
    assert (found.model, found.model_args) == ("hf", {"pretrained": str(final), "dtype": "bfloat16"})
    assert shlex.split(every)[:3] == ["harness-ext", "checkpoints", str(final.parent)]

    named = dataclasses.replace(plain, contamination_tasks="a, b", contamination_include_path=str(tmp_path / "x y"))
    for _, line in evaluation_commands(named, final.parent, final, decides=False):
        words = shlex.split(line)
        assert words[words.index("--tasks") + 1] == "a,b"
        assert words[words.index("--include_path") + 1] == str(tmp_path / "x y")

    for adapter, folder in (("full", final), ("lora", final.parent / "merged")):
        teacher = dataclasses.replace(plain, adapter=adapter)
        ((_, line),) = evaluation_commands(teacher, final.parent, final, decides=True)
        found = read_by_lm_eval(line)
        assert (found.model, found.model_args) == ("decision", {"pretrained": str(folder)})


def test_the_summary_is_about_this_start_and_about_all_steps() -> None:
    summary = StageSummary(
        "stage 1 of 2", 20, 3000, 10.0, 8, 1800, None, Path("/r/final"), [("to evaluate it", "lm_eval run")]
    )
    assert summary.text().splitlines() == [
        "[harness-ext] stage 1 of 2 finished: 20 steps, 3,000 tokens; since step 8: 12 steps, 1,800 tokens in 0:10 "
        "(180 tokens/s)",
        "  final checkpoint: /r/final",
        "  to evaluate it:",
        "    lm_eval run",
    ]
    nothing_left = dataclasses.replace(summary, stage="", first=20, tokens_here=0, seconds=0.0)
    assert (
        "training finished: 20 steps, 3,000 tokens; since step 20: 0 steps, 0 tokens in 0:00\n" in nothing_left.text()
    )


@given(st.lists(st.floats(0, 9), min_size=1, max_size=5))
def test_the_best_epoch_has_the_lowest_validation_loss(losses: list[float]) -> None:
    log = [{"epoch": float(at), "step": at, "eval_loss": loss} for at, loss in enumerate(losses, start=1)]
    best = best_epoch(log, Path("nowhere"))
    assert best is not None
    assert (best.epoch, best.loss) == (losses.index(min(losses)) + 1, min(losses))
    assert best.epochs == len(losses)
    assert best_epoch([{"epoch": 1.0, "step": 1, "loss": 0.5}], Path("nowhere")) is None


def test_tokens_are_those_that_the_trainer_counted_or_follow_from_the_epochs() -> None:
    log = [{"epoch": 0.5, "step": 1, "num_tokens": 70.0}, {"epoch": 1.0, "step": 2, "eval_num_tokens": 5}]
    assert trained_tokens(log, 100) == 70
    assert trained_tokens([{"epoch": 1.5, "step": 3}, {"step": 3}], 100) == 150
    assert trained_tokens([], 100) == 0


# -- real trainings ----------------------------------------------------------------------------------------------------


@pytest.fixture
def args(tmp_path: Path) -> TrainArgs:
    """Return a run of five steps per epoch."""
    rows = tmp_path / "rows.jsonl"
    line = json.dumps({"prompt": "Where is Mary?\n", "completion": "in the garden"})
    rows.write_text((line + "\n") * 10, encoding="utf-8")
    return TrainArgs(
        str(model_path("student")), str(rows), str(tmp_path / "it's, a run"), eval_file=str(rows), adapter="pkv",
        epochs=2, batch_size=2, logging_steps=1, device="cpu",
    )  # fmt: skip


def test_a_resumed_training_shows_its_steps_and_a_command_that_loads_the_result(
    args: TrainArgs, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(args.output_dir)
    run_stage(args)
    said = capsys.readouterr()
    assert said.out == ""
    assert "{'" not in said.err  # no dictionaries of the trainer
    assert "\r" not in said.err  # and no bars of libraries
    assert "[harness-ext] 0/10 steps: training begins" in said.err
    assert re.search(r"10/10 steps in \S+: loss \S+, validation loss \S+, epoch 2\.00 of 2\n", said.err)
    assert re.search(r"training finished: 10 steps, \d+ tokens in ", said.err)
    assert re.search(r"best epoch: [12] of 2, validation loss \S+, checkpoint-(5|10)\n", said.err)
    assert f"final checkpoint: {out / 'final'}\n" in said.err

    for folder in ("final", "checkpoint-10"):
        (out / folder / MARKER).unlink()
    run_stage(args)
    again = capsys.readouterr().err
    assert "[harness-ext] 5/10 steps: training continues" in again
    tokens, since, rest = map(int, re.findall(r"10 steps, (\d+) tokens; since step (\d+): 5 steps, (\d+) ", again)[0])
    assert (since, 2 * rest) == (5, tokens)
    assert re.search(rf"10 steps, {tokens} tokens in", said.err)

    (line,) = re.findall(r"^ +(lm_eval run .*)$", again, re.MULTILINE)
    given = read_by_lm_eval(line)
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model

    model = get_model(given.model).create_from_arg_obj(given.model_args, {"batch_size": 1, "device": "cpu"})
    assert type(model.model).__name__.startswith("Peft")
    question = Instance("loglikelihood", {}, ("Where is Mary?\n", "in the garden"), 0)
    assert model.loglikelihood([question])[0][0] < 0
    (line,) = re.findall(r"^ +(harness-ext checkpoints .*)$", again, re.MULTILINE)
    assert [one.name for one in subjects(Path(shlex.split(line)[2]))[0]] == [
        "untouched",
        "checkpoint-5",
        "checkpoint-10",
    ]


def test_stages_are_shown_and_a_signal_leaves_a_last_line(
    args: TrainArgs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = dataclasses.asdict(dataclasses.replace(args, adapter="full", max_steps=2, eval_file=""))
    plan = build_plan({**shared, "stages": [{"name": "a"}, {"name": "b"}]})
    agreed = callbacks.Stop.agreed
    steps = 0

    def ended_after_three_steps(stop: callbacks.Stop, device: Any) -> int:
        nonlocal steps
        steps += 1
        if steps == 4:  # two steps and the end of stage a, and one step of stage b
            stop.number = signal.SIGTERM
        return agreed(stop, device)

    monkeypatch.setattr(callbacks.Stop, "agreed", ended_after_three_steps)
    with pytest.raises(Interrupted):
        run_plan(plan)
    said = capsys.readouterr().err
    assert "[harness-ext] stage 1 of 2: 0/2 steps: training begins" in said
    assert "[harness-ext] stage 1 of 2 finished: 2 steps" in said
    assert "[harness-ext] stage 2 of 2: 0/2 steps: training begins" in said
    assert re.search(r"\[harness-ext\] stage 2 of 2: 1/2 steps in \S+ \S+ left: saved checkpoint-1\n$", said)
    assert "stage 2 of 2 finished" not in said


def test_ctrl_c_ends_with_a_line_instead_of_a_traceback(
    args: TrainArgs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness_ext.finetune.train.run_plan", interrupted)
    given = ["--model", args.model, "--train_file", args.train_file, "--output_dir", args.output_dir]
    assert command.main(given) == INTERRUPTED
    assert "run the same command to resume" in capsys.readouterr().err


def test_the_whole_log_of_ten_positional_arguments_fits_a_screen(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    texts = [f"Q: {number} A: The answer is (A)." for number in range(20)]
    splits = {"train": texts, "validation": texts[:4]}
    saved = DatasetDict({name: Dataset.from_dict({"cot_tail": rows}) for name, rows in splits.items()})
    saved.save_to_disk(str(tmp_path / "data"))
    ten = (model_path("student"), tmp_path / "data", 1, 2, "1e-3", 1, "cot_tail", "NAME", tmp_path, "project")
    unset = ("PYTHONWARNINGS", "RANK", "WORLD_SIZE")
    done = subprocess.run(
        ["bash", str(ROOT / "finetune" / "finetune.sh"), *map(str, ten), "--device", "cpu"],
        env={**{k: v for k, v in os.environ.items() if k not in unset}, "NPROC": "1", "PYTHON": sys.executable},
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"{tmp_path / 'NAME' / 'final'}\n"
    assert "training finished: 10 steps" in done.stderr
    assert "Warning" not in done.stderr
    assert "\r" not in done.stderr
    assert len((done.stdout + done.stderr).splitlines()) < MOST_LINES


# -- what libraries say ------------------------------------------------------------------------------------------------


def heard(message: str, module: str, category: type[Warning] = FutureWarning) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("always")
        silence_known(TrainArgs("m", "t", "o"))
        warnings.warn_explicit(message, category, "file.py", 1, module=module)
    return bool(caught)


@pytest.fixture
def kernels() -> Any:
    """Return the logger of the kernels for weights in 4 bits, and restore it afterwards."""
    logger = logging.getLogger(FOUR_BIT_KERNELS)
    before = logger.level
    yield logger
    logger.setLevel(before)


MESSAGES = (
    "`torch.distributed.all_gather_into_tensor` is deprecated. Please use another.",
    "`is_gradient_checkpointing` is deprecated and will be removed in v6.",
)


@pytest.mark.parametrize(("known", "message"), list(zip(KNOWN_WARNINGS, MESSAGES, strict=True)))
def test_only_the_known_warnings_of_the_known_modules_are_silenced(known: Any, message: str, kernels: Any) -> None:
    assert not heard(message, known.module)
    assert heard(message, "my.module")
    assert heard(message, known.module + "_of_mine")
    assert heard("`something_else` is deprecated", known.module)
    assert heard(message, known.module, RuntimeWarning)


def test_a_missing_kernel_matters_for_weights_in_four_bits_only(kernels: Any) -> None:
    kernels.setLevel(logging.NOTSET)
    silence_known(TrainArgs("m", "t", "o", adapter="qlora"))
    assert kernels.isEnabledFor(logging.WARNING)
    silence_known(TrainArgs("m", "t", "o", adapter="lora"))
    assert not kernels.isEnabledFor(logging.WARNING)
    assert kernels.isEnabledFor(logging.ERROR)


def test_the_steps_of_accumulation_that_accelerate_does_not_know_are_not_announced(
    caplog: pytest.LogCaptureFixture, kernels: Any
) -> None:
    logger = logging.getLogger("accelerate.accelerator")
    before = list(logger.filters)
    try:
        for _ in range(3):
            silence_known(TrainArgs("m", "t", "o"))
        assert len(logger.filters) <= len(before) + 1
        logger.warning(
            "Gradient accumulation steps mismatch: GradientAccumulationPlugin has 1, DeepSpeed config has 2."
        )
        logger.warning("Something else")
    finally:
        logger.filters[:] = before
    assert [record.message for record in caplog.records] == ["Something else"]


def test_what_a_library_prints_leaves_standard_output_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with prints_to_stderr(dropped=BUILT):
        print("DeepSpeed deepspeed.ops.comm.deepspeed_shm_comm_op built successfully")
        print("the compiler is missing")
    assert capsys.readouterr() == ("", "the compiler is missing\n")


def test_bars_of_transformers_come_back() -> None:
    from transformers.utils import logging as library

    before = library.is_progress_bar_enabled()
    try:
        library.enable_progress_bar()
        with transformers_bars(shown=True):
            assert library.is_progress_bar_enabled()
            with transformers_bars(shown=False):
                assert not library.is_progress_bar_enabled()
        assert library.is_progress_bar_enabled()
    finally:
        if not before:
            library.disable_progress_bar()


@pytest.mark.parametrize("recompute", [False, True])
def test_the_training_arguments_have_no_deprecated_names(tmp_path: Path, recompute: bool) -> None:
    import torch
    from trl import SFTConfig

    args = TrainArgs("m", "t", str(tmp_path), gradient_checkpointing=recompute)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        common = common_arguments(args, "float32", False, "none")
        assert SFTConfig(**common).gradient_checkpointing is recompute
    assert common["use_cpu"] is not torch.cuda.is_available()


def test_a_tied_weight_is_not_reported_as_missing_from_a_checkpoint(args: TrainArgs) -> None:
    from torch import nn

    class Trainer:
        def _issue_warnings_after_load(self, load_result: Any) -> None:
            self.reported = load_result

    model = nn.ModuleDict({"embedding": nn.Linear(2, 2), "head": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    model["head"].weight = model["embedding"].weight
    saved = {name: value for name, value in model.state_dict().items() if name not in ("head.weight", "other.bias")}
    trainer = object.__new__(hardened(Trainer, args))
    trainer.model = model
    trainer._issue_warnings_after_load(model.load_state_dict(saved, strict=False))
    assert trainer.reported.missing_keys == ["other.bias"]
