"""The stories of bAbI, each with its questions in their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from harness_ext.data import load_rows
from harness_ext.tasks.babi_reasoning.rows import SOURCE

if TYPE_CHECKING:
    from datasets import DatasetDict

Doc = dict[str, Any]


def load(babi_task: int, **_: Any) -> DatasetDict:
    """Return the stories of bAbI task `babi_task` (1 to 20), one row per story, as the split `test`."""
    from datasets import Dataset, DatasetDict

    rows = load_rows(SOURCE, where=("task", babi_task))["test"]
    return DatasetDict(test=Dataset.from_list(list(stories(rows))))


def stories(rows: Iterable[Mapping[str, Any]]) -> Iterable[Doc]:
    """Yield stories as `task`, `story` (its number, from 1) and `parts`.

    A part has the new `lines`, the `number` of the first of them, the `question` and its `answer`. Consecutive rows
    belong to the same story if each passage begins with the previous one. Lines are numbered as in bAbI's own files,
    where a question has a number, too.
    """
    parts: list[Doc] = []
    told, task, story = "", 0, 0
    for row in rows:
        if parts and not (row["passage"].startswith(told) and row["task"] == task):
            story += 1
            yield {"task": task, "story": story, "parts": parts}
            parts, told = [], ""
        lines = row["passage"][len(told) :].splitlines()
        number = len(told.splitlines()) + len(parts) + 1
        parts.append({"lines": lines, "number": number, "question": row["question"], "answer": row["answer"]})
        told, task = row["passage"], row["task"]
    if parts:
        yield {"task": task, "story": story + 1, "parts": parts}


def part_text(part: Mapping[str, Any]) -> str:
    """Return the user message of a part: the new lines with their numbers, then the question."""
    lines = "\n".join(f"{number} {line}" for number, line in enumerate(part["lines"], start=part["number"]))
    told = f"Here are the context sentences:\n{lines}\n\n" if lines else ""
    return f"{told}Now, answer the following question:\n{part['question']}\n"
