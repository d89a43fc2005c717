"""The stories of bAbI's own files (`tasks_1-20_v1-2/en-valid/qa1_valid.txt`), as `babi_conversation` needs them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.errors import ConfigurationError
from harness_ext.tasks.babi_conversation.rows import Doc, stories

if TYPE_CHECKING:
    from datasets import DatasetDict

SPLITS = ("train", "valid", "test")


def load(
    folder: str, split: str, babi_task: int, first: int = 1, last: int | None = None, **_: Any
) -> DatasetDict:  # fmt: skip
    """Return the stories of a bAbI task, one row per story, as the split `test`.

    folder: the folder with bAbI's files.
    split: `train`, `valid` or `test`.
    babi_task: the number of the task, 1 to 20.
    first: the number of the first story to take, from 1. Default 1.
    last: the number of the last story to take. Default: that of the last story in the file.

    Raises ConfigurationError if the file is missing or is not one of bAbI's.
    """
    from datasets import Dataset, DatasetDict

    found = stories(_rows(file_of(Path(folder), split, babi_task), babi_task))
    return DatasetDict(test=Dataset.from_list([{**story, "split": split} for story in islice(found, first - 1, last)]))


def file_of(folder: Path, split: str, babi_task: int) -> Path:
    """Return the file of a task and split. Raises ConfigurationError if there is none."""
    found = sorted(folder.glob(f"qa{babi_task}_*{split}.txt"))
    if len(found) != 1:
        there = f"{len(found)} files" if found else "no file"
        raise ConfigurationError(
            [f"{folder} has {there} qa{babi_task}_*{split}.txt: name the folder of a set, such as en-valid"]
        )
    return found[0]


def _rows(path: Path, babi_task: int) -> Iterator[Doc]:
    """Yield a row for each question, with all lines of the story so far."""
    told: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        place, _, text = line.strip().partition(" ")
        if not place.isdecimal() or not text:
            raise ConfigurationError([f"{path}, line {number}: expected a number and a sentence or question"])
        if place == "1":
            told = []
        question, tab, rest = text.partition("\t")
        if not tab:
            told.append(text)
            continue
        passage = "".join(f"{sentence}\n" for sentence in told)
        answer = rest.split("\t")[0].strip()
        yield {"passage": passage, "question": question.strip(), "answer": answer, "task": babi_task}
