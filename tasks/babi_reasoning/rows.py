"""The rows of bAbI: where they come from and how a question reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness_ext.babi import story_text
from harness_ext.data import DataSource, load_rows

if TYPE_CHECKING:
    from datasets import DatasetDict

SOURCE = DataSource(
    folder="babi",
    hub_id="Muennighoff/babi",
    splits=("train", "test"),
    fields={"passage": str, "question": str, "answer": str, "task": int},
)


def load(babi_task: int, **_: Any) -> DatasetDict:
    """Return the rows of bAbI task `babi_task` (1 to 20). Model arguments, which lm-eval adds, are not used.

    Raises `DataError` where the rows cannot be had.
    """
    return load_rows(SOURCE, where=("task", babi_task))


def question_text(doc: dict[str, Any]) -> str:
    """Return a row as the user part of a question, its lines numbered."""
    return story_text(doc["passage"].splitlines(), doc["question"])
