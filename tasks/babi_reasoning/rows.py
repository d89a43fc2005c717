"""The rows of bAbI: their source, and the text of a question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness_ext.data import DataSource, load_rows
from harness_ext.embedded.story_prompt import story_text

if TYPE_CHECKING:
    from datasets import DatasetDict

SOURCE = DataSource(
    folder="babi",
    hub_id="Muennighoff/babi",
    splits=("train", "test"),
    fields={"passage": str, "question": str, "answer": str, "task": int},
)


def load(babi_task: int, **_: Any) -> DatasetDict:
    """Return the rows of bAbI task `babi_task` (1 to 20). Other arguments, which lm-eval adds, are ignored.

    Raises DataError if the rows cannot be loaded.
    """
    return load_rows(SOURCE, where=("task", babi_task))


def question_text(doc: dict[str, Any]) -> str:
    """Return a row as the text of a question, with numbered lines."""
    return story_text(doc["passage"].splitlines(), doc["question"])
