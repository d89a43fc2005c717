"""`bash setting.sh`: configuration files of the bAbI settings run here, or are submitted to Slurm."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness_ext.embedded import model_path
from harness_ext.errors import ConfigurationError
from harness_ext.suite.checks import check_cells
from harness_ext.suite.expanding import cells_of
from harness_ext.suite.folders import Folders
from harness_ext.suite.study import read_study
from harness_ext.suite.worker import run_cells
from harness_ext.tasks.babi_conversation.raw import load
from harness_ext.tasks.babi_conversation.setting_fields import read_setting
from harness_ext.tasks.babi_conversation.settings import main, write_study

SCRIPT = Path(__file__).resolve().parent.parent / "tasks" / "babi_conversation" / "setting.sh"
STORIES = """\
1 Mary went to the garden.
2 John went to the office.
3 Where is Mary? \tgarden\t1
4 Mary went to the kitchen.
5 Where is Mary? \tkitchen\t4
1 Sandra went to the bathroom.
2 Where is Sandra? \tbathroom\t1
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with stories, a prompt, and a configuration for each setting, and work in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORIES", str(tmp_path / "en-valid"))
    (tmp_path / "en-valid").mkdir()
    for task in (1, 7):
        (tmp_path / "en-valid" / f"qa{task}_valid.txt").write_text(STORIES)
    (tmp_path / "init_prompt.txt").write_text("You are a student. Answer in one word.\n")
    seats = {seat: {"name": str(model_path(seat)), "max_new_tokens": 40} for seat in ("student", "teacher")}
    common: dict[str, Any] = {
        "data": {
            "path": "${oc.env:STORIES}/",
            "splits": {"train": False, "valid": True, "test": False},
            "task_ids": [1, 7],
            "samples_per_task": 2,
            "to_enumerate": {"context": True, "question": False},
            "wrapper": {"context": "{context}", "reasoning": ""},
        },
        "init_prompt": {"paths": ["init_prompt.txt"], "examples": {"add": True, "number": 1, "wrapper": "{example}"}},
        "logging": {"print_to_file": True},
        "results": {"headers": ["id_"]},
        "hydra": {"run": {"dir": "${oc.env:HOME}/${now:%H}"}},
    }
    files = {
        "baseline_config": {"setting": {"name": "Baseline"}, "model": seats["student"]},
        "skyline_config": {"setting": {"name": "Skyline"}, "model": {**seats["teacher"], "mode": "eval"}},
        "feedback_config": {"setting": {"name": "Feedback"}, **seats, "feedback_prompt": {"paths": ["f.txt"]}},
        "SD_config": {
            "setting": {"name": "SD", "interpretability": True},
            "student": {**seats["student"], "temperature": 0.1},
            "teacher": {**seats["teacher"], "p": 0.95, "interpretability": {"use": True, "aggregate": True}},
            "eval_prompt": {"paths": ["e.txt"], "wrapper": "x"},
        },
    }
    (tmp_path / "config").mkdir()
    for name, content in files.items():
        (tmp_path / "config" / f"{name}.yaml").write_text(yaml.safe_dump({**common, **content}))
    return tmp_path


def override(project: Path, content: dict[str, Any], base: str = "feedback_config") -> str:
    path = project / "config" / "mine.yaml"
    path.write_text(yaml.safe_dump({"defaults": [base, "_self_"], **content}))
    return str(path)


def test_every_field_becomes_an_argument_or_a_note(project: Path) -> None:
    found = {name: read_setting(f"config/{name}") for name in ("baseline_config", "skyline_config", "feedback_config")}
    student, teacher = (str(model_path(seat)) for seat in ("student", "teacher"))
    baseline = found["baseline_config"]
    assert baseline.model_args == {
        "student": f"hf:{student}", "student.gen.max_gen_toks": 40, "student.gen.do_sample": False,
    }  # fmt: skip
    assert (baseline.model, baseline.split, baseline.task_ids, baseline.last) == ("baseline", "valid", (1, 7), 2)
    assert baseline.instruction == "You are a student. Answer in one word."
    assert found["skyline_config"].model_args["teacher"] == f"hf:{teacher}"
    feedback = found["feedback_config"]
    assert feedback.model_args["review_max_tokens"] == 40
    assert feedback.model_args["verdict"] == "system0"
    decoding = read_setting("config SD_config")
    assert (decoding.model, decoding.model_args["accept"], decoding.model_args["threshold"]) == (
        "speculative_pair", "topp", 0.95,
    )  # fmt: skip
    assert decoding.model_args["student.gen.temperature"] == 0.1
    said = "\n".join((*feedback.notes, *decoding.notes))
    for part in ("hydra.run.dir", "examples.add", "data.wrapper.context", "feedback_prompt", "columns on attention"):
        assert part in said
    assert "reasoning" not in said, "an empty wrapper changes nothing"


def test_a_detail_or_two_are_given_and_the_rest_is_the_default(project: Path) -> None:
    named = override(project, {"data": {"task_ids": [7], "samples_per_task": None, "start_from_sample": 2}})
    found, default = read_setting(named), read_setting("config/feedback_config.yaml")
    assert (found.name, found.task_ids, found.first, found.last) == ("mine", (7,), 2, None)
    assert found.model_args == default.model_args


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"setting": {"name": "Tutor"}}, "one of Baseline, Skyline, Feedback, SD"),
        ({"data": {"splits": {"test": True}}}, "exactly one of train, valid, test"),
        ({"data": {"task_ids": [21]}}, "numbers from 1 to 20"),
        ({"data": {"task_ids": [2]}}, "has no file qa2_*valid.txt"),
        ({"data": {"samples_per_task": 0}}, "a whole number from 1"),
        ({"data": {"start_from_sample": 3}}, "`data.samples_per_task` is 2, the number of the last story"),
        ({"data": {"for_all_tasks": "no"}}, "`data.for_all_tasks` is no: True or False"),
        ({"data": {"path": "${oc.env:NOWHERE_TO_BE_FOUND}/x"}}, "no variable NOWHERE_TO_BE_FOUND"),
        ({"data": {"path": "${now:%d}"}}, "only `${oc.env:NAME}` is replaced"),
        ({"data": {"to_enumerate": {"question": True}}}, "questions never"),
        ({"student": {"to_continue": True}}, "protocols decide what is continued"),
        ({"student": {"mode": "train"}}, "`harness-ext finetune` trains"),
        ({"student": {"temprature": 0.1}}, "there is no field `student.temprature`"),
        ({"init_prompt": {"paths": ["missing.txt"]}}, "missing.txt cannot be read"),
        ({"init_prompt": {"paths": ["init_prompt.txt", "other.txt"]}}, "names several prompts"),
    ],
)
def test_what_cannot_run_is_refused(project: Path, content: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read_setting(override(project, content))
    assert expected in "\n".join(raised.value.problems)


def test_all_problems_of_all_files_come_at_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "config" / "loop.yaml").write_text("defaults: [loop, _self_]\n")
    (project / "config" / "order.yaml").write_text("defaults: [feedback_config]\n")
    names = ["config missing", "config loop", "config order", "config SD_config", "config/SD_config.yaml"]
    assert main(names) == 2
    said = capsys.readouterr().err
    for part in ("missing.yaml cannot be read", "among its own `defaults`", "and `_self_`", "the name SD_config"):
        assert part in said
    assert not (project / "harness_ext_runs").exists()


def test_stories_are_those_of_the_files(project: Path) -> None:
    rows = load(str(project / "en-valid"), "valid", 1)["test"]
    assert [len(row["parts"]) for row in rows] == [2, 1]
    assert rows[0]["parts"][1]["lines"] == ["Mary went to the kitchen."]
    assert [part["answer"] for part in rows[0]["parts"]] == ["garden", "kitchen"]
    assert rows[0]["parts"][1]["number"] == 4
    (second,) = load(str(project / "en-valid"), "valid", 1, first=2, last=5)["test"]
    assert second["story"] == 2
    (project / "en-valid" / "qa1_valid.txt").write_text("Mary went to the garden.\n")
    with pytest.raises(ConfigurationError, match="line 1"):
        load(str(project / "en-valid"), "valid", 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"start_from_sample": 0}, {1: [1, 2, 3], 7: [1, 2, 3]}),
        ({"start_from_sample": 3, "for_all_tasks": False}, {1: [3], 7: [1, 2, 3]}),
        ({"start_from_sample": 2, "for_all_tasks": True}, {1: [2, 3], 7: [2, 3]}),
    ],
)
def test_the_stories_of_each_task_are_those_of_the_original(
    project: Path, data: dict[str, Any], expected: dict[int, list[int]]
) -> None:
    """`samples_per_task` cuts stories off, and then `start_from_sample` skips the first ones, of one task or of all."""
    for task in (1, 7):
        (project / "en-valid" / f"qa{task}_valid.txt").write_text(STORIES * 2)
    named = override(project, {"data": {**data, "samples_per_task": 3}})
    write_study(read_setting(named), project / "out")
    found = {}
    for task in (1, 7):
        text = (project / "out" / "tasks" / f"{task}.yaml").read_text().partition("\n")[2]  # after `!function`
        found[task] = [row["story"] for row in load(**yaml.safe_load(text)["dataset_kwargs"])["test"]]
    assert found == expected


def test_other_rows_and_another_instruction_are_another_cell(project: Path) -> None:
    def digest(data: dict[str, Any]) -> str:
        (cell,) = cells_of(read_study(write_study(read_setting(override(project, {"data": data})), project / "out")))
        return cell.digest

    first = digest({})
    assert digest({"start_from_sample": 2}) != first
    assert digest({}) == first
    (project / "init_prompt.txt").write_text("Answer in two words.\n")
    assert digest({}) != first


@pytest.mark.timeout(600)
def test_a_setting_runs_as_a_cell_and_leaves_its_tables(project: Path) -> None:
    path = write_study(read_setting("config/feedback_config"), project / "out")
    (cell,) = cells_of(read_study(path))
    models = check_cells([cell])
    folders = Folders(project / "out")
    folders.of(cell).create(cell, models[cell.digest])
    folders = Folders(project / "out")
    assert run_cells([cell], folders) == 0, folders.of(cell).log.read_text()
    (table,) = folders.of(cell).records.rglob("*_results.csv")
    assert table.name == "valid_feedback_config_results.csv"
    with table.open(newline="", encoding="utf-8") as file:
        rows = {row["id_"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert sorted(rows) == ["1-1-1", "1-1-2", "1-2-1", "7-1-1", "7-1-2", "7-2-1"]
    assert rows["1-1-2"]["golden_answer"] == "kitchen"
    transcripts = "".join(p.read_text() for p in folders.of(cell).records.glob("transcripts*.jsonl"))
    assert json.dumps("You are a student. Answer in one word.")[1:-1] in transcripts
    assert "logical" not in transcripts, "the prompt takes the place of the task's own"


# -- the script ----------------------------------------------------------------------------------------------------


def bash(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script with programs that print what they are given, in place of Python and sbatch."""
    for name in ("sbatch", "python"):
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/bash\nprintf "%s\\n" {name} "$@"\n')
        program.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_") and key != "PYTHON"}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], cwd=folder, env={**kept, "PATH": path, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


MODULE = ["python", "-m", "harness_ext.tasks.babi_conversation.settings"]


def test_the_script_runs_the_configurations_here(tmp_path: Path) -> None:
    done = bash(tmp_path, "config/a.yaml", "my folder/config b")
    assert done.stdout.splitlines() == [*MODULE, "config/a.yaml", "my folder/config b"]
    done = bash(tmp_path, "--cpus", "4", "a.yaml")
    assert "not used, because nothing is submitted: --cpus-per-task=4" in done.stderr


def test_the_script_submits_itself_with_what_the_job_gets(tmp_path: Path) -> None:
    options = {
        "job-name": "my job", "output": "out.txt", "mem": "64G", "partition": "gpu", "time": "1:00:00", "gres": "gpu:2",
    }  # fmt: skip
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    done = bash(tmp_path, "--server", "slurm", *given, "--cpus", "4", "--mail", "me@example.org", "a b", "c;d")
    assert done.stdout.splitlines() == [
        "sbatch", *(f"--{name}={value}" for name, value in options.items()), "--cpus-per-task=4",
        "--mail-user=me@example.org", "--mail-type=END,FAIL", str(SCRIPT), "--server", "slurm", "a b", "c;d",
    ]  # fmt: skip
    # What is submitted runs the configurations, once the job reads the file of its server.
    (tmp_path / "setting_mine.env").write_text("echo loaded\n")
    done = bash(tmp_path, "--server", "mine", "a b", SLURM_JOB_ID="7")
    assert done.stdout.splitlines() == ["loaded", *MODULE, "a b"]
    assert bash(tmp_path, "--server", "mine", "a").stdout.splitlines()[0] == "sbatch"


def test_the_script_says_what_is_wrong(tmp_path: Path) -> None:
    for arguments, expected in (
        ([], "no configuration"),
        (["--partition"], "--partition needs a value"),
        (["--gpus", "4", "a"], "there is no option --gpus"),
        (["--server", "elsewhere", "a"], "needs a file setting_elsewhere.env"),
    ):
        done = bash(tmp_path, *arguments)
        assert done.returncode == 2
        assert expected in done.stderr
        assert not done.stdout


def test_the_list_in_the_script_is_used_without_arguments(tmp_path: Path) -> None:
    copy = tmp_path / "mine.sh"
    shutil.copy(SCRIPT, copy)
    copy.write_text(copy.read_text().replace("CONFIGS=(", 'CONFIGS=(\n    "$HOME/some folder config"'))
    bash(tmp_path)  # writes the programs
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(copy)], env={"PATH": path, "HOME": "/home/me"}, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [*MODULE, "/home/me/some folder config"]
