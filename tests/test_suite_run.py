"""`harness-ext suite` from end to end: a suite that is killed and continued, failures, comparison."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness_ext.cli import lm_eval, report
from harness_ext.embedded import model_path
from harness_ext.records import Transcript
from harness_ext.records.run_directory import read_transcripts
from harness_ext.records.run_lock import in_use_by
from harness_ext.suite.cells import Cell, Evaluation
from harness_ext.suite.command import main
from harness_ext.suite.evaluating import Evaluator, lm_eval_config
from harness_ext.suite.expanding import cells_of
from harness_ext.suite.folders import Folders
from harness_ext.suite.running import Runner, command
from harness_ext.suite.study import read_study
from harness_ext.suite.worker import run_cells

ROOT = Path(__file__).resolve().parent.parent


def example() -> dict[str, Any]:
    """Return the study that docs/suite.md begins with."""
    block = re.search(r"```yaml\n# study.yaml\n(.*?)```", (ROOT / "docs" / "suite.md").read_text(), re.DOTALL)
    assert block is not None
    found: dict[str, Any] = yaml.safe_load(block[1])
    return found


def write(folder: Path, study: dict[str, Any]) -> tuple[Path, tuple[Cell, ...], Folders]:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    read = read_study(path)
    return path, cells_of(read), Folders(folder / read.folder)


def stored_keys(folder: Path) -> list[bytes]:
    """Return the keys of all calls in a call store, file by file: a call that was paid twice is there twice."""
    keys: list[bytes] = []
    for path in (folder / "harness_ext_runs" / "calls").glob("*.sqlite"):
        connection = sqlite3.connect(path)
        with suppress(sqlite3.OperationalError):  # killed before the table was created
            keys += [bytes(key) for (key,) in connection.execute("SELECT key FROM replies")]
        connection.close()
    return keys


def answers(transcripts: Iterator[Transcript]) -> list[Any]:
    """Return what was said about each question, without what depends on the run."""
    return sorted(
        (t.task, t.doc_id, t.text, t.stop, [(turn.seat, turn.kind, turn.text) for turn in t.turns]) for t in transcripts
    )


def scores(folder: Path) -> Any:
    (path,) = folder.rglob("results_*.json")
    found = json.loads(path.read_text())
    kept = {"model", "batch_size", "limit", "random_seed", "torch_seed"}
    return found["results"], {k: v for k, v in found["config"].items() if k in kept}


@pytest.mark.cli
@pytest.mark.timeout(1200)  # five processes that load lm-eval, which take a minute on idle cores
def test_a_suite_that_is_killed_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example of the documentation with two more cells, one of which fails at first."""
    stock = {"model": "hf", "device": "cpu", "model_args": {"pretrained": "weights"}}
    more = {"refined": {"base": "pair", "model_args": {"max_rounds": 2}}, "stock": stock}
    study = example()
    study["settings"] |= more
    (broken := tmp_path / "killed").mkdir()
    path, cells, folders = write(broken, study)
    monkeypatch.chdir(broken)

    # The first run is killed, with the process that runs the cells, once a cell is finished.
    run = subprocess.Popen(command("run", str(path)), stderr=subprocess.PIPE, text=True)
    while run.poll() is None and not any(folders.of(cell).results.is_dir() for cell in cells):
        folders = Folders(folders.root)
        time.sleep(0.02)
    runner = next((h for c in cells if (h := in_use_by(folders.of(c).path / "cell.json")) is not None), None)
    run.kill()
    if runner is not None:
        with suppress(ProcessLookupError):
            os.kill(runner.pid, signal.SIGKILL)
    _, said = run.communicate(timeout=120)
    assert any(folders.of(cell).results.is_dir() for cell in cells), said
    finished = {c.title: folders.of(c).attempt for c in cells if folders.of(c).results.is_dir()}

    # The second one continues. The stock model's weights are missing, which stops nothing else.
    done = subprocess.run(command("run", str(path), "--jobs", "2"), stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1, done.stderr
    by_title = {cell.title: folders.of(cell) for cell in cells}
    states = {title: folder.state for title, folder in by_title.items()}
    wanted = {title: "failed" if title.startswith("stock") else "finished" for title in by_title}
    assert states == wanted, done.stderr
    assert {title: by_title[title].attempt for title in finished} == finished, "finished cells are not run again"
    assert "stock, babi_stories, seed 1: FAILED" in done.stderr
    assert "5/6 cells finished; 1 failed" in done.stderr
    assert main(["status", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "6 cells: 5 finished, 1 failed" in shown
    assert "OSError" in shown, "the error is shown"
    assert main(["logs", str(path), "stock"]) == 0
    assert "Traceback" in capsys.readouterr().out

    # The failed cell works once its cause is gone; here it is run as a job of a cluster would.
    assert main(["collect", str(path)]) == 1
    assert "stock, babi_stories, seed 1 is not finished" in capsys.readouterr().err
    (broken / "weights").symlink_to(model_path("student"))
    assert main(["cell", str(path), str(len(cells) - 1)]) == 0
    assert main(["status", str(path)]) == 0
    assert "6 cells: 6 finished" in capsys.readouterr().out
    assert {title: by_title[title].attempt for title in finished} == finished

    # An undisturbed suite says the same and pays for as many calls.
    (whole := tmp_path / "whole").mkdir()
    (whole / "weights").symlink_to(model_path("student"))
    _, same, others = write(whole, study)
    assert [cell.digest for cell in same] == [cell.digest for cell in cells]
    monkeypatch.chdir(whole)
    for cell, checked in zip(same, by_title.values(), strict=True):
        others.of(cell).create(cell, checked.models)
    assert run_cells(same, others) == 0
    for cell in same:
        if cell.setting != "equal_cost":  # its draws are sampled, and only the store repeats them
            assert answers(read_transcripts(others.of(cell).records)) == answers(
                read_transcripts(by_title[cell.title].records)
            )
            assert scores(others.of(cell).results) == scores(by_title[cell.title].results)
    keys = stored_keys(broken)
    assert len(keys) == len(set(keys)), "no call was paid twice"
    assert set(keys) == set(stored_keys(whole))

    # Every run is compared with the reference, at the cost that the control was given.
    monkeypatch.chdir(broken)
    capsys.readouterr()
    assert main(["collect", str(path), "--format", "json"]) == 0
    comparison = json.loads(capsys.readouterr().out)
    labels = {row["run"] for row in comparison["rows"]}
    assert labels == {"baseline", "pair", "patient", "equal_cost", "refined", "stock"}
    assert main(["report", str(path), "--output", "page.html"]) == 0
    assert "page.html: 6 runs, 4 questions" in capsys.readouterr().out
    again = by_title["baseline, babi_stories, seed 1"].records
    assert report([f"again={again}", "--suite", str(path), "--reference", "pair", "-o", "both.html"]) == 0
    assert "both.html: 7 runs, 4 questions" in capsys.readouterr().out
    labels = json.loads(re.findall(r'id="about">(.*?)</script>', Path("both.html").read_text())[0])["runs"]
    assert (labels[0][0], labels[-1][0]) == ("pair", "again")
    config = json.loads((by_title["equal_cost, babi_stories, seed 1"].records / "config.json").read_text())
    assert config["identity"]["options"]["target"] > 0
    assert main(["plan", str(path), "--json"]) == 0
    plan = {row["title"]: row for row in json.loads(capsys.readouterr().out)}
    patient = plan["patient, babi_stories, seed 1"]
    turns = sum(len(t.turns) for t in read_transcripts(by_title["patient, babi_stories, seed 1"].records))
    assert (patient["source"], patient["documents"]) == ("measured", 4)
    assert patient["totals"]["calls"]["value"] == pytest.approx(turns)
    assert plan["stock, babi_stories, seed 1"]["totals"] is None


def test_the_file_of_a_cell_is_the_same_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)  # which `lm_eval` sets
    study = {
        "folder": "suite",
        "tasks": ["babi_stories"],
        "seeds": [7],
        "defaults": {"limit": 2, "gen_kwargs": {"max_gen_toks": 24}},
        "settings": {"pair": {"model": "feedback_pair", "model_args": {"max_rounds": 1}}},
    }
    (suite := tmp_path / "suite's").mkdir()
    _, (cell,), folders = write(suite, study)
    monkeypatch.chdir(suite)
    folders.of(cell).create(cell, ["student", "teacher"])
    assert run_cells([cell], folders) == 0
    (alone := tmp_path / "alone").mkdir()
    config = alone / "lm_eval.yaml"
    config.write_text(folders.of(cell).config.read_text().replace(str(suite), str(alone)))
    monkeypatch.chdir(alone)
    assert lm_eval(["run", "--config", str(config)]) == 0
    found = Folders(alone / "suite").of(cell)
    assert scores(found.results) == scores(folders.of(cell).results)
    assert answers(read_transcripts(found.records)) == answers(read_transcripts(folders.of(cell).records))


# -- the runner, with a process that stands for lm-eval ------------------------------------------------------------

STAND_IN = """
import sys
from pathlib import Path
from harness_ext.engine.endings import again
from harness_ext.suite import evaluating, running
from harness_ext.suite.command import main

class Evaluator:
    def run(self, cell, folders):
        folder = folders.of(cell)
        print("asked", cell.task, flush=True)
        if cell.task.startswith("crash"):
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        if cell.task.startswith("raise"):
            raise RuntimeError("no memory left. " + again("to go on"))
        folder.unfinished_results.mkdir()
        folder.finish()

evaluating.Evaluator = Evaluator
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the runner start processes that evaluate nothing, in `tmp_path`."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness_ext.suite.running.command", lambda *a: [sys.executable, str(script), *a])
    monkeypatch.setattr("harness_ext.suite.running.LOOK_EVERY", 0.02)
    return tmp_path


def created(
    folder: Path, study: dict[str, Any], models: dict[str, list[str]]
) -> tuple[Path, tuple[Cell, ...], Folders]:
    """Write a study, and create the folders of its cells. `models`: those of each setting."""
    path, cells, folders = write(folder, study)
    for cell in cells:
        folders.of(cell).create(cell, models[cell.setting])
    return path, cells, Folders(folders.root)


def test_a_failed_cell_stops_only_what_needs_it(
    stand_in: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/venv/bin/harness-ext", "suite", "run", "study.yaml"])
    study = {
        "folder": "suite",
        "tasks": ["crash", "fine", "raise"],
        "settings": {"pair": {"model": "feedback_pair"}, "equal": {"model": "self_consistency", "control": "pair"}},
    }
    path, cells, folders = created(stand_in, study, {"pair": ["s", "t"], "equal": ["s"]})
    wanted = frozenset(cell.digest for cell in cells)
    failed = Runner(path, cells, folders, wanted).run()
    states = {cell.title: folders.of(cell).state for cell in cells}
    assert states == {
        "pair, crash": "failed", "pair, fine": "finished", "pair, raise": "failed",
        "equal, crash": "waiting", "equal, fine": "finished", "equal, raise": "waiting",
    }  # fmt: skip
    assert {cell.title for cell in failed} == {"pair, crash", "pair, raise", "equal, crash", "equal, raise"}
    said = capsys.readouterr().err
    for part in ("its process ended with signal 9", "asked crash", "RuntimeError: no memory left. "):
        assert part in said
    assert "Run the same command again to go on: harness-ext suite run study.yaml\n" in said, "not that of its process"
    assert "it needs pair, crash, which is not finished" in said
    assert main(["retry", str(path)]) == 1
    attempts = {cell.title: a.number for cell in cells if (a := folders.of(cell).attempt) is not None}
    assert attempts == {"pair, crash": 2, "pair, fine": 1, "pair, raise": 2, "equal, fine": 1}


@pytest.mark.parametrize(("model", "option"), [("self_consistency", "k"), ("equal_budget", "spend")])
def test_a_control_is_told_whose_cost_it_may_spend(tmp_path: Path, model: str, option: str) -> None:
    settings = {"pair": {"model": "feedback_pair"}, "equal": {"model": model, "control": "pair"}}
    _, cells, folders = write(tmp_path, {"tasks": ["t"], "settings": settings})
    control = next(cell for cell in cells if cell.setting == "equal")
    pair = next(cell for cell in cells if cell.setting == "pair")
    assert isinstance(control, Evaluation)
    arguments = lm_eval_config(control, folders)["model_args"]
    assert arguments[option] == f"auto:{folders.of(pair).records}"


OTHER = """
import os, sys, time
from pathlib import Path
from harness_ext.suite.folders import CellFolder

folder = CellFolder(Path(sys.argv[1]))
lock = folder.lock()
folder.begin()
print("begun", flush=True)
parent = os.getppid()
while os.getppid() == parent:
    time.sleep(0.02)
time.sleep(0.3)  # until after the runner has looked at what its process left
"""


def test_a_cell_that_another_process_begins_is_run_when_that_process_has_ended(stand_in: Path) -> None:
    """A process that a killed run left may begin another cell before it notices, and then end without finishing it."""
    study = {"folder": "suite", "tasks": ["a", "b"], "settings": {"pair": {"model": "feedback_pair"}}}
    path, cells, folders = created(stand_in, study, {"pair": ["s"]})
    (stand_in / "other.py").write_text(OTHER)
    begins = f"""
        other = {str(folders.of(cells[1]).path)!r}
        if cell.task == "a":
            import subprocess
            left = subprocess.Popen([sys.executable, "other.py", other], stdout=subprocess.PIPE, start_new_session=True)
            left.stdout.readline()
"""
    script = stand_in / "stand_in.py"
    script.write_text(STAND_IN.replace("        folder.unfinished", begins + "        folder.unfinished"))
    assert Runner(path, cells, folders, frozenset(cell.digest for cell in cells)).run() == []
    attempts = [a.number for cell in cells if (a := folders.of(cell).attempt) is not None]
    assert attempts == [1, 2]


@pytest.mark.parametrize("jobs", [1, 3])
def test_cells_with_other_models_run_in_other_processes(stand_in: Path, jobs: int) -> None:
    study = {
        "folder": "suite",
        "tasks": ["a", "b"],
        "settings": {name: {"model": "hf", "model_args": {"pretrained": name}} for name in ("x", "y", "z")},
    }
    path, cells, folders = created(stand_in, study, {"x": ["x"], "y": ["y"], "z": ["z"]})
    assert Runner(path, cells, folders, frozenset(c.digest for c in cells), jobs=jobs).run() == []
    assert len(list(folders.root.glob("process-*.log"))) == 3
    assert all(folders.of(cell).attempt is not None and folders.of(cell).attempt.number == 1 for cell in cells)


@pytest.mark.parametrize("overlap", [False, True])
def test_cells_with_a_common_model_run_at_the_same_time_if_they_may(stand_in: Path, overlap: bool) -> None:
    settings = {name: {"model": "feedback_pair", "model_args": {"teacher": name}} for name in ("x", "y")}
    study = {"folder": "suite", "tasks": ["a"], "settings": settings}
    path, _, _ = created(stand_in, study, {"x": ["s", "x"], "y": ["s", "y"]})
    noted = """
        def note(word):
            with open("order", "a") as order:
                order.write(word + " ")
        note("begins")
        import time
        while OVERLAP and Path("order").read_text().count("begins") < 2:
            time.sleep(0.02)
        note("ends")
""".replace("OVERLAP", str(overlap))
    script = stand_in / "stand_in.py"
    script.write_text(STAND_IN.replace("        folder.unfinished", noted + "        folder.unfinished"))
    assert main(["run", str(path), "--jobs", "2", *(["--overlap"] if overlap else [])]) == 0
    order = (stand_in / "order").read_text().split()
    assert order == (["begins", "begins", "ends", "ends"] if overlap else ["begins", "ends", "begins", "ends"])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_signal_ends_the_processes_and_says_how_to_continue(
    stand_in: Path, number: signal.Signals, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    study = {"folder": "suite", "tasks": ["slow"], "settings": {"pair": {"model": "feedback_pair"}}}
    path, (cell,), folders = created(stand_in, study, {"pair": ["s"]})
    script = stand_in / "slow.py"
    waiting = "import time\n        (folder.path / 'begun').touch()\n        time.sleep(600)"
    script.write_text(
        STAND_IN.replace('print("asked", cell.task, flush=True)', waiting).replace(
            "evaluating.Evaluator =",
            f"running.command = lambda *a: [sys.executable, {str(script)!r}, *a]\nevaluating.Evaluator =",
        )
    )
    run = subprocess.Popen([sys.executable, str(script), "run", str(path)], stderr=subprocess.PIPE, text=True)
    while run.poll() is None and not (folders.of(cell).path / "begun").exists():
        time.sleep(0.02)
    assert folders.of(cell).state == "running"
    assert main(["run", str(path)]) == 1, "one run of a study at a time"
    assert f"process {run.pid}" in capsys.readouterr().err
    run.send_signal(number)
    _, said = run.communicate(timeout=240)
    assert run.returncode == status, said
    if number == signal.SIGKILL:  # nobody could end the process of the cell, which notices it by itself
        while folders.of(cell).runner is not None:
            time.sleep(0.02)
    else:
        assert "to continue from here" in said
    assert folders.of(cell).state == "interrupted"


def test_an_evaluator_loads_a_stock_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api import registry

    made: list[dict[str, Any]] = []

    class Model:
        @classmethod
        def create_from_arg_obj(cls, arguments: dict[str, Any], settings: Any = None) -> Any:
            made.append(arguments)
            return cls()

    original = registry.get_model
    monkeypatch.setattr(registry, "get_model", lambda name: Model)
    evaluator, seen = Evaluator(), []
    for arguments in ({"a": 1}, {"a": 1}, {"a": 2}):
        with evaluator._models_shared(seen.append):
            registry.get_model("stock").create_from_arg_obj(arguments, {"device": "cpu"})
    assert made == [{"a": 1}, {"a": 2}]
    assert seen[0] is seen[1] is not seen[2]
    monkeypatch.undo()
    assert registry.get_model is original
