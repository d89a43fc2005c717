"""Trainings as cells of a suite: what a study says about them, their processes, and their checkpoints' evaluation."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from suite_support import problems

from harness_ext.embedded import model_path
from harness_ext.records.run_lock import in_use_by
from harness_ext.suite.cells import Cell, Evaluation, TrainingCell
from harness_ext.suite.checks import check_cells
from harness_ext.suite.command import main
from harness_ext.suite.expanding import cells_of
from harness_ext.suite.folders import Folders
from harness_ext.suite.grouping import group_cells
from harness_ext.suite.running import Runner
from harness_ext.suite.study import read_study
from harness_ext.suite.train import _wait_for, training_problems
from harness_ext.suite.worker import run_cells

HF = {"model": "hf", "checkpoints_of": "sft"}
PAIR = {"model": "feedback_pair", "checkpoints_of": {"student": "sft"}}
SFT = {"model": "org/model", "train_file": "rows.jsonl", "epochs": 2}


def study(folder: Path, content: Mapping[str, Any]) -> tuple[Path, tuple[Cell, ...]]:
    path = folder / "study.yaml"
    given = {"folder": str(folder / "suite"), "tasks": ["t"], **content}
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return path, cells_of(read_study(path))


# -- what a study says ---------------------------------------------------------------------------------------------


def test_each_checkpoint_is_a_cell_that_needs_its_training(tmp_path: Path) -> None:
    _, (training, *found) = study(tmp_path, {"trainings": {"sft": SFT}, "settings": {"s": HF, "p": PAIR}})
    assert isinstance(training, TrainingCell)
    assert training.title == "training sft"
    assert training.name == f"sft-training-{training.digest}"
    titles = [f"{name} checkpoint:epoch-{epoch}, t" for name in ("s", "p") for epoch in (1, 2)]
    assert [cell.title for cell in found] == titles
    assert all(cell.needs == (training,) for cell in found)
    assert len({cell.digest for cell in found}) == 4


def test_the_example_of_the_documentation_is_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parent.parent / "docs" / "suite.md").read_text(encoding="utf-8")
    block = re.search(r"### Trainings\n\n```yaml\n(.*?)```", page, re.DOTALL)
    assert block is not None
    (tmp_path / "sft.yaml").write_text("model: org/small\ntrain_file: org/rows\neval_file: org/rows\nepochs: 2\n")
    _, cells = study(tmp_path, yaml.safe_load(block[1]))
    assert [cell.label for cell in cells[:2]] == ["sft lora_r:8", "sft lora_r:32"]
    assert len(cells) == 2 + 2 * 3 + 2


def test_trainings_have_bases_axes_and_configuration_files(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text("num_train_epochs: 1\nseed: 3\noutput_dir: elsewhere\n")
    trainings = {
        "sft": {**SFT, "epochs": None, "config": str(tmp_path / "sft.yaml"), "matrix": {"lora_r": [4, 8]}},
        "dpo": {"base": "sft", "method": "dpo", "matrix": {"lora_r": None}},
    }
    _, cells = study(tmp_path, {"trainings": trainings, "settings": {"s": {**HF, "checkpoints": ["best", "last"]}}})
    first, second, dpo, *found = cells
    assert isinstance(first, TrainingCell)
    assert isinstance(dpo, TrainingCell)
    assert first.options == {"model": "org/model", "train_file": "rows.jsonl", "lora_r": 4}
    assert first.settings["seed"] == 3
    assert second.label == "sft lora_r:8"
    assert {**dpo.settings, "lora_r": 4} == {**first.settings, "method": "dpo"}
    assert [cell.label for cell in found] == [
        f"s lora_r:{r} checkpoint:{name}" for r in (4, 8) for name in ("best", "last")
    ]
    assert found[0].needs == (first,)


@pytest.mark.parametrize(
    ("changed", "same"),
    [({"seed": 1}, False), ({"epochs": 3}, False), ({"device": "cpu"}, True), ({"threads": 2}, True)],
)
def test_what_is_learned_identifies_a_training_and_its_evaluations(
    tmp_path: Path, changed: dict[str, Any], same: bool
) -> None:
    settings = {"s": {**HF, "checkpoints": "last"}}
    _, before = study(tmp_path, {"trainings": {"sft": SFT}, "settings": settings})
    _, after = study(tmp_path, {"trainings": {"sft": {**SFT, **changed}}, "settings": settings})
    assert [a.digest == b.digest for a, b in zip(before, after, strict=True)] == [same, same]
    folders = Folders(tmp_path / "suite")
    for cell in before:
        folders.of(cell).create(cell, [])
    lines = Folders(tmp_path / "suite").changes(after)
    assert len(lines) == (0 if same else 2)
    if not same:
        (name,) = changed
        assert f"`training.{name}`" in lines[0]
        assert "the cell that `trained.by` refers to was changed" in lines[1]


def test_a_control_evaluates_the_checkpoint_that_it_controls(tmp_path: Path) -> None:
    control = {"model": "self_consistency", "control": "p", "checkpoints_of": {"student": "sft"}}
    _, cells = study(tmp_path, {"trainings": {"sft": SFT}, "settings": {"p": PAIR, "c": control}})
    training, first, second, one, two = cells
    assert one.needs == (training, first)
    assert two.needs == (training, second)
    assert isinstance(two, Evaluation)
    assert two.trained is not None
    assert two.trained.checkpoint == "epoch-2"


def test_a_training_is_a_group_of_its_own(tmp_path: Path) -> None:
    _, cells = study(tmp_path, {"trainings": {"sft": SFT}, "settings": {"s": {**HF, "checkpoints": "last"}}})
    (training, evaluation) = cells
    groups = group_cells(cells, {evaluation.digest: ["m"]})
    assert [group.cells for group in groups] == [(training,), (evaluation,)]


FILE = {"train_file": str(Path(__file__))}


@pytest.mark.parametrize(
    ("trainings", "setting", "expected"),
    [
        ({}, HF, "`checkpoints_of: sft` is no training: describe it in `trainings`"),
        ({"sft": SFT}, {"model": "hf", "checkpoints_of": "stf"}, "is no training (did you mean `sft`?)"),
        ({"sft": SFT}, {"model": "hf", "checkpoints": 1}, "`checkpoints` needs `checkpoints_of`"),
        ({"sft": SFT}, {"model": "hf", "checkpoints_of": ["sft"]}, "takes the name of a training"),
        ({"sft": SFT}, {**HF, "checkpoints": "final"}, "`checkpoints` takes whole numbers of epochs"),
        ({"sft": SFT}, {**HF, "checkpoints": [1, True]}, "`checkpoints` takes whole numbers of epochs"),
        ({"sft": SFT}, {**HF, "checkpoints": 3}, "training sft has 2 whole epochs"),
        ({"sft": SFT}, {**HF, "checkpoints": ["epochs", 2]}, "`checkpoints` names one twice"),
        ({"sft": {**SFT, "max_steps": 5}}, HF, "does not say how many epochs there are"),
        ({"sft": {**SFT, "epochs": 0.5}}, HF, "has no whole epoch"),
        ({"sft": {**SFT, "save_total_limit": 1}}, HF, "keeps its newest checkpoints only"),
        ({"sft": {**SFT, **FILE}}, {**HF, "checkpoints": "best"}, "has no rows to measure it"),
        ({"sft": SFT}, {**HF, "model_args": {"pretrained": "x"}}, "`model_args.pretrained` is set by `checkpoints_of`"),
        ({"sft": SFT}, {**PAIR, "model_args": {"student": "x"}}, "`model_args.student` is set by `checkpoints_of`"),
        ({"sft": {**SFT, "output_dir": "x"}}, HF, "`output_dir` cannot be given, because each training has its own"),
        ({"sft": {**SFT, "config": "missing.yaml"}}, HF, "missing.yaml cannot be read"),
        ({"sft": {**SFT, "base": "other"}}, HF, "`base: other` is neither a preset nor a training"),
        ({"sft": {**SFT, "matrix": {"checkpoint": [1]}}}, HF, "axis checkpoint: the name is taken"),
        ({"s t": SFT}, {"model": "hf"}, "a name consists of letters"),
        ({"sft": SFT, "copy": SFT}, HF, "training sft and training copy are the same training"),
        ({"sft": SFT}, {**HF, "tasks": {"t": {"checkpoints": 1}}}, "`checkpoints` is the same for all tasks of a run"),
    ],
)
def test_problems_are_found_before_anything_starts(
    tmp_path: Path, trainings: dict[str, Any], setting: dict[str, Any], expected: str
) -> None:
    found = problems(tmp_path, {"trainings": trainings, "settings": {"s": setting}, "tasks": ["t"]})
    assert expected in "\n".join(found)


def test_a_training_is_checked_by_finetune_itself(tmp_path: Path) -> None:
    settings = {"s": {**HF, "checkpoints": "last"}}
    _, (training, _) = study(tmp_path, {"trainings": {"sft": {**SFT, "learning_rat": 1}}, "settings": settings})
    assert isinstance(training, TrainingCell)
    (problem,) = training_problems(training)
    assert problem.startswith("training sft: `learning_rat` is not a setting (did you mean `learning_rate`?)")


# -- processes, with a script that stands for finetune.sh ----------------------------------------------------------

SCRIPT = """
for word in "$@"; do case $word in --output_dir=*) run=${word#*=};; esac; done
echo "[harness-ext] 3/6 steps in 0:01, 0:01 left: loss 1" >&2
if grep -q "run_name: fails" "$2" && [ ! -e "$run/../../cause-removed" ]; then
    echo "harness-ext finetune: the loss is not finite" >&2
    exit 1
fi
if grep -q "run_name: waits" "$2" && [ ! -e "$run/saved" ]; then
    trap 'touch "$run/saved"; exit 143' TERM
    touch "$run/begun"
    while :; do sleep 0.05; done
fi
mkdir -p "$run/final"
echo '{"model": "org/model", "dtype": "float32"}' > "$run/run.json"
echo '{"files": {}, "step": 6}' > "$run/final/complete.json"
echo "[harness-ext] 6/6 steps in 0:02: loss 1" >&2
"""
STAND_IN = """
import sys
from pathlib import Path
from harness_ext.suite import evaluating, running, train
from harness_ext.suite.command import main

class Evaluator:
    def run(self, cell, folders):
        folder = folders.of(cell)
        evaluating.write_config(cell, folders)
        folder.unfinished_results.mkdir()
        folder.finish()

evaluating.Evaluator = Evaluator
evaluating.is_protocol = lambda model: model != "hf"
running.command = lambda *words: [sys.executable, {script!r}, *words]
train._script = lambda: Path({finetune!r})
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let suites start trainings and evaluations that do nothing, in `tmp_path`, and return their program."""
    finetune, script = tmp_path / "finetune.sh", tmp_path / "stand_in.py"
    finetune.write_text(SCRIPT)
    script.write_text(STAND_IN.format(script=str(script), finetune=str(finetune)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness_ext.suite.running.command", lambda *words: [sys.executable, str(script), *words])
    monkeypatch.setattr("harness_ext.suite.running.LOOK_EVERY", 0.02)
    return script


def created(folder: Path, content: Mapping[str, Any]) -> tuple[Path, tuple[Cell, ...], Folders]:
    path, cells = study(folder, content)
    folders = Folders(folder / "suite")
    for cell in cells:
        folders.of(cell).create(cell, [cell.label])
    return path, cells, Folders(folder / "suite")


def test_a_failed_training_stops_only_what_needs_it(
    stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed one, one whose checkpoint is missing, and one whose adapters are evaluated on a seat and by `hf`."""
    trainings = {"sft": SFT, "bad": {**SFT, "run_name": "fails"}}
    settings = {
        "s": {**HF, "checkpoints": ["untouched", "last", "step-9"]},
        "p": {**PAIR, "checkpoints": "last", "model_args": {"teacher": "hf:t", "student.dtype": "bfloat16"}},
        "b": {"model": "hf", "checkpoints_of": "bad", "checkpoints": "last"},
    }
    path, cells, folders = created(tmp_path, {"trainings": trainings, "settings": settings})
    failed = Runner(path, cells, folders, frozenset(cell.digest for cell in cells)).run()
    said = capsys.readouterr().err
    assert [cell.title for cell in failed] == ["training bad", "s checkpoint:step-9, t", "b checkpoint:last, t"]
    by_title = {cell.title: folders.of(cell) for cell in cells}
    states = {title: folder.state for title, folder in by_title.items()}
    assert states["b checkpoint:last, t"] == "waiting"
    assert "it needs training bad, which is not finished" in said
    assert "harness-ext finetune: the loss is not finite" in said
    assert "training sft has left no checkpoint `step-9`: it has untouched, last" in said

    final = str(by_title["training sft"].training / "final")
    configs = {title: yaml.safe_load(f.config.read_text()) for title, f in by_title.items() if f.config.exists()}
    assert configs["s checkpoint:last, t"]["model_args"] == {"pretrained": final, "dtype": "float32"}
    assert configs["s checkpoint:untouched, t"]["model_args"] == {"pretrained": "org/model", "dtype": "float32"}
    seats = configs["p checkpoint:last, t"]["model_args"]
    assert {name: seats[name] for name in ("student", "student.dtype", "teacher")} == {
        "student": f"hf:{final}", "student.dtype": "bfloat16", "teacher": "hf:t",
    }  # fmt: skip

    # A training counts its steps, and is tried again once the cause is gone.
    assert main(["status", str(path), "--json"]) == 0
    rows = {row["title"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["training sft"]["answered"], rows["training sft"]["questions"]) == (6, 6)
    assert rows["training bad"]["error"][-1] == "harness-ext finetune: the loss is not finite"
    assert main(["plan", str(path), "--json"]) == 0
    plan = {row["title"]: row for row in json.loads(capsys.readouterr().out)}
    assert plan["training sft"]["totals"]["seconds"]["value"] > 0
    assert plan["training bad"]["totals"] is None
    assert main(["plan", str(path)]) == 0
    assert main(["logs", str(path), "training-"]) == 2, "the name fits two trainings"
    assert main(["logs", str(path), "bad-training", "--lines", "3"]) == 0
    assert "the loss is not finite" in capsys.readouterr().out
    (tmp_path / "suite" / "cause-removed").touch()
    assert main(["retry", str(path)]) == 1, "the missing checkpoint is still missing"
    assert by_title["training bad"].state == "finished"


def test_a_killed_training_saves_its_state_and_is_continued(stand_in: Path, tmp_path: Path) -> None:
    trainings = {"sft": {**SFT, "run_name": "waits"}}
    path, (training, last), folders = created(
        tmp_path, {"trainings": trainings, "settings": {"s": {**HF, "checkpoints": "last"}}}
    )
    folder = folders.of(training)
    run = subprocess.Popen([sys.executable, str(stand_in), "run", str(path)], stderr=subprocess.PIPE, text=True)
    while run.poll() is None and not (folder.training / "begun").exists():
        time.sleep(0.02)
    holder = in_use_by(folder.path / "cell.json")
    assert holder is not None
    run.kill()
    os.kill(holder.pid, signal.SIGKILL)
    run.communicate(timeout=120)
    while not (folder.training / "saved").exists():
        time.sleep(0.02)
    while folder.state == "running":  # until the system has noticed that the process is gone
        time.sleep(0.02)
    assert folder.state == "interrupted"
    done = subprocess.run([sys.executable, str(stand_in), "run", str(path)], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert "2/2 cells finished" in done.stderr
    assert folder.attempt is not None
    assert folder.attempt.number == 2
    assert folders.of(last).state == "finished"


def test_a_signal_lets_a_training_save_its_state(stand_in: Path, tmp_path: Path) -> None:
    trainings = {"sft": {**SFT, "run_name": "waits"}}
    path, (training, _), folders = created(
        tmp_path, {"trainings": trainings, "settings": {"s": {**HF, "checkpoints": "last"}}}
    )
    run = subprocess.Popen([sys.executable, str(stand_in), "run", str(path)], stderr=subprocess.PIPE, text=True)
    while run.poll() is None and not (folders.of(training).training / "begun").exists():
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=240)
    assert run.returncode == 130, said
    assert (folders.of(training).training / "saved").exists()


def test_a_training_waits_for_the_one_that_still_saves(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from harness_ext.records.run_lock import lock_training\n"
        f"lock = lock_training(Path({str(tmp_path)!r})); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiting = threading.Thread(target=_wait_for, args=(tmp_path,))
    waiting.start()
    assert waiting.is_alive()
    holder.communicate("")
    waiting.join(60)
    assert not waiting.is_alive()


# -- with a real training ------------------------------------------------------------------------------------------

QUESTION = "1 Mary went to the garden.\nWhere is Mary?\n"


@pytest.mark.timeout(600)
def test_checkpoints_are_trained_evaluated_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """LoRA changes what the student says, as `hf` and on a seat, and the untouched model says what it did."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": QUESTION, "completion": "kitchen"}] * 6
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "kitchen"}) + "\n")
    (tmp_path / "kitchen.yaml").write_text(
        f"task: kitchen\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/questions.jsonl}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
        "target_delimiter: ''\ngeneration_kwargs: {until: [\"\\n\"], max_gen_toks: 4}\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    sft = {
        "model": str(model_path("student")), "train_file": "rows.jsonl", "eval_file": "rows.jsonl", "epochs": 2,
        "batch_size": 1, "scheduler": "constant", "learning_rate": 0.01, "adapter": "lora", "device": "cpu",
    }  # fmt: skip
    content = {
        "tasks": ["kitchen"],
        "defaults": {"include_path": str(tmp_path), "device": "cpu"},
        "trainings": {"sft": sft},
        "settings": {
            "s": {**HF, "checkpoints": ["untouched", "best"]},
            "b": {"model": "baseline", "checkpoints_of": {"student": "sft"}, "checkpoints": "last"},
        },
    }
    path, cells = study(tmp_path, content)
    training, *evaluations = cells
    models = check_cells(evaluations)
    assert len({tuple(found) for found in models.values()}) == 3, "each checkpoint is a model of its own"
    folders = Folders(tmp_path / "suite")
    for cell in cells:
        folders.of(cell).create(cell, models.get(cell.digest, []))
    folders = Folders(tmp_path / "suite")
    assert run_cells(cells, folders) == 0, [folders.of(cell).log.read_text() for cell in cells]
    folder = folders.of(training)
    listed = json.loads((folder.results / "checkpoints.json").read_text())
    assert [one["names"][:2] for one in listed][:2] == [["untouched"], ["step-6", "epoch-1"]]
    assert sum("best" in one["names"] for one in listed) == 1
    assert listed[-1] == {
        "names": ["last"],
        "arguments": {
            "pretrained": str(model_path("student")), "peft": str(folder.training / "final"),
            "tokenizer": str(folder.training / "final"), "dtype": "float32",
        },
    }  # fmt: skip
    assert re.search(r"\[harness-ext\] 12/12 steps", folder.log.read_text())
    said = {}
    for cell in evaluations:
        (samples,) = folders.of(cell).results.rglob("samples_*.jsonl")
        said[cell.label] = json.loads(samples.read_text())["resps"]
    assert said["s checkpoint:untouched"] not in (said["s checkpoint:best"], said["b checkpoint:last"])
    capsys.readouterr()
    assert main(["collect", str(path), "--format", "json"]) == 0
    assert {row["run"] for row in json.loads(capsys.readouterr().out)["rows"]} == said.keys()
