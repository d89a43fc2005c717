"""Rows that teach decisions, from scored runs: which drafts, with which answers, and which runs are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_runs import ROWS, failed, make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.scoring.score import score_run
from harness_ext.errors import FAILED, OK, USAGE
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.command import main
from harness_ext.finetune.decision_rows import parse_decision
from harness_ext.finetune.decision_runs import TRAINING, split_by_document
from harness_ext.finetune.encoding import parse
from harness_ext.models.reviewing import IS_CORRECT
from harness_ext.records import Transcript
from harness_ext.records.chat import ChatContext


def training_rows(**_: Any) -> dict[str, Any]:
    from datasets import Dataset

    return {"train": Dataset.from_list([dict(row) for row in ROWS])}


TRAIN = {"custom_dataset": training_rows, "test_split": "train"}


def scored(path: Path, *transcripts: Transcript, **task: Any) -> Path:
    """Write and score a run on training rows; `task` overrides the task's configuration."""
    run = write_run(path, *transcripts)
    score_run(run, manager=manager_of(make_task(**{**TRAIN, **task})))
    return run


def drafted(doc_id: int, *answers: str, **more: Any) -> Transcript:
    kinds = ["draft", *["refine"] * (len(answers) - 1)]
    return transcript(doc_id, *(said("student", k, a) for k, a in zip(kinds, answers, strict=True)), **more)


def rows_in(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    train, held_out = (
        [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for name in ("train.jsonl", "validation.jsonl")
    )
    return train, held_out


def make(folder: Path, *words: object) -> int:
    return main(["decisions", *map(str, words), "--output", str(folder)])


def answers(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], bool]:
    return {(row["state"]["task"], row["state"]["answer"]): row["answer"] for row in rows}


def test_each_draft_is_a_row_with_the_score_of_the_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = scored(
        tmp_path / "run",
        drafted(0, "7", "0"),
        drafted(1, "2"),
        drafted(2, "4", "5", "4"),
        failed(3),
        *(drafted(i, str(2 * i)) for i in range(4, 8)),
    )
    assert make(tmp_path / "data", run, "--validation", 0.25) == OK
    train, held_out = rows_in(tmp_path / "data")
    found = answers([*train, *held_out])
    assert found == {
        ("Q: 0+0?\nA:", "7"): False, ("Q: 0+0?\nA:", "0"): True, ("Q: 1+1?\nA:", "2"): True,
        ("Q: 2+2?\nA:", "4"): True, ("Q: 2+2?\nA:", "5"): False,
        **{(f"Q: {i}+{i}?\nA:", str(2 * i)): True for i in range(4, 8)},
    }  # fmt: skip
    assert {row["question"]["instructions"] for row in train} == {IS_CORRECT}
    assert not {row["document"] for row in train} & {row["document"] for row in held_out}
    printed = capsys.readouterr().out
    assert "left out: 1 repeated drafts" in printed
    assert "left out: 1 questions without an answer" in printed
    assert f"--train_file {tmp_path / 'data' / 'train.jsonl'}" in printed
    for row in (*train, *held_out):
        assert parse(row, TrainArgs("m", "t", "o")) == parse_decision(row)


def test_the_state_is_what_a_feedback_pair_asks_about(tmp_path: Path) -> None:
    """A chat context is shown as its text, and a prefix that the task dictates belongs to the answer."""
    chats = [
        ChatContext.of([{"role": "user", "content": row["q"]}, {"role": "assistant", "content": "The answer is "}])
        for row in ROWS
    ]
    run = scored(tmp_path / "run", *(drafted(i, str(i + i % 2), context=str(chat)) for i, chat in enumerate(chats)))
    assert make(tmp_path / "data", run, "--question", "Right?") == OK
    train, held_out = rows_in(tmp_path / "data")
    states = {row["state"]["task"]: row for row in (*train, *held_out)}
    assert states["3+3?"]["state"]["answer"] == "The answer is 4"
    assert states["0+0?"]["answer"] is True
    assert {row["question"]["instructions"] for row in train} == {"Right?"}


def test_the_drafts_of_several_agents_have_scores_of_their_own(tmp_path: Path) -> None:
    run = scored(
        tmp_path / "run",
        *(
            transcript(i, said("a", "draft", str(2 * i), answer=str(2 * i)), said("b", "draft", "9", answer="9"))
            for i in range(8)
        ),
    )
    assert make(tmp_path / "data", run) == OK
    train, held_out = rows_in(tmp_path / "data")
    found = answers([*train, *held_out])
    assert len(found) == 16
    assert all(right == (answer != "9") for (_, answer), right in found.items())


@pytest.mark.parametrize("split", ["test", "validation", "trainable", "dev"])
def test_runs_on_other_than_training_rows_are_refused(
    tmp_path: Path, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from datasets import Dataset

    rows = Dataset.from_list([dict(row) for row in ROWS])
    task = {"custom_dataset": lambda **_: {split: rows}, "test_split": split}
    run = scored(tmp_path / "run", *(drafted(i, str(i + i % 2)) for i in range(8)), **task)
    assert make(tmp_path / "data", run) == FAILED
    assert f"its rows are of the split `{split}`" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    assert make(tmp_path / "data", run, "--any_split") == OK
    assert make(tmp_path / "data", run, "--any_split") == USAGE
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file/x", "folder/train.jsonl/x", "folder"])
def test_an_output_that_cannot_be_written_is_named_before_a_run_is_read(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "validation.jsonl").mkdir(parents=True)
    (tmp_path / "folder" / "train.jsonl").touch()
    assert make(tmp_path / place, tmp_path / "no run", "--overwrite") == USAGE
    said = capsys.readouterr().err
    assert re.search(r"\.jsonl cannot be written: .* is (not )?a folder: give another --output", said)


def test_one_test_run_among_several_is_enough_to_refuse(tmp_path: Path) -> None:
    good = scored(tmp_path / "good", *(drafted(i, str(i + i % 2)) for i in range(8)))
    bad = write_run(tmp_path / "bad", *(drafted(i, "1") for i in range(8)))
    score_run(bad, manager=manager_of(make_task()))
    assert make(tmp_path / "data", good, bad) == FAILED


def test_drafts_that_are_all_wrong_teach_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = scored(tmp_path / "run", *(drafted(i, "x") for i in range(8)))
    assert make(tmp_path / "data", run) == FAILED
    assert "all 8 drafts are wrong" in capsys.readouterr().err


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=60),
    st.floats(0.05, 0.95),
    st.integers(0, 9),
)
def test_a_split_loses_no_row_and_shares_no_document(documents: list[int], share: float, seed: int) -> None:
    rows = [{"document": str(number), "n": at} for at, number in enumerate(documents)]
    train, held_out = split_by_document(rows, share, seed)
    assert sorted(row["n"] for row in (*train, *held_out)) == list(range(len(rows)))
    inside = {row["document"] for row in held_out}
    assert not inside & {row["document"] for row in train}
    assert len(inside) == round(share * len(set(documents)))


def test_the_training_tasks_of_this_package_say_that_they_are(data_dir: Path) -> None:
    from tasks_support import task_manager

    names = ["creak_cot_train", "strategyqa_cot_train", "gsm8k_cot_answer_train"]
    tasks = task_manager().load(names)["tasks"]
    for name in names:
        assert TRAINING.match(tasks[name].config.test_split)
        assert len(tasks[name].eval_docs) > 100
