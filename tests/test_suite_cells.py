"""The cells of a suite: identity, folders, state, groups, checks, what they take, comparison."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compare_support import read, results
from hypothesis import given
from hypothesis import strategies as st
from scored_runs import failed, make_task, manager_of, said, transcript, write_run
from suite_support import LOOP, PAIR, cells

from harness_ext.analysis.scoring.score import score_run
from harness_ext.backends.kept import backends_kept
from harness_ext.config.run_plan import plan_run
from harness_ext.errors import ConfigurationError
from harness_ext.models.baseline import Baseline
from harness_ext.records.run_lock import in_use_by
from harness_ext.suite.cells import Evaluation
from harness_ext.suite.checks import check_cells
from harness_ext.suite.command import main
from harness_ext.suite.folders import CellFolder, Folders, Size
from harness_ext.suite.grouping import group_cells
from harness_ext.suite.running import command
from harness_ext.suite.settings import LmEvalOptions

# -- identity and folders ------------------------------------------------------------------------------------------


def study_of(**fields: Any) -> dict[str, Any]:
    return {"tasks": ["t"], "seeds": [1], "settings": {"pair": {**PAIR, **fields}}}


def test_where_and_how_fast_a_cell_runs_does_not_identify_it(tmp_path: Path) -> None:
    (plain,) = cells(tmp_path, study_of(num_fewshot=2))
    for change in ({"batch_size": 8}, {"device": "cpu"}, {"model_args": {"store": "off", "window": 3}}):
        (other,) = cells(tmp_path, study_of(num_fewshot=2, **change))
        assert other.digest == plain.digest
    for change in ({"num_fewshot": 3}, {"limit": 3}, {"model_args": {"max_rounds": 3}}, {"gen_kwargs": {"top_p": 0.5}}):
        (other,) = cells(tmp_path, study_of(**{"num_fewshot": 2, **change}))
        assert other.digest != plain.digest


def test_a_changed_cell_gets_a_new_folder_and_the_change_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (before,) = cells(tmp_path, study_of(num_fewshot=2, gen_kwargs={"top_p": 0.5}))
    root = tmp_path / "suite"
    folder = Folders(root).of(before)
    folder.create(before, ["m"])
    assert Folders(root).changes([before]) == []
    (after,) = cells(tmp_path, study_of(gen_kwargs={"top_p": 0.9}, limit=4))
    (line,) = Folders(root).changes([after])
    assert Folders(root).of(after).path != folder.path
    for part in (
        "`num_fewshot` was 2, is no longer given",
        "`gen_kwargs.top_p` was 0.5, is 0.9",
        "`limit` was not given, is 4",
    ):
        assert part in line
    assert str(folder.path) in line
    assert main(["status", str(tmp_path / "study.yaml")]) == 0
    assert "`limit` was not given, is 4" in capsys.readouterr().out
    assert folder.description is not None
    assert folder.description.identity == before.identity()


def test_a_changed_file_makes_another_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {
        "prompts": tmp_path / "prompts" / "review.txt",
        "student.prompts": tmp_path / "inner" / "draft.txt",
        "closing": tmp_path / "closing.txt",
        "include_path": tmp_path / "tasks" / "more" / "mine.yaml",
    }
    for path in texts.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("task: one")
    folders = {"prompts": str(tmp_path / "prompts"), "student.prompts": str(tmp_path / "inner")}
    arguments = {**folders, "closing": str(texts["closing"]), "student": f"hf:{tmp_path}"}
    fields = {"include_path": str(tmp_path / "tasks"), "model_args": arguments}
    (before,) = cells(tmp_path, study_of(**fields))
    Folders(tmp_path / "suite").of(before).create(before, [])
    (tmp_path / "tasks" / "study.yaml").write_text("tasks: [mine]")
    (tmp_path / "tasks" / "more" / ".#mine.yaml").symlink_to("someone@somewhere")  # as an editor writes it
    (tmp_path / "weights.bin").write_text("new")
    assert cells(tmp_path, study_of(**fields)) == (before,)
    for name, path in texts.items():
        path.write_text("task: two")
        (after,) = cells(tmp_path, study_of(**fields))
        assert after.digest != before.digest
        (line,) = Folders(tmp_path / "suite").changes([after])
        assert f"`content.{name}` was" in line
        path.write_text("task: one")
    (tmp_path / "tasks" / "more" / "utils.py").write_text("")
    assert cells(tmp_path, study_of(**fields)) != (before,)
    assert main(["status", str(tmp_path / "study.yaml")]) == 0
    assert "1 waiting" in capsys.readouterr().out


def test_a_renamed_cell_keeps_its_folder(tmp_path: Path) -> None:
    (before,) = cells(tmp_path, study_of())
    root = tmp_path / "suite"
    Folders(root).of(before).create(before, [])
    (after,) = cells(tmp_path, {"tasks": ["t"], "seeds": [1], "settings": {"two": PAIR}})
    assert after.name != before.name
    assert Folders(root).of(after).path == root / before.name
    assert Folders(root).changes([after]) == []


def test_the_control_of_a_changed_cell_is_another_cell(tmp_path: Path) -> None:
    def study(rounds: int) -> dict[str, Any]:
        pair = {**PAIR, "model_args": {"max_rounds": rounds}}
        return {"tasks": ["t"], "settings": {"pair": pair, "equal": {**LOOP, "control": "pair"}}}

    before = cells(tmp_path, study(1))
    for cell in before:
        Folders(tmp_path / "suite").of(cell).create(cell, [])
    changes = Folders(tmp_path / "suite").changes(cells(tmp_path, study(2)))
    assert len(changes) == 2
    assert "the cell that `control.of` refers to was changed" in changes[1]


def test_the_state_of_a_cell_is_that_of_its_files(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, study_of())
    folder = CellFolder(tmp_path / "cell")
    assert folder.state == "waiting"
    folder.create(cell, [])
    lock = folder.lock()
    folder.begin()
    assert folder.state == "running"
    folder.fail(["no memory"])
    lock.release()
    assert folder.state == "failed"
    folder.begin()
    assert (folder.state, folder.failure) == ("interrupted", None)
    folder.note_size(Size(4, 4))
    folder.records.mkdir()
    (folder.records / "transcripts.jsonl").write_text("{}\n{}\n{}")
    assert folder.answered == 2  # the last line is incomplete
    folder.unfinished_results.mkdir()
    assert folder.state == "interrupted"
    folder.finish()
    assert folder.state == "finished"


# -- groups --------------------------------------------------------------------------------------------------------


@given(st.lists(st.frozensets(st.sampled_from("stuv"), max_size=3), min_size=1, max_size=8))
def test_no_process_loads_more_than_its_most_demanding_cell(sets: list[frozenset[str]]) -> None:
    found = [Evaluation("s", {}, f"t{i}", None, "m", {}, LmEvalOptions()) for i in range(len(sets))]
    models = {cell.digest: sorted(names) for cell, names in zip(found, sets, strict=True)}
    groups = group_cells(found, models)
    assert sorted(cell.task for group in groups for cell in group.cells) == sorted(cell.task for cell in found)
    for group in groups:
        loaded = frozenset().union(*(models[cell.digest] for cell in group.cells))
        assert loaded == group.models == max((frozenset(models[c.digest]) for c in group.cells), key=len)
        assert not any(group.models < other.models for other in groups)
    assert groups == group_cells(found, models)


@pytest.mark.usefixtures("few_tasks")
def test_a_plan_without_runs_says_that_the_cost_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    study = study_of(tasks=["t", "reasoning"], matrix={"limit": [4, 0.5]})
    rows = planned(tmp_path, capsys, study=study)
    assert all((row["totals"], row["state"]) == (None, "waiting") for row in rows)
    assert {row["source"] for row in rows} == {"unknown: no run or pilot shows it"}
    known = {row["title"]: row["documents"] for row in rows if row["at_most"]}
    assert known == {"pair limit:4, t, seed 1": 4}, "a share, and the tasks of a group, are known once they are loaded"
    assert main(["plan", str(tmp_path / "study.yaml")]) == 0
    assert "at most" in capsys.readouterr().out


def test_a_lock_of_a_process_that_was_killed_is_nobodys(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, study_of())
    folder = CellFolder(tmp_path / "cell")
    folder.create(cell, [])
    child = os.fork()
    if child == 0:
        lock = folder.lock()
        folder.begin()
        os.kill(os.getpid(), signal.SIGKILL if lock.held else signal.SIGTERM)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert in_use_by(folder.path / "cell.json") is None
    assert folder.state == "interrupted"
    folder.lock().release()


# -- what is installed ---------------------------------------------------------------------------------------------


class FewTasks:
    """Stands for lm-eval's task manager, whose index takes seconds to read."""

    all_subtasks = ("babi_stories", "gsm8k", "sums", "t")
    all_tasks = (*all_subtasks, "reasoning")

    def __init__(self, include_path: str | None) -> None:
        pass

    def match_tasks(self, names: list[str]) -> list[str]:
        return [name for name in names if name in self.all_tasks]


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("checks", "forecasting"):
        monkeypatch.setattr(f"harness_ext.suite.{module}.task_manager", FewTasks)


@pytest.mark.usefixtures("few_tasks")
def test_models_arguments_and_tasks_are_checked_at_once(tmp_path: Path) -> None:
    study = {
        "tasks": ["babi_storys", "gsm8k"],
        "settings": {
            "pair": {**PAIR, "model_args": {"max_round": 1}},
            "other": {"model": "feedback_pear"},
            "stock": {"model": "hf", "model_args": {"pretraind": "x"}},
            "bare": {"model": "hf"},
            "gone": {"model": "hf", "model_args": {"pretrained": "./gone"}},
            "twice": {**PAIR, "matrix": {"model_args.max_rounds": [-1, 1]}},
        },
    }
    with pytest.raises(ConfigurationError) as raised:
        check_cells(cells(tmp_path, study))
    text = str(raised.value)
    for part in (
        "pair: there is no argument `max_round` (did you mean `max_rounds`?)",
        "other: there is no model `feedback_pear` (did you mean `feedback_pair`?)",
        "stock: there is no argument `pretraind` (did you mean `pretrained`?)",
        "bare: `model_args.pretrained` is missing",
        "gone: there is no folder ./gone",
        "twice max_rounds:-1: ",
        "there is no task `babi_storys` (did you mean `babi_stories`?)",
    ):
        assert part in text, f"{part}\n\n{text}"
    assert len(raised.value.problems) == 7, "a problem that several cells have is one problem"


@pytest.mark.usefixtures("few_tasks")
@pytest.mark.parametrize("action", ["plan", "run", "check", "submit"])
def test_problems_of_file_cells_and_models_are_one_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    path = tmp_path / "study.yaml"
    study = {
        "limits": 3,
        "tasks": ["babi_storys"],
        "settings": {"pair": PAIR, "other": {"model": "feedback_pear", "num_fewshots": 1}},
        "exclude": [{"setting": "pairs"}],
        "reference": "pears",
    }
    path.write_text(yaml.safe_dump(study))
    assert main([action, str(path)]) == 2
    said_wrong = capsys.readouterr().err
    parts = [
        "there is no key `limits`",
        "settings.other: there is no field `num_fewshots`",
        "`exclude` (setting: pairs) excludes nothing",
        "`reference: pears` is no run",
        "other: there is no model `feedback_pear`",
        "there is no task `babi_storys`",
    ]
    assert all(part in said_wrong for part in parts), said_wrong
    assert said_wrong.count("  - ") == len(parts)


@pytest.mark.usefixtures("few_tasks")
@pytest.mark.parametrize(
    "text", ["tasks: [", "settings: {p: {modle: x}}", "tasks: [u]\nsettings: {p: {model: baseline}}"]
)
def test_check_prints_its_problems_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "study.yaml").write_text(text)
    assert main(["check", str(tmp_path / "study.yaml"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["problems"]


@pytest.mark.usefixtures("few_tasks")
def test_groups_have_tasks_of_the_study(tmp_path: Path) -> None:
    groups = {"both": ["sums", "gsm9k"]}
    found = cells(tmp_path, {"tasks": ["sums", "gsm8k"], "settings": {"student": {"model": "baseline"}}})
    for only in ((), [found[0].digest]):
        with pytest.raises(ConfigurationError, match="the study has no task `gsm9k`") as raised:
            check_cells(found, groups, only)
        assert "did you mean `gsm8k`?" in str(raised.value)
    unknown = cells(tmp_path, {"tasks": ["sums", "reasoning"], "settings": {"student": {"model": "baseline"}}})
    check_cells(unknown, groups)  # lm-eval's group may have such a task


def test_secrets_are_refused_and_not_repeated(tmp_path: Path) -> None:
    key = "sk-" + "a1B2" * 12
    study = study_of(model_args={"teacher.api_key": key})
    with pytest.raises(ConfigurationError) as raised:
        check_cells(cells(tmp_path, study))
    assert "`model_args.teacher.api_key` looks like a secret" in str(raised.value)
    assert key not in str(raised.value)


@pytest.mark.usefixtures("few_tasks")
def test_cells_that_share_a_model_have_it_in_common(tmp_path: Path) -> None:
    study = {
        "tasks": ["gsm8k"],
        "defaults": {"device": "cpu"},
        "settings": {
            "student": {"model": "baseline"},
            "teacher": {"model": "skyline"},
            "pair": PAIR,
            "equal": {**LOOP, "control": "pair"},
            "stock": {"model": "hf", "model_args": {"pretrained": "x"}},
        },
    }
    found = cells(tmp_path, study)
    models = {cell.setting: frozenset(names) for cell, names in zip(found, check_cells(found).values(), strict=True)}
    assert models["student"] | models["teacher"] == models["pair"]
    assert models["student"] == models["equal"] != models["teacher"]
    assert models["stock"].isdisjoint(models["pair"])


def test_runs_share_models_only_as_long_as_these_are_kept() -> None:
    def model() -> Any:
        return plan_run(Baseline, {}, device="cpu").seats["student"].backend

    with backends_kept():
        first = model()
        assert model() is first
    assert model() is not first


# -- what it will take ---------------------------------------------------------------------------------------------


def planned(
    folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str, study: Any = None
) -> list[dict[str, Any]]:  # fmt: skip
    if study is not None:
        cells(folder, study)
    assert main(["plan", str(folder / "study.yaml"), "--json", *arguments]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.usefixtures("few_tasks")
def test_the_rest_of_a_cell_is_extrapolated_from_what_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = {"tasks": ["sums"], "seeds": [1, 2], "settings": {"pair": PAIR, "other": {**PAIR, "limit": 2}}}
    found = cells(tmp_path, study)
    folders = Folders(tmp_path / "suite")
    for cell in found:
        folders.of(cell).create(cell, [])
    first = folders.of(found[0])
    turns = [[said("student", "draft", "1", tokens=10 * (n + 1)) for _ in range(n + 1)] for n in range(3)]
    write_run(first.records, *(transcript(n, *turns[n]) for n in range(3)))
    first.note_size(Size(12, 12))

    own, same, other, _ = planned(tmp_path, capsys)
    assert own["source"] == "from its first 3 documents"
    assert own["documents"] == 12
    assert own["totals"]["calls"]["value"] == pytest.approx(12 * 2)
    assert own["totals"]["completion_tokens"]["value"] == pytest.approx(12 * (10 + 40 + 90) / 3)
    assert own["totals"]["calls"]["low"] < 24 < own["totals"]["calls"]["high"]
    assert own["totals"]["price"] is None, "the student has no price"
    assert same["source"] == "from pair, sums, seed 1"
    assert same["totals"] == own["totals"]
    assert other["source"] == "unknown: no run or pilot shows it"
    assert (other["documents"], other["at_most"]) == (2, True), "another limit selects other documents"

    pilot = write_run(tmp_path / "pilot", *(transcript(n, said("student", "draft", "1")) for n in range(3)))
    *_, other, _ = planned(tmp_path, capsys, "--pilot", f"other={pilot}")
    assert other["source"] == f"from 3 documents of {pilot}"
    assert (other["totals"]["calls"]["value"], other["per_document"]["calls"]) == (2, 1)
    assert main(["plan", str(tmp_path / "study.yaml"), "--pilot", f"othr={tmp_path}"]) == 2
    said_wrong = capsys.readouterr().err
    assert "--pilot othr: there is no such setting (did you mean `other`?)" in said_wrong
    assert "not a run directory" in said_wrong


def test_status_tells_questions_failures_and_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cell,) = cells(tmp_path, {"tasks": ["sums"], "settings": {"pair": PAIR}})
    folder = Folders(tmp_path / "suite").of(cell)
    folder.create(cell, [])
    folder.begin()
    write_run(folder.records, transcript(0, said("student", "draft", "1")), failed(1))
    folder.note_size(Size(3, 3))
    folder.fail(["OutOfMemory", "\x1b[31mred"])
    assert main(["status", str(tmp_path / "study.yaml"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    kept = {key: row[key] for key in ("state", "answered", "questions", "failed_questions", "attempt")}
    assert kept == {"state": "failed", "answered": 2, "questions": 3, "failed_questions": 1, "attempt": 1}
    study = (tmp_path / "study.yaml").rename(tmp_path / "my study.yaml")
    assert main(["status", str(study)]) == 0
    shown = capsys.readouterr().out
    assert "1 cell: 1 failed" in shown
    assert "OutOfMemory" in shown
    assert f"`harness-ext suite logs '{study}' 0`" in " ".join(shown.split()), "the command can be copied"
    assert "There is no folder" not in shown
    assert "\x1b[31m" not in shown, "words from outside cannot control the terminal"


def test_status_says_where_it_has_looked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cells(tmp_path, {"folder": "suite", "tasks": ["sums"], "settings": {"pair": PAIR}})
    assert main(["status", "../study.yaml"]) == 0
    shown = capsys.readouterr().out
    assert f"There is no folder {tmp_path}/elsewhere/suite: nothing was run yet" in shown


def test_nothing_is_said_when_the_reader_of_a_log_leaves(tmp_path: Path) -> None:
    (cell,) = cells(tmp_path, {"tasks": ["sums"], "settings": {"pair": PAIR}})
    folder = Folders(tmp_path / "suite").of(cell)
    folder.create(cell, [])
    folder.log.write_text("a line of the log\n" * 100_000)
    done = subprocess.Popen(
        command("logs", str(tmp_path / "study.yaml"), "0"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert done.stdout is not None
    assert done.stderr is not None
    assert done.stdout.readline() == b"a line of the log\n"
    done.stdout.close()
    assert done.stderr.read() == b""
    assert done.wait() == 0


@pytest.mark.usefixtures("few_tasks")
@pytest.mark.parametrize(
    ("file", "content", "cause"),
    [
        ("attempt.json", '{"number": "two", "started": 1}', "`number` is two"),
        ("attempt.json", '{"number": 2}', "`started` is missing"),
        ("attempt.json", '{"number": 2, "started": 1e999}', "`started` is inf"),
        ("size.json", '{"questions": 3.5, "documents": 3}', "`questions` is 3.5"),
        ("size.json", "[3]", "it contains no JSON object"),
        ("size.json", "\x1b[31m", "Expecting value"),
        ("failure.json", '{"attempt": 1, "lines": "no memory"}', "`lines` is no memory"),
        ("finished.json", '{"seconds": []}', "`seconds` is []"),
        ("cell.json", '{"models": 3}', "`models` is 3"),
    ],
)
def test_a_damaged_file_is_named_and_hides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: str, cause: str
) -> None:
    found = cells(tmp_path, {"tasks": ["sums"], "settings": {"pair": PAIR, "other": LOOP}})
    folders = [Folders(tmp_path / "suite").of(cell) for cell in found]
    for cell, folder in zip(found, folders, strict=True):
        folder.create(cell, [])
        folder.begin()
        folder.note_size(Size(3, 3))
        folder.fail(["no memory"])
    (folders[0].path / file).write_text(content)
    assert main(["status", str(tmp_path / "study.yaml"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    (line,) = rows[0]["damaged"]
    assert line.startswith(f"{folders[0].path / file} is damaged: {cause}")
    assert rows[1]["damaged"] == []
    assert (rows[1]["state"], rows[1]["questions"], rows[1]["attempt"]) == ("failed", 3, 1)
    assert main(["status", str(tmp_path / "study.yaml")]) == 0
    shown = capsys.readouterr().out
    assert line in shown.splitlines()
    assert "other, sums" in shown
    assert main(["plan", str(tmp_path / "study.yaml")]) == 0


@pytest.mark.parametrize("seat", ["", "student.", "student.student."])
def test_the_seeds_of_a_control_are_repeats_of_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seat: str
) -> None:
    """Each of them takes its number of draws from another cell, and it may be another number."""
    study = {
        "tasks": ["t"],
        "seeds": [1, 2],
        "settings": {"pair": PAIR, "equal": {**LOOP, "control": "pair"}},
        "reference": "pair",
    }
    found = cells(tmp_path, study)
    folders = Folders(tmp_path / "suite")
    for number, cell in enumerate(found):
        folder = folders.of(cell)
        folder.create(cell, [])
        path = results(folder.results, cell.setting, {"t": [0, 1, number % 2]}, seeds={"torch_seed": cell.seed})
        content = json.loads(path.read_text())
        auto = {f"{seat}k": f"auto:run-{cell.seed}", f"{seat}draws_from": f"single-{cell.seed}"}
        arguments = {**auto, "run_dir": str(folder.records)} if cell.needs else {}
        content["config"]["model_args"] = {"model": cell.setting, **arguments}
        path.write_text(json.dumps(content))
    assert main(["collect", str(tmp_path / "study.yaml"), "--format", "json"]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["pool"]["name"] == "t"]
    assert {row["run"]: row["value"] for row in rows} == {"pair": 0.5, "equal": 0.5}


def test_run_directories_of_a_control_are_repeats_as_well(tmp_path: Path) -> None:
    def run(name: str, seed: int, k: str, target: float) -> Path:
        options = {"k": k, "target": target, "draws_from": f"base-{seed}", "temperature": 0.7}
        identity = {"protocol": "SelfConsistency", "options": options}
        turns = (transcript(n, said("student", "draft", "x")) for n in range(3))
        path = write_run(tmp_path / name, *turns, label="equal", seed=seed, identity=identity)
        score_run(path, manager=manager_of(make_task()))
        return path

    (merged,) = read(f"equal={run('a', 1, '2', 30.5)}", f"equal={run('b', 2, '3', 33.0)}")
    assert "equal, sums: mean of 2 repeats with different seeds" in merged.notes


def test_the_budgets_of_repeats_may_be_different_ones(tmp_path: Path) -> None:
    paths = []
    for seed, target in ((1, 30.5), (2, 33.0)):
        options = {"spend": target, "target": target, "by": "output_tokens"}
        turns = (transcript(n, said("student", "draft", "x")) for n in range(3))
        identity = {"protocol": "EqualBudget", "options": options}
        paths.append(write_run(tmp_path / str(seed), *turns, label="equal", seed=seed, identity=identity))
        score_run(paths[-1], manager=manager_of(make_task()))
    (merged,) = read(*(f"equal={path}" for path in paths))
    assert "equal, sums: mean of 2 repeats with different seeds" in merged.notes
