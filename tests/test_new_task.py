"""New tasks: the commands in docs/new-task.md, the fields that `new-task` guesses, and the data that it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from lm_eval.tasks import TaskManager
from tasks_support import RuleLM, evaluate

from harness_ext.cli import main
from harness_ext.cli.new_task.inspect_data import TaskFields, guess, look_at

ROOT = Path(__file__).resolve().parent.parent
GENERATE = [{"question": "Capital of France?", "answer": "Paris"}, {"question": "Capital of Peru?", "answer": "Lima"}]
CHOICE = [
    {"question": "Which is wet?", "choices": ["rain", "sand"], "answer": 0},
    {"question": "Which is dry?", "choices": ["rain", "sand"], "answer": 1},
]
CHAT = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {
        "messages": [
            {"role": r, "content": c} for r, c in (("user", "A"), ("assistant", "B"), ("user", "C"), ("assistant", "D"))
        ]
    },
]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("pack", "command", "file"),
    [([], "--include_path ", "capitals.yaml"), (["--pack"], "pip install ", "pyproject.toml")],
)
@pytest.mark.parametrize("absolute", [True, False])
def test_the_command_that_is_named_next_takes_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    pack: list[str], command: str, file: str, absolute: bool,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    data, output = lines(tmp_path / "data.jsonl", GENERATE), tmp_path / "my tasks" if absolute else "my tasks"
    given = ["capitals", "--kind", "generate", "--data", str(data), "--rows", "0", "--output", str(output)]
    assert main(["new-task", *given, *pack]) == 0
    (named,) = shlex.split(capsys.readouterr().out.splitlines()[-1].partition(command)[2])
    assert (Path(named) / file).exists()
    assert named.startswith(("./", "/")) or not pack, "pip looks for other names in the index"


@pytest.mark.cli
@pytest.mark.timeout(900)
def test_the_commands_of_the_page_run_as_written(tmp_path: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "new-task.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "set -euo pipefail\n" + "\n".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=880,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("capitals", "capitals_pack"):
        assert re.search(rf"\|{name} *\|.*exact_match", done.stdout), done.stdout
    assert "asked    'Question: Which is wet?\\nAnswer:'" in done.stdout
    assert (tmp_path / "wetness" / "wetness.yaml").is_file()
    assert len(list((tmp_path / "results").rglob("results_*.json"))) == 1


def make(tmp_path: Path, kind: str, data: Path | str, *more: str) -> Path:
    name = f"made_{kind}"
    assert (
        main(
            [
                "new-task",
                name,
                "--kind",
                kind,
                "--data",
                str(data),
                "--rows",
                "0",
                "--output",
                str(tmp_path / name),
                *more,
            ]
        )
        == 0
    )
    return tmp_path / name


def run(folder: Path, lm: RuleLM, **options: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    return dict(evaluate(lm, manager, folder.name, **options)["results"][folder.name])


def test_a_generated_choice_task_compares_the_choices(tmp_path: Path) -> None:
    folder = make(tmp_path, "choice", lines(tmp_path / "rows.jsonl", CHOICE))
    lm = RuleLM(prefer=lambda r: r.args[1] == " rain")
    assert run(folder, lm)["acc,none"] == 0.5
    assert [r.args for r in lm.asked[:2]] == [
        ("Question: Which is wet?\nAnswer:", " rain"),
        ("Question: Which is wet?\nAnswer:", " sand"),
    ]


def test_a_generated_generate_task_reads_replies(tmp_path: Path) -> None:
    folder = make(tmp_path, "generate", lines(tmp_path / "rows.jsonl", GENERATE))
    lm = RuleLM(lambda r: " paris.\n")
    assert run(folder, lm)["exact_match,stripped"] == 0.5
    assert lm.asked[0].args[0] == "Question: Capital of France?\nAnswer:"


def test_a_generated_chat_task_uses_the_chat_template(tmp_path: Path) -> None:
    folder = make(tmp_path, "chat", lines(tmp_path / "rows.jsonl", CHAT))
    lm = RuleLM(lambda r: "Hello")
    assert run(folder, lm, apply_chat_template=True)["exact_match,stripped"] == 0.5
    first, second = (json.loads(r.args[0]) for r in lm.asked)
    assert first == [{"role": "user", "content": "Hi"}]
    assert second[0]["content"] == "User: A\n\nAssistant: B\n\nUser: C"


def test_splits_are_used_for_evaluation_and_few_shot_examples(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    lines(data / "train.jsonl", GENERATE[1:])
    lines(data / "validation.jsonl", GENERATE[:1])
    lm = RuleLM(lambda r: "Paris")
    assert run(make(tmp_path, "generate", data), lm, num_fewshot=1)["exact_match,stripped"] == 1.0
    assert lm.asked[0].args[0] == "Question: Capital of Peru?\nAnswer: Lima\n\nQuestion: Capital of France?\nAnswer:"


@pytest.mark.parametrize(
    ("rows", "kind", "fields"),
    [
        (CHOICE, "choice", TaskFields("question", "answer", ("choices",))),
        ([{"problem": "x", "gold": "y"}], "generate", TaskFields("problem", "gold")),
        (
            [{"question": "x", "A": "1", "B": "2", "C": "3", "answer": "B"}],
            "choice",
            TaskFields("question", "answer", ("A", "B", "C")),
        ),
        ([{"text": "x", "op1": "1", "op2": "2", "label": 0}], "choice", TaskFields("text", "label", ("op1", "op2"))),
        (CHAT, "chat", TaskFields("messages", "messages")),
    ],
)
def test_fields_are_guessed_by_name_and_type(
    tmp_path: Path, rows: list[dict[str, Any]], kind: Any, fields: TaskFields
) -> None:
    assert guess(kind, look_at(str(lines(tmp_path / "rows.jsonl", rows)))) == fields


def test_saved_data_sets_are_inspected(tmp_path: Path) -> None:
    DatasetDict(train=Dataset.from_list(GENERATE), test=Dataset.from_list(GENERATE)).save_to_disk(tmp_path / "saved")
    data = look_at(str(tmp_path / "saved"))
    assert (data.evaluated, data.shots, data.types) == ("test", "train", {"question": "str", "answer": "str"})
    assert run(make(tmp_path, "generate", tmp_path / "saved"), RuleLM(lambda r: "Lima"))["exact_match,stripped"] == 0.5


REFUSED = {
    "made": ([], "is missing"),
    "Bad-Name": (GENERATE, "is not a valid task name"),
    "class": (GENERATE, "is not a valid task name"),
    "nofields": (
        [{"a": 1, "b": 2}],
        "which is the question (--question FIELD) and which is the answer (--answer FIELD); "
        "its fields are: a (int), b (int)",
    ),
    "there": (GENERATE, "exists: remove it, or name another folder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tasks_that_cannot_be_created_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    rows, cause = REFUSED[name]
    if rows:
        lines(tmp_path / "rows.jsonl", rows)
    assert main(["new-task", name, "--kind", "generate", "--data", "rows.jsonl", "--rows", "0"]) == 1
    assert cause in capsys.readouterr().err
    assert not (tmp_path / name).exists() or name == "there"


def test_bad_rows_and_wrong_fields_are_named_with_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "x", "answer": "y"}\n{"question": \n')
    arguments = ["new-task", "x", "--kind", "generate", "--data", str(tmp_path / "rows.jsonl"), "--rows", "0"]
    assert main(arguments) == 1
    assert "rows.jsonl line 2: not JSON (" in capsys.readouterr().err
    lines(tmp_path / "rows.jsonl", GENERATE)
    assert main([*arguments, "--answer", "anser"]) == 1
    assert "has no field anser; its fields are: question, answer" in capsys.readouterr().err


def test_a_row_whose_answer_is_not_a_choice_is_named_when_the_task_loads(tmp_path: Path) -> None:
    folder = make(tmp_path, "choice", lines(tmp_path / "rows.jsonl", [*CHOICE, {**CHOICE[0], "answer": 7}]))
    with pytest.raises(Exception, match="row 3: the answer 7 is not one of the choices"):
        TaskManager(include_path=str(folder), include_defaults=False).load("made_choice")
