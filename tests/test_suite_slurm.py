"""`harness-ext suite submit` with stand-ins for Slurm's commands: scripts, arrays, dependencies, status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from suite_support import PAIR, problems

from harness_ext.errors import ConfigurationError
from harness_ext.slurm.queue import Queued
from harness_ext.suite.cells import Cell, Evaluation
from harness_ext.suite.command import main
from harness_ext.suite.expanding import cells_of
from harness_ext.suite.folders import Folders
from harness_ext.suite.settings import LmEvalOptions
from harness_ext.suite.showing import state_in_queue
from harness_ext.suite.slurm_arrays import arrays_of
from harness_ext.suite.slurm_options import KEYS
from harness_ext.suite.study import read_study
from harness_ext.suite.submit import Submitter

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
STUDY: dict[str, Any] = {
    "name": "feedback study",
    "tasks": ["babi_stories", "gsm8k"],
    "seeds": [1, 2],
    "slurm": {
        "partition": "gpu",
        "account": "a1",
        "qos": "low",
        "time": "08:00:00",
        "mem": "64G",
        "cpus": 4,
        "constraint": "a100|h100",
        "mail_user": "someone@example.org",
        "mail_type": "END,FAIL,REQUEUE",
        "modules": ["cuda/12.4", "gcc"],
        "environment": {"HF_HOME": "/scratch/it's here", "N": 3},
        "setup": "source env/bin/activate",
        "extra": ["reservation=week"],
        "max_running": 3,
        "python": "python",
        "servers": {"teacher": {"gpus": 4, "time": "2-00:00:00", "partition": "large"}},
        "collect": {"partition": "cpu"},
    },
    "settings": {
        "baseline": {"model": "baseline", "model_args": {"student": "hf:s"}, "slurm": {"servers": {"teacher": None}}},
        "pair": {
            "model": "feedback_pair",
            "model_args": {
                "student": "hf:s",
                "teacher": "serve:org/large",
                "teacher.serve.args": "--tensor-parallel-size 4",
                "teacher.temperature": 0.5,
            },
        },
        "equal_cost": {"base": "baseline", "model": "self_consistency", "control": "pair"},
    },
}
# What the check finds out about the cells' models, which needs lm-eval and the models themselves.
MODELS = {"baseline": ["student"], "pair": ["student", "teacher"], "equal_cost": ["student"]}


def write(folder: Path, study: Mapping[str, Any]) -> tuple[Path, tuple[Cell, ...], Folders]:
    """Write a study, and create the folders of its cells as if they had been checked."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"folder": str(folder / "suite"), **study}, sort_keys=False), encoding="utf-8")
    read = read_study(path)
    cells, folders = cells_of(read), Folders(read.folder)
    for cell in cells:
        folders.of(cell).create(cell, MODELS.get(cell.setting, ["student"]))
    return path, cells, Folders(read.folder)


def finish(cell: Cell, folders: Folders) -> None:
    folder = folders.of(cell)
    folder.begin()
    folder.unfinished_results.mkdir(parents=True)
    folder.finish()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put stand-ins for sbatch and squeue on the path: `calls` lists what sbatch got, `queue` is what squeue prints."""
    (folder := tmp_path / "slurm").mkdir()
    (folder / "queue").touch()
    scripts = {
        "sbatch": """
printf '%s\\t' "$@" >> "$here/calls"; echo >> "$here/calls"
number=$(($(wc -l < "$here/calls") + 40))
[ "$number" = "$(cat "$here/refuse" 2> /dev/null)" ] && { echo "no such partition" >&2; exit 1; }
echo "$number;cluster"
""",
        "squeue": """
printf '%s\\t' "$@" >> "$here/asked"; echo >> "$here/asked"
cat "$here/queue"
""",
    }
    for name, text in scripts.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\nhere={folder}\n{text}", encoding="utf-8")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def calls(slurm: Path) -> list[list[str]]:
    """Return the arguments of each call of sbatch."""
    path = slurm / "calls"
    return [line.split("\t")[:-1] for line in path.read_text().splitlines()] if path.exists() else []


def queue(slurm: Path, *lines: str) -> None:
    """Let squeue print these lines: array, index, state, reason, restarts, job."""
    (slurm / "queue").write_text("".join(f"{line}|\n" for line in lines))


# -- scripts ---------------------------------------------------------------------------------------------------------


def test_scripts_match_the_golden_files(tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/venv/bin/harness-ext", "suite", "submit", "the study.yaml"])
    path, _, _ = write(tmp_path, STUDY)
    assert main(["submit", str(path)]) == 0
    found = {script.name: script.read_text() for script in (tmp_path / "suite" / "slurm" / "1").glob("*.sbatch")}
    assert found.keys() == {"server-1.sbatch", "cells-1.sbatch", "cells-2.sbatch", "cells-3.sbatch", "collect.sbatch"}
    for name, text in found.items():
        golden, text = GOLDEN / f"suite_{name}", text.replace(str(tmp_path), "/work")
        if os.environ.get("HARNESS_EXT_WRITE_GOLDEN"):
            golden.write_text(text, encoding="utf-8")
        assert text == golden.read_text(encoding="utf-8"), name


def test_jobs_wait_for_what_they_need(tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, cells, _ = write(tmp_path, STUDY)
    assert main(["submit", str(path)]) == 0
    waits = {
        Path(call[-1]).stem: [o.removeprefix("--dependency=") for o in call if "dependency" in o]
        for call in calls(slurm)
    }
    # sbatch counted its calls: the server is job 41, the cells without it 42, those with it 43, their controls 44.
    assert waits == {
        "server-1": [],
        "cells-1": [],
        "cells-2": ["after:41"],
        "cells-3": ["afterany:43"],
        "collect": ["afterany:42:43:44"],
    }
    folder = tmp_path / "suite" / "slurm" / "1"
    jobs = json.loads((folder / "jobs.json").read_text())
    assert jobs == {"server-1": "41", "cells-1": "42", "cells-2": "43", "cells-3": "44", "collect": "45"}
    server = json.loads((folder / "server-1.json").read_text())
    assert server["model"] == "serve:org/large"
    assert server["arguments"] == {"serve.args": "--tensor-parallel-size 4"}
    assert server["users"] == ["cells-2"]
    array = json.loads((folder / "cells-2.json").read_text())
    pairs = [cell.digest for cell in cells if cell.setting == "pair"]
    assert array["tasks"] == [pairs]
    assert array["servers"] == {digest: {"teacher": server["address"]} for digest in pairs}
    assert "cells-2 is job 43" in capsys.readouterr().err


def test_a_dry_run_shows_everything_and_changes_nothing(
    tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _, _ = write(tmp_path, STUDY)
    before = sorted(tmp_path.rglob("*"))
    assert main(["submit", str(path), "--dry-run", "--max-running", "7", "--qos", "high"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("#!/bin/bash") == 5
    assert printed.count("#SBATCH --qos=high\n") == 5
    assert "#SBATCH --array=0%7" in printed
    assert "--dependency=afterany:<number of cells-2>" in printed
    assert "# task 0: pair, babi_stories, seed 1; pair, babi_stories, seed 2" in printed
    assert sorted(tmp_path.rglob("*")) == before
    assert calls(slurm) == []


def test_nothing_from_a_study_is_read_as_shell_code(
    tmp_path: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its folder nor what it names, and least of all the index of a task."""
    hostile = "it's $(touch pwned) `touch pwned` \"; touch pwned #"
    (folder := tmp_path / hostile).mkdir()
    said = tmp_path / "said"
    program = tmp_path / "a python"
    program.write_text(f'#!/bin/bash\nprintf "<%s>" "$@" > {said}\n')
    program.chmod(0o755)
    study = {
        "name": hostile,
        "tasks": [hostile],
        "slurm": {"python": str(program), "environment": {"GREETING": hostile}, "collect": False},
        "settings": {"pair": PAIR},
    }
    path, _, folders = write(folder, study)
    monkeypatch.chdir(tmp_path)
    assert main(["submit", str(path)]) == 0
    (call,) = calls(slurm)
    env = {"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": hostile, "SLURM_ARRAY_JOB_ID": "7"}
    env |= {"SLURM_JOB_ID": "8", "SLURM_CPUS_PER_TASK": "2"}
    (slurm / "srun").write_text('#!/bin/bash\n[ "$SRUN_CPUS_PER_TASK" = 2 ] && "$@"\n')
    (slurm / "srun").chmod(0o755)
    done = subprocess.run(["bash", call[-1]], env=env, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = folders.root.absolute() / "slurm" / "1" / "cells-1.json"
    assert said.read_text() == f"<-m><harness_ext><suite><task><{listed}><{hostile}>"
    assert not list(tmp_path.rglob("pwned"))


# -- arrays ----------------------------------------------------------------------------------------------------------


@st.composite
def studies(draw: st.DrawFn) -> tuple[list[Evaluation], dict[str, list[str]], dict[str, dict[str, Any]]]:
    """Draw cells, some of which need others, with the models and the options of each."""
    cells: list[Evaluation] = []
    models, options = {}, {}
    for number in range(draw(st.integers(1, 12))):
        plain = [cell for cell in cells if cell.control_of is None]
        control = draw(st.sampled_from([None, *plain]))
        cell = Evaluation(f"s{number}", {}, "task", None, "pair", {}, LmEvalOptions(), control_of=control)
        cells.append(cell)
        models[cell.digest] = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
        options[cell.digest] = {"gpus": draw(st.integers(0, 1)), "cells_per_task": draw(st.sampled_from([None, 1, 2]))}
    return cells, models, options


@settings(max_examples=50)
@given(studies(), st.data())
def test_each_cell_runs_once_and_after_what_it_needs(
    study: tuple[list[Evaluation], dict[str, list[str]], dict[str, dict[str, Any]]], data: st.DataObject
) -> None:
    cells, models, options = study
    elsewhere = {cell.digest for cell in cells if data.draw(st.booleans())}
    wanted = [cell for cell in cells if cell.digest not in elsewhere]
    arrays = arrays_of(wanted, options, models, elsewhere, "study")
    ran = [cell.digest for array in arrays for cell in array.cells]
    assert sorted(ran) == sorted(cell.digest for cell in wanted)
    before: dict[str, set[str]] = {}
    for array in arrays:
        assert set(array.after) <= before.keys(), "an array waits for arrays that are submitted before it"
        ended = elsewhere.union(*(before[name] for name in array.after))
        for task in array.tasks:
            done = set(ended)
            for cell in task:
                assert {other.digest for other in cell.needs} <= done
                assert options[cell.digest] == options[task[0].digest]
                done.add(cell.digest)
            most = options[task[0].digest]["cells_per_task"]
            assert most is None or len(task) <= most
        assert array.job.array.startswith(f"0-{len(array.tasks) - 1}" if len(array.tasks) > 1 else "0")
        before[array.name] = {cell.digest for cell in array.cells}


def test_what_is_finished_running_or_in_the_queue_is_not_submitted_again(
    tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = {"tasks": ["a", "b"], "settings": {"pair": PAIR, "equal": {"model": "self_consistency", "control": "pair"}}}
    path, cells, folders = write(tmp_path, {**study, "slurm": {"cells_per_task": 1, "gpus": 0}})
    assert main(["submit", str(path)]) == 0
    before = calls(slurm)
    # A task of the first array has failed, the other one and the controls are still there.
    queue(slurm, "41|1|RUNNING|None|0|46", "42|0|PENDING|Dependency|0|42", "42|1|PENDING|Dependency|0|42")
    capsys.readouterr()
    assert main(["submit", str(path)]) == 0
    assert "cells-1 is job 44" in capsys.readouterr().err
    again = calls(slurm)[len(before) :]
    assert json.loads((tmp_path / "suite/slurm/2/cells-1.json").read_text())["titles"] == [["pair, a"]]
    assert [o for o in again[1] if "dependency" in o] == ["--dependency=afterany:41:42:44"], "it collects after all"
    # Of two cells that wait for the same one, the one that is new waits for the job in the queue.
    queue(slurm, "44|0|RUNNING|None|0|44", "41|1|RUNNING|None|0|46")
    assert main(["submit", str(path), "--gpus", "0"]) == 0
    assert [o for o in calls(slurm)[-2] if "dependency" in o] == ["--dependency=afterany:41:44"]
    for cell in cells:
        finish(cell, folders)
    queue(slurm)
    assert main(["submit", str(path)]) == 0
    assert "nothing to submit" in capsys.readouterr().err


def test_jobs_that_are_queued_run_the_study_as_it_was(tmp_path: Path, slurm: Path) -> None:
    study = {"tasks": ["a"], "settings": {"pair": PAIR}}
    path, (cell,), _ = write(tmp_path, study)
    assert main(["submit", str(path)]) == 0
    path.write_text("settings: {}\n")
    listed = json.loads((tmp_path / "suite/slurm/1/cells-1.json").read_text())
    assert [c.digest for c in cells_of(read_study(Path(listed["study"])))] == [cell.digest] == listed["tasks"][0]


def test_a_job_that_slurm_refuses_leaves_the_others_in_the_queue(
    tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = {"tasks": ["a"], "settings": {"x": PAIR, "y": {**PAIR, "limit": 1, "slurm": {"partition": "nowhere"}}}}
    path, _, _ = write(tmp_path, study)
    (slurm / "refuse").write_text("42")
    assert main(["submit", str(path)]) == 1
    said = capsys.readouterr().err
    assert "no such partition" in said
    assert "Jobs 41 are in the queue" in said
    (slurm / "refuse").unlink()
    queue(slurm, "41|0|PENDING|Priority|0|41")
    assert main(["submit", str(path)]) == 0
    assert json.loads((tmp_path / "suite/slurm/2/cells-1.json").read_text())["titles"] == [["y, a"]]


def test_without_slurm_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _, _ = write(tmp_path, {"tasks": ["a"], "settings": {"pair": PAIR}})
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["submit", str(path)]) == 1
    assert "no Slurm on this machine" in capsys.readouterr().err
    assert main(["submit", str(path), "--dry-run"]) == 0


def test_the_checkpoints_of_a_training_wait_for_its_job(tmp_path: Path, slurm: Path) -> None:
    study = {
        "tasks": ["a", "b"],
        "slurm": {"cpus": 2},
        "trainings": {"sft": {"model": "m", "train_file": "rows.jsonl", "epochs": 2, "slurm": {"gpus": 4}}},
        "settings": {"untrained": PAIR, "trained": {"model": "hf", "checkpoints_of": "sft", "checkpoints": "last"}},
    }
    path, cells, folders = write(tmp_path, study)
    assert main(["submit", str(path)]) == 0
    folder = tmp_path / "suite" / "slurm" / "1"
    arrays = {listed.stem: json.loads(listed.read_text())["titles"] for listed in sorted(folder.glob("cells-*.json"))}
    assert arrays == {
        "cells-1": [["training sft"]],
        "cells-2": [["untrained, a", "untrained, b"]],
        "cells-3": [["trained checkpoint:last, a", "trained checkpoint:last, b"]],
    }
    script = (folder / "cells-1.sbatch").read_text()
    assert "#SBATCH --gpus-per-node=4\n" in script
    assert "#SBATCH --cpus-per-task=2\n" in script
    waits = [[option for option in call if "dependency" in option] for call in calls(slurm)]
    assert waits == [[], [], ["--dependency=afterany:41"], ["--dependency=afterany:41:42:43"]]
    # Once the training has ended, what it has left does not wait for its job.
    finish(next(cell for cell in cells if cell.title == "training sft"), folders)
    queue(slurm, "42|0|PENDING|Priority|0|42")
    assert main(["submit", str(path)]) == 0
    waits = [[option for option in call if "dependency" in option] for call in calls(slurm)[4:]]
    assert waits == [[], ["--dependency=afterany:42:45"]]


# -- status ----------------------------------------------------------------------------------------------------------


def test_the_status_joins_the_queue_with_the_folders(
    tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = {"tasks": ["a", "b", "c", "d"], "settings": {"pair": PAIR}, "slurm": {"cells_per_task": 1}}
    path, cells, folders = write(tmp_path, study)

    def states() -> list[str]:
        capsys.readouterr()
        assert main(["status", str(path), "--json"]) == 0
        return [row["state"] for row in json.loads(capsys.readouterr().out)]

    assert states() == ["waiting"] * 4
    assert not (slurm / "asked").exists(), "the queue is asked only about jobs that were submitted"
    assert main(["submit", str(path)]) == 0
    finish(cells[0], folders)
    folders.of(cells[1]).begin()
    folders.of(cells[1]).fail(["no memory left"])
    lock = folders.of(cells[2]).lock()
    folders.of(cells[2]).begin()
    rows = ("41|1|PENDING|BeginTime|2|44", "41|2|RUNNING|None|0|45", "41|3|PENDING|JobHeldUser|0|41")
    queue(slurm, *rows, "42|N/A|PENDING|Dependency|0|42", "39|0|RUNNING|None|0|39")
    assert states() == ["finished", "requeued", "running", "held"]
    capsys.readouterr()
    assert main(["status", str(path)]) == 0
    shown = capsys.readouterr().out
    for part in ("41_3 pending (JobHeldUser)", "1 held, 1 requeued", "job 42 (1/collect): pending (Dependency)"):
        assert part in " ".join(shown.split())
    lock.release()
    queue(slurm)
    assert states() == ["finished", "failed", "interrupted", "waiting"]
    monkeypatch.setenv("PATH", "/nowhere")
    assert states() == ["finished", "failed", "interrupted", "waiting"]


@pytest.mark.parametrize(
    ("file", "content"),
    [("jobs.json", "["), ("jobs.json", '["41"]'), ("cells-1.json", '{"tasks": [3]}'), ("cells-1.json", "{")],
)
def test_damaged_files_about_jobs_are_named(
    tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str], file: str, content: str
) -> None:
    path, _, folders = write(tmp_path, {"tasks": ["a"], "settings": {"pair": PAIR}})
    assert main(["submit", str(path)]) == 0
    damaged = folders.root / "slurm" / "1" / file
    damaged.write_text(content)
    queue(slurm)
    capsys.readouterr()
    assert main(["status", str(path)]) == 0
    shown = capsys.readouterr()
    assert "1 cell: 1 waiting" in shown.out
    (line,) = shown.err.splitlines()
    assert line.startswith(f"[suite] {damaged} is damaged: ")
    assert "squeue" in line


@pytest.mark.parametrize(
    ("state", "job", "expected"),
    [
        ("finished", ("PENDING", "None", 0), "finished"),
        ("running", ("RUNNING", "None", 0), "running"),
        ("waiting", ("RUNNING", "None", 0), "queued"),
        ("failed", ("RUNNING", "None", 0), "failed"),
        ("failed", ("PENDING", "Priority", 0), "queued"),
        ("interrupted", ("PENDING", "BeginTime", 1), "requeued"),
        ("interrupted", ("PENDING", "JobHoldMaxRequeue", 5), "held"),
    ],
)
def test_states(state: str, job: tuple[str, str, int], expected: str) -> None:
    assert state_in_queue(state, Queued("7", 0, *job)) == expected
    assert state_in_queue(state, None) == state


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slurm_field", "said"),
    [
        ({"partitoin": "gpu"}, "there is no field `partitoin` (did you mean `partition`?)"),
        ({"time": 86400}, "quote it (`'24:00:00'`)"),
        ({"gpus": "two"}, "`slurm.gpus=two`: expected a whole number"),
        ({"gpus": -1}, "`slurm.gpus` is -1; it must be at least 0"),
        ({"cells_per_task": 0}, "`slurm.cells_per_task` is 0; it must be at least 1"),
        ({"partition": "gpu\n#SBATCH --mem=1"}, "`slurm.partition` is"),
        ({"extra": ["mem=1G"]}, "Use `slurm.mem`"),
        ({"extra": [3]}, "`slurm.extra` takes a list of texts"),
        ({"mail_user": "me@example.org"}, "`slurm.mail_type` END,FAIL,REQUEUE"),
        ({"gres": "gpu:4"}, "Remedy: `slurm.gpus` 4"),
        ({"environment": {"HF_TOKEN": "hf_0123456789abcdef0123456789abcdef01"}}, "`slurm.environment.HF_TOKEN` looks"),
        ({"environment": {"a b": "c"}}, "`a b` is not the name of an environment variable"),
        ({"environment": ["A=b"]}, "`slurm.environment` takes names and values"),
        ({"servers": ["teacher"]}, "slurm.servers takes the names of seats"),
        ({"servers": {"teacher": {"servers": {}}}}, "slurm.servers.teacher: there is no field `servers`"),
        ({"collect": {"gpus": "no"}}, "`slurm.collect.gpus=no`"),
        ("gpu", "slurm takes names and values"),
    ],
)
def test_what_cannot_work_is_refused_with_the_study(tmp_path: Path, slurm_field: Any, said: str) -> None:
    study = {"tasks": ["a"], "settings": {"pair": PAIR}}
    found = problems(tmp_path, {**study, "slurm": slurm_field})
    assert any(said in problem for problem in found), found
    assert not any("hf_0123" in problem for problem in found)
    settings = {"pair": {**PAIR, "slurm": slurm_field}}
    assert problems(tmp_path, {**study, "settings": settings})


def test_options_that_only_fit_together_are_compared_together(tmp_path: Path) -> None:
    """A setting may change one half of what the study gives."""
    study = {"tasks": ["a"], "settings": {"pair": {**PAIR, "slurm": {"mail_user": "me@example.org"}}}}
    _, cells, _ = write(tmp_path, {**study, "slurm": {"mail_type": "END"}})
    assert cells[0].slurm == {"mail_user": "me@example.org"}
    found = problems(tmp_path, {**study, "slurm": {"gpus": 1}})
    assert found == (
        "`pair: slurm.mail_user` without `pair: slurm.mail_type` sends nothing. Remedy: `pair: slurm.mail_type` "
        "END,FAIL,REQUEUE.",
    )


def test_how_a_cell_runs_does_not_identify_it(tmp_path: Path) -> None:
    study = {"tasks": ["a"], "settings": {"pair": PAIR}}
    _, (plain,), _ = write(tmp_path, study)
    _, (other,), _ = write(tmp_path, {**study, "settings": {"pair": {**PAIR, "slurm": {"gpus": 4}}}})
    assert plain.digest == other.digest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"teacher": "hf:large"}, "the model of the seat is hf:large"),
        ({}, "no cell names a model for a seat `teacher`"),
    ],
)
def test_a_server_that_no_cell_would_use_is_refused(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    study = {"tasks": ["a"], "slurm": {"servers": {"teacher": {}}}}
    path, cells, folders = write(tmp_path, {**study, "settings": {"pair": {**PAIR, "model_args": arguments}}})
    with pytest.raises(ConfigurationError, match="teacher") as caught:
        Submitter(read_study(path), cells, folders, {})
    assert said in caught.value.problems[0]


def test_the_documentation_names_every_field() -> None:
    section = (ROOT / "docs" / "suite.md").read_text(encoding="utf-8").split("## On Slurm")[1]
    assert [key for key in KEYS if f"`{key}`" not in section] == []


# -- tasks -----------------------------------------------------------------------------------------------------------

EVALUATOR = """
import os, sys
from harness_ext.suite import evaluating, running
from harness_ext.suite.command import main

class Evaluator:
    def run(self, cell, folders):
        print("asked", cell.task, os.getpid(), flush=True)
        if cell.task.startswith("raise"):
            raise RuntimeError("no memory left")
        folder = folders.of(cell)
        folder.unfinished_results.mkdir()
        folder.finish()

evaluating.Evaluator = Evaluator
running.command = lambda *a: [sys.executable, __file__, *a]
sys.exit(main(sys.argv[1:]))
"""


def test_a_task_goes_on_in_a_new_process_after_an_unexpected_error(tmp_path: Path, slurm: Path) -> None:
    study = {"tasks": ["fine", "raise", "raise2", "last"], "settings": {"pair": PAIR}}
    path, cells, folders = write(tmp_path, study)
    assert main(["submit", str(path)]) == 0
    script = tmp_path / "evaluator.py"
    script.write_text(EVALUATOR)
    listed = tmp_path / "suite" / "slurm" / "1" / "cells-1.json"
    command = [sys.executable, str(script), "task", str(listed)]
    done = subprocess.run([*command, "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    states = [folders.of(cell).state for cell in cells]
    assert states == ["finished", "failed", "failed", "finished"]
    attempts = [a.number for cell in cells if (a := folders.of(cell).attempt) is not None]
    assert attempts == [1, 1, 1, 1]
    done = subprocess.run([*command, "9"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "lists no task 9" in done.stderr
