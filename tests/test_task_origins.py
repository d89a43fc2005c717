"""What a run loaded is recorded, so that `score`, `compare` and `show` need no flags to find its tasks again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scored_runs import make_task, manager_of, transcript, write_run
from tasks_support import TASKS, evaluate, write_rows

from harness_ext.analysis.compare import command as compare
from harness_ext.analysis.scoring import command as score
from harness_ext.analysis.scoring.replay import ScoringError
from harness_ext.analysis.scoring.task_documents import TaskManagers, TaskSource, load_tasks, task_manager
from harness_ext.analysis.show import main as show
from harness_ext.backends.registry import BackendSpec, make_backend
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.bridge import loaded_tasks
from harness_ext.bridge.loaded_tasks import TaskOrigin, read_origins, record_origins
from harness_ext.data import DataError, DataSource, hub, load_rows
from harness_ext.embedded import model_path
from harness_ext.finetune.preflight import model_facts
from harness_ext.models.baseline import BaselineLM

SUMS = [{"question": f"Ida has {n} apples and gets {n} more.", "answer": f"#### {2 * n}"} for n in range(1, 7)]


def reply(prompt: str) -> str:
    n = int(prompt.rsplit("Ida has ", 1)[1].split()[0])
    return f"#### {2 * n if n % 2 else 7}"


@pytest.fixture(scope="module")
def manager() -> Any:
    """Return a manager of everything that is installed, as `lm_eval` makes one."""
    return task_manager(TaskSource())


@pytest.fixture
def gsm8k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_rows(tmp_path / "data" / "gsm8k", train=SUMS, test=SUMS)
    monkeypatch.setenv("HARNESS_EXT_DATA", str(tmp_path / "data"))
    return tmp_path


def run(folder: Path, manager: Any, *specs: str) -> Path:
    lm = BaselineLM(student=ScriptedBackend(reply), store="off", run_dir=folder, progress="off", device="cpu")
    evaluate(lm, manager, *specs)
    return folder


def test_a_local_task_is_scored_compared_and_shown_without_flags(
    gsm8k: Path, manager: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = run(gsm8k / "one", manager, "gsm8k_local"), run(gsm8k / "two", manager, "gsm8k_local")
    assert read_origins(one) == {"gsm8k": TaskOrigin("gsm8k_local", (), str(gsm8k / "data"))}
    assert score.main([str(one)]) == 0
    figures = json.loads((one / "scores.json").read_text())["tasks"]["gsm8k"]
    assert figures["metrics"]["exact_match,strict-match"]["final"] == 0.5
    assert compare.main([str(one), f"again={two}"]) == 0
    assert "gsm8k" in capsys.readouterr().out
    assert show([str(one), "--limit", "1"]) == 0
    assert "right; gold" in capsys.readouterr().out


def test_tasks_in_folders_and_inside_groups_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    monkeypatch.delenv("HARNESS_EXT_DATA", raising=False)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    own = {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test", "output_type": "generate_until", "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}", "metric_list": [{"metric": "exact_match"}],
    }  # fmt: skip
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(json.dumps({"task": "own_sums", "tag": "own_tag", **own}))
    (tmp_path / "tasks" / "group.yaml").write_text(
        json.dumps({"group": "own_group", "task": [{"task": "inner_sums", **own}]})
    )
    theirs = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    for spec, name in (("own_sums", "own_sums"), ("own_tag", "own_sums"), ("own_group", "own_group::inner_sums")):
        folder = run(tmp_path / spec, theirs, spec)
        assert read_origins(folder) == {name: TaskOrigin(spec, (str(tmp_path / "tasks"),), None)}
        # lm-eval's own tasks, which take seconds to find, are not needed.
        with monkeypatch.context() as patched:
            patched.setattr(lm_eval.tasks, "TaskManager", partial(TaskManager, include_defaults=False))
            tasks, _ = load_tasks([name], TaskSource(), None, read_origins(folder))
        assert [row["answer"] for row in tasks[name].eval_docs] == [row["answer"] for row in SUMS]


def test_runs_with_the_same_folders_share_one_list_of_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.tasks

    made: list[Any] = []

    def manager(include_path: Any, **_: Any) -> Any:
        made.append(include_path)
        return manager_of(make_task())

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)
    managers = TaskManagers(TaskSource())
    own, other = TaskOrigin("sums", (str(tmp_path / "own"),)), TaskOrigin("sums", (str(tmp_path / "other"),))
    for origins in ({"sums": own}, {"sums": own}, {}, {"sums": other}, {"sums": own}, {}):
        load_tasks(["sums"], TaskSource(), managers, origins)
    assert made == [[str(tmp_path / "own")], None, [str(tmp_path / "other")]]
    source = TaskSource(include_path=("/mine",))
    managers = TaskManagers(source)
    for origins in ({"sums": own}, {}):
        load_tasks(["sums"], source, managers, origins)
    assert made[3:] == [["/mine"]]


def test_several_runs_of_a_command_are_scored_with_one_list_of_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lm_eval.tasks

    made: list[Any] = []

    def manager(**options: Any) -> Any:
        made.append(options)
        return manager_of(make_task())

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)
    answers = [transcript(i) for i in range(2)]
    runs = [str(write_run(tmp_path / name, *answers, label=name)) for name in ("a", "b", "c")]
    for name in "ab":
        (tmp_path / name / loaded_tasks.FILE).write_text(
            json.dumps({"sums": {"loaded": "sums", "include_path": [str(tmp_path)], "data": None}})
        )
    assert score.main(runs) == 0
    assert compare.main(runs) == 0
    assert [options["include_path"] for options in made] == [[str(tmp_path)], None]
    for run in runs:
        (Path(run) / "scores.json").unlink()
    assert compare.main(runs) == 0
    assert len(made) == 4
    capsys.readouterr()


def test_the_users_own_words_come_first(gsm8k: Path, manager: Any) -> None:
    origins = {"gsm8k": TaskOrigin("no_such_group", ("/no/such/folder",))}
    tasks, _ = load_tasks(["gsm8k"], TaskSource(include_path=(str(TASKS),), tasks=("gsm8k_local",)), manager, origins)
    assert len(tasks["gsm8k"].eval_docs) == len(SUMS)
    with pytest.raises(ScoringError, match="task 'no_such_group' cannot be loaded"):
        load_tasks(["gsm8k"], TaskSource(include_path=(str(TASKS),)), manager, origins)


def test_origins_of_several_evaluations_in_one_folder_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = TaskOrigin("a_group"), TaskOrigin("b.yaml", ("x", "y"), "/rows")
    monkeypatch.setattr(loaded_tasks, "_origins", {"a": first, "b": second, "c": first})
    record_origins(tmp_path, ["a"])
    record_origins(tmp_path, ["b", "unknown"])
    assert read_origins(tmp_path) == {"a": first, "b": second}
    (tmp_path / loaded_tasks.FILE).write_text('{"a": {}}')
    assert read_origins(tmp_path) == {}


def test_a_run_without_origins_is_scored_by_its_names(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", transcript(0))
    assert read_origins(folder) == {}
    assert list(load_tasks(["sums"], TaskSource(), manager_of(make_task()))[0]) == ["sums"]


def test_a_rows_folder_that_is_no_longer_set_is_named(gsm8k: Path, manager: Any, monkeypatch: Any) -> None:
    folder = run(gsm8k / "one", manager, "gsm8k_local")
    monkeypatch.delenv("HARNESS_EXT_DATA")
    with pytest.raises(ScoringError) as error:
        load_tasks(["gsm8k"], TaskSource(), manager, read_origins(folder))
    assert f"HARNESS_EXT_DATA={gsm8k / 'data'}" in str(error.value)


# The hub


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the hub unreachable, and return the addresses that are asked for."""
    import datasets.config
    from huggingface_hub import constants, utils

    asked: list[str] = []

    def refuse(address: str, **_: Any) -> None:
        asked.append(address)
        raise OSError("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(utils, "get_session", lambda: SimpleNamespace(head=refuse))
    return asked


def test_an_unreachable_hub_is_named_with_the_local_alternative(
    manager: Any, unreachable: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARNESS_EXT_DATA", raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the hub was asked again after a pause"))
    with pytest.raises(ScoringError) as error:
        load_tasks(["gsm8k"], TaskSource(), manager)
    for part in ("no route to host", "`--tasks gsm8k_local`", "HARNESS_EXT_DATA"):
        assert part in str(error.value)
    assert len(unreachable) == 1


def test_rows_of_an_unreachable_hub_are_not_waited_for(unreachable: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_EXT_DATA", raising=False)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the hub was asked again after a pause"))
    with pytest.raises(DataError, match="no route to host") as error:
        load_rows(DataSource("toys", "nobody/out-of-reach", ("test",), {"name": str}))
    assert "set HARNESS_EXT_DATA to a folder" in str(error.value)


def test_tasks_that_read_local_rows_do_not_ask_the_hub(gsm8k: Path, manager: Any, unreachable: list[str]) -> None:
    load_tasks(["gsm8k", "babi_stories"], TaskSource(tasks=("gsm8k_local", "babi_stories")), manager)
    assert unreachable == []


@pytest.mark.parametrize("read", [model_facts, lambda name: make_backend(BackendSpec("hf", name))])
def test_a_model_of_an_unreachable_hub_is_not_waited_for(
    read: Callable[[str], object], unreachable: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the hub was asked again after a pause"))
    with pytest.raises((OSError, ValueError), match=r"nomodel|couldn't connect"):
        read("nomodel")
    assert len(unreachable) == 1
    read(str(model_path("student")))
    assert len(unreachable) == 1, "a folder needs no hub"


def test_the_hub_is_reachable_whatever_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, utils

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(utils, "get_session", lambda: SimpleNamespace(head=lambda *_, **__: 503))
    with hub.without_waiting() as fault:
        assert fault is None
        assert not constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.hub_fault() == "HF_HUB_OFFLINE is set"


def test_an_answer_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from huggingface_hub import constants, utils

    release = threading.Event()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(utils, "get_session", lambda: SimpleNamespace(head=lambda *_, **__: release.wait()))
    fault = hub.hub_fault(most=0.01)
    release.set()
    assert fault is not None
    assert fault.endswith("no answer within 0.01 s")
